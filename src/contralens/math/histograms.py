"""Activation histograms of all neurons at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contralens.math.tensors import blocks, matrix


def histograms(activations: Any, lowest: Tensor, highest: Tensor, bins: int = 32) -> Tensor:
    """How often each neuron's activation falls into each of `bins` equal bins between its lowest and highest value.

    Args:
        activations: (I,N); non-finite values are not counted.
        lowest, highest: (N) range of each neuron.

    Returns:
        (N,bins) int64; the last bin includes the highest value; a constant neuron has all its images in the first.

    >>> histograms(torch.tensor([[0.0], [1.0], [4.0]]), torch.tensor([0.0]), torch.tensor([4.0]), bins=2)
    tensor([[2, 1]])
    """
    a = matrix(activations, "activations")
    images, neurons = a.shape
    scale = bins / (highest - lowest).double()
    scale = torch.where(scale.isfinite(), scale, 0.0)
    out = torch.zeros(neurons * bins, dtype=torch.int64)
    for block in blocks(images, neurons * 32):
        rows = a[block]
        finite = rows.isfinite()
        place = ((rows.double() - lowest) * scale).nan_to_num(0.0).long().clamp(0, bins - 1)
        place += torch.arange(neurons) * bins
        out += torch.bincount(place[finite], minlength=len(out))
    return out.reshape(neurons, bins)
