"""A label as a prediction of its neuron's activation: cosines of images and label texts, through a sigmoid or as is.

Oikarinen & Weng 2024 (Linear Explanations). Letters: I images, N neurons, L concepts of a label.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.metrics import pearson

SIGLIP_SO400M = (58.0, -0.13)
"""alpha and beta of SigLIP-SO400M as a simulator, as published."""
ALPHAS = (1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 58.0, 100.0, 200.0)
CENTRES = (0.5, 0.75, 0.9, 0.95, 0.98, 0.995, 0.999)


def simulate(
    similarities: Any,
    alpha: float | None = None,
    beta: float = 0.0,
    *,
    weights: Any = None,
    combine: Literal["mean", "max"] = "mean",
) -> Tensor:
    """What labels predict: sigmoid(alpha (cos + beta)), or the raw cosine with alpha=None (the CSP code).

    A label of several concepts predicts their (weighted) mean, or the strongest of them.

    Args:
        similarities: (I,N), or (I,N,L) for L concepts a label; a concept that is NaN is left out.
        alpha: steepness; None for the raw cosine.
        beta: offset.
        weights: (N,L) share of each concept; equal by default.
        combine: "mean" or "max" over the concepts.

    Returns:
        (I,N), NaN where no concept is left.

    >>> simulate([[0.13], [0.3]], *SIGLIP_SO400M)
    tensor([[0.5000],
            [0.9999]])
    """
    s = torch.as_tensor(similarities)
    s = s if s.is_floating_point() else s.float()
    if s.ndim not in (2, 3):
        raise InputError(f"`similarities` must be (I,N) or (I,N,L); got shape {tuple(s.shape)}")
    if combine not in ("mean", "max"):
        raise InputError(f'`combine` must be "mean" or "max"; got {combine!r}')
    p = s if alpha is None else torch.sigmoid(alpha * (s + beta))
    if p.ndim == 2:
        return p
    there = ~p.isnan()
    none = ~there.any(2)
    if combine == "max":
        return p.masked_fill(~there, -torch.inf).amax(2).masked_fill(none, torch.nan)
    w = torch.ones(p.shape[1:], dtype=p.dtype) if weights is None else torch.as_tensor(weights).to(p.dtype)
    w = w.expand(p.shape) * there
    total = w.sum(2)
    return ((p.nan_to_num(0.0) * w).sum(2) / total).masked_fill(none | (total <= 0), torch.nan)


def fit_sigmoid(activations: Any, similarities: Any) -> tuple[float, float]:
    """alpha and beta of an encoder as a simulator: the pair with the largest mean correlation over neurons.

    One pair for all neurons, from the grid `ALPHAS` x (-quantiles `CENTRES` of the cosines), (I,N),(I,N) -> (alpha,
    beta). To be fitted on images that the evaluation does not use.
    """
    a, s = torch.as_tensor(activations), torch.as_tensor(similarities)
    values = s[s.isfinite()].double()
    if not len(values):
        return SIGLIP_SO400M
    values = values[:: -(-len(values) // 10**6)].sort().values
    centres = {float(values[round(q * (len(values) - 1))]) for q in CENTRES}
    best, found = -torch.inf, SIGLIP_SO400M
    for alpha in ALPHAS:
        for centre in sorted(centres):
            mean = float(pearson(a, simulate(s, alpha, -centre)).nanmean())
            if mean > best:
                best, found = mean, (alpha, -centre)
    return found


def choose(validation: Any, per: Literal["layer", "neuron"] = "layer") -> Tensor:
    """Which of several settings (say, gammas) to use per neuron, from their validation scores (S,N): indices (N).

    The one with the largest mean over the neurons that all settings can tell, or with per="neuron" each neuron's own
    best; a neuron without a score gets the layer's. Ties go to the earlier setting.

    >>> choose([[0.1, 0.2], [0.3, 0.1]], per="neuron").tolist()
    [1, 0]
    """
    if per not in ("layer", "neuron"):
        raise InputError(f'`per` must be "layer" or "neuron"; got {per!r}')
    v = torch.as_tensor(validation).double()
    told = ~v.isnan().any(0)
    layer = int(v[:, told].mean(1).argmax()) if bool(told.any()) else 0
    out = torch.full((v.shape[1],), layer)
    if per == "neuron":
        own = ~v.isnan().all(0)
        out[own] = v.nan_to_num(-torch.inf).argmax(0)[own]
    return out
