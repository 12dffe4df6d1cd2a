"""What each neuron does over the probe set, and its strongest images, in one pass over the activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, source
from contralens.math.grouping import Groups
from contralens.math.tensors import shares, spread
from contralens.types import Brief

FIRES = 1e-6
"""An activation above this counts as firing (the paper's published code)."""
STRONGEST = 100
"""Largest activations whose mean ranks neurons in `select_neurons`."""
ROUNDING = 1e-12
"""Below the mean means below it by more than this share of the largest |activation|: sums in another order agree."""


@dataclass(frozen=True, slots=True, repr=False)
class NeuronStatistics(Brief):
    """What each neuron does over the probe set; all fields (N). Non-finite activations are left out and counted."""

    mean: Tensor
    """Mean activation, float64."""
    maximum: Tensor
    minimum: Tensor
    firing: Tensor
    """Images with an activation above `FIRES`, int64."""
    missing: Tensor
    """Images whose activation is NaN or infinite, int64."""

    def status(self) -> list[str]:
        """One word per neuron: "ok", or why it gets no label: "nan", "dead" (never beyond 1e-6) or "constant"."""
        dead = torch.maximum(self.maximum.abs(), self.minimum.abs()) <= FIRES
        words = []
        for nothing, is_dead, constant in zip(
            self.maximum.isnan().tolist(), dead.tolist(), (self.maximum == self.minimum).tolist(), strict=True
        ):
            words.append("nan" if nothing else "dead" if is_dead else "constant" if constant else "ok")
        return words

    def of(self, neurons: Tensor) -> NeuronStatistics:
        """Those of some neurons."""
        return NeuronStatistics(*(getattr(self, f.name)[neurons] for f in fields(self)))

    def below(self) -> Tensor:
        """(N) in the activations' precision: an image leaves neuron n cold if -inf < a[i,n] < below[n]."""
        largest = torch.maximum(self.maximum.abs(), self.minimum.abs()).double()
        exact = self.mean - ROUNDING * largest
        rounded = exact.to(self.maximum.dtype)
        up = torch.nextafter(rounded, torch.full_like(rounded, torch.inf))
        return torch.where(rounded.double() < exact, up, rounded)


def neuron_statistics(activations: Any) -> NeuronStatistics:
    """Means, extremes and firing counts of all neurons in one pass over activations (I,N).

    >>> neuron_statistics(torch.tensor([[0.0, 1.0], [4.0, 1.0]])).status()
    ['ok', 'constant']
    """
    return survey(source(activations), 0)[0]


def select_neurons(
    activations: Any,
    *,
    most: int = 200,
    least_firing: int = 100,
    most_firing_rate: float | None = None,
    top: int = STRONGEST,
) -> Tensor:
    """The paper's choice of neurons: indices (M) by decreasing mean of their `top` largest activations (I,N).

    Neurons that fire on fewer than `least_firing` images are dropped, optionally also those that fire on at least the
    share `most_firing_rate` (the tutorial uses 0.8); the `most` strongest remain.

    >>> select_neurons(torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 4.0]]), most=2, least_firing=1, top=1)
    tensor([2, 1])
    """
    a = source(activations)
    statistics, strongest, images = survey(a, min(top, a.shape[0]))
    keep = (statistics.firing >= least_firing) & ~statistics.maximum.isnan()
    if most_firing_rate is not None:
        keep &= statistics.firing < most_firing_rate * (a.shape[0] - statistics.missing)
    there = images >= 0
    strength = strongest.double().masked_fill(~there, 0.0).sum(1) / there.sum(1)
    order = strength.masked_fill(~keep, -torch.inf).sort(descending=True, stable=True).indices
    return order[: min(most, int(keep.sum()))]


def survey(
    activations: ActivationSource,
    k: int,
    neurons: Tensor | None = None,
    usable: Tensor | None = None,
    groups: Groups | None = None,
) -> tuple[NeuronStatistics, Tensor, Tensor]:
    """Statistics, top activations (N,k) and their images (N,k) of the neurons wanted, reading each row once.

    Ties go to the lower image; where fewer than k images count, NaN and -1. Only `usable` images (I) count, and of each
    of the `groups` the strongest few. Results are on the CPU; memory is one block of rows and O(N k). A source that has
    been gone through already (`Surveyed`) is asked first.
    """
    if isinstance(activations, Surveyed) and (usable is None or bool(usable.all())):
        known = activations.surveyed(k, groups)
        if known is not None:
            statistics, values, images = known
            return (statistics, values, images) if neurons is None else (
                statistics.of(neurons), values[neurons], images[neurons]
            )  # fmt: skip
    running = {0: RunningSurvey(k, groups=groups)}
    for start, rows in activations.blocks(neurons, budget=8 * 2**20):
        some = None if usable is None else usable[start : start + len(rows)]

        def add(part: slice, start: int = start, rows: Tensor = rows, some: Tensor | None = some) -> None:
            running[part.start].add(start, rows[:, part], some)

        parts = shares(rows.shape[1], rows.device)
        for part in parts:
            running.setdefault(part.start, RunningSurvey(k, groups=groups))
        spread(add, parts, rows.device)
    told = [r.statistics(activations.shape[0]) for r in running.values()]
    joined = (torch.cat([getattr(each, f.name) for each in told]) for f in fields(NeuronStatistics))
    values, images = (torch.cat(found) for found in zip(*(r.top() for r in running.values()), strict=True))
    return NeuronStatistics(*joined), values, images


@runtime_checkable
class Surveyed(Protocol):
    """An `ActivationSource` that knows what a `survey` of all its neurons would find."""

    def surveyed(self, k: int, groups: Groups | None = None) -> tuple[NeuronStatistics, Tensor, Tensor] | None:
        """As `survey`; None if it does not know that many images of each neuron, or not by these groups."""
        ...


class RunningSurvey:
    """A `survey` of rows that come in image order, which can be put aside (`state`) and taken up again."""

    def __init__(self, k: int, state: Mapping[str, Tensor] | None = None, groups: Groups | None = None) -> None:
        self.k, self.groups = k, groups
        self._sums = dict(state or {})
        self._top: RunningTop | None = None
        if state is not None:
            self._top = RunningTop(state["values"].T, k, groups)
            self._top.values, self._top.images = self._sums.pop("values"), self._sums.pop("images")
            self._top.settle()

    def add(
        self,
        start: int,
        rows: Tensor,
        usable: Tensor | None = None,
        images: Tensor | None = None,
        times: Tensor | None = None,
    ) -> None:
        """Rows (b,N) of the images from `start` on, or of those given (b), which rise.

        Only `usable` ones (b) count, those with `times` (b) that often, but in the top only once.
        """
        once = rows
        if times is not None:
            rows = rows.repeat_interleave(times, 0)
        sums = rows.sum(0, dtype=torch.float64)
        every = usable is None or bool(usable.all())
        if every and bool(sums.isfinite().all()):
            known, high, low = torch.full_like(sums, len(rows)), rows, rows
        else:
            counts = rows.isfinite()
            if usable is not None:
                counts &= usable[:, None].to(rows.device)
            high, low = rows.masked_fill(~counts, -torch.inf), rows.masked_fill(~counts, torch.inf)
            sums, known = rows.masked_fill(~counts, 0.0).sum(0, dtype=torch.float64), counts.sum(0).double()
        fires = torch.gt(high, FIRES, out=torch.empty_like(high)).sum(0).double()
        new = {"count": known, "total": sums, "firing": fires, "highest": high.amax(0), "lowest": low.amin(0)}
        joined = {"highest": torch.maximum, "lowest": torch.minimum}
        for name, value in new.items():
            self._sums[name] = joined.get(name, torch.add)(self._sums[name], value) if self._top is not None else value
        if self._top is None:
            self._top = RunningTop(rows, self.k, self.groups)
        self._top.add(start, high if times is None else once.masked_fill(~once.isfinite(), -torch.inf), images)

    def state(self) -> dict[str, Tensor]:
        """What it has seen, on the CPU; nothing before the first row."""
        if self._top is None:
            return {}
        values, images = self._top.result()
        return {name: value.cpu() for name, value in self._sums.items()} | {"values": values, "images": images}

    def statistics(self, total: int) -> NeuronStatistics:
        """Of all that was added, which were `total` images."""
        if self._top is None:
            raise InputError("`activations` holds no image")
        count, highest, lowest = (self._sums[name] for name in ("count", "highest", "lowest"))
        nothing = count == 0
        # A constant's mean is the constant itself.
        mean = torch.where(highest == lowest, highest.double(), self._sums["total"] / count)
        return NeuronStatistics(
            mean=mean.masked_fill(nothing, torch.nan).cpu(),
            maximum=highest.masked_fill(nothing, torch.nan).cpu(),
            minimum=lowest.masked_fill(nothing, torch.nan).cpu(),
            firing=self._sums["firing"].long().cpu(),
            missing=total - count.long().cpu(),
        )

    def top(self) -> tuple[Tensor, Tensor]:
        """The largest activations (N,k) and their images (N,k), NaN and -1 where there are fewer."""
        assert self._top is not None
        values, images = self._top.result()
        return values.masked_fill(images < 0, torch.nan), images


class RunningTop:
    """The k largest of each column so far. New rows are compared with the k-th; the few survivors wait to be merged.

    `like` is any tensor (b,width) of the kind of the rows. NaN and -inf are in no column's top. Of each of the `groups`
    a column holds the largest few: those k are what a greedy choice from all rows gives, since a row that does not beat
    the k-th so far cannot be chosen later.
    """

    def __init__(self, like: Tensor, k: int, groups: Groups | None = None) -> None:
        self.width, self.k, self.groups = like.shape[1], k, groups
        self.values = like.new_full((self.width, k), -torch.inf)
        self.images = torch.full((self.width, k), -1, dtype=torch.int64, device=like.device)
        self.waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self.size = 0
        self.step = max(64, k)  # at first every row survives

    def add(self, start: int, rows: Tensor, images: Tensor | None = None) -> None:
        """Rows (b,N) of consecutive images, or of those given, -inf where an activation does not count. A later image
        never wins a tie."""
        for part in torch.split(rows, self.step) if self.k else ():
            image, neuron = (part > self.values[:, -1]).nonzero(as_tuple=True)
            named = start + image if images is None else images.to(image.device)[start + image]
            self.waiting.append((neuron, named, part[image, neuron]))
            self.size += len(image)
            if self.size > self.width * self.k:
                self._merge()
            start += len(part)

    def _merge(self) -> None:
        """Sort by neuron, then by falling value; both sorts are stable, so the lower image stays first."""
        there = self.images >= 0
        neuron = torch.arange(self.width, device=there.device)[:, None].expand_as(there)[there]
        parts = [(neuron, self.images[there], self.values[there]), *self.waiting]
        neuron, image, value = (torch.cat(field) for field in zip(*parts, strict=True))
        order = value.sort(descending=True, stable=True).indices
        order = order[neuron[order].sort(stable=True).indices]
        neuron, image, value = neuron[order], image[order], value[order]
        if self.groups is not None:
            stays = self.groups.within(neuron, image)
            neuron, image, value = neuron[stays], image[stays], value[stays]
        per_neuron = torch.bincount(neuron, minlength=self.width)
        rank = torch.arange(len(neuron), device=neuron.device) - (per_neuron.cumsum(0) - per_neuron)[neuron]
        kept = rank < self.k
        self.images[neuron[kept], rank[kept]] = image[kept]
        self.values[neuron[kept], rank[kept]] = value[kept]
        self.waiting, self.size = [], 0
        self.settle()

    def settle(self) -> None:
        if bool((self.images[:, -1] >= 0).all()):
            self.step = 2**20

    def result(self) -> tuple[Tensor, Tensor]:
        if self.waiting:
            self._merge()
        return self.values.cpu(), self.images.cpu()
