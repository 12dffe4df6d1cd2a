"""Signs that a label is right: numbers about (neuron, concept) that the pipeline has anyway, or has for little.

None of them knows the truth. How they go together, `contralens.math.confidence` learns from neurons with known truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from contralens.math.activation_sources import ActivationSource
from contralens.math.scorer_panel import Ballot
from contralens.math.statistics import RunningTop
from contralens.math.tensors import blocks, finite_rows
from contralens.specs import scheme
from contralens.types import Exemplars

SAMPLE = 1024
"""Images from which an activation's place among all of the neuron's is computed, below its exemplars."""
STRONGEST = 5
"""Exemplars, texts and images looked at most closely."""


def signals(
    ballots: Mapping[str, Ballot], candidates: Tensor, exemplars: Exemplars, activations: ActivationSource,
    embeddings: Tensor, texts: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """Every signal of candidate labels (N,Q), concept indices or -1: name -> (N,Q) float32, NaN where it is undefined.

    Args:
        ballots: what each scorer of the panel says of the N neurons.
        candidates: (N,Q).
        exemplars: of the N neurons.
        activations: (I,M), of which `exemplars.neurons` are the columns; gone through once, and looked up.
        embeddings: (I,D) unit rows; a row with NaN leaves its image out.
        texts: (C,D).

    Memory: blocks of (I,C), (N,D), (D,D), (N,`SAMPLE`) and the answer.
    """
    e, t = embeddings.cpu().float(), texts.cpu().float()
    usable = finite_rows(e)
    if not bool(usable.all()):
        e = torch.where(usable[:, None], e, 0.0)
    seen = _Seen.of(activations, exemplars.neurons.cpu(), e, usable)
    unique, which = torch.unique(candidates.clamp_min(0), return_inverse=True)
    found = _votes(ballots, candidates, len(t))
    nearest = _Nearest.of(exemplars.positives.cpu(), unique, usable, e, t)
    found |= _exemplars_say(exemplars, which, unique, candidates, nearest, seen, e, t)
    found |= _images_say(exemplars, nearest.images[which], activations, seen, usable)
    found |= _halves(exemplars, candidates, seen, e, t)
    found |= {name: value[:, None].expand(candidates.shape) for name, value in _neuron(exemplars, seen, e).items()}
    return {name: value.float().masked_fill(candidates < 0, torch.nan) for name, value in found.items()}


@dataclass(frozen=True, slots=True)
class _Seen:
    """One pass over the activations of N neurons."""

    mean: Tensor
    deviation: Tensor
    """(N) each."""
    covariance: Tensor
    """(N,D) of activation and embedding."""
    centre: Tensor
    """(D) mean embedding."""
    scatter: Tensor
    """(D,D) covariance of the embeddings."""
    sample: Tensor
    """(N,S) activations of images drawn at random, rising."""

    @classmethod
    def of(cls, a: ActivationSource, neurons: Tensor, e: Tensor, usable: Tensor) -> _Seen:
        centre = (e if bool(usable.all()) else e[usable]).mean(0)
        drawn = torch.randperm(len(e), generator=torch.Generator().manual_seed(0))[:SAMPLE].sort().values
        n = len(neurons)
        first, second, count = (torch.zeros(n, dtype=torch.float64) for _ in range(3))
        along, lost, sample = torch.zeros(n, e.shape[1]), torch.zeros(n, e.shape[1]), []
        scatter = torch.zeros(e.shape[1], e.shape[1], dtype=torch.float64)
        for start, rows in a.blocks(neurons, budget=16 * 2**20):
            rows, here = rows.cpu().float(), slice(start, start + len(rows))
            counts = rows.isfinite() & usable[here, None]
            sample.append(rows[drawn[(drawn >= here.start) & (drawn < here.stop)] - here.start])
            rows = rows.masked_fill(~counts, 0.0)
            first, second = first + rows.sum(0).double(), second + rows.double().square().sum(0)
            count += counts.sum(0)
            x = (e[here] - centre).masked_fill_(~usable[here, None], 0.0)
            along += rows.T @ x
            scatter += x.T @ x
            if not bool(counts.all()):
                lost += (~counts).float().T @ x
        mean = first / count
        deviation = (second / count - mean.square()).clamp_min(0.0).sqrt()
        covariance = (along + mean.float()[:, None] * lost) / count.float()[:, None]  # x sums to 0 over all images
        places = torch.cat(sample).T.nan_to_num(-torch.inf).sort(dim=1).values
        spread = (scatter / usable.sum()).float()
        return cls(mean.float(), deviation.float().clamp_min(1e-12), covariance, centre, spread, places.contiguous())


def _votes(ballots: Mapping[str, Ballot], candidates: Tensor, concepts: int) -> dict[str, Tensor]:
    """What the scorers say: each one's view, how many chose the candidate, and for how many other neurons they did."""
    found = {
        f"{key} ({scheme(name)[0]})": value
        for name, said in ballots.items()
        for key, value in said.stands(candidates).items()
    }
    votes = torch.stack([said.labels[:, None] == candidates for said in ballots.values()], 0).float()
    labels = torch.cat([said.labels for said in ballots.values()])
    every = torch.bincount(labels[labels >= 0], minlength=concepts)
    others = (every[candidates.clamp_min(0)] - votes.sum(0)) / len(ballots)
    ranks = torch.stack([value for key, value in found.items() if key.startswith("rank")])
    return found | {
        "votes": votes.mean(0),
        "worst rank": ranks.amax(0),
        "other neurons": torch.log1p(others.clamp_min(0.0)),
    }


@dataclass(frozen=True, slots=True)
class _Nearest:
    """Images and texts that are nearest to one another, from one product of both."""

    place: Tensor
    """(N,K) row of the next two for each exemplar."""
    texts: Tensor
    """(P,5) nearest texts of each exemplar's image."""
    cosine: Tensor
    """(P) with the nearest of them."""
    images: Tensor
    """(U,5) nearest images of each candidate's text."""

    @classmethod
    def of(cls, positives: Tensor, unique: Tensor, usable: Tensor, e: Tensor, t: Tensor) -> _Nearest:
        """Of exemplars (N,K), and of candidates (U), texts' indices. Memory: blocks, and what it holds."""
        looked_at, place = torch.unique(positives.clamp_min(0), return_inverse=True)
        asked = torch.zeros(len(e), dtype=torch.bool)
        asked[looked_at] = True
        top = RunningTop(t[:0, :1].expand(0, len(unique)), min(STRONGEST, int(usable.sum())))
        texts, cosine = [], []
        for part in blocks(len(e), 4 * len(t), budget=16 * 2**20):
            here = torch.arange(part.start, part.stop)
            some = asked[part]
            among_all = e[here[some]] @ t.T
            best = among_all.topk(min(STRONGEST, len(t)), dim=1)
            texts.append(best.indices)
            cosine.append(best.values[:, 0])
            columns = torch.empty(len(here), len(unique))
            columns[some] = among_all[:, unique]
            if not bool(some.all()):
                columns[~some] = e[here[~some]] @ t[unique].T
            if not bool(usable[part].all()):
                columns[~usable[part]] = -torch.inf
            top.add(part.start, columns)
        return cls(place, torch.cat(texts), torch.cat(cosine), top.result()[1])


def _exemplars_say(
    exemplars: Exemplars, which: Tensor, unique: Tensor, candidates: Tensor, nearest: _Nearest, seen: _Seen, e: Tensor,
    t: Tensor,
) -> dict[str, Tensor]:  # fmt: skip
    """How the exemplars and their contrasts look beside the candidate's text, and which texts they are nearest to."""
    positives, contrasts = exemplars.positives.cpu(), exemplars.contrasts.cpu()
    there = positives >= 0
    top = there & (torch.arange(there.shape[1]) < STRONGEST)
    near = torch.zeros(3, *candidates.shape)
    texts = nearest.texts[nearest.place]
    for q in range(candidates.shape[1]):
        hit = texts == candidates[:, q, None, None]
        near[0, :, q] = _mean(hit.any(2).float(), top)
        near[1, :, q] = _mean(hit[:, :, 0].float(), top)
        near[2, :, q] = _mean(hit.any(2).float(), there)
    middles = (_middle(e, *side) for side in ((positives, there), (contrasts, contrasts >= 0), (positives, top)))
    own, contrast, five = (_along(v, t, candidates) for v in middles)
    text = t[unique]
    usual = (text @ seen.centre)[which]  # of the cosine with each text over all images: mean, then deviation
    scale = ((text @ seen.scatter) * text).sum(1).clamp_min(0.0).sqrt().clamp_min(1e-9)[which]
    return {
        "near (strongest)": near[0],
        "nearest (strongest)": near[1],
        "near (all)": near[2],
        "above the average image": (own - usual) / scale,
        "above the average image (strongest)": (five - usual) / scale,
        "above the contrasts": ((own - contrast) / scale).nan_to_num(0.0),
        "cosine": five,
        "cosine below the best": five - _mean(nearest.cosine[nearest.place], top)[:, None],
        "correlation": _along(seen.covariance, t, candidates) / (seen.deviation[:, None] * scale),
        "closest other word": _closest(normalize(t, dim=1), unique)[which],
    }


def _images_say(
    exemplars: Exemplars, images: Tensor, activations: ActivationSource, seen: _Seen, usable: Tensor
) -> dict[str, Tensor]:
    """The way back: do the images (N,Q,5) that are nearest to the candidate's text activate the neuron?"""
    neurons = exemplars.neurons.cpu()[:, None, None].expand(images.shape)
    value = (
        activations.lookup(images.reshape(-1), neurons.reshape(-1))
        .cpu()
        .float()
        .view(images.shape)
        .nan_to_num(-torch.inf)
    )
    values = exemplars.activations.cpu().nan_to_num(torch.inf)
    k, total = (exemplars.positives.cpu() >= 0).sum(1), float(usable.sum())
    above = (values[:, None, None, :] > value[..., None]).sum(3).clamp_max(k[:, None, None])
    below = torch.searchsorted(seen.sample, value.flatten(1).contiguous()).view(value.shape) / seen.sample.shape[1]
    rank = torch.where(
        above < k[:, None, None], above.float(), torch.maximum((1 - below) * total, k[:, None, None].float())
    )
    rank = torch.log1p(rank) / torch.log1p(torch.tensor(total))
    strongest = _mean(
        exemplars.activations.cpu(), (exemplars.positives.cpu() >= 0) & (torch.arange(values.shape[1]) < STRONGEST)
    )
    scale = (strongest - seen.mean).clamp_min(1e-12)[:, None, None]
    back = ((value.nan_to_num(neginf=0.0) - seen.mean[:, None, None]) / scale).clamp(-2.0, 2.0)
    return {
        "its image's rank": rank[:, :, 0],
        "its images' rank": rank.mean(2),
        "its images' activation": back.mean(2),
        "its images among the exemplars": (above < k[:, None, None]).float().mean(2),
    }


def _halves(exemplars: Exemplars, candidates: Tensor, seen: _Seen, e: Tensor, t: Tensor) -> dict[str, Tensor]:
    """Whether two halves of the exemplars, every other one, say the same."""
    positives = exemplars.positives.cpu()
    half = torch.arange(positives.shape[1]) % 2 == 0
    one, other = (
        normalize(_middle(e, positives, (positives >= 0) & side) - seen.centre, dim=1) for side in (half, ~half)
    )
    rank = torch.zeros(candidates.shape)
    for v in (one, other):
        own = _along(v, t, candidates)
        above = torch.zeros(candidates.shape)
        for part in blocks(len(t), 4 * len(v)):
            scores = v @ t[part].T
            for q in range(candidates.shape[1]):
                above[:, q] += (scores > own[:, q, None]).sum(1)
        rank += torch.log1p(above) / (2 * torch.log1p(torch.tensor(float(len(t)))))
    return {"rank in both halves": rank, "halves alike": (one * other).sum(1)[:, None].expand(candidates.shape)}


def _neuron(exemplars: Exemplars, seen: _Seen, e: Tensor) -> dict[str, Tensor]:
    """What the neuron is like, whatever its label: (N) each."""
    there = exemplars.positives.cpu() >= 0
    values = exemplars.activations.cpu()
    count = there.sum(1)
    weakest = values.nan_to_num(torch.inf).amin(1)
    length = _middle(e, exemplars.positives.cpu(), there).square().sum(1)
    few = there & (torch.arange(there.shape[1]) < STRONGEST)
    length_few = _middle(e, exemplars.positives.cpu(), few).square().sum(1)

    def alike(length: Tensor, count: Tensor) -> Tensor:
        return (count * length - 1) / (count - 1).clamp_min(1)

    return {
        "peak": (values[:, 0] - weakest) / seen.deviation,
        "strength": (values[:, 0] - seen.mean) / seen.deviation,
        "contrasts' cosine": exemplars.similarities.cpu().nanmean(1),
        "exemplars alike": alike(length, count) - seen.centre.square().sum(),
        "strongest alike": alike(length_few, few.sum(1)) - seen.centre.square().sum(),
    }


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """Mean over the last dimension of what is there."""
    return values.masked_fill(~there, 0.0).sum(-1) / there.sum(-1)


def _middle(e: Tensor, images: Tensor, there: Tensor) -> Tensor:
    """Mean embedding (N,D) of the images (N,K) that are there; NaN where none is."""
    share = there.float() / there.sum(1, keepdim=True).clamp_min(1)
    out = torch.nn.functional.embedding_bag(images.clamp_min(0), e, per_sample_weights=share, mode="sum")
    return out.masked_fill(~there.any(1, keepdim=True), torch.nan)


def _along(v: Tensor, t: Tensor, candidates: Tensor) -> Tensor:
    """Products (N,Q) of each neuron's row (N,D) with the texts of its candidates."""
    out = torch.empty(candidates.shape)
    for part in blocks(len(v), 4 * t.shape[1] * candidates.shape[1]):
        out[part] = (t[candidates[part].clamp_min(0)] @ v[part, :, None])[:, :, 0]
    return out


def _closest(t: Tensor, unique: Tensor) -> Tensor:
    """Cosine (U) of each text with the nearest other one."""
    if len(t) < 2:
        return torch.zeros(len(unique))
    out = torch.empty(len(unique))
    for part in blocks(len(unique), 4 * len(t)):
        out[part] = (t[unique[part]] @ t.T).topk(2, dim=1).values[:, 1]
    return out
