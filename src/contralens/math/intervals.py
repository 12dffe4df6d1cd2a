"""Bootstrap intervals of means over neurons, in numpy alone: whoever compares finished runs needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
"""Bootstrap samples."""
LEVEL = 0.95
"""Of all intervals."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its percentile interval; NaN where nothing is defined (and no interval below two values)."""

    mean: float
    low: float
    high: float
    count: int
    """Values that the mean is over."""


def mean_interval(values: ArrayLike) -> Interval:
    """Mean of the values that are not NaN, with the percentile bootstrap over them.

    >>> mean_interval([1.0, float("nan"), 1.0])
    Interval(mean=1.0, low=1.0, high=1.0, count=2)
    """
    told = _told(values)
    if not len(told):
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = _percentiles(_resampled(told, 0)) if len(told) > 1 else (np.nan, np.nan)
    return Interval(float(told.mean()), low, high, len(told))


def difference_interval(one: ArrayLike, other: ArrayLike) -> Interval:
    """Mean of `one` minus mean of `other` for two unrelated sets of neurons, each resampled on its own.

    The count is that of the smaller set.
    """
    a, b = _told(one), _told(other)
    if not len(a) or not len(b):
        return Interval(np.nan, np.nan, np.nan, 0)
    count = min(len(a), len(b))
    low, high = _percentiles(_resampled(a, 0) - _resampled(b, 1)) if count > 1 else (np.nan, np.nan)
    return Interval(float(a.mean() - b.mean()), low, high, count)


def paired_interval(
    before: ArrayLike, after: ArrayLike, strata: ArrayLike | None = None, seed: int = 0,
    clusters: ArrayLike | None = None,
) -> Interval:  # fmt: skip
    """Mean of after - before, pair by pair, with the percentile bootstrap over pairs.

    Where `strata` name a class of each pair, the mean of the classes' means instead, pairs being drawn within classes:
    the change of balanced accuracy. Where no pair differs from another the bootstrap has no width; Wilson's bound for
    "never" in as many pairs then stands for it. Both values are finite and are in [0, 1]. Where `clusters` name what
    pairs belong together (images of one patient), whole clusters are drawn, and counted, instead of pairs.

    >>> paired_interval([1, 1, 0, 0], [1, 1, 1, 1]).mean
    0.5
    >>> [round(x, 3) for x in (paired_interval([1] * 8, [1] * 8).low, paired_interval([1] * 8, [1] * 8).high)]
    [-0.324, 0.324]
    """
    change = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    if not len(change):
        return Interval(np.nan, np.nan, np.nan, 0)
    _, place = np.unique(np.zeros(len(change)) if strata is None else np.asarray(strata), return_inverse=True)
    parts = [change[place == stratum] for stratum in range(place.max() + 1)]
    mean = float(np.mean([part.mean() for part in parts]))
    names, cluster = np.unique(np.arange(len(change)) if clusters is None else clusters, return_inverse=True)
    if len(names) == 1:
        return Interval(mean, np.nan, np.nan, len(change))
    if change.min() == change.max():
        unseen = wilson(0, len(names))[1]
        return Interval(mean, max(-1.0, mean - unseen), min(1.0, mean + unseen), len(change))
    if clusters is not None:
        return Interval(mean, *_percentiles(_clustered(change, place, cluster, seed)), len(change))
    drawn = np.mean([_resampled(part, seed + at) for at, part in enumerate(parts)], axis=0)
    return Interval(mean, *_percentiles(drawn), len(change))


def clustered_interval(values: ArrayLike, clusters: ArrayLike) -> Interval:
    """Mean of the values (0 or 1, or differences of such) that are not NaN, with the bootstrap over clusters of them.

    Neurons that stand for one concept are right or wrong together: drawing whole clusters (all values of one name in
    `clusters`) with replacement counts them once. Where the values are all equal the bootstrap has no width; the mean
    plus and minus Wilson's bound for "never" in as many trials as there are clusters then stands for it.

    >>> found = clustered_interval([1, 1, 0, 1], ["a", "a", "b", "b"])
    >>> found.mean, found.low, found.high, found.count
    (0.75, 0.5, 1.0, 4)
    """
    array, names = np.asarray(values, np.float64), np.asarray(clusters)
    there = np.isfinite(array)
    array, names = array[there], names[there]
    if not len(array):
        return Interval(np.nan, np.nan, np.nan, 0)
    _, place = np.unique(names, return_inverse=True)
    sums, counts = np.bincount(place, array), np.bincount(place)
    mean = float(sums.sum() / counts.sum())
    if len(counts) == 1:
        return Interval(mean, np.nan, np.nan, len(array))
    if array.min() == array.max():
        unseen = wilson(0, len(counts))[1]
        return Interval(mean, max(-1.0, mean - unseen), min(1.0, mean + unseen), len(array))
    drawn = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=DRAWS)
    return Interval(mean, *_percentiles((drawn @ sums) / (drawn @ counts)), len(array))


def _clustered(
    change: NDArray[np.float64], stratum: NDArray[Any], cluster: NDArray[Any], seed: int
) -> NDArray[np.float64]:
    """`DRAWS` means over strata of the strata's means, clusters being drawn with replacement; a stratum that none of
    the clusters drawn has is left out of its mean."""
    sums, counts = np.zeros((2, cluster.max() + 1, stratum.max() + 1))
    np.add.at(sums, (cluster, stratum), change)
    np.add.at(counts, (cluster, stratum), 1)
    rng, parts = np.random.default_rng(seed), []
    for start in range(0, DRAWS, step := max(1, 4_000_000 // len(sums))):
        size = min(step, DRAWS - start)
        times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=size)
        seen = times @ counts
        means = np.divide(times @ sums, seen, out=np.zeros_like(seen), where=seen > 0)
        parts.append(means.sum(1) / (seen > 0).sum(1))
    return np.concatenate(parts)


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval for a share of `right` in `n`; (0, 1) for nothing.

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    if n == 0:
        return 0.0, 1.0
    p, zz = right / n, z * z / n
    middle, half = p + zz / 2, z * math.sqrt(p * (1 - p) / n + zz / (4 * n))
    return max(0.0, (middle - half) / (1 + zz)), min(1.0, (middle + half) / (1 + zz))


def _told(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _resampled(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Means of `DRAWS` samples with replacement, a few million numbers at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, 4_000_000 // len(values))
    parts = [
        values[rng.integers(len(values), size=(min(step, DRAWS - start), len(values)))].mean(1)
        for start in range(0, DRAWS, step)
    ]
    return np.concatenate(parts)


def _percentiles(means: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
