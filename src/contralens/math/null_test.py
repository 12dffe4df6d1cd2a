"""Does a label beat chance? Fake neurons go the way of the real ones, and each label gets a false-discovery rate.

Exemplars of null neurons (`contralens.math.null_neurons`) are found and scored like those of real neurons, together
with them, since some scorers look at the whole set.

The test. S[n,c] are scores; R[n,c] = S[n,c] - mean over c' != c of S[n,c'] says how far a concept stands out among the
others, since images that lean to all texts alike, or away from them, say nothing. The first `CALIBRATION` null neurons
give the mean m[c] and the deviation s[c] of R[.,c] under chance; a neuron's statistic is z[n] = (R[n,label] - m[label])
/ s[label], so a concept that fits any heap of images is worth little. The other M null neurons give p[n] = (1 + #{null
neurons with z >= z[n]}) / (M + 1), which is valid whatever the distribution. q[n] is the false-discovery rate at which
n would just be kept (Storey 2002 with lambda = 1/2, or Benjamini & Hochberg 1995). No label can have p below 1 / (M +
1): few real neurons among many need more null neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.math.null_neurons import together
from contralens.math.ranking import Scorer
from contralens.math.scoring import score_blocks
from contralens.math.statistics import RunningTop
from contralens.math.tensors import matrix
from contralens.types import Brief, Exemplars

CALIBRATION = 0.3
"""Share of the null neurons that calibrate the concepts."""


@dataclass(frozen=True, slots=True, repr=False)
class Chance(Brief):
    """What chance would give, per neuron (N); NaN for a neuron without a label.

    >>> from contralens.math.null_neurons import fake_exemplars
    >>> told = chance("csp", exemplars, fake_exemplars(activations, embeddings, 50, k=2), embeddings, texts)
    >>> told.beats(0.05), bool((told.p >= 1 / 36).all())  # four images prove nothing; 35 of 50 fakes are counted
    (tensor([False, False]), True)
    """

    z: Tensor
    """How far the label's score stands out among the concepts, in deviations of the same under chance."""
    p: Tensor
    """How often a null neuron's label stands out as much."""
    q: Tensor
    """False-discovery rate at which the label would just be kept."""
    fakes: Tensor
    """(M) z of the null neurons that p was counted on."""
    null_share: float
    """Estimated share of the labeled neurons that chance explains (Storey's pi0; 1 for "bh")."""

    def beats(self, fdr: float = 0.05) -> Tensor:
        """Neurons (N, bool) whose label is kept at this rate; the others' answer is "no label beats chance"."""
        return self.q <= fdr


def chance(
    score: str | Scorer, real: Exemplars, fakes: Exemplars, embeddings: Any, texts: Any, activations: Any = None, *,
    labels: Any = None, method: Literal["storey", "bh"] = "storey",
) -> Chance:  # fmt: skip
    """False-discovery rate of every neuron's label under one scorer.

    Args:
        score: a scorer, as in `run_scorer`.
        real: exemplars of the N real neurons.
        fakes: exemplars of the fakes (`fake_exemplars`), at least 20.
        embeddings: (I,D).
        texts: (C,D).
        activations: (I,N+M), of the null neurons too (`with_fakes`), for a scorer that looks at them.
        labels: (N) index of each neuron's label, -1 for none; by default what the scorer says here. A scorer that looks
            at the whole set (CLIP-Dissect's prior) may say otherwise beside the null neurons than it did alone.
        method: how rates follow from p: "storey" or "bh".

    Raises:
        InputError: fewer than 20 null neurons.

    >>> from contralens.math.null_neurons import fake_exemplars
    >>> fakes = fake_exemplars(activations, embeddings, 50, k=2)
    >>> chance("csp", exemplars, fakes, embeddings, texts).p.shape
    torch.Size([2])
    """
    both = together(real, fakes)
    scores = score_blocks(score, both, embeddings, texts, activations)
    return _chance(scores, len(both), len(real), labels, method)


def chance_of(scores: Any, real: int, *, labels: Any = None, others: bool = True) -> Chance:
    """False-discovery rates from scores (N+M,C) whose first `real` = N rows are the neurons and whose rest are null
    neurons.

    `others=False` measures chance by the scores themselves, without taking the mean of the other concepts' scores off.
    The other arguments are those of `chance`.

    >>> scores = torch.randn(510, 5, generator=torch.Generator().manual_seed(0))
    >>> scores[0, 3] += 9  # a neuron that means concept 3
    >>> chance_of(scores, 10).beats(0.05).nonzero()[:, 0]
    tensor([0])
    """
    s = matrix(scores, "scores")
    return _chance(iter([(slice(0, s.shape[1]), s)]), len(s), real, labels, "storey", others)


def _chance(
    scores: Iterator[tuple[slice, Tensor]], total: int, n: int, labels: Any, method: Literal["storey", "bh"],
    others: bool = True,
) -> Chance:  # fmt: skip
    """From scores (N+M,c) of some concepts after the other; kept are four numbers a neuron and the calibrating null
    neurons' scores."""
    if total - n < 20:
        raise InputError(f"{total - n} null neurons are too few for the null test; use at least 20, better 1,000")
    given = None if labels is None else torch.as_tensor(labels, dtype=torch.int64).cpu()
    first = _first(n, total)
    parts: list[Tensor] = []
    own = torch.full((n,), torch.nan, dtype=torch.float64)
    sums, counts = torch.zeros(total, dtype=torch.float64), torch.zeros(total, dtype=torch.float64)
    top: RunningTop | None = None
    for block, some in scores:
        parts.append(some[first].cpu().clone())  # not a view that keeps the block
        if others:
            told = some.isfinite()
            sums += some.masked_fill(~told, 0).sum(1, dtype=torch.float64).cpu()
            counts += told.sum(1).cpu()
        if top is None:
            top = RunningTop(some.T, 1)
        top.add(block.start, some.T)
        if given is not None:
            here = ((given >= block.start) & (given < block.stop)).nonzero()[:, 0]
            own[here] = some[here.to(some.device), (given[here] - block.start).to(some.device)].double().cpu()
    assert top is not None
    value, best = (field[:, 0].cpu() for field in top.result())
    value = value.double().masked_fill(best < 0, torch.nan)
    if given is not None:
        best[:n], value[:n] = given, own
    best = best.clamp_min(0)
    value = _beyond(value, sums, counts)
    fields = [_spread(_beyond(part.double(), sums[first, None], counts[first, None])) for part in parts]
    mean, deviation = (torch.cat(field) for field in zip(*fields, strict=True))
    z = (value - mean[best]) / deviation[best]
    null = z[first.stop :]
    null = null[null.isfinite()]
    p = p_values(z[:n], null)
    share = null_share(p) if method == "storey" else 1.0
    return Chance(z[:n], p, q_values(p, share), null, share)


def _beyond(scores: Tensor, sums: Tensor, counts: Tensor) -> Tensor:
    """Scores less the mean of the neuron's other ones; all of a neuron's `counts` scores add up to `sums`."""
    scores = scores.masked_fill(~scores.isfinite(), torch.nan)
    return scores - ((sums - scores) / (counts - 1)).masked_fill(counts < 2, 0.0)


def standardised(scores: Any, real: int) -> Tensor:
    """Scores (N+M,C), the first `real` = N of neurons, the rest of null neurons, in deviations of each concept under
    chance.

    A concept whose text is near every image then has no advantage. The same null neurons calibrate as in `chance_of`,
    to which the result can be given: with `others=False` its z are these, of the concept that stands out most.

    >>> scores = torch.randn(120, 5, generator=torch.Generator().manual_seed(0)) + torch.arange(5) * 10
    >>> standardised(scores, 20)[:20].argmax(1).unique()  # none is best everywhere
    tensor([0, 1, 2, 3, 4])
    """
    s = matrix(scores, "scores").double()
    mean, deviation = null_moments(s, real)
    return (s - mean) / deviation


def null_moments(scores: Tensor, real: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation (C) of each concept's score among the null neurons that calibrate, of scores as in
    `standardised`.

    >>> null_moments(torch.arange(30.0)[:, None], 20)
    (tensor([24.5000]), tensor([2.8723]))
    """
    return _spread(scores[_first(real, len(scores))])


def _first(real: int, total: int) -> slice:
    """Rows of the null neurons that calibrate the concepts."""
    return slice(real, real + max(10, round(CALIBRATION * (total - real))))


def _spread(under_chance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each column."""
    mean = under_chance.nanmean(0)
    return mean, (under_chance - mean).square().nanmean(0).sqrt().clamp_min(1e-12)


def p_values(observed: Tensor, null: Tensor) -> Tensor:
    """(1 + #{null >= observed}) / (M + 1), (N) float64, of statistics (N) beside those of fakes (M).

    NaN where `observed` is.

    >>> p_values(torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0, -1.0]))
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    ordered = null.double().sort().values
    above = len(ordered) - torch.searchsorted(ordered, observed.double().contiguous(), side="left")
    return ((1 + above).double() / (len(ordered) + 1)).masked_fill(observed.isnan(), torch.nan)


def null_share(p: Tensor, threshold: float = 0.5) -> float:
    """Storey's (2002) share of true nulls among p (N): (1 + #{p > threshold}) / (n (1 - threshold)), at most 1.

    >>> null_share(torch.tensor([0.01, 0.02, 0.01, 0.7]))
    1.0
    """
    told = p[~p.isnan()]
    return min(1.0, (1 + int((told > threshold).sum())) / (max(1, len(told)) * (1 - threshold)))


def q_values(p: Tensor, share: float = 1.0) -> Tensor:
    """Benjamini & Hochberg's (1995) rates (N) of p (N) times the share of nulls.

    min over p' >= p of share n p' / rank(p'); NaN stays.

    >>> q_values(torch.tensor([0.01, 0.04, 0.03, 0.5]))
    tensor([0.0400, 0.0533, 0.0533, 0.5000], dtype=torch.float64)
    """
    out = torch.full(p.shape, torch.nan, dtype=torch.float64)
    told = (~p.isnan()).nonzero()[:, 0]
    ordered, order = p[told].double().sort()
    rank = torch.searchsorted(ordered, ordered, side="right")
    rate = (share * len(told) * ordered / rank).clamp_max(1.0)
    out[told[order]] = rate.flip(0).cummin(0).values.flip(0) if len(told) else rate
    return out


def best_labels(scores: Tensor) -> Tensor:
    """The concept of each row of scores (N,C) with the highest one, ties to the lower index, -1 where all are NaN.

    >>> best_labels(torch.tensor([[0.1, 0.3], [torch.nan, torch.nan]])).tolist()
    [1, -1]
    """
    return scores.nan_to_num(-torch.inf).argmax(1).masked_fill(scores.isnan().all(1), -1)
