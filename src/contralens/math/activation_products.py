"""Products of activations with rows of images, in one pass over the activations."""

from __future__ import annotations

import torch
from torch import Tensor

from contralens.math.activation_sources import ActivationSource


def products(a: ActivationSource, neurons: Tensor, x: Tensor, which: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sum_i (a - mean a) x (N,D), sum_i (a - mean a)^2 (N) and how many images count (N); float64.

    Args:
        a: (I,N) activations; NaN or infinite ones count as the neuron's mean.
        neurons: indices of the neurons wanted.
        x: (I,D) float64, 0 where an image does not count.
        which: (I) bool, the images that count.
    """
    sums, lost = (torch.zeros(len(neurons), x.shape[1], dtype=torch.float64) for _ in range(2))
    first, second, count = (torch.zeros(len(neurons), dtype=torch.float64) for _ in range(3))
    for start, rows in a.blocks(neurons, budget=16 * 2**20):
        here = slice(start, start + len(rows))
        values = rows.cpu().double()
        there = values.isfinite() & which[here, None]
        values = values.masked_fill(~there, 0.0)
        first, second, count = first + values.sum(0), second + values.square().sum(0), count + there.sum(0)
        sums += values.T @ x[here]
        lost += (~there).double().T @ x[here]
    mean = first / count.clamp_min(1)
    total = x.sum(0)
    squares = (second - count * mean.square()).clamp_min(0.0)
    return sums + mean[:, None] * (lost - total), squares, count
