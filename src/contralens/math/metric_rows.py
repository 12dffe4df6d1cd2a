"""What metrics compute of matrices whose rows are neurons: (n,I), contiguous, since sorting and summing along memory is
many times faster. NaN and infinite entries are left out; what a row cannot determine is NaN."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.tensors import blocks


def auc(t: Tensor, s: Tensor) -> Tensor:
    """Area under the ROC curve of truth (n,I) and scores, ties counting half."""
    there = s.isfinite()
    t = t & there
    ordered, order = s.masked_fill(~there, torch.inf).sort(dim=1)
    hits = t.gather(1, order)
    first, last = _tie_group(ordered)
    p = t.sum(1).double()
    n = there.sum(1) - p
    ranks = ((first + last) * hits).sum(1).double() / 2 + p  # mean rank of each tie group, from 1
    area = (ranks - p * (p + 1) / 2) / (p * n)
    return area.masked_fill((p == 0) | (n == 0) | constant(s), torch.nan)


def auprc(t: Tensor, s: Tensor) -> Tensor:
    """Average precision of truth (n,I) by descending scores; ties count as one step."""
    there = s.isfinite()
    t = t & there
    ordered, order = s.masked_fill(~there, -torch.inf).sort(dim=1, descending=True)
    hits = t.gather(1, order)
    _, last = _tie_group(ordered)
    precision = hits.cumsum(1).gather(1, last).double() / (last + 1)
    p = t.sum(1).double()
    return ((precision * hits).sum(1) / p).masked_fill((p == 0) | (p == there.sum(1)) | constant(s), torch.nan)


def _tie_group(ordered: Tensor) -> tuple[Tensor, Tensor]:
    """First and last place of the run of equal values that each place of a sorted row belongs to."""
    count = ordered.shape[1]
    place = torch.arange(count).expand(ordered.shape)
    if not count:
        return place, place
    changes = ordered[:, 1:] != ordered[:, :-1]
    edge = torch.ones(len(ordered), 1, dtype=torch.bool)
    first = place.masked_fill(~torch.cat([edge, changes], 1), 0).cummax(1).values
    last = place.masked_fill(~torch.cat([changes, edge], 1), count - 1).flip(1).cummin(1).values.flip(1)
    return first, last


def pearson(a: Tensor, p: Tensor) -> Tensor:
    """Correlation of two matrices (n,I), row by row."""
    return cosine(a, p, centre=True)


def cosine(a: Tensor, p: Tensor, centre: bool = False) -> Tensor:
    """Cosine, row by row; `centre` subtracts each row's mean before."""
    there = a.isfinite() & p.isfinite()
    a, p = a.double().masked_fill(~there, torch.nan), p.double().masked_fill(~there, torch.nan)
    flat = constant(a) | constant(p)
    if not a.shape[1]:
        return a.new_full((len(a),), torch.nan)
    a, p = a.masked_fill(~there, 0.0), p.masked_fill(~there, 0.0)
    if centre:
        count = there.sum(1, keepdim=True)
        a, p = ((v - v.sum(1, keepdim=True) / count).masked_fill(~there, 0.0) for v in (a, p))
    # Scaled by the largest magnitude first, so that squares neither overflow nor vanish.
    a, p = (v / v.abs().amax(1, keepdim=True).clamp_min(1e-300) for v in (a, p))
    value = (a * p).sum(1) / (a.square().sum(1).sqrt() * p.square().sum(1).sqrt())
    return value.clamp(-1.0, 1.0).masked_fill(flat, torch.nan)


def active(v: Tensor, share: float) -> Tensor:
    """The largest `share` of each row's finite values, with ties, the smallest value never."""
    there = v.isfinite()
    if not v.shape[1]:
        return there
    low = v.masked_fill(~there, -torch.inf)
    count = (share * there.sum(1)).ceil().long().clamp_min(1)
    border = low.topk(int(count.max()), dim=1).values.gather(1, (count - 1)[:, None])
    least = v.masked_fill(~there, torch.inf).amin(1, keepdim=True)
    return there & (v >= border) & (v > least)


def constant(v: Tensor) -> Tensor:
    """Whether a row holds fewer than two different finite values."""
    if not v.shape[1]:
        return torch.ones(len(v), dtype=torch.bool)
    there = v.isfinite()
    return ~(v.masked_fill(~there, -torch.inf).amax(1) > v.masked_fill(~there, torch.inf).amin(1))


def by_column(function: Callable[..., Tensor], *columns: Tensor, rows: bool = False) -> Tensor:
    """`function` over blocks of columns, handed over as rows, so that (I,N) is never sorted as a whole."""
    shapes = {tuple(c.shape) for c in columns}
    if len(shapes) != 1:
        raise InputError(f"the matrices must have one shape; got {' and '.join(map(str, sorted(shapes)))}")
    images, neurons = columns[0].shape
    parts = [function(*(c[:, b].T.contiguous() for c in columns)) for b in blocks(neurons, images * 64)]
    if not parts:
        return torch.empty((images, 0), dtype=torch.bool) if rows else torch.empty(0, dtype=torch.float64)
    out = torch.cat(parts)
    return out.T if rows else out
