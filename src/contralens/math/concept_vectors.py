"""Neurons as vectors in the encoder's space: means of exemplars, with or without what their contrasts share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.tensors import combine, matrix
from contralens.types import Exemplars

NOTHING = 1e-6
"""A mean of unit vectors no longer than this is rounding errors."""


def weights(exemplars: Exemplars) -> Tensor:
    """Share of each exemplar in its neuron's concept vector (N,K): raw activations, negative ones counted 0, sum 1.

    >>> weights(exemplars)[0]  # activations 3 and 2
    tensor([0.6000, 0.4000])
    """
    w = exemplars.activations.nan_to_num(0.0).clamp_min(0.0)
    there = (exemplars.positives >= 0).to(w.dtype)
    w = torch.where(w.sum(1, keepdim=True) > 0, w, there)
    return w / w.sum(1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny)


def contrast_parts(exemplars: Exemplars, embeddings: Any) -> tuple[Tensor, Tensor]:
    """The two halves of CSP's concept vector, (N,D) each, before normalisation: v = normalise(first - gamma second).

    first = sum_p w[p] e[p], second = sum_p w[p] s[p] e[q(p)], weights summing to 1; a positive without a contrast
    adds nothing to the second.

    Raises:
        InputError: the embeddings are no matrix.

    >>> first, second = contrast_parts(exemplars, embeddings)
    >>> (first - second)[0]  # of red, striped, round: what is left without the partners
    tensor([ 0.0230,  0.5040, -0.0307])
    """
    e = matrix(embeddings, "embeddings")
    w = weights(exemplars).to(e.dtype)
    first = combine(e, exemplars.positives, w)
    return first, combine(e, exemplars.contrasts, w * exemplars.similarities.to(w)).nan_to_num(0.0)


def concept_vectors(exemplars: Exemplars, embeddings: Any, gamma: float | None = None) -> Tensor:
    """Each neuron as a unit vector (N,D) in the encoder's space.

    `gamma=None`: the plain mean of the positives (SemanticLens). Otherwise the activation-weighted mean of the
    residuals r[p] = e[p] - gamma s[p] e[q(p)] (CSP); a positive without a contrast keeps its whole embedding. NaN where
    nothing is left, as when every positive's contrast is a copy of it.

    Raises:
        InputError: gamma outside [0,1].

    >>> concept_vectors(exemplars, embeddings).argmax(1), concept_vectors(exemplars, embeddings, gamma=1.0).argmax(1)
    (tensor([0, 0]), tensor([1, 2]))
    """
    return unit_rows(_means(exemplars, embeddings, gamma))


def concept_lengths(exemplars: Exemplars, embeddings: Any, gamma: float | None = None) -> Tensor:
    """Length (N) of the mean of which `concept_vectors` makes a unit vector: 1 where all exemplars say the same.

    Random images have a short mean, and its direction, made a unit vector, a high cosine with many texts. Length times
    cosine is the mean projection of the exemplars on the text, which has no such fault.

    >>> concept_lengths(exemplars, embeddings)
    tensor([0.9633, 0.9818])
    """
    length: Tensor = _means(exemplars, embeddings, gamma).norm(dim=1)
    return length


def _means(exemplars: Exemplars, embeddings: Any, gamma: float | None) -> Tensor:
    if gamma is None:
        e = matrix(embeddings, "embeddings")
        w = (exemplars.positives >= 0).to(e.dtype)
        return combine(e, exemplars.positives, w / w.sum(1, keepdim=True).clamp_min(1.0))
    if not 0.0 <= gamma <= 1.0:
        raise InputError(f"`gamma` must lie between 0 and 1; got {gamma}")
    first, second = contrast_parts(exemplars, embeddings)
    return first - gamma * second


def unit_rows(v: Tensor) -> Tensor:
    """Rows of length 1. A row that is no longer than rounding errors points nowhere: NaN, and so no label."""
    length: Tensor = v.norm(dim=1, keepdim=True)
    return (v / length).masked_fill(length < NOTHING, torch.nan)
