"""Points split in two again and again, as long as two clusters explain more than they do of one Gaussian cloud."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WIDTH = 5
"""Main axes that are looked at, at most."""
DRAWS = 20
"""Samples of one Gaussian, to which a normal distribution is fitted."""
CLUSTERS = 10
"""Clusters, at most."""


def main_axes(x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Points (R,M,A) on their own `WIDTH` main axes, centred (0 where not `there`), and the variances, falling."""
    w = there.to(x.dtype)[:, :, None]
    count = w.sum(1, keepdim=True).clamp_min(1)
    z = (x.nan_to_num(0.0) - (x.nan_to_num(0.0) * w).sum(1, keepdim=True) / count) * w
    values, axes = torch.linalg.eigh(z.transpose(1, 2) @ z / (count - 1).clamp_min(1))
    width = min(WIDTH, x.shape[2])
    return z @ axes[:, :, -width:].flip(2), values[:, -width:].flip(1).clamp_min(0.0)


def split(y: Tensor, there: Tensor, alpha: float, least: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (n,M,d) split in two again and again while the test allows it: clusters (n,M), first p-value (n)."""
    cluster, size = torch.where(there, 0, -1), there.sum(1)
    count, p = torch.ones(len(y), dtype=torch.int64), torch.full((len(y),), torch.nan)
    waiting = [(n, 0) for n in range(len(y))]
    while waiting:
        rows, parts = torch.tensor(waiting).T
        member = cluster[rows] == parts[:, None]
        own, variance = main_axes(y[rows], member)
        side, explained = _two(own, member)
        chance = _of_one_cloud(explained, variance, member, own.shape, generator)
        first = parts == 0
        p[rows[first]] = torch.where(p[rows[first]].isnan(), chance[first], p[rows[first]])
        smaller = torch.minimum(side.sum(1), (member & ~side).sum(1))
        wanted = (chance <= alpha) & (smaller >= 4) & (smaller >= least * size[rows])
        waiting = []
        for i, (n, c) in enumerate(zip(rows.tolist(), parts.tolist(), strict=True)):
            if wanted[i] and int(count[n]) < CLUSTERS:
                new = int(count[n])
                cluster[n][side[i]] = new
                count[n] += 1
                waiting += [(n, c), (n, new)]
    return cluster, p


def _of_one_cloud(
    explained: Tensor, variance: Tensor, member: Tensor, shape: Sequence[int], generator: torch.Generator
) -> Tensor:
    """p-values (R) of what 2-means explains, by a normal fit to what it explains of Gaussians with these variances."""
    count = member.sum(1)[:, None, None].clamp_min(1)
    drawn = []
    for _ in range(DRAWS):
        z = torch.randn(tuple(shape), generator=generator) * variance.sqrt()[:, None] * member[:, :, None]
        drawn.append(_two((z - z.sum(1, keepdim=True) / count) * member[:, :, None], member)[1])
    null = torch.stack(drawn)
    z_score = (explained - null.mean(0)) / null.std(0).clamp_min(1e-9)
    p: Tensor = torch.special.ndtr(-z_score).nan_to_num(1.0)
    return p


def _two(y: Tensor, member: Tensor) -> tuple[Tensor, Tensor]:
    """The best 2-means of centred points (R,M,d) from the sign of each axis: side (R,M), variance explained (R)."""
    w = member.to(y.dtype)
    total = (y.square().sum(2) * w).sum(1)
    best, least = torch.zeros_like(member), torch.full((len(y),), torch.inf)
    for axis in range(y.shape[2]):
        side = (y[:, :, axis] > 0) & member
        for _ in range(8):
            one, other = _centres(y, side, w)
            difference = one - other
            middle = ((one + other) * difference).sum(1, keepdim=True) / 2
            moved = (torch.einsum("rmd,rd->rm", y, difference) > middle) & member
            if torch.equal(moved, side):
                break
            side = moved
        one, other = _centres(y, side, w)
        n = side.sum(1)
        within = total - n * one.square().sum(1) - (w.sum(1) - n) * other.square().sum(1)
        better = within < least
        best, least = torch.where(better[:, None], side, best), torch.where(better, within, least)
    return best, 1 - least / total


def _centres(y: Tensor, side: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Means (R,d) of both sides of centred points."""
    n, total = side.sum(1, keepdim=True), torch.einsum("rm,rmd->rd", side.to(y.dtype), y)
    return total / n.clamp_min(1), -total / (w.sum(1, keepdim=True) - n).clamp_min(1)
