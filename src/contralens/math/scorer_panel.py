"""What several scorers say of every neuron, kept small: each one's best concepts and how far they stand out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.math.ranking import Best, Scorer
from contralens.math.scoring import score_blocks
from contralens.math.statistics import RunningTop
from contralens.types import Brief, Exemplars

PANEL = ("semanticlens", "csp", "clip_dissect", "centred:gamma=1", "lookalike:power=auto")
"""Scorers that are asked about every label: what they agree on is more often right than what one of them says."""
KEPT = 64
"""Concepts kept of each neuron; whatever ranks below counts as standing at their end."""
FEW_NEURONS = 20
"""Neurons at which the comparison of a concept's score with its scores of other neurons counts half."""


@dataclass(frozen=True, slots=True, repr=False)
class Ballot(Brief):
    """One scorer's best concepts of each neuron and what they compare with; on the CPU."""

    concepts: Tensor
    """(N,T) by falling score; -1 where there is none."""
    scores: Tensor
    """(N,T), NaN where there is none."""
    mean: Tensor
    """(N) of the neuron's scores over all concepts."""
    deviation: Tensor
    """(N)."""
    concept_mean: Tensor
    """(C) of the concept's scores over all neurons."""
    concept_deviation: Tensor
    """(C)."""

    @property
    def labels(self) -> Tensor:
        """(N) the best concept, -1 for none."""
        return self.concepts[:, 0]

    def best(self, count: int) -> Best:
        """The `count` best concepts of each neuron, up to `KEPT`."""
        return Best(self.concepts[:, :count], self.scores[:, :count])

    def stands(self, candidates: Tensor) -> dict[str, Tensor]:
        """How candidates (N,Q), concept indices, stand with this scorer: each (N,Q).

        "rank": 0 for the best, 1 for the `KEPT`-th and below, logarithmic. "among concepts", "among neurons": the score
        in deviations above the neuron's mean over concepts and above the concept's mean over neurons. "margin": to the
        best other concept, in deviations over concepts.
        """
        concepts, scores = self.concepts[:, :KEPT], self.scores[:, :KEPT].float()
        there = concepts[:, None, :] == candidates[:, :, None]
        found = there.any(2)
        place = torch.where(found, there.int().argmax(2), concepts.shape[1] - 1)
        last = scores.where(concepts >= 0, torch.inf).amin(1, keepdim=True)
        value = torch.where(found, scores.gather(1, place), last)
        second = scores[:, 1:2] if scores.shape[1] > 1 else last
        rival = torch.where(place == 0, second, scores[:, :1])
        spread, of = self.deviation[:, None].clamp_min(1e-9), candidates.clamp_min(0)
        count = len(self.concepts)
        return {
            "rank": torch.log1p(place.float()) / torch.log(torch.tensor(float(KEPT))),
            "among concepts": (value - self.mean[:, None]) / spread,
            "among neurons": (value - self.concept_mean[of]) / self.concept_deviation[of].clamp_min(1e-9)
            * (count / (count + FEW_NEURONS)),
            "margin": (value - rival) / spread,
        }  # fmt: skip


def ballot(scorer: str | Scorer, exemplars: Exemplars, embeddings: Any, texts: Any, activations: Any = None) -> Ballot:
    """What a scorer says, from its scores of some concepts after the other: (N,C) never stands in memory.

    The arguments are those of `run_scorer`.

    >>> said = ballot("csp", exemplars, embeddings, texts)
    >>> said.labels, said.stands(torch.tensor([[1], [1]]))["rank"].tolist()
    (tensor([1, 2]), [[0.0], [0.26416...]])
    """
    return ballot_of(score_blocks(scorer, exemplars, embeddings, texts, activations))


def ballot_of(scores: Iterator[tuple[slice, Tensor]], kept: int = KEPT) -> Ballot:
    """As `ballot`, from (which concepts, scores (N,c)) in the order of the concepts; at least `kept` are kept."""
    top: RunningTop | None = None
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    for block, some in scores:
        if top is None:
            top = RunningTop(some.T, max(kept, KEPT))
        top.add(block.start, some.T)
        by_row, by_column = _sums(some)
        rows.append(by_row)
        columns.append(torch.stack(_spread(by_column)))
    assert top is not None
    values, concepts = top.result()
    every, spread = torch.cat(columns, 1), _spread(torch.stack(rows).sum(0))
    return Ballot(concepts, values.masked_fill(concepts < 0, torch.nan), *spread, *every)


def _sums(some: Tensor) -> tuple[Tensor, Tensor]:
    """Of scores (N,c), along the rows (3,N) and the columns (3,c), float64: how many, their sum and that of squares."""
    count = [torch.full((len(some),), some.shape[1]), torch.full((some.shape[1],), len(some))]
    total = some.sum(1)
    if not bool(total.isfinite().all()):
        told = some.isfinite()
        some, count = some.masked_fill(~told, 0.0), [told.sum(1), told.sum(0)]
        total = some.sum(1)
    square = some.square()
    sums = ((total, square.sum(1)), (some.sum(0), square.sum(0)))
    rows, columns = (torch.stack([n, *both]) for n, both in zip(
        (n.double().cpu() for n in count), ([each.double().cpu() for each in both] for both in sums), strict=True
    ))  # fmt: skip
    return rows, columns


def _spread(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation; NaN of nothing."""
    count, first, second = sums
    mean = first / count
    return mean.float(), (second / count - mean.square()).clamp_min(0.0).sqrt().float()
