"""Scorers: exemplars, image embeddings (I,D) and text embeddings (C,D) to a score (N,C); the label is the argmax.

A scorer is a plain function. Rows of `texts` are used as given, never re-normalised. A neuron without any exemplar
scores NaN everywhere and is never labeled. One that takes `activations` by keyword is given those of all images (I,N),
of which `exemplars.neurons` are the columns to score (`scoring.run_scorer`); one that takes `decoder`, the directions
of latents (M,D), likewise; the others see the exemplars alone. The
embeddings' device does the work. The scorers here can be asked for some concepts at a time (`scoring.score_blocks`).

Where activations weigh exemplars, the rule for signed activations is: negative ones count 0, and a neuron whose
exemplars all count 0 has them weighed equally.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.concept_vectors import concept_vectors, unit_rows, weights
from contralens.math.describe_and_dissect import describe_and_dissect
from contralens.math.invert import invert
from contralens.math.linear_explanations import linear
from contralens.math.lookalike import lookalike
from contralens.math.ranking import Columns, Scorer, by_columns
from contralens.math.softmax import SeenSoftmax, average_softmax
from contralens.math.tensors import blocks, combine, matrix, room, spread
from contralens.plugs import Registry
from contralens.types import Exemplars


@by_columns
def semanticlens(exemplars: Exemplars, embeddings: Any, texts: Any) -> Columns:
    """cos(mean of the positives, text): Dreyer et al. 2025, Nature Machine Intelligence ("SemanticLens").

    >>> semanticlens(exemplars, embeddings, texts)
    tensor([[0.8305, 0.4983, 0.2491],
            [0.8148, 0.1833, 0.5500]])
    """
    e, t = _spaces(embeddings, texts)
    return _products(concept_vectors(exemplars, e), t)


@by_columns
def csp(exemplars: Exemplars, embeddings: Any, texts: Any, gamma: float = 1.0) -> Columns:
    """Contrastive Semantic Projection: Bouanani et al. 2026, arXiv 2604.22477.

    v = normalise(sum_p w[p] (e[p] - gamma s[p] e[q(p)]) / sum_p w[p]), score = <v, t>. `gamma` from 0 (positives only,
    activation-weighted) to 1 (all that a positive shares with its contrast is taken out).

    Raises:
        InputError: gamma outside [0,1], texts of another width than the embeddings.

    >>> csp(exemplars, embeddings, texts)
    tensor([[ 0.0456,  0.9971, -0.0608],
            [ 0.0827, -0.1102,  0.9905]])
    >>> csp(exemplars, embeddings, texts, gamma=0.0).argmax(1)  # nothing taken out
    tensor([0, 0])
    """
    e, t = _spaces(embeddings, texts)
    return _products(concept_vectors(exemplars, e, gamma), t)


@by_columns
def centred(exemplars: Exemplars, embeddings: Any, texts: Any, gamma: float = 0.0) -> Columns:
    """What the neuron's images say more than the average image: <v, t> - mean_i <e[i], t>.

    v is the activation-weighted mean of the positives, or with `gamma` > 0 CSP's residuals ("centred csp").

    >>> centred(exemplars, embeddings, texts).argmax(1)
    tensor([1, 2])
    """
    e, t = _spaces(embeddings, texts)
    v, average = concept_vectors(exemplars, e, gamma), average_row(e)
    return Columns((len(v), len(t)), v, lambda some: v @ t[some].T - average @ t[some].T)


@by_columns
def mean_difference(exemplars: Exemplars, embeddings: Any, texts: Any) -> Columns:
    """Ablation, not the paper's method: mean cosine to the positives minus mean cosine to the contrasts.

    >>> mean_difference(exemplars, embeddings, texts)
    tensor([[-0.1000,  0.4800, -0.0600],
            [-0.1000, -0.1200,  0.5400]])
    """
    e, t = _spaces(embeddings, texts)

    def mean(indices: Tensor) -> Tensor:
        there = (indices >= 0).to(e.dtype)
        return combine(e, indices, there / there.sum(1, keepdim=True).clamp_min(1.0))

    return _products(mean(exemplars.positives) - mean(exemplars.contrasts).nan_to_num(0.0), t)


@by_columns
def clip_dissect(
    exemplars: Exemplars,
    embeddings: Any,
    texts: Any,
    temperature: float = 10.0,
    p_start: float = 0.998,
    p_end: float = 0.97,
    weight: float = 1.0,
    prior: Literal["neurons", "images"] = "neurons",
) -> Columns:
    """CLIP-Dissect's soft-WPMI: Oikarinen & Weng 2023, as in the official code.

    P = softmax_c(temperature e t^T), p_r = p_start - (r/K)(p_start - p_end) for rank r,
    L[n,c] = sum_r log(1 + p_r (P[x_r,c] - 1) + 1e-7), score = L - weight * prior.

    The official prior, logsumexp_n L[n,c] - log N, runs over the neurons scored together, so a score depends on which
    neurons are in the set. `prior="images"` does not: it is sum_r log(1 + p_r (mean_i P[i,c] - 1) + 1e-7), what a
    random image would give.

    Raises:
        InputError: another prior, texts of another width than the embeddings.

    >>> clip_dissect(exemplars, embeddings, texts).argmax(1)
    tensor([1, 2])
    """
    e, t = _spaces(embeddings, texts)
    if prior not in ("neurons", "images"):
        raise InputError(f'`prior` must be "neurons" or "images"; got {prior!r}')
    positives, k = exemplars.positives.to(e.device), exemplars.positives.shape[1]
    there = positives >= 0
    seen = SeenSoftmax(e, positives, t, temperature)
    p = [p_start - r / k * (p_start - p_end) for r in range(k)]
    average = average_softmax(e, t, temperature) if prior == "images" else None

    def of(some: slice) -> Tensor:
        probability = seen.softmax(some)
        likelihood = probability.new_empty(len(positives), probability.shape[1])

        def fill(part: slice) -> None:
            likelihood[part] = _log_likelihood(probability, seen.row[part], there[part], p)

        each = 8 * probability.shape[1] * e.element_size()
        spread(fill, list(blocks(len(positives), each, budget=room(e.device) // 16)), e.device)
        if average is not None:
            base: Any = sum(torch.log(1 + p_r * (average[some] - 1) + 1e-7) for p_r in p)
        else:
            scored = likelihood[there.any(1)]
            base = torch.logsumexp(scored, dim=0) - math.log(max(1, len(scored)))
        score: Tensor = likelihood - weight * base
        return score.masked_fill_(~there.any(1, keepdim=True), torch.nan)

    return Columns((len(positives), len(t)), e, of, len(seen.used) + 2 * len(positives))


def _log_likelihood(probability: Tensor, row: Tensor, there: Tensor, p: list[float]) -> Tensor:
    """sum_r log(1 + p_r (P[x_r,c] - 1) + 1e-7) of (U,C), (N,K) -> (N,C). One logarithm of as many factors as cannot
    underflow: none is below 1 - p_r + 1e-7."""
    least = min(0.5, max(1e-7, 1 - max(p, default=0.0) + 1e-7))
    together = max(1, int(-87 / math.log(least)))
    total = probability.new_zeros(len(row), probability.shape[1])
    for start in range(0, len(p), together):
        product = torch.ones_like(total)
        for rank in range(start, min(start + together, len(p))):
            factor = probability.index_select(0, row[:, rank]).mul_(p[rank]).add_(1 - p[rank] + 1e-7)
            if not bool(there[:, rank].all()):
                factor[~there[:, rank]] = 1.0
            product.mul_(factor)
        total += product.log_()
    return total


@by_columns
def clip_dissect_csp(
    exemplars: Exemplars, embeddings: Any, texts: Any, temperature: float = 10.0, weight: float = 1.0
) -> Columns:
    """The CLIP-Dissect of the CSP paper's published code, for comparison with its tables.

    P = softmax_c(e t^T / temperature), weighted by activation instead of by rank, prior over the probe images:
    score = log(sum_p w[p] P[p,c] / sum_p w[p] + 1e-6) - weight log mean_i P[i,c]. It divides by the temperature where
    the official code multiplies, and ranks nearly like `centred`.

    >>> clip_dissect_csp(exemplars, embeddings, texts).argmax(1)
    tensor([1, 2])
    """
    e, t = _spaces(embeddings, texts)
    average = average_softmax(e, t, 1.0 / temperature)
    seen = SeenSoftmax(e, exemplars.positives.to(e.device), t, 1.0 / temperature)
    w, row = weights(exemplars), seen.row.masked_fill(exemplars.positives.to(e.device) < 0, -1)

    def of(some: slice) -> Tensor:
        likelihood = combine(seen.softmax(some), row, w)
        return torch.log(likelihood + 1e-6) - weight * torch.log(average[some])

    return Columns((len(exemplars), len(t)), e, of, len(seen.used))


@by_columns
def discover_then_name(exemplars: Exemplars, embeddings: Any, texts: Any, *, decoder: Any) -> Columns:
    """cos(decoder direction of a latent, text): Rao et al. 2024, ECCV, arXiv 2407.14499 ("Discover-then-Name").

    For sparse autoencoders over the encoder's own image embeddings only. No image is looked at.

    Args:
        exemplars: says which latents; one without any exemplar scores NaN.
        embeddings: (I,D).
        texts: (C,D).
        decoder: (M,D), what each latent adds to an embedding; `exemplars.neurons` are rows.

    Raises:
        InputError: a decoder of another width than the texts.

    >>> discover_then_name(exemplars, embeddings, texts, decoder=[[0.0, 2.0, 0.0], [1.0, 0.0, 1.0]])
    tensor([[0.0000, 1.0000, 0.0000],
            [0.7071, 0.0000, 0.7071]])
    """
    e, t = _spaces(embeddings, texts)
    directions = matrix(decoder, "decoder").to(e)
    if directions.shape[1] != e.shape[1]:
        raise InputError(f"`decoder` must have width {e.shape[1]} like `texts`; got shape {tuple(directions.shape)}")
    v = unit_rows(directions[exemplars.neurons.to(e.device)])
    return _products(v.masked_fill((exemplars.positives < 0).all(1).to(e.device)[:, None], torch.nan), t)


ACTIVATIONS = "activations"
"""Name of the keyword by which a scorer asks for the activations of all images."""
DECODER = "decoder"
"""Name of the keyword by which a scorer asks for the directions of an autoencoder's latents in the encoder's space."""
SCORERS: Registry[Scorer] = Registry(
    "scorers",
    {
        "semanticlens": semanticlens,
        "csp": csp,
        "clip_dissect": clip_dissect,
        "clip_dissect_csp": clip_dissect_csp,
        "centred": centred,
        "mean_difference": mean_difference,
        "lookalike": lookalike, "linear": linear, "invert": invert,
        "describe_and_dissect": describe_and_dissect, "discover_then_name": discover_then_name,
    },
    one="scorer", takes=("exemplars", "embeddings", "texts"), by_name=(ACTIVATIONS, DECODER),
)  # fmt: skip
"""Scorers by name; a package adds one with an entry point in the group "contralens.scorers"."""


def _spaces(embeddings: Any, texts: Any) -> tuple[Tensor, Tensor]:
    e, t = matrix(embeddings, "embeddings"), matrix(texts, "texts")
    if e.shape[1] != t.shape[1]:
        raise InputError(f"`texts` must have width {e.shape[1]} like `embeddings`; got shape {tuple(t.shape)}")
    return e, t.to(e)


def _products(v: Tensor, t: Tensor) -> Columns:
    return Columns((len(v), len(t)), v, lambda some: v @ t[some].T)


def average_row(e: Tensor) -> Tensor:
    """The mean embedding (D) of the images that have one, read block by block and added up in float64."""
    total, count = torch.zeros(e.shape[1], dtype=torch.float64, device=e.device), 0
    for block in blocks(len(e), 4 * e.shape[1] * e.element_size(), room(e.device)):
        rows = e[block]
        rows = rows[rows.isfinite().all(1)]
        total, count = total + rows.sum(0, dtype=torch.float64), count + len(rows)
    return (total / count).to(e.dtype)
