"""Which neurons tell two classes of images apart: ROC-AUC with its interval, and the rank-sum test, for all neurons.

With x the activations on A images of one class and y those on B images of the other, and midranks (equal values share
the mean of their ranks, so the many zeros after a ReLU count as ties):

    AUC = P(x > y) + P(x = y) / 2 = (sum of the midranks of x - A (A + 1) / 2) / (A B)

- variance: DeLong, DeLong & Clarke-Pearson 1988, from midranks as Sun & Xu 2014; where images come in groups,
  Obuchowski 1997, which counts a group once
- interval: symmetric on the logit scale; where all images of one class are above all others the variance is 0, and
  Newcombe's (2006, method 5) interval stands for it
- p: rank-sum test (Mann & Whitney 1947) with its correction for ties; with groups, AUC against .5 by its variance
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, columns, source
from contralens.math.null_test import q_values
from contralens.math.tensors import blocks
from contralens.types import Brief

SCRATCH = 2**28
"""Bytes that ranking takes at once; one pass over the activations for each block of neurons that fits."""
WIDTH = 1.959964
"""Standard deviations on either side of a 95 % interval."""
LEAST = 2
"""Images of each class that a neuron needs; with fewer nothing is said of it."""


@dataclass(frozen=True, slots=True, repr=False)
class Separation(Brief):
    """How well each neuron separates class A from class B; all fields (N), NaN where too few images have a value.

    >>> found = class_separation(torch.tensor([[3.0, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]), [0, 1], [2, 3])
    >>> found.auc, found.fires_for_a
    (tensor([1.0000, 0.2500], dtype=torch.float64), tensor([ True, False]))
    """

    auc: Tensor
    """Chance that an image of A activates the neuron more than one of B, ties one half; float64."""
    low: Tensor
    high: Tensor
    p: Tensor
    """Two-sided."""
    q: Tensor
    """The same, corrected over neurons (Benjamini & Hochberg 1995)."""
    mean_a: Tensor
    mean_b: Tensor
    count_a: Tensor
    """Images of A with a finite activation, int64."""
    count_b: Tensor

    @property
    def fires_for_a(self) -> Tensor:
        """(N) whether the neuron is more active on A."""
        return self.auc > 0.5


def class_separation(activations: Any, a: Any, b: Any, *, groups: Any = None, neurons: Any = None) -> Separation:
    """AUC, interval, p and q of each neuron between two classes of images.

    Args:
        activations: (I,N) in memory, or any `ActivationSource`. NaN or infinite: the image is left out for the neuron.
        a: rows of the images of the one class, (A).
        b: rows of the other's, (B).
        groups: (I), a number per image, equal for images that belong together; None where each stands for itself.
        neurons: indices of the neurons wanted; all N by default.

    Time grows as (A + B) log(A + B) for each neuron, memory is bounded by `SCRATCH` and one neuron's column.

    Raises:
        InputError: a class without images, or an image in both.

    >>> class_separation(activations, [0, 2], [1, 3]).auc  # the first neuron fires for stripes
    tensor([1.0000, 0.3750], dtype=torch.float64)
    """
    of = source(activations)
    a, b = (torch.as_tensor(rows, dtype=torch.int64).reshape(-1) for rows in (a, b))
    if not len(a) or not len(b):
        raise InputError("both classes need images")
    if bool(torch.isin(a, b).any()):
        raise InputError("an image is in both classes")
    chosen = torch.arange(of.shape[1]) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64)
    cluster = None if groups is None else torch.as_tensor(groups, dtype=torch.int64)[torch.cat([a, b])]
    parts = []
    for some in blocks(len(chosen), 100 * (len(a) + len(b)), SCRATCH):
        values = _rows_of(of, torch.cat([a, b]), chosen[some])
        parts.append(_separated(values[:, : len(a)], values[:, len(a) :], cluster))
    if not parts:
        parts.append(_separated(torch.zeros(0, len(a)), torch.zeros(0, len(b)), cluster))
    joined = {f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Separation)}
    return Separation(**{**joined, "q": q_values(joined["p"])})


def _rows_of(of: ActivationSource, images: Tensor, neurons: Tensor) -> Tensor:
    """Activations (n,L) of some neurons on some images, neuron by neuron in memory."""
    if 2 * len(images) > of.shape[0]:
        return columns(of, neurons)[images].T.contiguous()
    order = images.sort().indices
    rising, out = images[order], torch.empty(0)
    for start, rows in of.blocks(neurons):
        first, last = torch.searchsorted(rising, torch.tensor([start, start + len(rows)])).tolist()
        if not out.numel():
            out = rows.new_empty(len(neurons), len(images))
        out[:, order[first:last]] = rows[rising[first:last] - start].T.cpu()
    return out


@dataclass(frozen=True, slots=True)
class _Sorted:
    """Activations of both classes in rising order, all fields (N,L)."""

    order: Tensor
    """Which image each is, those of class A first."""
    is_a: Tensor
    is_b: Tensor
    """Neither where the activation is not finite."""
    below: Tensor
    """Share of the other class below each image, ties one half."""
    ties: Tensor
    """(N): sum over groups of t equal values of t^3 - t."""

    @classmethod
    def of(cls, x: Tensor, y: Tensor) -> _Sorted:
        """From activations (N,A) and (N,B)."""
        both = torch.cat([x, y], 1)
        ordered, order = both.masked_fill_(~both.isfinite(), torch.inf).sort(dim=1)
        there, first = ordered < torch.inf, order < x.shape[1]
        is_a, is_b = there & first, there & ~first
        place = torch.arange(ordered.shape[1], dtype=torch.int32).expand(ordered.shape)
        new = torch.ones_like(there)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        start = torch.where(new, place, 0).cummax(1).values.long()
        last = torch.ones_like(there)
        last[:, :-1] = new[:, 1:]
        end = torch.where(last, place, place.shape[1]).flip(1).cummin(1).values.flip(1).long() + 1
        size = (end - start).double().masked_fill_(~(last & there), 0.0)
        counted = torch.zeros(len(both), both.shape[1] + 1, dtype=torch.int32)
        torch.cumsum(is_a, 1, dtype=torch.int32, out=counted[:, 1:])
        lower = counted.gather(1, start) + counted.gather(1, end)  # of A, twice
        lower = torch.where(is_b, lower, (start + end) - lower).double()
        other = torch.where(is_b, is_a.sum(1, keepdim=True), is_b.sum(1, keepdim=True))
        below = (lower / (2 * other)).masked_fill_(~there, 0.0)
        return cls(order, is_a, is_b, below, (size**3 - size).sum(1))


def _separated(x: Tensor, y: Tensor, cluster: Tensor | None) -> Separation:
    """Of activations (N,A) on one class and (N,B) on the other; q is still p."""
    every = _Sorted.of(x, y)
    m, n = every.is_a.sum(1).double(), every.is_b.sum(1).double()
    enough = (m >= LEAST) & (n >= LEAST)
    auc = every.below.masked_fill(every.is_b, 0.0).sum(1) / m
    gap_a = (every.below - auc[:, None]).masked_fill_(~every.is_a, 0.0)
    gap_b = (1 - every.below - auc[:, None]).masked_fill_(~every.is_b, 0.0)
    if cluster is None:
        variance = gap_a.square().sum(1) / (m * (m - 1)) + gap_b.square().sum(1) / (n * (n - 1))
        p = _rank_sum(every.ties, auc, m, n)
    else:
        variance = _clustered(gap_a, gap_b, every, cluster, m, n)
        p = _two_sided((auc - 0.5) / variance.sqrt()).masked_fill(variance <= 0, torch.nan)
    low, high = _interval(auc, variance, m, n)
    mean_a, mean_b = (v.masked_fill(~v.isfinite(), 0.0).double().sum(1) / c for v, c in ((x, m), (y, n)))
    auc, low, high, p = (v.masked_fill(~enough, torch.nan) for v in (auc, low, high, p))
    return Separation(auc, low, high, p, p, mean_a, mean_b, m.long(), n.long())


def _rank_sum(ties: Tensor, auc: Tensor, m: Tensor, n: Tensor) -> Tensor:
    """p of the rank-sum test, normal, corrected for ties and for continuity; 1 where all values are equal."""
    total = m + n
    variance = m * n / 12 * (total + 1 - ties / (total * (total - 1)))
    distance = ((auc - 0.5).abs() * m * n - 0.5).clamp_min(0.0)
    return _two_sided(distance / variance.sqrt()).masked_fill(variance <= 1e-9 * m * n, 1.0)


def _clustered(gap_a: Tensor, gap_b: Tensor, every: _Sorted, cluster: Tensor, m: Tensor, n: Tensor) -> Tensor:
    """Variance (N) of AUC where images of one number in `cluster` (L) belong together: Obuchowski 1997."""
    _, number = torch.unique(cluster, return_inverse=True)
    count, of = int(number.max()) + 1, number[every.order]

    def summed(values: Tensor) -> Tensor:
        return torch.zeros(len(values), count, dtype=torch.float64).scatter_add_(1, of, values.double())

    one, other = summed(gap_a), summed(gap_b)
    in_a, in_b = summed(every.is_a) > 0, summed(every.is_b) > 0
    g_a, g_b, g = (some.sum(1).double() for some in (in_a, in_b, in_a | in_b))
    s_a = g_a / (g_a - 1) * one.square().sum(1) / m.square()
    s_b = g_b / (g_b - 1) * other.square().sum(1) / n.square()
    s_ab = g / (g - 1) * (one * other).sum(1) / (m * n)
    return (s_a + s_b + 2 * s_ab).clamp_min(0.0)


def _two_sided(z: Tensor) -> Tensor:
    p: Tensor = torch.special.erfc(z.abs() / 2**0.5)
    return p


def _interval(auc: Tensor, variance: Tensor, m: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """95 % intervals (N),(N)."""
    inner = (auc > 0) & (auc < 1) & (variance > 0)
    safe = auc.clamp(1e-12, 1 - 1e-12)
    half = WIDTH * variance.clamp_min(0).sqrt() / (safe * (1 - safe))
    low, high = torch.sigmoid(safe.logit() - half), torch.sigmoid(safe.logit() + half)
    wide_low, wide_high = _newcombe(auc, m, n)
    return torch.where(inner, low, wide_low), torch.where(inner, high, wide_high)


def _newcombe(auc: Tensor, m: Tensor, n: Tensor, steps: int = 60) -> tuple[Tensor, Tensor]:
    """The values t with |AUC - t| = WIDTH sqrt(v(t)), by bisection; v(t) = t (1 - t) (1 + k ((1 - t) / (2 - t) +
    t / (1 + t))) / (m n) with k = (m + n) / 2 - 1 is Hanley & McNeil's variance, made symmetric."""
    k = (m + n) / 2 - 1

    def beyond(t: Tensor) -> Tensor:
        variance = t * (1 - t) * (1 + k * ((1 - t) / (2 - t) + t / (1 + t))) / (m * n)
        return (auc - t).abs() > WIDTH * variance.sqrt()

    def search(outer: Tensor) -> Tensor:
        inner = auc.clone()
        for _ in range(steps):
            middle = (inner + outer) / 2
            far = beyond(middle)
            outer, inner = torch.where(far, middle, outer), torch.where(far, inner, middle)
        return (inner + outer) / 2

    return search(torch.zeros_like(auc)), search(torch.ones_like(auc))
