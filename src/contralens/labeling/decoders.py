"""Directions of an autoencoder's latents for scorers that ask for them, where they mean something to the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import default_collate

from contralens.errors import ImageError, InputError
from contralens.labeling.results import Mined
from contralens.math.scoring import wants_decoder
from contralens.models.sae_target import SparseTarget
from contralens.saes.autoencoder import Autoencoder
from contralens.types import AUTO

COMPARED, SAME = 8, 0.99
"""Probe images whose rows are compared, and the least cosine of the layer's and the encoder's row of each."""


def decoder_for(specs: Sequence[str], mined: Mined) -> Tensor | None:
    """What each latent adds to an embedding (N,D), if a scorer asks for it.

    Raises:
        InputError: the target is no autoencoder with a known decoder over the encoder's own image embeddings.
    """
    wanting = [spec for spec in specs if spec != AUTO and wants_decoder(spec)]
    if not wanting:
        return None
    model, needs = mined.collected.target, f"the scorer {wanting[0]} needs a sparse autoencoder"
    if not isinstance(model, SparseTarget) or not isinstance(model.encode, Autoencoder):
        raise InputError(f"{needs} from a file or tensors; {model.name} has no decoder that contralens knows")
    if model.pooling != "pooled":
        raise InputError(f"{needs} over the encoder's own image embeddings, one row per image; here it encodes tokens")
    alike = _alike(model, mined)
    if alike < SAME:
        raise InputError(
            f"{needs} over the encoder's own image embeddings; {model.base.name} {model.base.layer} gives other rows "
            f"than {mined.collected.encoder.name} (cosine {alike:.2f})"
        )
    return model.encode.directions().cpu()


def _alike(model: SparseTarget, mined: Mined) -> float:
    """The least cosine of the layer's rows and the encoder's on some probe images; 0 where widths differ."""
    if model.base.width != mined.embeddings.shape[1]:
        return 0.0
    pictures: list[Any] = []
    rows: list[int] = []
    for row, image in enumerate(mined.probe.usable):
        if len(pictures) == COMPARED:
            break
        try:
            pictures.append(model.base.preprocess(mined.collected.images.load(int(image))))
            rows.append(row)
        except ImageError:
            continue
    found = normalize(model.base(default_collate(pictures)).float().cpu(), dim=1)
    return float((found * mined.embeddings[torch.tensor(rows)].float().cpu()).sum(1).amin())
