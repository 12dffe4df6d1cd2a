"""Near-copies among a neuron's exemplars: the same picture saved again, resized or a moment later."""

from __future__ import annotations

import torch
from torch import Tensor

from contralens.math.tensors import blocks
from contralens.types import Exemplars

ALIKE = 0.98
"""Cosine of two embeddings from which images may be near-copies."""


def near_pairs(exemplars: Exemplars, embeddings: Tensor) -> Tensor:
    """Pairs (P,3) of exemplars of one neuron whose embeddings (I,D), unit rows, have a cosine of `ALIKE` or more.

    A row holds the neuron's row, the image, and a stronger image of the neuron that it is alike to.

    >>> e = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0]]), dim=1)
    >>> nothing = torch.full((1, 3), torch.nan)
    >>> near_pairs(Exemplars(torch.tensor([4]), torch.tensor([[0, 2, 1]]), nothing, nothing, nothing), e)
    tensor([[0, 1, 0]])
    """
    found = []
    _, k = exemplars.positives.shape
    for part in blocks(len(exemplars), 4 * k * (embeddings.shape[1] + k)):
        positives = exemplars.positives[part]
        there = (positives >= 0).to(embeddings.device)
        rows = embeddings[positives.clamp_min(0).to(embeddings.device)].float()
        alike = (rows @ rows.transpose(1, 2) >= ALIKE).tril(-1) & there[:, :, None] & there[:, None, :]
        neuron, later, earlier = alike.nonzero(as_tuple=True)
        neuron, later, earlier = neuron.cpu(), later.cpu(), earlier.cpu()
        found.append(torch.stack([neuron + part.start, positives[neuron, later], positives[neuron, earlier]], 1))
    return torch.cat([torch.empty(0, 3, dtype=torch.int64), *found])
