"""Exemplars as crops: each image and its contrast cut down to where the neuron fires, and embedded again.

A positive is cropped to the places with at least half of the peak of its map, no side below a third of the image's, as
`contralens propose --focus crop` shows it. Its contrast hardly activates the neuron: it is cropped to a window of the
same size (as a share of the image, so that both are seen at one scale) around the place where the neuron comes nearest
to firing; where its map is flat (a ReLU that is off everywhere), at the positive's own place. What both crops share is
then as large in the one as in the other. Mining, and so the choice of both images, looks at whole pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from contralens.checks import counted, shown
from contralens.collecting.collect import Collected
from contralens.collecting.crops import (
    STEPS,
    VERSION,
    Pictures,
    beside,
    by_image,
    different,
    embedded,
    looks,
    own_maps,
    summary,
)
from contralens.collecting.preparing import threads
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.models.pixel_attribution import PixelHeat, pixel_heat
from contralens.models.ranking import Ranking
from contralens.types import Encoder, Exemplars, Images, Progress, Target

GRID = 14
"""Cells along each side over which relevance of pixels is averaged."""


@dataclass(frozen=True)
class Crops:
    """Exemplars whose embeddings are those of crops."""

    exemplars: Exemplars
    """As mined, but indices are rows of `embeddings`, and similarities those of the crops."""
    embeddings: Tensor
    """(M,D): one row per different crop."""
    boxes: dict[str, NDArray[np.float32]]
    """"positive", "contrast": (N,K,4), left, top, right, bottom as shares of the image; NaN where there is no image."""
    about: dict[str, Any]
    """For the manifest."""
    notes: list[str]


def wanted_crop(given: Any) -> str | None:
    """None, "map", "relevance", or "relevance:method=lrp"; anything else is refused.

    >>> wanted_crop("relevance:method=gradient")
    'relevance:method=gradient'
    """
    if given is None or given == "map":
        return given  # type: ignore[no-any-return]
    if not isinstance(given, str) or given.partition(":")[0] != "relevance" or "class" in given:
        raise InputError(f'`crop` must be "map", "relevance", or "relevance:method=gradient"; got {shown(given)}')
    Ranking.of(given)
    return given


def cropped(
    kind: str,
    target: Target,
    encoder: Encoder,
    images: Images,
    collected: Collected,
    exemplars: Exemplars,
    embeddings: Tensor,
    store: Store,
    identity: Sequence[str],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Progress,
) -> Crops:
    """Crop the exemplars and contrasts of a run, and embed the crops.

    Args:
        kind: "map", the layer's own activation map, or "relevance", what of the pixels the activation comes from (see
            `wanted_crop`).
        target: whose neurons fire.
        encoder: what embeds.
        images: the set, opened again.
        collected: which of its images rows (I) are about.
        exemplars: (N,K), indices of these rows.
        embeddings: (I,D) of the whole pictures.
        store: where looks and embedded crops are kept.
        identity: what the exemplars depend on.

    Raises:
        InputError: the layer has no places, or relevance cannot be handed down to the pixels.
    """
    pairs = _Pairs(exemplars)
    pictures = Pictures(lambda row: images.load(collected.usable[row]), collected.fingerprints)
    workers = threads(workers)
    heat = None if kind == "map" else pixel_heat(target, Ranking.of(kind).method)
    notes = [*(heat.notes if heat else ())]
    kind = "map" if heat is None else f"relevance, {heat.method}"
    kept = store.remember("looks", VERSION, kind, *identity)
    found = kept.get()
    if found is None:
        found = looks(
            target, by_image(pairs.images), lambda part: _heats(target, heat, part, pairs), pictures, batch_size,
            workers, progress,
        )  # fmt: skip
        if not pictures.lost:
            kept.put(found)
    boxes = pairs.boxes(np.array(found["boxes"]), np.array(found["peaks"]))
    rows, indices = different([box for box, _ in boxes])
    made = embedded(encoder, pictures, rows, embeddings, store, batch_size, workers, progress)
    sides = {
        name: np.where(there[..., None], box[..., 1:] / STEPS, np.nan).astype(np.float32)
        for name, (box, there) in zip(("positive", "contrast"), boxes, strict=True)
    }
    similarities = exemplars.similarities.clone()
    both = (indices[0] >= 0) & (indices[1] >= 0)
    first, second = (made[i[both].to(made.device)] for i in indices)
    similarities[both] = (first * second).sum(1).to(similarities.dtype).cpu()
    about = summary(rows, kind, pictures.lost)
    notes.append(
        f"scorers compare crops of exemplars and contrasts to where neurons fire ({kind}), "
        f"{counted(len(rows), 'crop')} in all; means over images (centred, priors over images) run over the crops; "
        "lookalike uses whole pictures"
    )
    if pictures.lost:
        notes.append(f"{counted(pictures.lost, 'image')} of exemplars could not be opened again and stayed whole")
    fields = {"positives": indices[0], "contrasts": indices[1], "similarities": similarities}
    return Crops(replace(exemplars, **fields), made, sides, about, notes)


class _Pairs:
    """Which (image, exemplars' row) pairs are looked at: positives and contrasts of all neurons, each once."""

    def __init__(self, exemplars: Exemplars) -> None:
        n = len(exemplars)
        self.sides = [exemplars.positives.numpy(), exemplars.contrasts.numpy()]
        rows = np.arange(n)[:, None]
        keys = [np.where(side >= 0, side * max(1, n) + rows, -1) for side in self.sides]
        flat = np.concatenate([k.ravel() for k in keys])
        self.keys = np.unique(flat[flat >= 0])
        """(P), image * N + row, rising."""
        self.at = [np.searchsorted(self.keys, k) for k in keys]
        self.images, self.rows = self.keys // max(1, n), self.keys % max(1, n)
        self.neurons = exemplars.neurons.numpy()[self.rows]

    def boxes(self, boxes: NDArray[np.int64], peaks: NDArray[np.int64]) -> list[tuple[NDArray[Any], NDArray[np.bool_]]]:
        """Image and box (N,K,5) of each positive and each contrast, and where there is one.

        `boxes` (P,4) are what positives are cropped to, `peaks` (P,2) where a neuron fires most, -1 where nowhere more
        than elsewhere.
        """
        out = []
        there = [side >= 0 for side in self.sides]
        own, other = (np.where(t, at, 0) for at, t in zip(self.at, there, strict=True))
        if not len(self.keys):
            return [(np.zeros((*t.shape, 5), np.int64), t) for t in there]
        positive = boxes[own]
        for side, box, t in zip(self.sides, (positive, beside(positive, peaks[other])), there, strict=True):
            out.append((np.concatenate([side[..., None], box], -1), t))
        return out


def _heats(
    target: Target, heat: PixelHeat | None, part: Sequence[tuple[slice, Image.Image]], pairs: _Pairs
) -> list[NDArray[np.float32]]:
    """How strongly the neurons wanted of each picture fire over it, (n,H,W) each."""
    wanted = [pairs.neurons[which].tolist() for which, _ in part]
    if heat is None:
        return own_maps(target, [picture for _, picture in part], wanted, "use crop=relevance")
    batch = default_collate([target.preprocess(picture) for _, picture in part])
    return [torch.nn.functional.adaptive_avg_pool2d(one[None], GRID)[0].numpy() for one in heat(batch, wanted)]
