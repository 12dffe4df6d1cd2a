"""Linear Explanations: a neuron as a sparse linear combination of concepts (Oikarinen & Weng 2024, ICML).

With P[i,c] how much image i shows concept c, s[i,n] = sum over few concepts of w[n,c] P[i,c] + bias is to follow the
activations a[i,n]. As in the paper and its code:

1. elastic net of all concepts on the training images, standardised: the `width` concepts of the largest weight are the
   candidates, then the next ones as some are turned down,

       min over w of |a - P w|^2 / (2 I) + strength (ratio |w|_1 + (1 - ratio) |w|^2 / 2);

2. greedy search: the candidate goes in that raises the correlation of s and a on the validation images most, with least
   squares on the training images each time; a candidate that raises it by less than `tolerance` is never tried again;
   at most `longest` concepts.

Here P[i,c] = <e[i], t[c]>. The paper's encoder version puts a calibrated sigmoid on this cosine, which not every
encoder has. The label version is the same function on labels: embeddings (I,C) of 0 and 1, and texts the unit matrix.
Every fourth image is one of validation. Because P is linear in the embedding, both steps need no more than the
embeddings' covariance and their products with the activations: neither (I,C) nor (C,C) is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.activation_products import products
from contralens.math.activation_sources import ActivationSource
from contralens.math.ranking import Columns, belonging, by_columns
from contralens.math.tensors import blocks
from contralens.types import Brief, Exemplars

ROUNDS, ENOUGH = 500, 1e-5
"""Most steps of the elastic net, and the change of weights below which it stands."""
TOGETHER, TRIED = 16, 50
"""Neurons that are solved together, and concepts of each that are tried first."""
WRONG = 1e-6
"""A concept whose slope exceeds the penalty by more has a weight."""
BELOW = 0.999
"""What other concepts score at most, as a share of the explanation's least positive weight."""
FOURTH = 4
"""Every fourth image is one of validation."""


@dataclass(frozen=True, slots=True, repr=False)
class _Moments(Brief):
    """Second moments of some images, float64."""

    covariance: Tensor
    """(D,D) of the embeddings."""
    along: Tensor
    """(N,D) of activations and embeddings."""
    variance: Tensor
    """(N) of the activations."""


@by_columns
def linear(
    exemplars: Exemplars,
    embeddings: Any,
    texts: Any,
    *,
    activations: Any,
    strength: float = 0.05,
    ratio: float = 0.99,
    tolerance: float = 0.02,
    longest: int = 10,
    width: int = 10,
) -> Columns:
    """Linear Explanations: weights (N,C) of the concepts that together follow all activations; see the module.

    A concept of the explanation scores its weight, in deviations of the activation per deviation of P; others score
    their weight in the elastic net, below the explanation's least positive one. So the label is the concept with the
    largest weight.

    Args:
        exemplars: says which neurons; one without any exemplar scores NaN. Its images are not looked at.
        embeddings: (I,D); a row with NaN leaves its image out.
        texts: (C,D).
        activations: (I,N) of the same images, in memory or any `ActivationSource`; NaN counts as the neuron's mean.
        strength: of the elastic net's penalty.
        ratio: share of the penalty that is on |w|, not on w^2.
        tolerance: least rise of the correlation for one more concept.
        longest: concepts of an explanation, at most.
        width: candidates of each step.

    Raises:
        InputError: matrices that do not belong together, or options out of range.

    >>> linear(exemplars, embeddings, texts, activations=activations).shape
    torch.Size([2, 3])
    """
    a, e, t = belonging(activations, embeddings, texts)
    if not (strength > 0 and 0 <= ratio <= 1 and tolerance >= 0 and longest >= 1 and width >= 1):
        raise InputError(
            "`strength` must be above 0, `ratio` between 0 and 1, `tolerance` at least 0, `longest` and `width` at "
            f"least 1; got {strength}, {ratio}, {tolerance}, {longest}, {width}"
        )
    n, usable = exemplars.neurons.cpu(), e.isfinite().all(1)
    held = torch.arange(len(e)) % FOURTH == FOURTH - 1
    held &= usable & bool((usable & held).sum() > 1)
    train = _moments(a, n, e, usable & ~held)
    test = _moments(a, n, e, held) if bool(held.any()) else train
    scores = _elastic_net(train, t, strength, ratio)
    for row in range(len(n)):
        chosen, weights = _greedy(train, test, t, scores[row], row, tolerance, longest, width)
        if bool((weights > 0).any()):
            scores[row] = scores[row].clamp_max(BELOW * float(weights[weights > 0].min()))
        scores[row, chosen] = weights
    scores = scores.to(e.dtype).masked_fill((exemplars.positives < 0).all(1).cpu()[:, None], torch.nan)
    return Columns((len(n), len(t)), e, lambda some: scores[:, some])


def _moments(a: ActivationSource, neurons: Tensor, e: Tensor, which: Tensor) -> _Moments:
    """Those of the images `which` (I, bool), in one pass over the activations."""
    images = max(1, int(which.sum()))
    x = e.double()
    x = (x - (x[which].mean(0) if bool(which.any()) else 0.0)).masked_fill(~which[:, None], 0.0)
    sums, squares, _ = products(a, neurons, x, which)
    return _Moments(x.T @ x / images, sums / images, squares / images)


def _elastic_net(of: _Moments, t: Tensor, strength: float, ratio: float) -> Tensor:
    """Weights (N,C) between standardised concepts and activations, by accelerated proximal gradients.

    FISTA (Beck & Teboulle 2009) with restarts where the momentum points uphill, on the concepts that correlate most
    with some neuron; then on those, too, of which the solution is wrong, until there is none.
    """
    t = t.double()
    spread = (t @ of.covariance * t).sum(1).clamp_min(0.0).sqrt()
    t = torch.where(spread[:, None] > 1e-9, t / spread.clamp_min(1e-9)[:, None], 0.0)
    aim = torch.where(of.variance[:, None] > 0, of.along / of.variance.clamp_min(1e-30).sqrt()[:, None], 0.0) @ t.T
    whole = t.T @ t @ of.covariance
    step = 1 / (float(torch.linalg.eigvals(whole).real.amax()) + strength * (1 - ratio) + 1e-12)
    out = torch.zeros_like(aim)
    for block in blocks(len(aim), 1, TOGETHER):
        near = aim[block].abs().topk(min(TRIED, len(t)), dim=1).indices
        active = torch.zeros(len(t), dtype=torch.bool)
        active[near.flatten()] = True
        for _ in range(ROUNDS):
            w = out[block][:, active]
            out[block, active] = _solved(w, aim[block][:, active], t[active], of.covariance, step, strength, ratio)
            slope = out[block] @ t @ of.covariance @ t.T - aim[block]
            more = (slope.abs() > strength * ratio + WRONG).any(0) & ~active
            if not bool(more.any()):
                break
            active |= more
    return out


def _solved(
    w: Tensor, aim: Tensor, t: Tensor, covariance: Tensor, step: float, strength: float, ratio: float
) -> Tensor:
    """The elastic net of some neurons and concepts (n,c), from the weights w on."""
    ahead, momentum, left = w, 1.0, t @ covariance
    gram = left @ t.T if len(t) < 2 * t.shape[1] else None  # then fewer products than by way of D
    for _ in range(ROUNDS):
        slope = (ahead @ left @ t.T if gram is None else ahead @ gram) - aim + strength * (1 - ratio) * ahead
        moved = ahead - step * slope
        moved = moved.sign() * (moved.abs() - step * strength * ratio).clamp_min(0.0)
        uphill = float(((ahead - moved) * (moved - w)).sum()) > 0
        momentum = 1.0 if uphill else momentum
        further = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / further * (moved - w)
        change, w, momentum = float((moved - w).abs().max()), moved, further
        if change < ENOUGH:
            break
    return w


def _greedy(
    train: _Moments, test: _Moments, t: Tensor, order: Tensor, row: int, tolerance: float, longest: int, width: int
) -> tuple[Tensor, Tensor]:
    """Concepts of one neuron's explanation, in the order in which they went in, and their standardised weights.

    `order` (C): concepts of large value are tried first, ties by lower index.
    """
    ranked = order.sort(descending=True, stable=True).indices.tolist()
    chosen: list[int] = []
    bad: set[int] = set()
    best, weights = 0.0, torch.empty(0, dtype=torch.float64)
    while len(chosen) < longest:
        tried = [c for c in ranked if c not in bad and c not in chosen][:width]
        top, top_r, top_w = None, best, weights
        fits = _fitted(train, test, t[torch.tensor([[*chosen, c] for c in tried])].double(), row) if tried else ()
        for c, w, r in zip(tried, *fits, strict=True) if tried else ():
            if chosen and r - best < tolerance:
                bad.add(c)
            elif r > top_r:
                top, top_r, top_w = c, r, w
        if top is None:
            break
        chosen.append(top)
        best, weights = top_r, top_w
    return torch.tensor(chosen, dtype=torch.int64), weights


def _fitted(train: _Moments, test: _Moments, t: Tensor, row: int) -> tuple[Tensor, list[float]]:
    """Least squares of sets of concepts (b,c,D) on the training images: standardised weights (b,c), and correlations
    (b) on the others."""
    gram = t @ train.covariance @ t.mT
    w = torch.linalg.lstsq(gram, t @ train.along[row], driver="gelsd").solution
    inside = (w[:, None] @ t)[:, 0]
    explained = ((inside @ test.covariance) * inside).sum(1).clamp_min(0.0)
    r = (inside @ test.along[row]) / (explained * test.variance[row]).sqrt().clamp_min(1e-30)
    spread = gram.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    return w * spread / train.variance[row].sqrt().clamp_min(1e-30), r.tolist()
