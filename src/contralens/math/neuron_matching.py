"""Which neuron of one network is which of another: correlations in blocks, a null, the optimal assignment.

r[a,b] is the correlation of neuron a of the one and b of the other over the same images (Li et al. 2016, "Convergent
learning"), or the cosine of two vectors where the networks saw different images. Two neurons match where r is above
what null neurons find: with M null neurons made of the one network ("permuted": real ones in a random order over the
images, "mixture": random mixtures of real ones, which ask if a neuron is found again better than a random direction of
the layer), each has its best match among the other's; the threshold is a high quantile of their r.

- one to one: the set of pairs above the threshold with the largest sum of r (Hungarian assignment, on the sparse graph
  of these pairs)
- many to one: of each neuron the best match
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_sources import ActivationSource, source
from contralens.math.null_neurons import fake_activations
from contralens.math.tensors import blocks
from contralens.types import Brief

TINY = 1e-9
BLOCK = 2**28
"""Bytes of correlations that are in memory at once."""
FAKES = 256
"""Null neurons made and correlated at once."""


@dataclass(frozen=True, slots=True, repr=False)
class Matches(Brief):
    """Partners of the neurons of two networks, by index among those compared; -1 and NaN where there is none.

    >>> found = match_neurons(activations, activations[:, [1, 0]], fakes=8, null="permuted", least=0.9)
    >>> found.one_to_one.tolist(), found.best_of_one.tolist(), found.one_to_one_r
    ([1, 0], [1, 0], tensor([1., 1.], dtype=torch.float64))
    """

    threshold: float
    """r from which two neurons match."""
    nulls: dict[str, float]
    """The quantile of the best r of null neurons made of the one, and of the other."""
    one_to_one: Tensor
    """(N1): match of each neuron of the one in the optimal assignment."""
    one_to_one_r: Tensor
    best_of_one: Tensor
    """(N1): best match of each neuron of the one, whether it is above the threshold or not."""
    best_of_one_r: Tensor
    best_of_other: Tensor
    """(N2)."""
    best_of_other_r: Tensor


def match_neurons(
    one: Any, other: Any, *, fakes: int = 1000, null: Literal["mixture", "permuted"] = "mixture", level: float = 0.05,
    least: float = 0.0, seed: int = 0,
) -> Matches:  # fmt: skip
    """Match the neurons of two networks by their activations on the same images.

    Args:
        one: activations (I,N1), in memory or any `ActivationSource`.
        other: (I,N2), of the same images in the same order. A value that is not finite counts as the neuron's mean.
        fakes: null neurons made of each network.
        null: what they are.
        level: share of null neurons whose best match is above the threshold.
        least: the threshold is at least this.
        seed: of the null neurons.

    One pass over the activations for means and lengths, one for each block of N1 that fits `BLOCK` bytes.

    Raises:
        InputError: another number of images, or fewer than three.

    >>> match_neurons(activations, activations.flip(1), fakes=8, null="permuted", least=0.9).one_to_one
    tensor([1, 0])
    """
    a, b = source(one), source(other)
    if a.shape[0] != b.shape[0]:
        raise InputError(f"both networks need the same images; got {a.shape[0]} and {b.shape[0]}")
    if a.shape[0] < 3:
        raise InputError(f"neurons are matched over at least three images; got {a.shape[0]}")
    scales = _scales(a), _scales(b)
    nulls = {
        name: _quantile([_best(_fake(x, m, start, null, seed), y, of) for start, m in _parts(fakes)], level)
        for name, x, y, of in (("one", a, b, scales[1]), ("other", b, a, scales[0]))
    }
    found = ((s, correlations(a, b, s, scales)) for s in blocks(a.shape[1], 8 * b.shape[1], BLOCK))
    return _matched(found, (a.shape[1], b.shape[1]), nulls, least)


def match_vectors(
    one: Tensor, other: Tensor, null_one: Tensor, null_other: Tensor, *, level: float = 0.05, least: float = 0.0
) -> Matches:
    """Match neurons by unit vectors (N1,D), (N2,D) in one space; `null_one`, `null_other` (M,D) are null neurons'.

    >>> e = torch.eye(3)
    >>> match_vectors(e, e[[2, 0]], e[:1] * 0.1, e[:1] * 0.1, level=0.05, least=0.5).one_to_one.tolist()
    [1, -1, 0]
    """
    one, other, null_one, null_other = (v.double() for v in (one, other, null_one, null_other))
    nulls = {
        name: _quantile([(fake @ real.T).nan_to_num(-1.0).amax(1)], level)
        for name, fake, real in (("one", null_one, other), ("other", null_other, one))
    }
    found = ((s, (one[s] @ other.T).nan_to_num(-1.0)) for s in blocks(len(one), 8 * len(other), BLOCK))
    return _matched(found, (len(one), len(other)), nulls, least)


Scales = tuple[Tensor, Tensor]
"""Mean and length of the centred activations, (N) each."""


def _scales(of: ActivationSource) -> Scales:
    """In two passes, so that a large mean costs no digits."""
    total = torch.zeros(of.shape[1], dtype=torch.float64)
    count = torch.zeros(of.shape[1], dtype=torch.float64)
    for _, rows in of.blocks():
        there = rows.isfinite()
        total += rows.masked_fill(~there, 0.0).sum(0, dtype=torch.float64).cpu()
        count += there.sum(0).cpu()
    mean = total / count.clamp_min(1)
    squares = torch.zeros_like(mean)
    for _, rows in of.blocks():
        squares += _centred(rows, mean).square().sum(0)
    return mean, squares.sqrt()


def _centred(rows: Tensor, mean: Tensor) -> Tensor:
    rows = rows.cpu().double()
    return (rows - mean).masked_fill_(~rows.isfinite(), 0.0)


def correlations(a: ActivationSource, b: ActivationSource, some: slice, scales: tuple[Scales, Scales]) -> Tensor:
    """(n,N2) of the neurons `some` of a with all of b; -1 for a neuron that never varies."""
    neurons = torch.arange(a.shape[1])[some]
    mean, length = (v[some] for v in scales[0])
    out = torch.zeros(len(neurons), b.shape[1], dtype=torch.float64)
    for x, y in _together(a.blocks(neurons), b.blocks()):
        out += _centred(x, mean).T @ _centred(y, scales[1][0])
    product = length[:, None] * scales[1][1][None, :]
    return (out / product.clamp_min(TINY)).masked_fill_(product <= TINY, -1.0)


def _together(
    one: Iterator[tuple[int, Tensor]], other: Iterator[tuple[int, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of both for the same images, however large the blocks of each are."""
    x = y = torch.empty(0)
    while True:
        if not len(x):
            x = next(one, (0, x))[1]
        if not len(y):
            y = next(other, (0, y))[1]
        size = min(len(x), len(y))
        if not size:
            return
        yield x[:size], y[:size]
        x, y = x[size:], y[size:]


def _parts(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, FAKES):
        yield start, min(FAKES, count - start)


def _fake(of: ActivationSource, count: int, start: int, kind: Literal["mixture", "permuted"], seed: int) -> Tensor:
    neurons = torch.arange(of.shape[1]).roll(-start % max(1, of.shape[1]))
    return fake_activations(of, count, seed + 1_000_003 * start, kind, neurons)


def _best(fakes: Tensor, real: ActivationSource, scales: Scales) -> Tensor:
    """(M): the best correlation of each null neuron (I,M) with a real one."""
    of = source(fakes)
    own = _scales(of)
    some = list(blocks(of.shape[1], 8 * real.shape[1], BLOCK))
    return torch.cat([correlations(of, real, s, (own, scales)).amax(1) for s in some])


def _quantile(best: list[Tensor], level: float) -> float:
    return float(torch.cat(best).quantile(1 - level))


def _matched(
    rows: Iterator[tuple[slice, Tensor]], shape: tuple[int, int], nulls: dict[str, float], least: float
) -> Matches:
    threshold = max(*nulls.values(), least)
    best_b = torch.full((shape[1],), -2.0, dtype=torch.float64)
    by_b = torch.full((shape[1],), -1)
    best_a, by_a, edges = [], [], []
    for some, r in rows:
        value, place = r.max(1)
        best_a.append(value)
        by_a.append(place)
        value, place = r.max(0)
        better = value > best_b
        best_b[better], by_b[better] = value[better], place[better] + some.start
        i, j = (r >= threshold - TINY).nonzero(as_tuple=True)
        edges.append((i + some.start, j, r[i, j]))
    i, j, r = (torch.cat(field) for field in zip(*edges, strict=True))
    partner = assignment(i, j, r, shape)
    own = torch.full((shape[0],), torch.nan, dtype=torch.float64)
    chosen = partner[i] == j
    own[i[chosen]] = r[chosen]
    return Matches(threshold, nulls, partner, own, torch.cat(by_a), torch.cat(best_a), by_b, best_b)


def assignment(i: Tensor, j: Tensor, r: Tensor, shape: tuple[int, int]) -> Tensor:
    """The one-to-one pairs with the largest sum of r among the pairs (i,j) (E); (N1) matches, -1 for none.

    >>> assignment(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]), torch.tensor([0.9, 0.8, 0.8]), (2, 2)).tolist()
    [1, 0]
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    partner = torch.full((shape[0],), -1)
    if not len(i):
        return partner
    # Each neuron of the one may also stay alone, at the cost of r = 0; only neurons that have pairs take part.
    left, row = np.unique(i.numpy(), return_inverse=True)
    alone = np.arange(len(left))
    cost = np.concatenate([3.0 - r.double().numpy(), np.full(len(left), 3.0)])
    where = (np.concatenate([row, alone]), np.concatenate([j.numpy(), shape[1] + alone]))
    graph = csr_array((cost, where), shape=(len(left), shape[1] + len(left)))
    rows, columns = min_weight_full_bipartite_matching(graph)
    paired = columns < shape[1]
    partner[torch.from_numpy(left[rows[paired]])] = torch.from_numpy(columns[paired].astype(np.int64))
    return partner
