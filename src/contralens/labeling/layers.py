"""Several layers of a network labeled from one pass over the images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any

from contralens.collecting.collect import collect
from contralens.collecting.precision import in_precision
from contralens.collecting.probing import proved
from contralens.data.images import images as image_set
from contralens.data.owned import RUN
from contralens.data.replacing import reserved
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.data.vocabulary import read_vocabulary
from contralens.errors import InputError
from contralens.labeling.arguments import check_arguments, known_options
from contralens.labeling.label import label
from contralens.labeling.ranking import check_ranking
from contralens.labeling.reserving import asked_of, inputs_of, request_of
from contralens.models.encoders import encoder as load_encoder
from contralens.models.ranking import ACTIVATION
from contralens.models.relevance import ranked
from contralens.models.targets import targets
from contralens.types import Progress, silent

OF_TARGET = ("pooling", "device", "target_options")
OF_LABEL = [name for name in signature(label).parameters if name not in OF_TARGET]
"""Settings of `label` that each layer is labeled with; further ones go to `contralens.targets`."""


def label_layers(
    target: Any,
    images: Any,
    encoder: Any,
    vocabulary: Any,
    *,
    layers: Sequence[str],
    limit: int | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    cache: str | Path | None = None,
    device: str | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    decode: str = "exact",
    precision: str = "float32",
    allow_nondeterministic: bool = False,
    seed: int = 0,
    progress: Progress = silent,
    **options: Any,
) -> dict[str, Run]:
    """Label the neurons of several layers, reading, decoding and forwarding each image once.

    Each run is to the last bit the one that `contralens.label` gives of its layer alone. Arguments not listed are as
    in `contralens.label`.

    Args:
        target: the network, a spec or an `nn.Module`; loaded once.
        layers: their names.
        out: a folder; the run of a layer goes to OUT/LAYER ("output" for the layer ".").
        replace: as in `contralens.label`; all layers' folders are looked at before the work.
        options: of `contralens.label` (scorers, k, neurons, ...) and of `contralens.target` (pooling, checkpoint, ...).

    Returns:
        The runs by layer, in the order given.

    Raises:
        InputError: as `contralens.label`.

    >>> runs = label_layers(
    ...     "world:1", "world-1/images", "world", "world", layers=["block2", "block3"], k=5, scorers="csp"
    ... )
    >>> {layer: len(run.rows("csp")) for layer, run in runs.items()}
    {'block2': 64, 'block3': 64}
    """
    if options.get("sae") is not None or options.get("sae_pooling") is not None:
        raise InputError("a sparse autoencoder belongs to one layer: give that layer alone")
    given = {
        "target": target, "images": images, "encoder": encoder, "vocabulary": vocabulary, "limit": limit,
        "decode": decode, "precision": precision, "seed": seed, "allow_nondeterministic": allow_nondeterministic,
        **options,
    }  # fmt: skip
    with ExitStack() as places:
        for layer in layers if out is not None else ():
            folder = Path(out or ".") / folder_of_layer(layer)
            asked = asked_of(label, **given, layer=layer)
            places.enter_context(
                reserved(folder, RUN, inputs=inputs_of(asked), replace=replace, request=request_of(asked))
            )
        return _labeled(
            target, images, encoder, vocabulary, layers=layers, limit=limit, out=out, cache=cache, device=device,
            batch_size=batch_size, workers=workers, decode=decode, precision=precision,
            allow_nondeterministic=allow_nondeterministic, seed=seed, progress=progress, **options,
        )  # fmt: skip


def _labeled(
    target: Any, images: Any, encoder: Any, vocabulary: Any, *, layers: Sequence[str], limit: int | None,
    out: str | Path | None, cache: str | Path | None, device: str | None, batch_size: int, workers: int | None,
    decode: str, precision: str, allow_nondeterministic: bool, seed: int, progress: Progress, **options: Any,
) -> dict[str, Run]:  # fmt: skip
    """What `label_layers` says, the run folders being reserved."""
    check_ranking(options.get("rank_by") or ACTIVATION, None, [], None)
    read_vocabulary(vocabulary)  # what is wrong with it is told before the work
    check_arguments(batch_size=batch_size, workers=workers, limit=limit, seed=seed, cache=cache, out=out)
    of_label = {key: options.pop(key) for key in OF_LABEL if key in options}
    options.pop("sae", None), options.pop("sae_pooling", None)
    known_options(options)
    if allow_nondeterministic:
        options["allow_nondeterministic"] = of_label["allow_nondeterministic"] = True
    probe = image_set(images, limit=limit, seed=seed)
    store = Store(cache)
    by = of_label.pop("rank_by", None)
    models = targets(target, layers, device=device, decode=decode, **options)
    wanted = models if by is None else [ranked(model, by) for model in models]
    eyes = load_encoder(encoder, device=device or "cpu", decode=decode)
    stored = wanted if of_label.get("store_activations", True) else []  # else each layer is gone through on its own
    fitting, _ = proved([*stored, eyes], probe, store, allow_nondeterministic=allow_nondeterministic)
    extractors, _ = in_precision(precision, fitting, probe, store)
    collect(probe, extractors, store, batch_size=batch_size, workers=workers, progress=progress)
    return {
        model.layer: label(
            model, probe, eyes, vocabulary, limit=limit, precision=precision, seed=seed, cache=cache,
            batch_size=batch_size, workers=workers, progress=progress,
            out=None if out is None else Path(out) / folder_of_layer(model.layer), **of_label,
        )
        for model in wanted
    }  # fmt: skip


def folder_of_layer(layer: str) -> str:
    """The folder's name for a layer.

    >>> folder_of_layer("layer4"), folder_of_layer(".")
    ('layer4', 'output')
    """
    return "output" if layer == "." else layer.replace("/", "_")
