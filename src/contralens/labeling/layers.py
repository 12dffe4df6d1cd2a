"""Several layers of a network labeled from one pass over the images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from contralens.collecting import collect as collecting
from contralens.collecting.networks import networks, steady
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.labeling.check_settings import ready
from contralens.labeling.reserving import reserving
from contralens.labeling.stages import collect, judge, mine, score, write
from contralens.settings.label import Collect, Label, LabelLayers
from contralens.settings.record import job


@job(LabelLayers)
def label_layers(settings: LabelLayers) -> dict[str, Run]:
    """Label the neurons of several layers, reading, decoding and forwarding each image once.

    Each run is to the last bit the one that `contralens.label` gives of its layer alone.

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
    if settings.sae is not None or settings.sae_pooling is not None:
        raise InputError("a sparse autoencoder belongs to one layer: give that layer alone")
    if isinstance(settings.layers, str):
        raise InputError(f"`layers` must be a list of names; got {settings.layers!r}")
    each = {layer: _of_layer(settings, layer) for layer in settings.layers}
    with ExitStack() as places:
        for one in each.values():
            places.enter_context(reserving(one))
        work = ready(settings)
        opened = networks(work.to(Collect, layer=settings.layers))
        if settings.store_activations:  # else each layer is gone through on its own
            store = Store(settings.cache)
            collecting.collect(
                opened.images, steady(work, opened, store).extractors, store, batch_size=settings.batch_size,
                workers=settings.workers, processes=settings.processes, progress=settings.progress,
            )  # fmt: skip
        return {
            layer: write(judge(score(mine(collect(ready(one), replace(opened, targets=[model]))))))
            for (layer, one), model in zip(each.items(), opened.targets, strict=True)
        }


def _of_layer(settings: LabelLayers, layer: str) -> Label:
    """The settings of one layer, as `contralens.label` has them."""
    own = {name: value for name, value in vars(settings).items() if name != "layers"}
    out = None if settings.out is None else Path(settings.out) / folder_of_layer(layer)
    return Label(**{**own, "layer": layer, "out": out})


def folder_of_layer(layer: str) -> str:
    """The folder's name for a layer.

    >>> folder_of_layer("layer4"), folder_of_layer(".")
    ('layer4', 'output')
    """
    return "output" if layer == "." else layer.replace("/", "_")
