"""Sanity of a metric itself: does it notice a label that is too specific, or too general?

The two tests of Oikarinen et al. 2025 (NeuronEval, arXiv 2506.05774). A neuron's concept, the images on which it is
active, is spoiled in two ways: half of the concept's images lose it (missing labels), or as many others get it (extra
labels). A metric that does not fall cannot punish such a label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.math import metrics
from contralens.math.metric_registry import METRICS, Metric
from contralens.math.tensors import matrix

LEAST_DROP = 0.1
"""A metric must fall by this share of what is between its score and that of a random concept of the same size."""
LEAST_NEURONS = 0.9
"""... on this share of the neurons."""

Judge = Callable[[Tensor, Tensor], Tensor]
"""Activations (I,N) and presence of the concept (I,N, bool) to scores (N)."""
_INPUTS: dict[str, Judge] = {
    "activations": lambda a, c: a,
    "predictions": lambda a, c: c.double(),
    "calibrated": lambda a, c: c.double(),
    "active": lambda a, c: metrics.active(a),
    "present": lambda a, c: c,
    "on_label": lambda a, c: a.double().masked_fill(~c, torch.nan),
    "on_control": lambda a, c: a,  # CoSy's way: a control set that does not depend on the concept
    "strongest": lambda a, c: a.double().nan_to_num(-torch.inf).amax(0),
}
"""What metrics are made from, where the concept is known and takes the place of the judge."""


def can_be_tested(metric: Metric) -> bool:
    """Whether a metric is made from what the tests have: activations, and where the concept is.

    >>> can_be_tested(METRICS["iou"]), can_be_tested(Metric(len, needs=("labels",)))
    (True, False)
    """
    return metric.tested is not None or set(metric.needs) <= set(_INPUTS)


def _as_tested(metric: Metric | Judge) -> Judge:
    if not isinstance(metric, Metric):
        return metric
    return metric.tested or (lambda a, c: metric(*(_INPUTS[name](a, c) for name in metric.needs)))


@dataclass(frozen=True, slots=True)
class Sanity:
    """What a metric does when the concept is spoiled.

    >>> a = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    >>> told = sanity(METRICS["auc"], a)
    >>> told.passes, told.misses, told.neurons
    (False, ['missing'], 5)
    """

    missing: float
    """Share of neurons on which the score falls by at least `LEAST_DROP` when half of the labels are missing."""
    extra: float
    """The same with as many random extra labels as true ones."""
    missing_drop: float
    """Median fall, in units of the distance from a random concept of the same size."""
    extra_drop: float
    neurons: int
    """Neurons on which this could be determined."""

    @property
    def passes(self) -> bool | None:
        """True where both shares reach `LEAST_NEURONS`; None where no neuron could tell."""
        return None if not self.neurons else not self.misses

    @property
    def misses(self) -> list[str]:
        """The tests that fail: "missing", "extra"; a value that cannot be determined fails."""
        return [how for how in ("missing", "extra") if not getattr(self, how) >= LEAST_NEURONS]


def spoiled(present: Tensor, how: str, generator: torch.Generator) -> Tensor:
    """A concept (I,N) with half of its images "missing", as many "extra" ones, or a "random" one of the same size.

    >>> concept = torch.tensor([[True], [True], [False], [False], [False]])
    >>> [int(spoiled(concept, how, torch.Generator().manual_seed(0)).sum()) for how in ("missing", "extra", "random")]
    [1, 4, 2]
    """
    noise = torch.rand(present.shape, generator=generator)
    size = present.sum(0)
    if how == "missing":
        rank = noise.masked_fill(~present, 2.0).argsort(dim=0).argsort(dim=0)
        return present & (rank >= size // 2)
    if how == "extra":
        rank = noise.masked_fill(present, 2.0).argsort(dim=0).argsort(dim=0)
        return present | (rank < size)
    return noise.argsort(dim=0).argsort(dim=0) < size


def sanity(metric: Metric | Judge, activations: Any, present: Any = None, *, repeats: int = 3, seed: int = 0) -> Sanity:
    """The two tests on one metric.

    Args:
        metric: one of `METRICS`, or any function of activations (I,N) and a concept (I,N, bool) to scores (N).
        activations: (I,N) of real neurons.
        present: (I,N) the concept of each neuron; by default the images on which it is active (`metrics.active`), so
            that the unspoiled label is right.
        repeats: random spoilings that are averaged.
        seed: of the spoilings.

    >>> a = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    >>> sanity(lambda a, c: metrics.auprc(c, a), a).passes
    True
    """
    return sanity_table(activations, {"": metric}, present, repeats=repeats, seed=seed)[""]


def _different() -> dict[str, Metric | Judge]:
    """The metrics that can be tested; of those that only differ by the judge's sigmoid, the first."""
    found: dict[Any, tuple[str, Metric]] = {}
    for name, metric in METRICS.here().items():
        if can_be_tested(metric):
            found.setdefault(metric.function, (name, metric))
    return dict(found.values())


def sanity_table(
    activations: Any,
    names: Mapping[str, Metric | Judge] | None = None,
    present: Any = None,
    *,
    repeats: int = 3,
    seed: int = 0,
) -> dict[str, Sanity]:
    """The tests on several metrics by name, all on the same spoiled concepts.

    Args:
        activations: (I,N) of real neurons.
        names: the metrics by name; by default those of `METRICS` that can be tested.
        present: (I,N) the concept of each neuron; by default the images on which it is active.
        repeats: random spoilings that are averaged.
        seed: of the spoilings.

    >>> a = torch.rand(200, 5, generator=torch.Generator().manual_seed(0))
    >>> {name: told.misses for name, told in sanity_table(a).items() if name in ("auc", "pearson")}
    {'auc': ['missing'], 'pearson': []}
    """
    chosen = _different() if names is None else names
    tested = {name: _as_tested(metric) for name, metric in chosen.items()}
    a = matrix(activations, "activations")
    c = metrics.active(a) if present is None else torch.as_tensor(present).bool()
    generator = torch.Generator().manual_seed(seed)
    totals: dict[str, dict[str, list[Tensor]]] = {name: {} for name in tested}
    for how in ("missing", "extra", "random"):
        for _ in range(repeats):
            concept = spoiled(c, how, generator)
            for name, metric in tested.items():
                totals[name].setdefault(how, []).append(metric(a, concept))
    large = c.sum(0) >= 2
    return {
        name: _verdict(metric(a, c), {how: torch.stack(v).nanmean(0) for how, v in totals[name].items()}, large)
        for name, metric in tested.items()
    }


def _verdict(score: Tensor, means: Mapping[str, Tensor], usable: Tensor) -> Sanity:
    scale = score - means["random"]
    told = (scale > 1e-12) & means["missing"].isfinite() & means["extra"].isfinite() & usable
    drops = {how: ((score - means[how]) / scale)[told] for how in ("missing", "extra")}
    count = int(told.sum())
    if not count:
        nothing = float("nan")
        return Sanity(nothing, nothing, nothing, nothing, 0)
    fell = {harm: float((drop >= LEAST_DROP).double().mean()) for harm, drop in drops.items()}
    median = {harm: float(drop.median()) for harm, drop in drops.items()}
    return Sanity(fell["missing"], fell["extra"], median["missing"], median["extra"], count)
