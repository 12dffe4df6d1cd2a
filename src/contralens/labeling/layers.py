"""Several layers of a network labeled from one pass over the images."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from contralens.collecting import collect as collecting
from contralens.collecting.layer_plan import with_layers
from contralens.collecting.networks import Networks, Steady, networks, steady
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
    """Label the neurons of several layers; each image is read, decoded and forwarded once.

    Each run is bit-identical to the run of `contralens.label` on its layer alone.

    Returns:
        The runs by layer, in the given order; layers of patterns and of "all" in execution order.

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
    if not settings.layers:
        raise InputError('`layers` must be a list of names, a pattern or "all"; got none')
    named = with_layers(settings.to(Collect, layer=settings.layers), settings.on_plan)
    names = [named.layer] if isinstance(named.layer, str) else list(named.layer or ())
    each = {layer: _of_layer(settings, layer) for layer in names}
    with ExitStack() as places:
        for one in each.values():
            places.enter_context(reserving(one))
        work = ready(settings)
        opened = networks(work.to(Collect, target=named.target, layer=names, layer_kinds=None))
        checked = _collected(work, opened) if settings.store_activations else None
        return {
            layer: write(judge(score(mine(collect(
                ready(one), replace(opened, targets=[model]), None if checked is None else checked.of(at),
            )))))
            for at, ((layer, one), model) in enumerate(zip(each.items(), opened.targets, strict=True))
        }  # fmt: skip


def _collected(work: LabelLayers, opened: Networks) -> Steady | None:
    """Fills the cache from one forward an image; the networks that are proved, if all that each layer runs is."""
    store = Store(work.cache)
    checked = steady(work, opened, store)
    collecting.collect(
        opened.images, checked.extractors, store, batch_size=work.batch_size, workers=work.workers,
        processes=work.processes, progress=work.progress,
    )  # fmt: skip
    return checked if work.calibrate is None and checked.precision is None and not checked.notes else None


def _of_layer(settings: LabelLayers, layer: str) -> Label:
    """The settings of one layer, as `contralens.label` has them."""
    own = {name: value for name, value in vars(settings).items() if name not in ("layers", "layer_kinds", "on_plan")}
    out = None if settings.out is None else Path(settings.out) / folder_of_layer(layer)
    return Label(**{**own, "layer": layer, "out": out})


def folder_of_layer(layer: str) -> str:
    """The folder's name for a layer.

    >>> folder_of_layer("layer4"), folder_of_layer(".")
    ('layer4', 'output')
    """
    return "output" if layer == "." else layer.replace("/", "_")
