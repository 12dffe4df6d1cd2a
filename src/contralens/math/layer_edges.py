"""Which neurons of a layer feed a neuron of the next, and how far that is from what permuted weights give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contralens.types import Brief


@dataclass(frozen=True, repr=False)
class Fed(Brief):
    """The strongest edges into some neurons of a layer, E of each of M.

    >>> Fed(*torch.zeros(4, 1, 2), torch.zeros(1)).effects.shape
    torch.Size([1, 2])
    """

    sources: Tensor
    """(M,E): neurons of the layer before."""
    effects: Tensor
    """(M,E): what the source adds to the neuron on its exemplars, beyond what it adds on average."""
    shares: Tensor
    """(M,E): of the sum over all sources."""
    p: Tensor
    """(M,E): share of the null neurons whose strongest edge is as strong."""
    thresholds: Tensor
    """(M): strength that 95 % of the null neurons' strongest edges stay below."""


def feeding(weights: Tensor, differences: Tensor, count: int = 3, nulls: int = 200, seed: int = 0) -> Fed:
    """The edges by weights (M,N): effect = weight x (source's mean on the neuron's exemplars - its mean on all images).

    Null: the neuron's own weights in a random order over the sources, `nulls` times; of each the strongest effect.

    Args:
        weights: (M,N) from N sources to M neurons.
        differences: (M,N) mean of source n on the exemplars of neuron m, less its mean on all images.
        count: edges kept per neuron.
        nulls: permutations.
        seed: of these.

    >>> weights = torch.tensor([[3.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]])
    >>> fed = feeding(weights, torch.tensor([[2.0, 0.0, 0.1, 0.0, 0.1, 0.0, 0.1, 0.0]]), count=1)
    >>> fed.sources.item(), fed.effects.item(), fed.p.item() < 0.2
    (0, 6.0, True)
    """
    effects = weights.double() * differences.double()
    random = torch.Generator().manual_seed(seed)
    strongest = torch.stack([
        (weights.double()[:, torch.randperm(weights.shape[1], generator=random)] * differences.double()).abs().amax(1)
        for _ in range(nulls)
    ])  # fmt: skip
    return strongest_of(effects, strongest, count)


def strongest_of(effects: Tensor, strongest: Tensor, count: int) -> Fed:
    """The `count` largest effects (M,N) in size, against the strongest effects of null neurons (P,M).

    >>> strongest_of(torch.tensor([[1.0, -4.0]]), torch.tensor([[2.0], [3.0], [5.0]]), 1).p
    tensor([[0.5000]], dtype=torch.float64)
    """
    top = effects.abs().topk(min(count, effects.shape[1]), dim=1).indices
    own = effects.gather(1, top)
    beyond = (strongest[:, :, None] >= own.abs()[None]).double().sum(0)
    total = effects.sum(1, keepdim=True)
    total = total.where(total.abs() > 1e-12, torch.full_like(total, torch.nan))
    return Fed(top, own, own / total, (1 + beyond) / (1 + len(strongest)), strongest.double().quantile(0.95, dim=0))
