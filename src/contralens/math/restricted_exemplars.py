"""Exemplars of one class of images, each paired with a contrast of another class."""

from __future__ import annotations

import torch
from torch import Tensor

from contralens.math.exemplars import mine
from contralens.math.grouping import Groups
from contralens.types import Exemplars


def restricted_exemplars(
    values: Tensor, embeddings: Tensor, in_a: Tensor, for_a: Tensor, k: int
) -> tuple[Exemplars, Tensor]:
    """Exemplars of one class with contrasts of the other, and the activation (n,K) on the contrasts.

    Args:
        values: (L,n) activations on the images of both classes.
        embeddings: (L,D), unit rows.
        in_a: (L) whether an image is of class A.
        for_a: (n) whether a neuron fires for A: its positives are of A, its contrasts of B; else the other way round.
        k: exemplars per neuron, at most.

    A contrast is the most similar image of the other class on which the neuron is below (mean on A + mean on B) / 2.
    So that mining finds these and no others, images of the other class are below all of the own, and those that are
    not cold are left out.

    >>> in_a = torch.tensor([True, True, True, False])
    >>> found, cold = restricted_exemplars(activations, embeddings, in_a, torch.tensor([True, False]), k=1)
    >>> found.positives.tolist(), found.contrasts.tolist(), cold[0].tolist()
    ([[0], [3]], [[3], [1]], [0.0])
    """
    own = in_a[:, None] == for_a[None, :]
    finite = values.isfinite()

    def mean(of: Tensor) -> Tensor:
        return values.masked_fill(~of, 0.0).double().sum(0) / of.sum(0).clamp_min(1)

    below = ((mean(own & finite) + mean(~own & finite)) / 2).to(values.dtype)
    lowest = values.masked_fill(~(own & finite), torch.inf).amin(0) if len(values) else below
    cold = ~own & finite & (values < below)
    shifted = torch.where(own, values, torch.where(cold, lowest - lowest.abs() - 1, torch.nan))
    mined = mine(shifted, embeddings, k, groups=Groups(in_a.long(), most=max(1, len(in_a)))).exemplars
    there = mined.positives >= 0
    column = torch.arange(values.shape[1])[:, None]
    mine_own = there & own[mined.positives.clamp_min(0), column]  # fewer images than k: the rest are of the other class
    paired = mine_own & (mined.contrasts >= 0)
    positives, contrasts = mined.positives.where(mine_own, -1), mined.contrasts.where(paired, -1)
    exemplars = Exemplars(
        mined.neurons, positives, mined.activations.where(mine_own, torch.nan), contrasts,
        mined.similarities.where(paired, torch.nan),
    )  # fmt: skip
    return exemplars, values[contrasts.clamp_min(0), column].where(paired, torch.nan)
