"""How likely a label is right, estimated from signals that do not use the truth, and the label that `auto` takes.

The model. Candidates c of a neuron are the labels that the scorers of the panel give it (`scorer_panel`), each with
its signals x[c] (`math.confidence_signals`). At most one of them is right, so on I images

    P(c) = I / (I + 30) exp f(x[c]) / (1 + sum over candidates c' of exp f(x[c'])),
    f(x) = b + sum over signals s of g_s(x_s),

a conditional logit with "none of them" as one more answer, and with less of it on few images. Each g_s is piecewise
linear with knots at the quartiles of its signal, and flat outside the range that was learnt from, so that nothing
strange counts for more than anything seen.

`auto` takes the label with the highest P, but prefers that of the scorer `STEADY` unless another is e^2 times likelier:
on layers of a kind that the model has not seen, P errs more often than that scorer does.

Coefficients, knots and what they were learnt from are in `confidence.json` beside this file (`benchmarks/confidence.py`
makes them). Neurons whose truth is known here may shift and scale f, and move it for the labels of `STEADY` (three
numbers, shrunk towards 0, 1 and 0); the more such neurons, the less `auto` prefers that scorer beyond P.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import index
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from contralens.checks import shown, whole
from contralens.errors import InputError
from contralens.math.activation_sources import source
from contralens.math.confidence_model import model
from contralens.math.confidence_reasons import NO_LABEL, in_words
from contralens.math.confidence_signals import signals
from contralens.math.exemplars import find_exemplars
from contralens.math.planted_neurons import plant
from contralens.math.ranking import Best, belonging
from contralens.math.scorer_panel import PANEL, Ballot, ballot
from contralens.math.statistics import neuron_statistics
from contralens.math.tensors import unit_rows
from contralens.types import AUTO, Brief, Exemplars, word_of

FEW_IMAGES = 30
"""A label that was right on I images counts as if it had been wrong on this many more: a handful proves nothing."""
SHRINKAGE = 10.0
"""How many neurons' worth of doubt a shift of the level by 1 has to overcome."""
PLANTED = 150
"""Neurons that are planted where it is known what images show."""
MISSING = 0.25
"""Share of the concepts shown whose word is taken out of the vocabulary of planted neurons."""
STEADY = "lookalike:power=auto"
STAYS = 2.0
"""How much likelier, as a log ratio, another label has to be for "auto" to leave that of `STEADY`. Below ln 9, so a
supported label is never passed over. Chosen on development data (benchmarks/confidence_trials.py stay)."""
Known = tuple[Tensor, Tensor, Tensor]
"""Of neurons whose truth is known: log odds (M,Q), which candidates are right, and which `STEADY` chose (M,Q) bool."""
Truth = Mapping[int, int | Iterable[int]]
"""Neuron (a column of the activations) to the concept, or concepts, that are right for it."""


@dataclass(frozen=True, slots=True, repr=False)
class LabelConfidence(Brief):
    """A label for each neuron and how likely it is right.

    >>> found = label_confidence(activations, embeddings, texts, k=2)
    >>> found.words  # of four images
    ['unsupported', 'unsupported']
    """

    labels: Tensor
    """(N) int64, index into the texts, -1 for none."""
    scorers: list[str]
    """(N) a scorer that chose the label, "" for none."""
    confidence: Tensor
    """(N) float64, 0 to 1, NaN for a neuron without a label."""
    reasons: list[list[str]]
    """(N) in plain words, what speaks for the label and what against it."""

    @property
    def words(self) -> list[str]:
        """(N) "supported" (from 0.9), "uncertain" (from 0.5), "unsupported", or "no exemplars"."""
        return [word_of(value) for value in self.confidence.tolist()]


def label_confidence(
    activations: Any, embeddings: Any, texts: Any, scorer: str = AUTO, k: int = 30, truth: Truth | None = None,
    seed: int = 0, shows: Any = None,
) -> LabelConfidence:  # fmt: skip
    """Label each neuron and estimate how likely the label is right.

    Args:
        activations: (I,N), in memory or any `ActivationSource`.
        embeddings: (I,D), unit rows of the same images.
        texts: (C,D), unit rows.
        scorer: the scorer of the labels; "auto" chooses among the labels of the panel's scorers (`STAYS`).
        k: exemplars per neuron.
        truth: known labels of some neurons, neuron -> concept (or several correct ones), for calibration.
        seed: of planted neurons.
        shows: (I,C) bool, whether an image shows a concept, if known. `PLANTED` neurons that follow these concepts,
            some with their word removed, then calibrate like known neurons.

    Raises:
        InputError: an unknown scorer, matrices that do not belong together, rows that are not unit rows, a truth beyond
            the neurons or texts.

    >>> found = label_confidence(activations, embeddings, texts, k=2)
    >>> found.labels.tolist(), bool((found.confidence < 0.9).all())  # four images prove nothing
    ([1, 2], True)
    """
    a, e, t = belonging(activations, embeddings, texts)
    k = whole("k", k)
    if not a.shape[1] or not len(t):
        raise InputError("`activations` and `texts` must hold a neuron and a text, at least")
    unit_rows(e, "embeddings")
    unit_rows(t, "texts")
    if not bool(t.isfinite().all()):
        raise InputError("`texts` must be finite numbers; leave out the concepts without an embedding")
    known = _known(truth, a.shape[1], len(t))
    level = [] if shows is None else [planted(_checked(shows, len(e), len(t)), e, t, k, seed)]
    exemplars = find_exemplars(a, e, k=k)
    status = neuron_statistics(a).status()
    panel = {name: ballot(name, exemplars, e, t, a) for name in PANEL}
    judged = panel if scorer == AUTO else {scorer: panel.get(scorer) or ballot(scorer, exemplars, e, t, a)}
    weighed = Weighed.of(panel, [said.labels for said in judged.values()], exemplars, a, e, t)
    dead = torch.tensor([word != "ok" for word in status])
    return weighed.without(dead).calibrated(known, level).chosen(list(judged), status)


@dataclass(frozen=True, repr=False)
class Weighed(Brief):
    """Candidate labels of each neuron with their signals and their log odds against "none of them"."""

    candidates: Tensor
    """(N,Q) concept indices, -1 for none; those of `judged` first, then the panel's; each concept once a neuron."""
    asked: list[Tensor]
    """What each judged scorer chose (N)."""
    signals: dict[str, Tensor]
    """(N,Q) each."""
    logits: Tensor
    """(N,Q) f, -inf where there is no candidate."""
    images: int
    """How many images there were to tell from."""
    steady: Tensor
    """The label of `STEADY` (N), which "auto" prefers."""
    truth: Mapping[int, set[int]] = field(default_factory=dict)
    """Right concepts of neurons, by row, where they are known."""
    preference: float = STAYS
    """How much likelier, as a log ratio, another label has to be for "auto" to take it."""

    @classmethod
    def of(
        cls, panel: Mapping[str, Ballot], asked: Sequence[Tensor], exemplars: Exemplars, activations: Any,
        embeddings: Tensor, texts: Tensor,
    ) -> Weighed:  # fmt: skip
        """The labels asked about (some (N)) and the panel's, weighed by the model that is shipped."""
        candidates = each_once(torch.stack([*asked, *(said.labels for said in panel.values())], 1))
        found = signals(panel, candidates, exemplars, source(activations), embeddings, texts)
        logits = model().logits(found).masked_fill(candidates < 0, -torch.inf)
        return cls(candidates, list(asked), found, logits, len(embeddings), panel[STEADY].labels)

    @classmethod
    def by_panel(cls, exemplars: Exemplars, activations: Any, embeddings: Tensor, texts: Tensor) -> Weighed:
        """The labels that the panel's scorers give now."""
        panel = {name: ballot(name, exemplars, embeddings, texts, activations) for name in PANEL}
        return cls.of(panel, [], exemplars, activations, embeddings, texts)

    def without(self, neurons: Tensor) -> Weighed:
        """No label for these neurons (N, bool)."""
        off = [said.masked_fill(neurons, -1) for said in self.asked]
        gone = neurons[:, None]
        left, logits = self.candidates.masked_fill(gone, -1), self.logits.masked_fill(gone, -torch.inf)
        return replace(self, candidates=left, asked=off, logits=logits)

    @property
    def of_steady(self) -> Tensor:
        """(N,Q) bool: the candidate is the label of `STEADY`."""
        return self.candidates == self.steady[:, None]

    def known(self, truth: Mapping[int, set[int]]) -> Known:
        """Neurons whose right concepts are known."""
        rows = torch.tensor([n for n in truth if bool((self.candidates[n] >= 0).any())], dtype=torch.int64)
        right = [[c in truth[n] for c in self.candidates[n].tolist()] for n in rows.tolist()]
        are_right = torch.tensor(right, dtype=torch.bool).view(len(rows), self.candidates.shape[1])
        return self.logits[rows].double(), are_right, self.of_steady[rows]

    def calibrated(self, truth: Mapping[int, set[int]], others: Sequence[Weighed] = ()) -> Weighed:
        """Log odds moved and stretched to fit neurons whose right concepts are known, as far as there are many.

        Args:
            truth: of neurons here.
            others: neurons from elsewhere, each with its own `truth`.
        """
        known = [self.known(truth), *(other.known(other.truth) for other in others)]
        level, slope, steady = level_set_by(known)
        logits = level + slope * self.logits + steady * self.of_steady
        doubt = SHRINKAGE / (SHRINKAGE + sum(len(right) for _, right, _ in known))
        return replace(self, logits=logits, preference=self.preference * doubt)

    @property
    def probabilities(self) -> Tensor:
        """(N,Q) float64: that the candidate is right; 0 where there is none. I images allow at most I / (I + 30)."""
        return _probabilities(self.logits.double()) * self.images / (self.images + FEW_IMAGES)

    def of_label(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(place among the candidates (N), confidence (N), NaN without a label) of each neuron's label."""
        hit = (self.candidates == labels[:, None]) & (labels >= 0)[:, None]
        place = hit.int().argmax(1)
        return place, self.probabilities.gather(1, place[:, None])[:, 0].masked_fill(~hit.any(1), torch.nan)

    @property
    def preferences(self) -> Tensor:
        """(N,Q) float64, by which "auto" chooses: probabilities, those of `STEADY`'s labels times e^preference."""
        return self.probabilities * torch.where(self.of_steady, math.exp(self.preference), 1.0)

    def ranked(self, count: int) -> Best:
        """The candidates of each neuron as "auto" prefers them, with their probabilities for scores."""
        place = self.preferences.argsort(dim=1, descending=True, stable=True)
        concepts, values = self.candidates.gather(1, place), self.probabilities.gather(1, place)
        there = concepts >= 0
        return Best(concepts[:, :count], values.masked_fill(~there, torch.nan)[:, :count])

    def reasons(self, place: Tensor) -> list[list[str]]:
        """Why the candidate at `place` (N) is as likely as it is; nothing for a neuron without candidates."""
        told = {name: value.gather(1, place[:, None])[:, 0].tolist() for name, value in self.signals.items()}
        rows = [dict(zip(told, row, strict=True)) for row in zip(*told.values(), strict=True)]
        there = (self.candidates.gather(1, place[:, None])[:, 0] >= 0).tolist()
        return [in_words(row) if ok else [] for row, ok in zip(rows, there, strict=True)]

    def chosen(self, scorers: Sequence[str], status: Sequence[str]) -> LabelConfidence:
        """Of what the judged scorers chose the label that "auto" prefers."""
        asked = torch.stack(self.asked, 1)
        places = torch.stack([self.of_label(said)[0] for said in self.asked], 1)
        which = self.preferences.gather(1, places).masked_fill(asked < 0, -1.0).argmax(1)
        labels = asked.gather(1, which[:, None])[:, 0]
        place, confidence = self.of_label(labels)
        names = [scorers[i] if label >= 0 else "" for i, label in zip(which.tolist(), labels.tolist(), strict=True)]
        why = [
            reasons if label >= 0 else [NO_LABEL.get(word, NO_LABEL["ok"])]
            for reasons, label, word in zip(self.reasons(place), labels.tolist(), status, strict=True)
        ]
        return LabelConfidence(labels, names, confidence, why)


def each_once(labels: Tensor) -> Tensor:
    """Labels (N,Q) with -1 for those that stand further left already.

    >>> each_once(torch.tensor([[3, 5, 3, 5]]))
    tensor([[ 3,  5, -1, -1]])
    """
    again = labels[:, :, None] == labels[:, None, :]
    return labels.masked_fill(again.tril(-1).any(2), -1)


def _probabilities(logits: Tensor) -> Tensor:
    """softmax over candidates (N,Q) and "none of them", which has log odds 0."""
    return torch.cat([logits, logits.new_zeros(len(logits), 1)], 1).softmax(1)[:, :-1]


def log_likelihood(logits: Tensor, right: Tensor) -> Tensor:
    """log P (N) that a right candidate is right, or none where none is; logits and right (N,Q)."""
    logits = torch.cat([logits, logits.new_zeros(len(logits), 1)], 1)
    right = torch.cat([right, ~right.any(1, keepdim=True)], 1)
    return logits.masked_fill(~right, -torch.inf).logsumexp(1) - logits.logsumexp(1)


def level_set_by(known: Sequence[Known]) -> tuple[float, float, float]:
    """Level, slope and what `STEADY`'s labels get on top that fit sets of neurons best; (0, 1, 0) without neurons."""
    width = max(logits.shape[1] for logits, _, _ in known)
    logits = torch.cat([pad(some, (0, width - some.shape[1]), value=-torch.inf) for some, _, _ in known])
    right, steady = (torch.cat([pad(of[i], (0, width - of[i].shape[1])) for of in known]) for i in (1, 2))
    return _moved(logits, right, steady) if len(logits) else (0.0, 1.0, 0.0)


def _moved(logits: Tensor, right: Tensor, steady: Tensor) -> tuple[float, float, float]:
    """The three that fit best, shrunk towards 0, 1 and 0."""
    moved = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([moved], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        there = logits > -torch.inf
        fitted = moved[0] + (1 + moved[1]) * logits.masked_fill(~there, 0.0) + moved[2] * steady
        fitted = fitted.masked_fill(~there, -torch.inf)
        value = -log_likelihood(fitted, right).sum() + SHRINKAGE / 2 * moved.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    level, slope, of_steady = moved.detach().tolist()
    return level, max(0.1, 1 + slope), of_steady


def planted(shows: Tensor, e: Tensor, t: Tensor, k: int, seed: int) -> Weighed:
    """Planted neurons, weighed in a vocabulary without some of their words."""
    activations, truth = plant(shows, PLANTED, seed)
    if not truth:
        raise InputError("`shows` has no concept that at least three images show, so no neuron can be planted")
    shown = shows.any(0).nonzero()[:, 0]
    order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))
    stays = torch.ones(len(t), dtype=torch.bool)
    stays[shown[order[: round(MISSING * len(shown))]]] = False
    place = torch.where(stays, stays.cumsum(0) - 1, -1)
    exemplars = find_exemplars(activations, e, k=k)
    weighed = Weighed.by_panel(exemplars, activations, e, t[stays])
    return replace(weighed, truth={n: set(place[sorted(own)].tolist()) - {-1} for n, own in enumerate(truth)})


def _checked(shows: Any, images: int, concepts: int) -> Tensor:
    """`shows` as (I,C) bool."""
    there = torch.as_tensor(shows).cpu()
    if not bool(((there == 0) | (there == 1)).all()):
        raise InputError("`shows` must be True or False for each image and concept, no share or missing value")
    if there.shape != (images, concepts):
        raise InputError(
            f"`shows` must say for {images} images whether they show each of {concepts} concepts; its shape is "
            f"{tuple(there.shape)}"
        )
    return there.bool()


def _known(truth: Truth | None, neurons: int, concepts: int) -> dict[int, set[int]]:
    """A truth as sets, after a look at its indices."""
    try:
        known = {int(n): _concepts(c) for n, c in ({} if truth is None else truth).items()}
    except (AttributeError, TypeError, ValueError) as e:
        raise InputError(
            f"`truth` must map the index of a neuron to that of its concept, or to those of several; got {shown(truth)}"
        ) from e
    for n, some in known.items():
        if not 0 <= n < neurons or any(not 0 <= c < concepts for c in some):
            raise InputError(
                f"`truth` says that neuron {n} is {sorted(some)}; there are {neurons} neurons and {concepts} concepts"
            )
    return known


def _concepts(given: Any) -> set[int]:
    try:
        return {index(given)}
    except TypeError:
        return {index(c) for c in given}
