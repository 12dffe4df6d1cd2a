"""Describe-and-Dissect's choice among candidate concepts (Bai et al. 2024, arXiv 2403.13771), after its published code.

A neuron has M candidates, and each candidate G images that show it. All M G images are sorted by the neuron's
activation; place 0 is the most activating one. For candidate c with the places r[1] < r[2] < ... of its images

    s(c)    = mean over its first `beta` images of r^2                    ("squares"; or the mean or median of all r)
    rank(c) = M for the smallest s, ... 1 for the largest; ties by lower concept
    like(c) = mean cosine of the neuron's strongest exemplars and those images of c with a place below `top`; -1 if none
    score   = rank(c) like(c).

The paper's candidates are captions by BLIP, summarised by GPT, and its images are painted by Stable Diffusion. The
scorer `describe_and_dissect` has stand-ins for both: the concepts most similar to the exemplars, and the probe images
most similar to each concept. `dissected` takes any candidates and images: a painter's, or those that a user has.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.errors import InputError
from contralens.math.invert import ranks
from contralens.math.ranking import Columns, belonging, by_columns
from contralens.math.tensors import blocks, combine, room
from contralens.types import Exemplars

Ranking = Literal["squares", "mean", "median"]
By = Literal["both", "ranks", "images"]
SHOWN = 10
"""Strongest exemplars of a neuron that candidates' images are compared with."""
CHOSEN = 2.0
"""Added to a candidate's score / M, from -1 to 1: that is above every cosine of a concept that is no candidate."""


@by_columns
def describe_and_dissect(
    exemplars: Exemplars,
    embeddings: Any,
    texts: Any,
    *,
    activations: Any,
    candidates: int = 5,
    images: int = 10,
    top: int = 10,
    beta: int = 5,
    ranking: Ranking = "squares",
    by: By = "both",
) -> Columns:
    """Describe-and-Dissect's choice among the concepts most similar to the exemplars; see the module.

    A candidate scores 2 + score / M; other concepts score <v, t>, v the mean of the exemplars (SemanticLens).

    Args:
        exemplars: of N neurons; one without any exemplar scores NaN.
        embeddings: (I,D); an image whose row has NaN shows no concept.
        texts: (C,D).
        activations: (I,M) of the same images, in memory or any `ActivationSource`; an image with NaN is left out for
            that neuron.
        candidates: concepts of each neuron to choose among; 0 for all C.
        images: G, the probe images most similar to a candidate.
        top: places that count for the comparison of images.
        beta: images whose places count by "squares".
        ranking: "squares", "mean" or "median" of places.
        by: "both", or only the "ranks" or the comparison of "images".

    Memory: (N,M), and (I,c) for some concepts at a time.

    Raises:
        InputError: matrices that do not belong together, or options out of range.

    >>> describe_and_dissect(exemplars, embeddings, texts, activations=activations, candidates=2, images=1).shape
    torch.Size([2, 3])
    """
    a, e, t = belonging(activations, embeddings, texts)
    if candidates < 0 or min(images, top, beta) < 1:
        raise InputError(
            f"`candidates` must be at least 0, `images`, `top` and `beta` at least 1; got {candidates}, {images}, "
            f"{top}, {beta}"
        )
    t, neurons, positives = t.to(e), exemplars.neurons.cpu(), exemplars.positives.cpu()
    none = (positives < 0).all(1)
    v, strongest = (_mean(e, some) for some in (positives, positives[:, :SHOWN]))
    v = normalize(v, dim=1)
    count = min(candidates or len(t), len(t))
    chosen = _nearest(v, t, count)
    used, place = torch.unique(chosen, return_inverse=True)
    shows = _shown(e, t[used], min(images, len(e)))
    score = torch.empty(len(v), count, dtype=e.dtype)
    for part in blocks(len(v), (64 + e.shape[1] * e.element_size()) * count * shows.shape[1]):
        pictures = shows[place[part]]
        there = pictures.clamp_min(0)
        column = neurons[part, None, None].expand_as(pictures)
        values = a.lookup(there.flatten(), column.flatten()).cpu().view(pictures.shape)
        alike = (e[there] @ strongest[part, None, :, None])[..., 0]
        found = dissected(
            values.masked_fill(pictures < 0, torch.nan), alike, top=top, beta=beta, ranking=ranking, by=by
        )
        score[part] = (CHOSEN + found / count).to(e.dtype)

    def of(some: slice) -> Tensor:
        out = v @ t[some].T
        row, at = ((chosen >= some.start) & (chosen < some.stop)).nonzero(as_tuple=True)
        out[row, chosen[row, at] - some.start] = score[row, at]
        return out.masked_fill(none[:, None], torch.nan)

    return Columns((len(v), len(t)), e, of)


def dissected(
    values: Any, alike: Any, *, top: int = 10, beta: int = 5, ranking: Ranking = "squares", by: By = "both"
) -> Tensor:
    """Scores (N,M) of candidates from the neuron's activations on their images; the label is the largest.

    Args:
        values: (N,M,G) activations on the images of each candidate; NaN where there is no image.
        alike: (N,M,G) mean cosine of each image and the neuron's strongest exemplars.
        top: places that count for the comparison of images.
        beta: images whose places count by "squares".
        ranking: "squares", "mean" or "median" of places.
        by: "both", or only the "ranks" or the comparison of "images".

    Returns:
        float64: rank times likeness, between -M and M. A candidate without any image comes last among the ranks.

    Raises:
        InputError: shapes that differ, or an unknown ranking.

    >>> dissected([[[5.0, 4.0], [1.0, 3.0]]], [[[0.5, 0.7], [0.9, 0.9]]], top=2)  # the second has no place below 2
    tensor([[ 1.2000, -1.0000]], dtype=torch.float64)
    """
    x, likeness = (torch.as_tensor(some).double().cpu() for some in (values, alike))
    if x.ndim != 3 or x.shape != likeness.shape or min(top, beta) < 1:
        raise InputError(
            "`values` and `alike` must be (N,M,G), `top` and `beta` at least 1; "
            f"got {tuple(x.shape)}, {tuple(likeness.shape)}, {top} and {beta}"
        )
    if ranking not in get_args(Ranking) or by not in get_args(By):
        raise InputError(f"`ranking` must be one of {get_args(Ranking)} and `by` of {get_args(By)}")
    rising, there = ranks(x.flatten(1).T)
    count, m = there.sum(0), x.shape[1]
    places = (count[:, None] - rising.T).masked_fill(there.T == 0, torch.inf).view(x.shape)
    first = places < top
    like = likeness.masked_fill(~first, 0.0).sum(2) / first.sum(2)
    like = torch.where(first.any(2), like, -1.0)
    if by == "images":
        return like
    order = _summary(places, beta, ranking).sort(dim=1, stable=True).indices
    rank = torch.empty_like(like).scatter_(1, order, m - torch.arange(m, dtype=like.dtype).expand(len(x), m))
    return rank if by == "ranks" else rank * like


def _summary(places: Tensor, beta: int, ranking: Ranking) -> Tensor:
    """Of the places (N,M,G) of each candidate's images, infinite where there is none, one number (N,M)."""
    ordered = places.sort(dim=2).values
    if ranking == "squares":
        ordered = ordered[..., :beta].square()
    there = ordered.isfinite()
    if ranking == "median":
        return ordered.masked_fill(~there, torch.nan).nanquantile(0.5, dim=2).nan_to_num(torch.inf)
    return (ordered.masked_fill(~there, 0.0).sum(2) / there.sum(2)).nan_to_num(torch.inf)


def _mean(e: Tensor, positives: Tensor) -> Tensor:
    """Mean embedding (N,D) of exemplars (N,K)."""
    w = (positives >= 0).to(e.dtype)
    return combine(e, positives, w / w.sum(1, keepdim=True).clamp_min(1.0))


def _nearest(v: Tensor, t: Tensor, count: int) -> Tensor:
    """(N,count) the concepts of the largest <v, t>, by rising index."""
    out = torch.arange(len(t)).expand(len(v), len(t))
    if count < len(t):
        parts = [(v[part] @ t.T).topk(count, dim=1).indices for part in blocks(len(v), 8 * len(t), room(v.device))]
        out = torch.cat(parts) if parts else torch.empty(0, count, dtype=torch.int64)
    return out.sort(1).values


def _shown(e: Tensor, t: Tensor, images: int) -> Tensor:
    """(U,G) the images most similar to each concept, ties by lower index; -1 where there are no more."""
    out = torch.empty(len(t), images, dtype=torch.int64)
    for part in blocks(len(t), 24 * len(e), room(e.device)):
        similar = (e @ t[part].T).nan_to_num(-torch.inf).sort(dim=0, descending=True, stable=True)
        out[part] = similar.indices[:images].masked_fill(similar.values[:images] == -torch.inf, -1).T
    return out
