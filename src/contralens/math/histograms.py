"""Activation histograms of all neurons at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from contralens.math.activation_sources import source

FINE_BINS = 256
"""Bins of a `RunningHistogram`."""


def histograms(activations: Any, lowest: Tensor, highest: Tensor, bins: int = 32) -> Tensor:
    """How often each neuron's activation falls into each of `bins` equal bins between its lowest and highest value.

    Args:
        activations: (I,N), a matrix or any `ActivationSource`; non-finite values are not counted.
        lowest, highest: (N) range of each neuron.

    Returns:
        (N,bins) int64; the last bin includes the highest value; a constant neuron has all its images in the first.

    >>> histograms(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0.0]), torch.tensor([4.0]), bins=2)
    tensor([[2, 1]])
    """
    a = source(activations)
    scale = bins / (highest - lowest).double()
    scale = torch.where(scale.isfinite(), scale, 0.0)
    out = torch.zeros(a.shape[1] * bins, dtype=torch.int64)
    for _, rows in a.blocks(budget=8 * 2**20):
        if rows.device != out.device:
            lowest, scale, out = (t.to(rows.device) for t in (lowest, scale, out))
        finite = rows.isfinite()
        place = ((rows.double() - lowest) * scale).nan_to_num(0.0).long().clamp(0, bins - 1)
        place += torch.arange(a.shape[1], device=rows.device) * bins
        out += torch.bincount(place[finite], minlength=len(out))
    return out.cpu().reshape(-1, bins)


class RunningHistogram:
    """Histograms of rows whose range is not known before, which can be put aside (`state`) and taken up again.

    Each neuron has `FINE_BINS` bins between multiples of a power of two, which doubles whenever the range outgrows
    them: two bins then become one. So the fine counts depend on what was added only, not on the order. Memory
    O(N FINE_BINS).
    """

    def __init__(self, state: Mapping[str, Tensor] | None = None) -> None:
        self._state = {name: value.clone() for name, value in (state or {}).items()}

    def add(self, rows: Tensor) -> None:
        """Rows (b,N); non-finite values are not counted."""
        finite = rows.isfinite()
        values = rows.double()
        low = values.masked_fill(~finite, torch.inf).amin(0)
        high = values.masked_fill(~finite, -torch.inf).amax(0)
        if not self._state:
            width = rows.shape[1]
            self._state = {
                "low": torch.full((width,), torch.inf, dtype=torch.float64),
                "high": torch.full((width,), -torch.inf, dtype=torch.float64),
                "exponent": torch.full((width,), -200, dtype=torch.int64),
                "first": torch.zeros(width, dtype=torch.int64),
                "counts": torch.zeros(width, FINE_BINS, dtype=torch.int32),
            }
        self._widen(torch.minimum(self._state["low"], low), torch.maximum(self._state["high"], high))
        place = _bin(values.nan_to_num(0.0, 0.0, 0.0), self._state["exponent"]) - self._state["first"]
        place = (place.clamp_(0, FINE_BINS - 1) + torch.arange(rows.shape[1]) * FINE_BINS)[finite]
        self._state["counts"].view(-1).scatter_add_(0, place, torch.ones_like(place, dtype=torch.int32))

    def _widen(self, low: Tensor, high: Tensor) -> None:
        """Make room for values from `low` to `high` (N)."""
        known = (high >= low).nonzero()[:, 0]
        lowest, highest = low[known], high[known]
        before, begin = self._state["exponent"][known], self._state["first"][known]
        # no finer than 2^-40 of the largest value, so that the number of a bin stays exact
        largest = torch.maximum(lowest.abs(), highest.abs())
        after = torch.maximum(before, torch.where(largest > 0, torch.frexp(largest)[1].long() - 40, -200))
        while bool((over := _bin(highest, after) - _bin(lowest, after) >= FINE_BINS).any()):
            after = after + over
        first = _bin(lowest, after)
        moved = ((after != before) | (first != begin)).nonzero()[:, 0]
        number = (begin[moved, None] + torch.arange(FINE_BINS)) >> (after - before)[moved, None].clamp_max(62)
        old = self._state["counts"][known[moved]]
        place = (number - first[moved, None]).clamp_(0, FINE_BINS - 1)  # clamped ones hold nothing
        self._state["counts"][known[moved]] = torch.zeros_like(old).scatter_add_(1, place, old)
        self._state["exponent"][known], self._state["first"][known] = after, first
        self._state["low"], self._state["high"] = low, high

    def state(self) -> dict[str, Tensor]:
        """What it has counted; nothing before the first row."""
        return dict(self._state)

    def counts(self, bins: int = 32) -> Tensor:
        """As `histograms` between each neuron's lowest and highest value; what a fine bin holds is shared out evenly.

        >>> running = RunningHistogram()
        >>> running.add(torch.tensor([[0.0], [1.0], [4.0]]))
        >>> running.counts(bins=2)
        tensor([[2, 1]])
        """
        low, high = self._state["low"], self._state["high"]
        known = high > low
        low, high = torch.where(known, low, 0.0), torch.where(known, high, 1.0)
        edges = (self._state["first"][:, None] + torch.arange(FINE_BINS + 1)).double()
        edges = torch.ldexp(edges, self._state["exponent"][:, None]).clamp(low[:, None], high[:, None])
        up_to = torch.nn.functional.pad(self._state["counts"].double().cumsum(1), (1, 0))
        wanted = low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, bins + 1, dtype=torch.float64)
        at = (torch.searchsorted(edges, wanted, right=True) - 1).clamp(0, FINE_BINS - 1)
        left, right = edges.gather(1, at), edges.gather(1, at + 1)
        share = torch.where(right > left, (wanted - left) / (right - left), 1.0).clamp(0, 1)
        total = up_to[:, -1:]
        reached = (up_to.gather(1, at) + share * (up_to.gather(1, at + 1) - up_to.gather(1, at))).round()
        reached[:, :1], reached[:, -1:] = 0.0, total
        out = reached.diff(dim=1).long()
        out[~known] = 0
        out[~known, 0] = total[~known, 0].long()  # a constant has all its images in the first
        return out


def _bin(values: Tensor, exponent: Tensor) -> Tensor:
    return torch.ldexp(values, -exponent).floor().long()
