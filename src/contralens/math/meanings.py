"""How many meanings has a neuron? Clusters of its images over the whole range of activation, told apart by contrast.

Ours, unpublished; made of known parts. For each neuron:

1. *Sample.* Up to `SAMPLED` images above the neuron's mean, by systematic sampling with probabilities proportional to
   max(0, a - mean a): each image counts as much as it adds to the activation, and a weak meaning is not cut off as by
   the K strongest images. Every one gets its contrast, the most similar image below the mean.
2. *Axes.* Embeddings x are whitened over the probe set (`AXES` principal axes, ridge `RIDGE`), so that nuisances vary
   by 1 along any direction. Two meanings make the sample vary by more along what tells them apart. Kept are the axes
   whose variance exceeds the .95 quantile of that of as many random images (parallel analysis: Horn 1965,
   Psychometrika 30), at most five.
3. *Split.* 2-means on these axes, again in every part, as long as two clusters explain more than they do of one
   Gaussian with the same covariance (SigClust: Liu et al. 2008, JASA 103; p by a normal fit to 20 samples, as
   there) at level `alpha`, and each holds a share of `least`.
4. *Merge.* Images of one meaning may fall into several clusters, e.g. by size. What the neuron fires for is what
   remains against the contrasts: r[c] = mean over the cluster of x[p] - x[q(p)]. Clusters whose r have a cosine of
   `APART` or more are one meaning, the most similar first; and so are the most similar ones beyond `MOST`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from contralens.math.activation_sources import columns, source
from contralens.math.cluster_splits import main_axes, split
from contralens.math.exemplars import mine
from contralens.math.tensors import blocks, eigen, matrix
from contralens.types import Brief

MOST = 6
"""Meanings of one neuron, at most."""
SAMPLED = 512
FEWEST = 16
"""A neuron with fewer images above its mean has one meaning."""
AXES, RIDGE = 64, 0.1
NULLS = 50
APART = 0.6
SIZES = (16, 32, 64, 96, 128, 192, 256, 384, 512)
"""Sizes of random samples; a neuron is compared with the nearest one."""
AT_ONCE = 2**25
"""Numbers of the samples' coordinates that are held at once."""


@dataclass(frozen=True, slots=True, repr=False)
class Meanings(Brief):
    """How many meanings neurons have, and which image belongs to which.

    >>> g = torch.Generator().manual_seed(0)
    >>> shows = torch.rand(1000, 12, generator=g) < 0.12
    >>> e = torch.nn.functional.normalize(shows + 0.2 * torch.randn(1000, 12, generator=g), dim=1)
    >>> found = meanings(torch.stack([shows[:, 0], shows[:, 1] | shows[:, 2]], 1).float(), e)
    >>> found.count.tolist(), found.member.shape
    ([1, 2], torch.Size([1, 1000]))
    """

    count: Tensor
    """(N) int64, 1 to `MOST`."""
    p: Tensor
    """(N): how often one Gaussian cloud is split as well as the neuron's images; NaN where nothing was tested."""
    share: Tensor
    """(N,MOST): part of the activation above the mean that each meaning has, by falling share; 0 beyond `count`."""
    rows: Tensor
    """(P): the neurons with more than one meaning, as rows of the fields above."""
    member: Tensor
    """(P,I) int8: meaning of each image above the neuron's mean, -1 for others."""

    def parts(self, activations: Any, neurons: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each meaning as a neuron of its own: activations (I,V), rows of the neurons (V), meanings (V).

        What belongs to another meaning is left out (NaN), so that it is neither exemplar nor contrast. `neurons` (N)
        are the columns of `activations` that were looked at.
        """
        values = columns(source(activations), neurons[self.rows])
        out, row, part = [], [], []
        for place, n in enumerate(self.rows.tolist()):
            for c in range(int(self.count[n])):
                others = (self.member[place] >= 0) & (self.member[place] != c)
                out.append(values[:, place].masked_fill(others, torch.nan))
                row.append(n)
                part.append(c)
        made = torch.stack(out, 1) if out else values.new_empty(len(values), 0)
        return made, torch.tensor(row, dtype=torch.int64), torch.tensor(part, dtype=torch.int64)


def meanings(
    activations: Any, embeddings: Any, neurons: Any = None, *, alpha: float = 0.05, least: float = 0.04, seed: int = 0,
    **mining: Any,
) -> Meanings:  # fmt: skip
    """How many meanings each neuron has, by clusters of its images; the module says how.

    Args:
        activations: (I,N), in memory or any `ActivationSource`; NaN or infinite leaves the image out.
        embeddings: (I,D), unit rows; a row with NaN leaves the image out.
        neurons: indices of the neurons wanted; all N by default.
        alpha: level of the test before a cluster is split.
        least: share of a neuron's sample that each cluster holds at least.
        seed: of the null distributions.
        mining: of `find_exemplars`, for the contrasts; k and reuse have no effect.

    About .1 s of one core a neuron at 2,000 images.

    >>> g = torch.Generator().manual_seed(0)
    >>> shows = torch.rand(1000, 12, generator=g) < 0.12
    >>> e = torch.nn.functional.normalize(shows + 0.2 * torch.randn(1000, 12, generator=g), dim=1)
    >>> meanings((shows[:, :1] | shows[:, 1:2]).float(), e).count
    tensor([2])
    """
    a, e = source(activations), matrix(embeddings, "embeddings").cpu()
    chosen = torch.arange(a.shape[1]) if neurons is None else torch.as_tensor(neurons, dtype=torch.int64)
    mining = {name: value for name, value in mining.items() if name not in ("k", "reuse")}
    x, generator = whitened(e), torch.Generator().manual_seed(seed)
    limits = _limits(x, generator)
    found: list[Meanings] = []
    for block in blocks(len(chosen), max(len(e), SAMPLED * x.shape[1]), AT_ONCE):
        values = columns(a, chosen[block]).float()
        values = values.masked_fill(~values.isfinite() | ~x.isfinite().all(1)[:, None], torch.nan)
        images = sampled(values)
        pairs = _contrasts(values, e, images, mining)
        clusters, p = _clusters(x, images, limits, alpha, least, generator)
        found.append(_meanings(values, x, images, pairs, clusters, p, block.start))
    fields = ("count", "p", "share", "rows", "member")
    empty = Meanings(*(torch.empty(0), torch.empty(0), torch.empty(0, MOST), torch.empty(0), torch.empty(0, len(e))))
    return Meanings(*(torch.cat([getattr(m, f) for m in found]) for f in fields)) if found else empty


def whitened(e: Tensor) -> Tensor:
    """Embeddings (I,D) on the probe set's principal axes (I,A), each divided by its deviation; NaN rows stay NaN.

    >>> whitened(torch.randn(100, 8)).std(0).round()
    tensor([1., 1., 1., 1., 1., 1., 1., 1.])
    """
    usable = e.isfinite().all(1)
    x = e.double() - e[usable].double().mean(0)
    values, axes = eigen(x[usable].T @ x[usable] / usable.sum())
    values, axes = values.flip(0)[:AXES].clamp_min(0.0), axes.flip(1)[:, :AXES]
    return (x @ (axes / (values + RIDGE * values.mean()).clamp_min(1e-30).sqrt())).float()


def sampled(values: Tensor) -> Tensor:
    """Images (N,M) that stand for each neuron's activations (I,N) above its mean, the strongest first; -1 for none.

    >>> sampled(torch.tensor([[0.0], [3.0], [0.0], [2.0], [0.0]]))
    tensor([[ 1,  3, -1, -1, -1]])
    """
    weight, order = _above(values)[1].T.sort(dim=1, descending=True, stable=True)
    total = weight.double().cumsum(1)
    count = min(SAMPLED, values.shape[0])
    ticks = total[:, -1:] * (torch.arange(count) + 0.5) / count
    at = torch.searchsorted(total.contiguous(), ticks.contiguous()).clamp_max(values.shape[0] - 1)
    again = torch.zeros_like(at, dtype=torch.bool)
    again[:, 1:] = at[:, 1:] == at[:, :-1]
    images = order.gather(1, at).masked_fill(again | (weight.gather(1, at) <= 0), -1)
    return images.gather(1, (images < 0).to(torch.int8).sort(dim=1, stable=True).indices)


def _contrasts(values: Tensor, e: Tensor, images: Tensor, mining: Mapping[str, Any]) -> Tensor:
    """The most similar image below the mean of each sampled image (N,M); -1 where there is none.

    So that mining finds these and no others, images above the mean that were not drawn are left out, and all below it
    stand on one level under the drawn ones.
    """
    mean = values.nanmean(0)
    drawn = torch.zeros(values.shape[::-1], dtype=torch.bool)
    drawn.scatter_(1, images.clamp_min(0), images >= 0)
    low = mean - mean.abs() - 1
    level = torch.where(values < mean, low, torch.nan)
    found = mine(torch.where(drawn.T, values, level), e, images.shape[1], **mining).exemplars
    out = torch.full(drawn.shape, -1)
    there = (found.positives >= 0) & (found.contrasts >= 0)
    there &= drawn.gather(1, found.positives.clamp_min(0))
    row, place = there.nonzero(as_tuple=True)
    out[row, found.positives[row, place]] = found.contrasts[row, place]
    return out.gather(1, images.clamp_min(0)).masked_fill(images < 0, -1)


def _limits(x: Tensor, generator: torch.Generator) -> dict[int, Tensor]:
    """Size of a sample -> the .95 quantile of each eigenvalue of the covariance of as many random images, falling."""
    there = x[x.isfinite().all(1)]
    out = {}
    for size in SIZES:
        size = min(size, len(there))
        if size < FEWEST or size in out:
            continue
        drawn = [there[torch.randperm(len(there), generator=generator)[:size]] for _ in range(NULLS)]
        values = torch.stack([torch.linalg.eigvalsh(torch.cov(rows.T.double())).flip(0) for rows in drawn])
        out[size] = values.quantile(0.95, dim=0).float()
    return out


def _clusters(
    x: Tensor, images: Tensor, limits: Mapping[int, Tensor], alpha: float, least: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cluster of each sampled image (N,M), -1 for none, and the p-value of the first split (N)."""
    there = images >= 0
    size = there.sum(1)
    cluster, p = torch.where(there, 0, -1), torch.full((len(images),), torch.nan)
    if not limits:
        return cluster, p
    y, variance = main_axes(x[images.clamp_min(0)], there)
    like = torch.tensor([min(limits, key=lambda s: abs(s - n)) for n in size.tolist()])
    limit = torch.stack([limits[int(s)][: variance.shape[1]] for s in like]) if len(like) else variance
    kept = (variance > limit).int().cumprod(1).sum(1) * (size >= FEWEST)
    for width in range(1, y.shape[2] + 1):
        own = (kept == width).nonzero()[:, 0]
        if len(own):
            cluster[own], p[own] = split(y[own, :, :width], there[own], alpha, least, generator)
    return cluster, p


def merged(directions: Tensor, sizes: Tensor, apart: float = APART, most: int = MOST) -> Tensor:
    """Which meaning each cluster (c) belongs to, by the cosines of their mean contrast directions (c,A).

    >>> merged(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]]), torch.tensor([5.0, 5.0, 5.0]))
    tensor([0, 1, 0])
    """
    group, r, n = torch.arange(len(sizes)), directions.clone(), sizes.clone().float()
    while len(r) > 1:
        cosine = normalize(r, dim=1) @ normalize(r, dim=1).T
        cosine.fill_diagonal_(-torch.inf)
        i, j = sorted(divmod(int(cosine.argmax()), len(r)))
        if float(cosine[i, j]) < apart and len(r) <= most:
            break
        r[i] = (n[i] * r[i] + n[j] * r[j]) / (n[i] + n[j]).clamp_min(1)
        n[i] += n[j]
        stays = torch.arange(len(r)) != j
        r, n = r[stays], n[stays]
        group = torch.where(group == j, i, group - (group > j).long())
    return group


def _meanings(
    values: Tensor, x: Tensor, images: Tensor, contrasts: Tensor, cluster: Tensor, p: Tensor, first: int
) -> Meanings:
    """From clusters of the samples to meanings of all images above the mean; each image to the nearest cluster."""
    n, (above, weight) = len(images), _above(values)
    count, share = torch.ones(n, dtype=torch.int64), pad(torch.ones(n, 1), (0, MOST - 1))
    rows, members = [], []
    for row in (cluster.amax(1) > 0).nonzero()[:, 0].tolist() if n else []:
        clusters = range(int(cluster[row].max()) + 1)
        own = [cluster[row] == c for c in clusters]
        paired = contrasts[row] >= 0
        there = x[images[row].clamp_min(0)]
        apart = there - x[contrasts[row].clamp_min(0)]
        r = torch.stack([apart[m & paired].mean(0).nan_to_num(0.0) for m in own])
        group = merged(r, torch.tensor([float((m & paired).sum()) for m in own]))
        if int(group.max()) == 0:
            continue
        centres = torch.stack([there[m].mean(0) for m in own])
        nearest = (x @ centres.T - centres.square().sum(1) / 2).nan_to_num(-torch.inf).argmax(1)
        nearest[images[row][images[row] >= 0]] = cluster[row][images[row] >= 0]
        member = group[nearest].masked_fill(~above[:, row], -1)
        mass = torch.zeros(int(group.max()) + 1).index_add_(0, group[nearest], weight[:, row])
        order = mass.argsort(descending=True, stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order))
        count[row] = len(order)
        share[row] = pad(mass[order] / mass.sum(), (0, MOST - len(order)))
        rows.append(row + first)
        members.append(torch.where(member >= 0, place[member.clamp_min(0)], -1).to(torch.int8))
    member = torch.stack(members) if members else torch.empty(0, len(values), dtype=torch.int8)
    return Meanings(count, p, share, torch.tensor(rows, dtype=torch.int64), member)


def _above(values: Tensor) -> tuple[Tensor, Tensor]:
    """Whether (I,N) an image lies above the neuron's mean, and by how much."""
    weight = (values - values.nanmean(0)).clamp_min(0.0).nan_to_num(0.0)
    return weight > 0, weight
