"""Activation histograms of all neurons at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contralens.math.sources import source


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
        finite = rows.isfinite()
        place = ((rows.double() - lowest) * scale).nan_to_num(0.0).long().clamp(0, bins - 1)
        place += torch.arange(a.shape[1]) * bins
        out += torch.bincount(place[finite], minlength=len(out))
    return out.reshape(-1, bins)
