"""Positives and contrasts of all neurons at once.

Bouanani et al. 2026 (arXiv 2604.22477). For neuron n the positives are the K images with the largest activation. The
contrast of a positive p is the similar image that leaves the neuron cold:

    q(p) = argmax over { i : a[i,n] < mean_i a[i,n] } of <e[p], e[i]>,        s[p] = <e[p], e[q(p)]>

The work is done in four steps, none of which holds the whole (I,N) or (I,I) matrix:

1. `survey`: one pass over the activations gives means and positives.
2. `nearest_images`: every image that is somebody's positive gets its nearest images, once, whoever needs it.
3. `_walk`: each positive of each neuron goes down its image's list to the first one that leaves the neuron cold.
4. `_scan`: the few that find none there look at all images, in blocks.

Cosines are approximate with a known error, and whatever is within it of the best is computed again in float64. All
ties go to the lower image index. So the result is the same on every machine, in every precision and number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import (
    ActivationSource,
    DenseActivations,
    RowActivations,
    SparseActivations,
    along,
    source,
)
from contralens.math.faiss_neighbours import approximate
from contralens.math.grouping import Groups
from contralens.math.neighbours import (
    CACHE,
    LENGTH,
    TIE,
    TOLERANCE,
    Neighbours,
    Products,
    close_ones,
    maxima,
    most_images,
    nearest_images,
    of_winners,
    over,
    winners,
)
from contralens.math.statistics import FIRES, NeuronStatistics, neuron_statistics, select_neurons, survey
from contralens.math.tensors import BLOCK_BYTES, all_bits, blocks, matrix, return_memory, room, spread
from contralens.types import Brief, Exemplars

__all__ = [
    "FIRES",
    "TIE",
    "TOLERANCE",
    "ActivationSource",
    "DenseActivations",
    "NeuronStatistics",
    "SparseActivations",
    "find_exemplars",
    "neuron_statistics",
    "select_neurons",
]

UNSETTLED = -2
LISTS = 2**16
"""Lists of neighbours that are held at once, about 6 kB each with what finds them; the product of two positives of
different parts is computed twice."""
AT_ONCE = 16 * 2**20
"""Activations along lists that are held at once where the source gives whole rows (`RowActivations`)."""


def find_exemplars(
    activations: Any,
    embeddings: Any,
    k: int = 30,
    neurons: Any = None,
    reuse: bool = True,
    exclude: float | None = None,
    neighbours: str = "exact",
    groups: Any = None,
) -> Exemplars:
    """Exemplars and contrasts of every neuron.

    Args:
        activations: (I,N), one number per image and neuron: a matrix in memory or a memory map, a `torch.sparse_csr`
            tensor, or any `ActivationSource`. If a value is NaN or infinite, the image is excluded for that neuron.
        embeddings: (I,D), unit rows of the same images, in memory or a memory map; computed on their device. A row with
            NaN excludes the image for all neurons.
        k: exemplars per neuron; fewer if there are fewer images.
        neurons: indices of the neurons; all N by default.
        reuse: whether one image may be the contrast of several positives of a neuron. If not, contrasts are assigned
            greedily in rank order.
        exclude: skip contrasts whose cosine to the positive is above this (near-duplicates); off by default.
        neighbours: "exact", or "faiss:hnsw" or "faiss:ivf" for approximate lists of neighbours; see
            `contralens.math.faiss_neighbours`.
        groups: (I), a name or a number per image, equal for images that belong together (one patient, lesion, scene,
            video): at most one exemplar of a neuron comes from each group, and no contrast from its exemplar's group.
            `contralens.math.grouping.Groups` allows more per group.

    Returns:
        Exemplars with (N,K) fields on the CPU; -1 and NaN where there is no image, or no image below the mean.

    >>> e = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), dim=1)
    >>> found = find_exemplars(torch.tensor([[5.0], [0.0], [0.0]]), e, k=1)
    >>> found.positives.tolist(), found.contrasts.tolist()
    ([[0]], [[1]])
    """
    return mine(activations, embeddings, k, neurons, reuse, exclude, neighbours, groups).exemplars


@dataclass(frozen=True, slots=True, repr=False)
class Mined(Brief):
    """What `mine` finds."""

    exemplars: Exemplars
    cold: Tensor
    """(N,K): activation of each neuron on its contrasts, NaN where there is none."""
    recall: dict[str, Any]
    """How good approximate lists of neighbours are; empty where they are exact."""


def mine(
    activations: Any,
    embeddings: Any,
    k: int = 30,
    neurons: Any = None,
    reuse: bool = True,
    exclude: float | None = None,
    neighbours: str = "exact",
    groups: Any = None,
) -> Mined:
    """`find_exemplars`, and what is known besides when it is done."""
    e = matrix(embeddings, "embeddings")
    with all_bits(e.device):
        a, known = source(activations), Groups.of(groups, len(e))
        return _mine(a, e, k, neurons, reuse, exclude, neighbours, known.to(e.device) if known else None)


def _mine(
    a: ActivationSource, e: Tensor, k: int, neurons: Any, reuse: bool, exclude: float | None, neighbours: str,
    groups: Groups | None,
) -> Mined:  # fmt: skip
    images, width = a.shape
    if len(e) != images:
        raise InputError(f"`embeddings` must have {images} rows, one per image; got shape {tuple(e.shape)}")
    if images == 0:
        raise InputError("`activations` holds no image")
    if k < 1:
        raise InputError(f"`k` must be at least 1; got {k}")
    chosen = torch.arange(width) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64).reshape(-1).cpu()
    if len(chosen) and not (0 <= int(chosen.min()) and int(chosen.max()) < width):
        raise InputError(f"`neurons` must lie in 0..{width - 1}; got {int(chosen.min())}..{int(chosen.max())}")

    return_memory()
    products = Products(e)
    wanted = None if neurons is None else chosen
    statistics, values, positives = survey(a, min(k, images), wanted, products.usable, groups)
    rank, neuron = (positives.T >= 0).nonzero(as_tuple=True)  # in rank order, as partners are given out
    pairs = _Pairs(
        positives[neuron, rank].to(e.device), chosen[neuron].to(e.device), statistics.below()[neuron].to(e.device),
        None if groups is None else groups.numbers,
    )  # fmt: skip
    queries, row = torch.unique(pairs.positive, return_inverse=True)
    length, recall = LENGTH if reuse else 2 * LENGTH, dict[str, Any]()
    contrasts, cold = torch.full_like(positives, -1), torch.full_like(values, torch.nan)

    def lists(part: slice) -> Neighbours:
        if neighbours == "exact":
            return nearest_images(products, queries[part], length)
        near, told = approximate(products, queries[part], length, neighbours)
        recall.update(told)
        return near

    def settle(these: slice, found: Tensor, value: Tensor, taken: Tensor | None = None) -> None:
        """Those that found no contrast in the lists look at all images."""
        rest = (found == UNSETTLED).nonzero()[:, 0]
        if len(rest):
            still = pairs[these][rest]
            found[rest], value[rest] = _scan(products, a, still, exclude, None if taken is None else taken[rest])
        contrasts[neuron[these], rank[these]], cold[neuron[these], rank[these]] = found.cpu(), value.cpu()

    if reuse:
        found, value = torch.full_like(row, UNSETTLED), pairs.below.new_full(row.shape, torch.nan)
        # Some lists at a time bound the memory; but a source of whole rows would be asked for them each time.
        apart = neighbours == "exact" and not isinstance(a, RowActivations)
        for part in blocks(len(queries), 1, budget=LISTS if apart else max(1, len(queries))):
            own = ((row >= part.start) & (row < part.stop)).nonzero()[:, 0]
            near = lists(part)
            found[own], value[own] = _walk(products, a, near, row[own] - part.start, pairs[own], exclude)
            del near
        settle(slice(None), found, value)
    else:
        near, ends = lists(slice(None)), torch.bincount(rank, minlength=1).cumsum(0).tolist()
        for r, (begin, end) in enumerate(zip([0, *ends], ends, strict=False)):
            these, taken = slice(begin, end), contrasts[neuron[begin:end], :r].to(e.device)
            settle(these, *_walk(products, a, near, row[these], pairs[these], exclude, taken), taken)

    similarities = torch.full(positives.shape, torch.nan, dtype=e.dtype)
    paired = contrasts >= 0
    cosines = products.exact(positives[paired].to(e.device), contrasts[paired].to(e.device))
    similarities[paired] = cosines.to(e.dtype).cpu()
    return Mined(Exemplars(chosen, positives, values, contrasts, similarities), cold, recall)


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Positives that look for a contrast, all fields (P)."""

    positive: Tensor
    neuron: Tensor
    below: Tensor
    """The neuron is cold where its activation is below this."""
    group: Tensor | None = None
    """(I) group of each image: a contrast is of another group than the positive."""

    def __getitem__(self, which: slice | Tensor) -> _Pairs:
        return _Pairs(self.positive[which], self.neuron[which], self.below[which], self.group)


def _walk(
    products: Products,
    activations: ActivationSource,
    near: Neighbours,
    row: Tensor,
    pairs: _Pairs,
    exclude: float | None,
    taken: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The contrast of each pair from its positive's list, `near[row]`, and the neuron's activation on it; (P) each.

    -1 for none, UNSETTLED if beyond the list. Looks at the first few of the list, and only if that does not settle it
    at more. `taken` (P,R): not to be used.
    """
    found, activation = torch.full_like(row, UNSETTLED), pairs.below.new_full(row.shape, torch.nan)
    longest, depth = near.images.shape[1], 8
    if not len(row):
        return found, activation
    if isinstance(activations, RowActivations) and taken is None and most_images(near, depth) * 2 > most_images(near):
        depth = longest  # nearly as many rows are read for the first few as for all
    while True:
        open_ = (found == UNSETTLED).nonzero()[:, 0]
        rows: Tensor | None = None
        if isinstance(activations, RowActivations) and taken is None:
            depth = max(8, min(depth, AT_ONCE // max(1, len(open_))))
            which_list, place = torch.unique(row[open_], return_inverse=True)
            rows = along(activations, near.images[which_list, :depth], place, pairs.neuron[open_])
            return_memory()
        last = depth >= longest
        each = min(depth, longest) * (40 + (0 if taken is None else taken.shape[1]))

        def step(
            block: slice, open_: Tensor = open_, rows: Tensor | None = rows, depth: int = depth, last: bool = last
        ) -> None:
            these = open_[block]
            some, r = pairs[these], row[these]
            images, cosine = near.images[r, :depth].long(), near.cosines[r, :depth]
            floor = near.floor[r] if last else torch.maximum(near.floor[r], near.cosines[r, depth])
            seen = images.clamp_min(0)
            if rows is not None:
                value = rows[block].to(seen.device)
            else:
                value = activations.lookup(seen.flatten(), some.neuron.repeat_interleave(seen.shape[1]))
                value = value.view(seen.shape).to(seen.device)
            cold = (value < some.below[:, None]) & (value > -torch.inf) & products.usable[seen] & (images >= 0)
            if some.group is not None:
                cold &= some.group[seen] != some.group[some.positive][:, None]
            if taken is not None:
                cold &= ~(images[:, :, None] == taken[these][:, None, :]).any(2)
            close, best = close_ones(cosine.masked_fill(~cold, -torch.inf), products.tolerance, exclude)
            settled = (best - 2 * products.tolerance > floor) | (floor == -torch.inf)
            which, place = (close & settled[:, None]).nonzero(as_tuple=True)
            partner = winners(products, some.positive, which, images[which, place], exclude)
            found[these] = torch.where(settled, partner, UNSETTLED)
            activation[these] = of_winners(partner, which, images[which, place], value[which, place])

        # Only what is known to allow it is asked by several threads.
        apart = rows is not None or isinstance(activations, DenseActivations | SparseActivations)
        budget = room(row.device, BLOCK_BYTES // 8) if apart else BLOCK_BYTES
        spread(step, list(blocks(len(open_), each, budget)), row.device if apart else None)
        return_memory()
        rest = (found == UNSETTLED).nonzero()[:, 0]
        if last or not len(rest):
            return found, activation
        if rows is not None and 2 * most_images(near, row=torch.unique(row[rest])) > activations.shape[0]:
            return found, activation  # to look at all images reads hardly more rows
        depth *= 4


def _scan(
    products: Products, activations: ActivationSource, pairs: _Pairs, exclude: float | None, taken: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The contrast of each pair among all images, -1 for none, and the neuron's activation on it; (P) each. One pass
    over the activations of these neurons."""
    queries, row = torch.unique(pairs.positive, return_inverse=True)
    order = row.sort(stable=True).indices  # so that the pairs of one block of queries lie together
    row, pairs = row[order], pairs[order]
    taken = None if taken is None else taken[order]
    neurons, column = torch.unique(pairs.neuron, return_inverse=True)
    below = torch.full((len(neurons),), -torch.inf, dtype=pairs.below.dtype, device=row.device)
    below[column] = pairs.below
    best = torch.full((len(row),), -torch.inf, device=row.device)
    candidates: list[tuple[Tensor, ...]] = []

    def still(some: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """The candidates (pair, image, cosine, activation) that can still be the best of their pair."""
        fields = tuple(torch.cat(field) for field in zip(*some, strict=True))
        kept = fields[2] >= best[fields[0]] - 2 * products.tolerance
        return tuple(field[kept] for field in fields)

    for start, values in activations.blocks(neurons, budget=2 * BLOCK_BYTES if row.is_cuda else BLOCK_BYTES // 2):
        values = values.to(row.device)
        part = slice(start, start + len(values))
        cold = (values < below) & (values > -torch.inf) & products.usable[part, None]
        e = products.block(part)
        penalty = torch.full((len(neurons), len(e)), -torch.inf, dtype=products.dtype, device=row.device)
        penalty[:, : len(values)].masked_fill_(cold.T, 0.0)
        fresh: list[tuple[Tensor, ...]] = []

        def look(
            query: slice,
            part: slice = part,
            e: Tensor = e,
            penalty: Tensor = penalty,
            values: Tensor = values,
            fresh: list[tuple[Tensor, ...]] = fresh,
        ) -> None:
            cosine = products.rows(queries[query]) @ e.T
            begin, end = torch.searchsorted(row, torch.tensor([query.start, query.stop], device=row.device)).tolist()
            for some in blocks(end - begin, len(e) * e.element_size(), budget=2**20):
                here = slice(begin + some.start, begin + some.stop)
                masked = cosine.index_select(0, row[here] - query.start).add_(penalty.index_select(0, column[here]))
                if pairs.group is not None:
                    own = pairs.group[pairs.positive[here], None] == pairs.group[None, part]
                    masked[:, : own.shape[1]].masked_fill_(own, -torch.inf)
                if taken is not None:
                    which, r = ((taken[here] >= part.start) & (taken[here] < part.stop)).nonzero(as_tuple=True)
                    masked[which, taken[here][which, r] - part.start] = -torch.inf
                if exclude is None:
                    highest = maxima(masked)
                    best[here] = torch.maximum(best[here], highest.amax(1))
                else:
                    masked = masked.float()  # the limits must not be rounded
                    sure = masked.masked_fill(masked > exclude - products.tolerance, -torch.inf).amax(1)
                    best[here] = torch.maximum(best[here], sure)
                    highest = maxima(masked.masked_fill_(masked > exclude + products.tolerance, -torch.inf))
                pair, image, value = over(masked, highest, best[here] - 3 * products.tolerance)
                pair += here.start
                fresh.append((pair, image + part.start, value, values[image, column[pair]]))

        together = room(row.device, 8 * CACHE)  # wide products: few rows would be multiplied slowly
        spread(look, list(blocks(len(queries), len(e) * e.element_size(), budget=together)), row.device)
        candidates.append(still(fresh))
        fresh.clear()
        return_memory()
    pair, image, _, activation = still(candidates)
    partner = winners(products, pairs.positive, pair, image, exclude)
    found, values = torch.empty_like(row), activation.new_empty(row.shape)
    found[order], values[order] = partner, of_winners(partner, pair, image, activation)
    return found, values
