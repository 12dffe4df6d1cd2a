"""What is mined and scored, put into the memory of a GPU where it fits: that device then does the work."""

from __future__ import annotations

import torch
from torch import Tensor

from contralens.math.activation_sources import ActivationSource, DenseActivations, SparseActivations
from contralens.math.statistics import Surveyed

SHARE = 4
"""Of a GPU's free memory, activations and embeddings take one part in so many each."""


def rows_on(rows: Tensor, device: torch.device) -> Tensor:
    """Rows (I,D) on a GPU if they fit there, else as they are."""
    return rows.to(device) if device.type == "cuda" and rows.nbytes <= _most(device) else rows


def activations_on(activations: ActivationSource, device: torch.device) -> ActivationSource:
    """The same activations (I,N) on a GPU if they fit there, else as they are; so are those that would have to be
    computed for it."""
    if device.type != "cuda" or isinstance(activations, Surveyed):
        return activations
    if isinstance(activations, SparseActivations):
        return activations.to(device) if activations.nbytes <= _most(device) else activations
    held: Tensor | None = None
    for start, rows in activations.blocks():
        if held is None:
            if activations.shape[0] * activations.shape[1] * rows.element_size() > _most(device):
                return activations
            held = torch.empty(activations.shape, dtype=rows.dtype, device=device)
        held[start : start + len(rows)] = rows
    return activations if held is None else DenseActivations(held)


def _most(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0]) // SHARE
