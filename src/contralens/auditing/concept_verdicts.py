"""Verdicts: what a neuron's scores, their noise, its confidence and the encoder's checks come to.

A neuron is "unexplained" if its best concept does not beat the empty template and the null (`aligning`), is one of the
list's other concepts, is one that the encoder cannot read on these images (`reading`), or has a confidence below
`LIKELY`: the probability by `contralens.math.confidence` that the concept is right, among the list's wordings and the
run's own vocabulary (a list of ten concepts alone always has a nearest one). That is asked whatever the scorer is, for
a scorer may rank neurons beyond the null by pictures that the encoder cannot tell.

It is "undecided" where the best expected and the best spurious concept tie: |z_e - z_s| < `TIE` deviations of that
difference. The deviation is over `DRAWS` bootstrap samples of the neuron's exemplars, each drawn with its contrast; for
a scorer that looks at all activations, over the null neurons, which are as noisy as random images. `TIE` = 1.64 leaves
a wrong sign a chance of one in twenty where the difference is normal.

Else the verdict is the side of the list that the best concept is from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from contralens.auditing.alignment import Alignment, Wordings
from contralens.auditing.concepts import ConceptList
from contralens.auditing.encoder_checks import Reading
from contralens.data.audits import NEURONS, VERDICTS
from contralens.math.confidence import Weighed
from contralens.types import Brief, Exemplars

LIKELY = 0.5
"""Confidence that a verdict's concept needs: more likely right than not."""
TIE = 1.64
"""Deviations of the difference of the two sides below which it is a tie."""


def concept_confidence(
    best: Tensor, words: Wordings, others: Tensor, exemplars: Exemplars, activations: Any, embeddings: Tensor
) -> Tensor:
    """(N) probability that the best concept (N, -1 for none) is right: the sum over its wordings.

    Args:
        best: index into the concept list.
        words: the list in the encoder's space.
        others: (V,D) unit rows of words that compete with the list's.
        exemplars: of the N neurons.
        activations: (I,M), of which `exemplars.neurons` are columns.
        embeddings: (I,D) unit rows of the same images.

    >>> concept = torch.tensor([0, 1, 1])
    >>> words = Wordings(texts, concept, ["red", "striped", "banded"], None, texts, concept)
    >>> found = concept_confidence(torch.tensor([1, 1]), words, texts[:0], exemplars, activations, embeddings)
    >>> bool((found < 0.5).all())  # four images prove nothing
    True
    """
    texts = torch.cat([words.texts, others.to(words.texts)])
    weighed = Weighed.by_panel(exemplars, activations, embeddings, texts)
    concept = torch.cat([words.concept, torch.full((len(others),), -1)])
    of = concept[weighed.candidates.clamp_min(0)]
    own = (weighed.candidates >= 0) & (of == best[:, None])
    return weighed.probabilities.masked_fill(~own, 0.0).sum(1).masked_fill(best < 0, torch.nan)


@dataclass(repr=False)
class Verdicts(Brief):
    """Rows of the table of neurons, in the order of the exemplars."""

    listed: ConceptList
    exemplars: Exemplars
    aligned: Alignment
    noise: Tensor
    """(N) deviation of z_e - z_s."""
    confidence: Tensor
    """(N)."""
    reading: Reading
    fdr: float
    layer: dict[str, Tensor]
    """(N) each: clarity, redundancy, polysemanticity."""

    def __post_init__(self) -> None:
        explained = self.aligned.explained(self.fdr).tolist()
        self._judged = [self._judge(row, passes) for row, passes in enumerate(explained)]

    @property
    def words(self) -> list[str]:
        """(N) verdicts."""
        return [verdict for verdict, _ in self._judged]

    @property
    def spurious(self) -> Tensor:
        """(N) bool."""
        return torch.tensor([word == "spurious" for word in self.words], dtype=torch.bool)

    def _judge(self, row: int, passes: bool) -> tuple[str, str]:
        """A verdict, and why it is none of a side's."""
        best = int(self.aligned.best[row])
        if best < 0 or not passes:
            return "unexplained", "no concept of the list beats the null and the empty template"
        concept = self.listed.concepts[best]
        if concept.side not in VERDICTS:
            return "unexplained", f"{concept.name} is neither expected nor spurious"
        if why := self.reading.why(best):
            return "unexplained", f"the encoder cannot read {concept.name} on these images: {why}"
        if not (sure := float(self.confidence[row])) >= LIKELY:
            return "unexplained", f"{concept.name} is not supported: confidence {sure:.2f}, {LIKELY:g} needed"
        apart, noise = abs(float(self.z("expected")[row] - self.z("spurious")[row])), float(self.noise[row])
        if not apart >= TIE * noise:
            sides = [self._best(row, side) for side in ("expected", "spurious")]
            return "undecided", f"{sides[0]} and {sides[1]} tie: {apart:.2g} apart, {TIE:g} x {noise:.2g} needed"
        return concept.side, ""

    def _best(self, row: int, side: str) -> str:
        own = torch.tensor([c.side == side for c in self.listed])
        return self.listed.concepts[int(self.aligned.z[row].masked_fill(~own, -torch.inf).argmax())].name

    def z(self, side: str) -> Tensor:
        """(N) the largest z on one side of the list."""
        return self.aligned.side(torch.tensor([c.side == side for c in self.listed]))

    def table(self) -> pa.Table:
        a = self.aligned
        at = a.best.clamp_min(0)[:, None]
        numbers = {
            "score": a.scores.gather(1, at)[:, 0], "empty": a.empty, "z": a.z.gather(1, at)[:, 0],
            "expected": self.z("expected"), "spurious": self.z("spurious"), "noise": self.noise, "p": a.p,
            "fdr": a.fdr, "confidence": self.confidence, **self.layer,
        }  # fmt: skip
        best = [self.listed.concepts[c] if c >= 0 else None for c in a.best.tolist()]
        columns: dict[str, Any] = {
            "neuron": self.exemplars.neurons.tolist(), "verdict": self.words,
            "concept": [b.name if b and v == b.side else None for b, v in zip(best, self.words, strict=True)],
            "side": [b.side if b else None for b in best], "best": [b.name if b else None for b in best],
            "reason": [reason for _, reason in self._judged],
        }  # fmt: skip
        columns |= {name: value.double().tolist() for name, value in numbers.items()}
        return pa.table({name: columns[name] for name in NEURONS.names}, schema=NEURONS)
