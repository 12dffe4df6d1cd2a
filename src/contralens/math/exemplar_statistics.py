"""What exemplars alone say of a neuron: clarity, redundancy, polysemanticity, and one meaning or two.

Dreyer et al. 2025 (SemanticLens) for the first three. V = unit embeddings of a neuron's exemplars, (K,D).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.math.metric_registry import metric
from contralens.math.scorers import concept_vectors
from contralens.math.tensors import blocks, combine, matrix
from contralens.types import Brief, Exemplars

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


@dataclass(frozen=True, slots=True, repr=False)
class Meanings(Brief):
    """Exemplars of each neuron in two clusters, and whether two are better than one.

    >>> found = meanings(exemplars, embeddings)
    >>> found.split.tolist(), found.part(exemplars, 1).positives.tolist()
    ([False, False], [[-1, 2], [-1, 2]])
    """

    side: Tensor
    """(N,K): 0 for the larger cluster, 1 for the smaller, -1 where there is no exemplar."""
    share: Tensor
    """(N,2): share of the exemplars in each cluster."""
    explained: Tensor
    """(N): part of the exemplars' variance that the two clusters explain."""
    p: Tensor
    """(N): how often 2-means explains as much of one Gaussian cloud with the same covariance."""
    split: Tensor
    """(N) bool: two clusters beat one."""

    def part(self, exemplars: Exemplars, cluster: int) -> Exemplars:
        """The exemplars of one cluster, the others taken out (-1), ready for any scorer."""
        out = self.side != cluster
        return replace(
            exemplars,
            positives=exemplars.positives.masked_fill(out, -1),
            activations=exemplars.activations.masked_fill(out, torch.nan),
            contrasts=exemplars.contrasts.masked_fill(out, -1),
            similarities=exemplars.similarities.masked_fill(out, torch.nan),
        )


def meanings(
    exemplars: Exemplars, embeddings: Any, *, alpha: float = 0.01, least: float = 0.1, draws: int = 99, seed: int = 0
) -> Meanings:
    """One meaning or two? Two clusters beat one where both of these hold:

    - 2-means explains more of the exemplars' variance than it does of all but a share `alpha` of `draws` samples from
      ONE Gaussian with the exemplars' own mean and covariance (the test of SigClust, Liu et al. 2008, JASA 103);
    - the smaller cluster has at least two members and a share of `least`.

    Of neurons with one meaning about `alpha` are split wrongly; the smallest p is 1 / (draws + 1). A p above `alpha`
    may rest on nine draws only.

    Args:
        exemplars: of N neurons.
        embeddings: (I,D), unit rows.
        alpha: level of the test.
        least: share of the exemplars that the smaller cluster has at least.
        draws: samples of the one Gaussian.
        seed: of the samples.

    >>> clouds = torch.nn.functional.normalize(torch.cat([torch.eye(8)[:1], torch.eye(8)[1:2]]).repeat_interleave(20, 0)
    ...     + 0.2 * torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    >>> two = Exemplars(torch.tensor([0]), torch.arange(40)[None], torch.ones(1, 40), -torch.ones(1, 40).long(),
    ...     torch.full((1, 40), torch.nan))
    >>> meanings(two, clouds).split, meanings(two.first(20), clouds).split
    (tensor([True]), tensor([False]))
    """
    there = exemplars.positives >= 0
    p = gram(exemplars, embeddings)
    side = two_means(p, there)
    explained = _explained(p, there, side)
    count = there.sum(1)
    chance = _chance_of_one(p, there, explained, alpha, draws, seed)
    sizes = torch.stack([(side == c).sum(1) for c in (0, 1)], dim=1)
    share = sizes.double() / count.clamp_min(1)[:, None]
    split = (chance <= alpha) & (sizes[:, 1] >= 2) & (share[:, 1] >= least)
    undefined = explained.isnan()
    return Meanings(side, share, explained, chance.masked_fill(undefined, torch.nan), split & ~undefined)


def _chance_of_one(p: Tensor, there: Tensor, explained: Tensor, alpha: float, draws: int, seed: int) -> Tensor:
    """p-values (N) of `explained` under one Gaussian; a neuron that can no longer be split is not drawn further."""
    generator = torch.Generator().manual_seed(seed)
    exceeded, done = torch.zeros(len(p), dtype=torch.int64), torch.zeros(len(p), dtype=torch.int64)
    most = int(alpha * (draws + 1)) - 1  # how often one Gaussian may do as well
    k = p.shape[1]
    for size in (min(9, draws), draws - min(9, draws)):
        open_ = ((exceeded <= most) & ~explained.isnan()).nonzero()[:, 0]
        for block in blocks(len(open_) if size else 0, size * k * k * 8 * 6):
            rows = open_[block]
            spread = (there[rows].sum(1) - 1).clamp_min(1)[:, None, None]
            cloud = (_centred(p[rows], there[rows]) / spread).float()
            mixing = torch.randn(len(cloud), size, k, k, generator=generator)
            drawn = (mixing @ cloud[:, None] @ mixing.transpose(2, 3)).flatten(0, 1)
            valid = there[rows].repeat_interleave(size, 0)
            other = _explained(drawn, valid, two_means(drawn, valid)).reshape(-1, size)
            exceeded[rows] += (other >= explained[rows, None]).sum(1)
            done[rows] += size
    return (1 + exceeded).double() / (done + 1)


def _explained(p: Tensor, there: Tensor, side: Tensor) -> Tensor:
    """1 - within / total sum of squares; NaN where all members are the same."""
    centred = _centred(p, there)
    total = centred.diagonal(dim1=1, dim2=2).sum(1)
    between = torch.zeros_like(total)
    for c in (0, 1):
        member = (side == c).to(p.dtype)
        between += torch.einsum("ni,nij,nj->n", member, centred, member) / member.sum(1).clamp_min(1)
    return (between / total).masked_fill(total <= 1e-9 * there.sum(1), torch.nan)
