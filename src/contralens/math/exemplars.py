"""Positives and contrastive partners of all neurons at once, by blocked matrix products.

Bouanani et al. 2026 (arXiv 2604.22477). For neuron n the positives are the K images with the largest activation. The
contrast of a positive p is the look-alike that leaves the neuron cold:

    q(p) = argmax over { i : a[i,n] < mean_i a[i,n] } of <e[p], e[i]>,        s[p] = <e[p], e[q(p)]>

All ties go to the lower image index, whatever the machine and its number of threads: products are computed in float32,
and whatever comes within `TOLERANCE` of the best is computed again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.checks import InputError
from contralens.math.tensors import blocks, matrix
from contralens.types import Exemplars

TOLERANCE = 4e-6
"""Error of a float32 inner product of unit vectors that is never exceeded in practice (D up to a few thousand)."""
TIE = 1e-12
"""Cosines closer than this in float64 are the same number, computed in another order."""
FIRES = 1e-6
"""An activation above this counts as firing (the paper's published code)."""


@dataclass(frozen=True, slots=True)
class NeuronStatistics:
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


def neuron_statistics(activations: Any) -> NeuronStatistics:
    """Means, extremes and firing counts of all neurons in one pass over activations (I,N).

    >>> neuron_statistics(torch.tensor([[0.0, 1.0], [4.0, 1.0]])).status()
    ['ok', 'constant']
    """
    a = matrix(activations, "activations")
    images, neurons = a.shape
    total = torch.zeros(neurons, dtype=torch.float64)
    count, firing = torch.zeros(neurons, dtype=torch.int64), torch.zeros(neurons, dtype=torch.int64)
    highest, lowest = (
        torch.full((neurons,), -torch.inf, dtype=a.dtype),
        torch.full((neurons,), torch.inf, dtype=a.dtype),
    )
    for block in blocks(images, neurons * 16):
        rows = a[block].cpu()
        finite = rows.isfinite()
        total += rows.double().masked_fill(~finite, 0.0).sum(0)
        count += finite.sum(0)
        firing += (finite & (rows > FIRES)).sum(0)
        highest = torch.maximum(highest, rows.masked_fill(~finite, -torch.inf).amax(0))
        lowest = torch.minimum(lowest, rows.masked_fill(~finite, torch.inf).amin(0))
    nothing = count == 0
    # A constant's mean is the constant itself: rounding must not put the neuron below its own mean.
    mean = torch.where(highest == lowest, highest.double(), total / count)
    return NeuronStatistics(
        mean=mean.masked_fill(nothing, torch.nan),
        maximum=highest.masked_fill(nothing, torch.nan),
        minimum=lowest.masked_fill(nothing, torch.nan),
        firing=firing,
        missing=images - count,
    )


def select_neurons(
    activations: Any, *, most: int = 200, least_firing: int = 100, most_firing_rate: float | None = None, top: int = 100
) -> Tensor:
    """The paper's choice of neurons: indices (M) by falling mean of their `top` largest activations (I,N).

    Neurons that fire on fewer than `least_firing` images are dropped, optionally those that fire on at least the share
    `most_firing_rate` as well (the tutorial uses 0.8); the `most` strongest remain.

    >>> select_neurons(torch.tensor([[0.0, 3.0, 1.0], [0.0, 1.0, 4.0]]), most=2, least_firing=1, top=1)
    tensor([2, 1])
    """
    a = matrix(activations, "activations")
    statistics = neuron_statistics(a)
    keep = (statistics.firing >= least_firing) & ~statistics.maximum.isnan().cpu()
    if most_firing_rate is not None:
        keep &= statistics.firing < most_firing_rate * (a.shape[0] - statistics.missing)
    strength = torch.full((a.shape[1],), -torch.inf, dtype=torch.float64)
    for block in blocks(a.shape[1], a.shape[0] * a.element_size() * 2):
        columns = a[:, block].T.contiguous().cpu()
        columns = columns.masked_fill(~columns.isfinite(), -torch.inf)
        strongest = columns.topk(min(top, a.shape[0]), dim=1).values.double()
        finite = strongest.isfinite()
        strength[block] = strongest.masked_fill(~finite, 0.0).sum(1) / finite.sum(1)
    order = strength.masked_fill(~keep, -torch.inf).sort(descending=True, stable=True).indices
    return order[: min(most, int(keep.sum()))]


def find_exemplars(
    activations: Any,
    embeddings: Any,
    k: int = 30,
    neurons: Any = None,
    reuse: bool = True,
    exclude: float | None = None,
) -> Exemplars:
    """Positives and contrastive partners of every neuron.

    Args:
        activations: (I,N), one number per image and neuron. NaN or infinite: that image is left out for that neuron.
        embeddings: (I,D), unit rows of the same images. A row with NaN leaves the image out for all neurons.
        k: exemplars per neuron; fewer if there are fewer images.
        neurons: indices of the neurons wanted; all N by default.
        reuse: whether one image may be the contrast of several positives of a neuron. If not, partners are given out
            greedily in rank order.
        exclude: skip partners whose cosine to the positive is above this (near-duplicates); off by default.

    Returns:
        Exemplars with (N,K) fields on the CPU; -1 and NaN where there is no image, or nothing is below the mean.

    >>> e = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    >>> found = find_exemplars(torch.tensor([[5.0], [0.0], [0.0]]), e, k=1)
    >>> found.positives.tolist(), found.contrasts.tolist()
    ([[0]], [[1]])
    """
    a, e = matrix(activations, "activations"), matrix(embeddings, "embeddings")
    if a.shape[0] != e.shape[0]:
        raise InputError(f"`embeddings` must have {a.shape[0]} rows, one per image; got shape {tuple(e.shape)}")
    if a.shape[0] == 0:
        raise InputError("`activations` holds no image")
    if k < 1:
        raise InputError(f"`k` must be at least 1; got {k}")
    chosen = (
        torch.arange(a.shape[1]) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64).reshape(-1).cpu()
    )
    if len(chosen) and not (0 <= int(chosen.min()) and int(chosen.max()) < a.shape[1]):
        raise InputError(f"`neurons` must lie in 0..{a.shape[1] - 1}; got {int(chosen.min())}..{int(chosen.max())}")

    images, k = a.shape[0], min(k, a.shape[0])
    usable = e.isfinite().all(1)
    e = e.masked_fill(~usable[:, None], 0.0)
    positives = torch.empty(len(chosen), k, dtype=torch.int64)
    values = torch.empty(len(chosen), k, dtype=a.dtype)
    contrasts = torch.empty_like(positives)
    similarities = torch.empty(len(chosen), k, dtype=e.dtype)
    for block in blocks(len(chosen), images * 32, budget=4 * 64 * 2**20):
        columns = a[:, chosen[block].to(a.device)].T.contiguous().to(e.device)
        columns = columns.masked_fill(~columns.isfinite() | ~usable, torch.nan)
        top, order = _top(columns, k)
        below = _below_mean(columns)
        found, cosines = _partners(e, order, below, reuse, exclude)
        positives[block], values[block] = order.cpu(), top.cpu()
        contrasts[block], similarities[block] = found.cpu(), cosines.cpu()
    return Exemplars(chosen, positives, values, contrasts, similarities)


def _top(columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row (n,I) with ties by lower index; NaN never counts and comes out as (NaN, -1)."""
    if columns.dtype == torch.float32:
        # One integer orders by value first (sign-folded bits), then by falling index: no two are equal.
        bits = (columns + 0.0).view(torch.int32).to(torch.int64)  # + 0.0 makes -0.0 equal 0.0
        ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).masked_fill(columns.isnan(), -(2**31))
        count = columns.shape[1]
        keys = ordered * 2**31 + (count - 1 - torch.arange(count, device=columns.device))
        order = count - 1 - (keys.topk(k, dim=1).values & (2**31 - 1))
    else:
        filled = columns.masked_fill(columns.isnan(), -torch.inf)
        order = filled.sort(dim=1, descending=True, stable=True).indices[:, :k]
    top = columns.gather(1, order)
    return top, order.masked_fill(top.isnan(), -1)


def _below_mean(columns: Tensor) -> Tensor:
    """Where a[i,n] < mean_i a[i,n], over the images that count; (n,I) -> bool (n,I)."""
    mean = columns.double().nanmean(1, keepdim=True)
    low, high = columns.nan_to_num(torch.inf).amin(1), columns.nan_to_num(-torch.inf).amax(1)
    return (columns.double() < mean) & (low < high)[:, None]


def _partners(e: Tensor, positives: Tensor, below: Tensor, reuse: bool, exclude: float | None) -> tuple[Tensor, Tensor]:
    """Contrast index and cosine of every positive (n,K), -1 and NaN where there is none."""
    found = torch.full_like(positives, -1)
    cosines = torch.full(positives.shape, torch.nan, dtype=e.dtype, device=e.device)
    allowed = below.clone() if not reuse else below
    for rank in range(positives.shape[1]):
        for block in blocks(len(positives), e.shape[0] * e.element_size() * 3):
            rows = (positives[block, rank] >= 0).nonzero()[:, 0] + block.start
            if len(rows):
                found[rows, rank], cosines[rows, rank] = _nearest(e, positives[rows, rank], allowed[rows], exclude)
        if not reuse:
            taken = (found[:, rank] >= 0).nonzero()[:, 0]
            allowed[taken, found[taken, rank]] = False
    return found, cosines


def _nearest(e: Tensor, queries: Tensor, allowed: Tensor, exclude: float | None) -> tuple[Tensor, Tensor]:
    """For each query image the most similar allowed one: exact, lowest index wins; (n),(n,I) -> (n),(n)."""
    cosine = e[queries] @ e.T
    if exclude is not None:
        allowed = allowed & (cosine <= exclude + TOLERANCE)
    cosine.masked_fill_(~allowed, -torch.inf)
    if exclude is None:
        near = cosine >= cosine.amax(1, keepdim=True) - 2 * TOLERANCE
        near &= allowed
    else:  # those around the threshold may turn out to be above it, so the next best must be at hand as well
        sure = cosine.masked_fill(cosine > exclude - TOLERANCE, -torch.inf).amax(1, keepdim=True)
        near = allowed & (cosine >= sure - 2 * TOLERANCE)
    query, image = near.nonzero(as_tuple=True)  # ordered by query, then by image
    exact = (e[queries[query]].double() * e[image].double()).sum(1)
    if exclude is not None:
        exact = exact.masked_fill(exact > exclude, -torch.inf)
    best = torch.full((len(queries),), -torch.inf, dtype=torch.float64, device=e.device)
    best.scatter_reduce_(0, query, exact, "amax")
    winners = (exact >= best[query] - TIE) & exact.isfinite()
    index = torch.full((len(queries),), e.shape[0], dtype=torch.int64, device=e.device)
    index.scatter_reduce_(0, query[winners], image[winners], "amin")
    none = index == e.shape[0]
    index = index.masked_fill(none, -1)
    value = (e[queries].double() * e[index.clamp_min(0)].double()).sum(1).to(e.dtype)
    return index, value.masked_fill(none, torch.nan)
