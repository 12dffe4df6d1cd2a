"""Bootstrap intervals of means over neurons, in numpy alone: whoever compares finished runs needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
"""Bootstrap samples."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its percentile interval; NaN where nothing is defined (and no interval below two values)."""

    mean: float
    low: float
    high: float
    count: int
    """Values that the mean is over."""


def mean_interval(values: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of the values that are not NaN, with the percentile bootstrap over them.

    >>> mean_interval([1.0, float("nan"), 1.0])
    Interval(mean=1.0, low=1.0, high=1.0, count=2)
    """
    told = _told(values)
    if not len(told):
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = _percentiles(_resampled(told, seed), level) if len(told) > 1 else (np.nan, np.nan)
    return Interval(float(told.mean()), low, high, len(told))


def difference_interval(one: ArrayLike, other: ArrayLike, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of `one` minus mean of `other` for two unrelated sets of neurons, each resampled on its own.

    The count is that of the smaller set.
    """
    a, b = _told(one), _told(other)
    if not len(a) or not len(b):
        return Interval(np.nan, np.nan, np.nan, 0)
    count = min(len(a), len(b))
    means = _resampled(a, seed) - _resampled(b, seed + 1)
    low, high = _percentiles(means, level) if count > 1 else (np.nan, np.nan)
    return Interval(float(a.mean() - b.mean()), low, high, count)


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


def _percentiles(means: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
