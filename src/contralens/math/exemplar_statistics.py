"""What exemplars alone say of a neuron: clarity, redundancy, polysemanticity.

Dreyer et al. 2025 (SemanticLens) for the first three. V = unit embeddings of a neuron's exemplars, (K,D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.math.concept_vectors import concept_vectors
from contralens.math.metric_registry import metric
from contralens.math.tensors import blocks, combine, matrix
from contralens.types import Exemplars

MOST_ROUNDS = 30
"""Most rounds of 2-means."""


@metric("audit", "exemplars", "embeddings", about="mean cosine of two exemplars", name="exemplar_clarity")
def clarity(exemplars: Exemplars, embeddings: Any) -> Tensor:
    """(K |mean v|^2 - 1) / (K - 1), the mean cosine of two different exemplars; (N), NaN below two exemplars.

    >>> clarity(exemplars, embeddings)
    tensor([0.8560, 0.9280], dtype=torch.float64)
    """
    e = matrix(embeddings, "embeddings")
    there = (exemplars.positives >= 0).to(e.device)
    k = there.sum(1).double()
    total = combine(e, exemplars.positives, there.to(e.dtype)).double()
    value = (total.square().sum(1) / k - 1) / (k - 1)
    return value.masked_fill(k < 2, torch.nan)


@metric("audit", "exemplars", "embeddings", about="largest cosine with another neuron")
def redundancy(exemplars: Exemplars, embeddings: Any) -> Tensor:
    """Per neuron the largest cosine with another neuron's mean exemplar, (N); SemanticLens reports its mean.

    >>> redundancy(exemplars, embeddings)
    tensor([0.9050, 0.9050], dtype=torch.float64)
    """
    v = concept_vectors(exemplars, embeddings).double()
    out = torch.full((len(v),), torch.nan, dtype=torch.float64)
    usable = v.isfinite().all(1).nonzero()[:, 0]
    if len(usable) < 2:
        return out
    rows = v[usable]
    for block in blocks(len(rows), len(rows) * 8):
        cosines = rows[block] @ rows.T
        own = torch.arange(block.start, block.stop)
        cosines[own - block.start, own] = -torch.inf
        out[usable[block]] = cosines.amax(1)
    return out


@metric("audit", "exemplars", "embeddings", about="distance of two clusters of exemplars")
def polysemanticity(exemplars: Exemplars, embeddings: Any) -> Tensor:
    """1 - cos of the centres of two clusters of exemplars, (N).

    Where a cluster has one member only, the mean over up to ten exemplars of 1 - cos(mean, v_i) instead.

    >>> polysemanticity(exemplars, embeddings)
    tensor([0.0367, 0.0182], dtype=torch.float64)
    """
    e = matrix(embeddings, "embeddings")
    side = two_means(gram(exemplars, e), exemplars.positives >= 0)
    sizes = torch.stack([(side == c).sum(1) for c in (0, 1)])
    centres = [normalize(combine(e, exemplars.positives.masked_fill(side != c, -1), side == c), dim=1) for c in (0, 1)]
    apart = 1 - (centres[0] * centres[1]).sum(1).double()
    ten = exemplars.first(min(10, exemplars.positives.shape[1])).positives
    cosines = (e[ten.clamp_min(0)] * concept_vectors(exemplars, e)[:, None]).sum(2).double()
    spread = 1 - cosines.masked_fill(ten < 0, torch.nan).nanmean(1)
    value = torch.where(sizes.amin(0) >= 2, apart, spread)
    return value.masked_fill((exemplars.positives >= 0).sum(1) < 2, torch.nan)


def gram(exemplars: Exemplars, embeddings: Any) -> Tensor:
    """Cosines between the exemplars of each neuron, (N,K,K) float64; 0 where there is none.

    >>> gram(exemplars, embeddings)[0]
    tensor([[1.0000, 0.8560],
            [0.8560, 1.0000]], dtype=torch.float64)
    """
    e = matrix(embeddings, "embeddings")
    n, k = exemplars.positives.shape
    out = torch.empty(n, k, k, dtype=torch.float64)
    for block in blocks(n, k * e.shape[1] * 8):
        at = exemplars.positives[block]
        v = e[at.clamp_min(0)].double().masked_fill(at[:, :, None] < 0, 0.0)
        out[block] = v @ v.transpose(1, 2)
    return out


def two_means(products: Tensor, there: Tensor) -> Tensor:
    """The better of two runs of Lloyd's 2-means from inner products (n,K,K): (n,K), 0 for the larger cluster, else 1.

    They start from the sign of the main direction and from the two members farthest apart, so nothing is random.
    -1 where `there` (n,K) is False.

    >>> v = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]).double()
    >>> two_means((v @ v.T)[None], torch.ones(1, 3, dtype=torch.bool))
    tensor([[0, 0, 1]])
    """
    p = products * there[:, :, None] * there[:, None, :]
    square = p.diagonal(dim1=1, dim2=2)
    centred = _centred(p, there)
    direction = centred.diagonal(dim1=1, dim2=2) * torch.linspace(1.0, 2.0, p.shape[1], dtype=p.dtype)
    for _ in range(20):
        direction = normalize(torch.einsum("nij,nj->ni", centred, direction), dim=1)
    distance = square[:, :, None] + square[:, None, :] - 2 * p
    distance = distance.masked_fill(~(there[:, :, None] & there[:, None, :]), -1.0)
    far = distance.flatten(1).argmax(1)
    rows = torch.arange(len(p))
    starts = (direction > 0, distance[rows, far // p.shape[1]] > distance[rows, far % p.shape[1]])
    best, lowest = torch.zeros(there.shape, dtype=torch.bool), torch.full((len(p),), torch.inf, dtype=p.dtype)
    for start in starts:
        side, within = _lloyd(p, square, there, start)
        better = within < lowest
        best = torch.where(better[:, None], side, best)
        lowest = torch.where(better, within, lowest)
    ones = (best & there).sum(1)
    best = best ^ (2 * ones > there.sum(1))[:, None]
    return best.long().masked_fill(~there, -1)


def _lloyd(p: Tensor, square: Tensor, there: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    within = torch.full((len(p),), torch.inf, dtype=p.dtype)
    for _ in range(MOST_ROUNDS):
        member = torch.stack([~side & there, side & there], dim=2).to(p.dtype)
        size = member.sum(1).clamp_min(1.0)
        to_centre = (p @ member) / size[:, None]
        centre = (member * to_centre).sum(1) / size
        distance = square[:, :, None] - 2 * to_centre + centre[:, None]
        distance = distance.masked_fill((member.sum(1) == 0)[:, None], torch.inf)
        within = (distance.masked_fill(member == 0, 0.0)).sum((1, 2))
        moved = distance[:, :, 1] < distance[:, :, 0]
        if bool((moved == side)[there].all()):
            break
        side = moved
    return side, within


def _centred(p: Tensor, there: Tensor) -> Tensor:
    w = there.to(p.dtype) / there.sum(1, keepdim=True).clamp_min(1)
    mean = (p @ w[:, :, None])[:, :, 0]
    whole = (mean * w).sum(1)
    out = p - mean[:, :, None] - mean[:, None, :] + whole[:, None, None]
    return out * there[:, :, None] * there[:, None, :]
