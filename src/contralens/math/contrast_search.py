"""The search for contrasts: down the lists of each positive's nearest images, and then among all images.

Steps 2 to 4 of `contralens.math.exemplars`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from contralens.math.activation_sources import (
    ActivationSource,
    DenseActivations,
    RowActivations,
    SparseActivations,
    along,
)
from contralens.math.neighbours import (
    CACHE,
    Neighbours,
    Products,
    close_ones,
    maxima,
    most_images,
    of_winners,
    over,
    winners,
)
from contralens.math.tensors import BLOCK_BYTES, SPARE, blocks, return_memory, room, spread

UNSETTLED = -2
LISTS = 2**16
"""Lists of neighbours that are held at once, about 6 kB each with what finds them; the product of two positives of
different parts is computed twice."""
AT_ONCE = 16 * 2**20
"""Activations along lists that are held at once where the source gives whole rows (`RowActivations`)."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Positives that look for a contrast, all fields (P)."""

    positive: Tensor
    neuron: Tensor
    below: Tensor
    """The neuron is cold where its activation is below this."""
    group: Tensor | None = None
    """(I) group of each image: a contrast is of another group than the positive."""

    def __getitem__(self, which: slice | Tensor) -> Pairs:
        return Pairs(self.positive[which], self.neuron[which], self.below[which], self.group)


def search(
    products: Products, activations: ActivationSource, pairs: Pairs, exclude: float | None,
    lists: Callable[[Tensor], Neighbours], at_once: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The contrast of each pair, -1 for none, and the neuron's activation on it; (P) each.

    Args:
        lists: the nearest images of some images.
        at_once: lists that are held at once, by default `LISTS`.
    """
    queries, row = torch.unique(pairs.positive, return_inverse=True)
    found, value = torch.full_like(row, UNSETTLED), pairs.below.new_full(row.shape, torch.nan)
    # Some lists at a time bound the memory; but a source of whole rows would be asked for them each time.
    whole = isinstance(activations, RowActivations)
    for part in blocks(len(queries), 1, budget=max(1, len(queries)) if whole else at_once or LISTS):
        own = ((row >= part.start) & (row < part.stop)).nonzero()[:, 0]
        near = lists(queries[part])
        found[own], value[own] = walk(products, activations, near, row[own] - part.start, pairs[own], exclude)
        del near
    return settled(products, activations, pairs, exclude, found, value)


def settled(
    products: Products, activations: ActivationSource, pairs: Pairs, exclude: float | None, found: Tensor,
    value: Tensor, taken: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `walk` found, those that it left UNSETTLED looked for among all images; filled in place."""
    rest = (found == UNSETTLED).nonzero()[:, 0]
    if len(rest):
        still = None if taken is None else taken[rest]
        found[rest], value[rest] = scan(products, activations, pairs[rest], exclude, still)
    return found, value


def walk(
    products: Products,
    activations: ActivationSource,
    near: Neighbours,
    row: Tensor,
    pairs: Pairs,
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
            return_memory(SPARE)
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
        return_memory(SPARE)
        rest = (found == UNSETTLED).nonzero()[:, 0]
        if last or not len(rest):
            return found, activation
        if rows is not None and 2 * most_images(near, row=torch.unique(row[rest])) > activations.shape[0]:
            return found, activation  # to look at all images reads hardly more rows
        depth *= 4


def scan(
    products: Products, activations: ActivationSource, pairs: Pairs, exclude: float | None, taken: Tensor | None
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
        return_memory(SPARE)
    pair, image, _, activation = still(candidates)
    partner = winners(products, pairs.positive, pair, image, exclude)
    found, values = torch.empty_like(row), activation.new_empty(row.shape)
    found[order], values[order] = partner, of_winners(partner, pair, image, activation)
    return found, values
