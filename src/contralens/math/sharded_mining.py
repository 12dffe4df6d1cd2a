"""Exemplars among more images than memory holds: one shard at a time, merged without approximation.

1. One pass over the shards finds each neuron's mean and its positives (`RunningSurvey`).
2. A second pass picks up the positives' embeddings.
3. A third pass looks in each shard for the contrast of every positive, with the positives' embeddings beside the
   shard's. The contrast among all images is the best of those of the shards; among equals the lower image.

What each pass keeps grows with neurons times k, and not with the number of images. Every number is that of
`find_exemplars` on all images at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, source
from contralens.math.contrast_search import Pairs, search
from contralens.math.neighbours import TIE, Products, nearest_images
from contralens.math.statistics import NeuronStatistics, RunningSurvey
from contralens.math.tensors import BLOCK_BYTES, all_bits, finite_rows, matrix
from contralens.types import Exemplars

Shards = Callable[[], Iterable[tuple[Any, Any]]]
"""A function that gives the shards from the first, each time that it is called."""


def find_exemplars_in_shards(shards: Shards, k: int = 30, exclude: float | None = None) -> Exemplars:
    """Exemplars and contrasts of every neuron, of images that come shard by shard.

    Args:
        shards: gives (activations (i,N), embeddings (i,D)) of consecutive images, as `find_exemplars` takes them. It is
            called three times, so it should read or memory-map; one shard at a time is in memory.
        k: exemplars per neuron; fewer if there are fewer images.
        exclude: images whose cosine with the exemplar is above this are no contrasts.

    Returns:
        `Exemplars` whose images count over all shards; the same as `find_exemplars` gives of all images at once.

    Memory: one shard, (N k, D) for the positives' embeddings, and lists of neighbours (`contrast_search.LISTS`).

    Raises:
        InputError: no images, or shards that do not belong together.

    >>> parts = [(activations[:2], embeddings[:2]), (activations[2:], embeddings[2:])]
    >>> find_exemplars_in_shards(lambda: parts, k=2).positives.tolist()
    [[0, 2], [3, 2]]
    """
    if k < 1:
        raise InputError(f"`k` must be at least 1; got {k}")
    statistics, values, positives = _surveyed(shards, k)
    rank, neuron = (positives.T >= 0).nonzero(as_tuple=True)
    hot, row = torch.unique(positives[neuron, rank], return_inverse=True)
    embeddings = _picked(shards, hot)
    below = statistics.below()[neuron]
    best = torch.full((len(row),), -torch.inf, dtype=torch.float64)
    found = torch.full_like(row, -1)
    for start, a, e in _each(shards):
        with all_bits(e.device):
            both = _WithPositives(a, len(hot))
            products = Products(torch.cat([e, embeddings.to(e.dtype)]))
            pairs = Pairs(len(e) + row, neuron, below)
            here, _ = search(products, both, pairs, exclude, partial(nearest_images, products))
            there = (here >= 0).nonzero()[:, 0]
            cosine = products.exact(pairs.positive[there], here[there])
        better = cosine > best[there] + TIE  # an equal one in a later shard is a higher image
        found[there[better]], best[there[better]] = start + here[there[better]], cosine[better]
    contrasts, similarities = (
        torch.full_like(positives, -1),
        torch.full(values.shape, torch.nan, dtype=embeddings.dtype),
    )
    contrasts[neuron, rank] = found
    similarities[neuron, rank] = best.to(embeddings.dtype).masked_fill(found < 0, torch.nan)
    return Exemplars(torch.arange(len(positives)), positives, values, contrasts, similarities)


def _each(shards: Shards) -> Iterator[tuple[int, ActivationSource, Tensor]]:
    """First image, activations and embeddings of each shard."""
    start, like = 0, (-1, -1)
    for activations, embeddings in shards():
        a, e = source(activations), matrix(embeddings, "embeddings").cpu()
        if a.shape[0] != len(e):
            raise InputError(f"a shard has activations of {a.shape[0]} images and embeddings of {len(e)}")
        if start and (a.shape[1], e.shape[1]) != like:
            raise InputError(
                f"shards differ: {a.shape[1]} neurons and width {e.shape[1]} after {like[0]} and {like[1]}"
            )
        like = a.shape[1], e.shape[1]
        if len(e):
            yield start, a, e
        start += len(e)
    if not start:
        raise InputError("the shards hold no image")


def _surveyed(shards: Shards, k: int) -> tuple[NeuronStatistics, Tensor, Tensor]:
    """Statistics of all images, and the top activations and images (N,k)."""
    running, total = RunningSurvey(k), 0
    for start, a, e in _each(shards):
        usable = finite_rows(e)
        for first, rows in a.blocks(budget=8 * 2**20):
            running.add(start + first, rows.cpu(), usable[first : first + len(rows)])
        total = start + len(e)
    values, images = running.top()
    return running.statistics(total), values[:, : min(k, total)], images[:, : min(k, total)]


def _picked(shards: Shards, images: Tensor) -> Tensor:
    """The embeddings (Q,D) of some images, which rise."""
    parts = []
    for start, _, e in _each(shards):
        some = images[(images >= start) & (images < start + len(e))] - start
        parts.append(e[some].clone())
    return torch.cat(parts)


class ShardedActivations:
    """Activations (I,N) of images in shards as one `ActivationSource`; one shard is open at a time.

    Args:
        counts: images of each shard.
        opened: the activations of a shard, by its number.

    >>> found = ShardedActivations([2, 2], lambda at: source(activations[2 * at : 2 * at + 2]))
    >>> found.shape, found.lookup(torch.tensor([3, 0]), torch.tensor([1, 0]))
    ((4, 2), tensor([3., 3.]))
    """

    def __init__(self, counts: Sequence[int], opened: Callable[[int], ActivationSource]) -> None:
        self._opened, self._ends = opened, torch.tensor(counts).cumsum(0)
        self._firsts = self._ends - torch.tensor(counts)
        self.shape = (int(self._ends[-1]), opened(0).shape[1])

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows (b,N)) in image order, only the columns `neurons` if given."""
        for at, first in enumerate(self._firsts.tolist()):
            for start, rows in self._opened(at).blocks(neurons, budget):
                yield first + start, rows

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """The activations of given pairs, (L),(L) -> (L); each shard that holds one of them is opened once."""
        shard = torch.searchsorted(self._ends, images.cpu(), right=True)
        parts = []
        for at in range(len(self._ends)):
            here = (shard == at).nonzero()[:, 0]
            if not len(here):
                continue
            parts.append((here, self._opened(at).lookup(images[here].cpu() - self._firsts[at], neurons[here].cpu())))
        if not parts:
            return self._opened(0).lookup(images, neurons)
        out = parts[0][1].new_empty(images.shape)
        for here, values in parts:
            out[here] = values
        return out


class _WithPositives:
    """The activations of a shard, and below them rows of images that no neuron may take as a contrast."""

    def __init__(self, shard: ActivationSource, more: int) -> None:
        self.shard, self.more = shard, more
        self.shape = (shard.shape[0] + more, shard.shape[1])

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        rows = torch.empty(0)
        for start, rows in self.shard.blocks(neurons, budget):
            yield start, rows
        step = max(1, len(rows))
        for start in range(self.shard.shape[0], self.shape[0], step):
            size = min(step, self.shape[0] - start)
            yield start, rows.new_full((size, rows.shape[1]), torch.nan)

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        own = images < self.shard.shape[0]
        found = self.shard.lookup(images[own], neurons[own])
        return found.new_full(images.shape, torch.nan).masked_scatter(own, found)
