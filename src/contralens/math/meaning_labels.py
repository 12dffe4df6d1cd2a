"""A label with its confidence for each meaning of a neuron (`contralens.math.meanings`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from contralens.math.activation_sources import Beside, source
from contralens.math.confidence import Weighed
from contralens.math.exemplars import find_exemplars
from contralens.math.meanings import Meanings
from contralens.math.null_neurons import together
from contralens.math.scorer_panel import PANEL, ballot
from contralens.types import AUTO, Brief, Exemplars

SHOWN = 8
"""Exemplars with contrasts that are kept of each meaning."""


@dataclass(frozen=True, slots=True, repr=False)
class Meaning(Brief):
    """One of the meanings of a neuron.

    >>> Meaning(concept=3, share=0.4, confidence=0.95, positives=[7, 2], contrasts=[5, -1])
    Meaning(concept=3, share=0.4, confidence=0.95, ...)
    """

    concept: int
    """Index of its label, -1 for none."""
    share: float
    """Part of the activation above the neuron's mean that it has."""
    confidence: float
    """How likely its label is right; NaN where that was not asked for."""
    positives: list[int]
    """Its strongest images, at most `SHOWN`."""
    contrasts: list[int]
    """The contrast of each, -1 for none."""


def label_meanings(
    found: Meanings, whole: Exemplars, activations: Any, embeddings: Tensor, texts: Tensor, scorers: Sequence[str], *,
    confidence: bool = True, **mining: Any,
) -> dict[str, dict[int, list[Meaning]]]:  # fmt: skip
    """Scorer -> row of a neuron with several meanings -> its meanings, by falling share.

    Each meaning is scored as a neuron of its own, beside the neurons with one meaning: its images are mined and given
    contrasts again, with those of the other meanings left out. Meanings with one label are one, so a neuron that is
    listed may have a single meaning.

    Args:
        found: of the neurons of `whole`, in this order.
        whole: the neurons' exemplars.
        activations: (I,N) that `whole.neurons` are columns of.
        embeddings: (I,D), unit rows.
        texts: (C,D), unit rows.
        scorers: as in `run_scorer`, and "auto".
        confidence: say how likely each label is right.
        mining: of `find_exemplars`.

    >>> from contralens.math.meanings import meanings
    >>> found = meanings(activations, embeddings)  # of four images, which are too few
    >>> label_meanings(found, exemplars, activations, embeddings, texts, ["csp"])
    {'csp': {}}
    """
    made, row, _ = found.parts(activations, whole.neurons)
    if not len(row):
        return {scorer: {} for scorer in scorers}
    a = source(activations)
    parts = find_exemplars(made, embeddings, **mining)
    single = torch.ones(len(whole), dtype=torch.bool).index_fill(0, found.rows, False)
    rest = whole.of(single)
    every = together(rest, replace(parts, neurons=parts.neurons + a.shape[1]))
    both = Beside(a, made)
    panel = {s: ballot(s, every, embeddings, texts, both) for s in (PANEL if confidence or AUTO in scorers else ())}
    said = {s: panel.get(s) or ballot(s, every, embeddings, texts, both) for s in scorers if s != AUTO}
    labels = {s: b.labels for s, b in said.items()}
    weighed = Weighed.of(panel, list(labels.values()), every, both, embeddings, texts) if panel else None
    if AUTO in scorers and weighed is not None:
        labels[AUTO] = weighed.ranked(1).labels
    out = {}
    for scorer in scorers:
        sure = weighed.of_label(labels[scorer])[1] if weighed else torch.full((len(every),), torch.nan)
        out[scorer] = _by_neuron(found, parts, row, labels[scorer][len(rest) :], sure[len(rest) :])
    return out


def _by_neuron(
    found: Meanings, parts: Exemplars, row: Tensor, labels: Tensor, sure: Tensor
) -> dict[int, list[Meaning]]:
    """The meanings of each neuron, those of one label joined."""
    out: dict[int, list[Meaning]] = {}
    shares = torch.cat([found.share[n, : int(found.count[n])] for n in found.rows.tolist()])
    for v, (n, concept) in enumerate(zip(row.tolist(), labels.tolist(), strict=True)):
        there = parts.positives[v] >= 0
        one = Meaning(
            concept, float(shares[v]), float(sure[v]), parts.positives[v][there][:SHOWN].tolist(),
            parts.contrasts[v][there][:SHOWN].tolist(),
        )  # fmt: skip
        own = out.setdefault(n, [])
        same = [i for i, other in enumerate(own) if other.concept == concept]
        if same:
            first = own[same[0]]
            own[same[0]] = replace(
                first, share=first.share + one.share, confidence=_larger(first.confidence, one.confidence)
            )
        else:
            own.append(one)
    return {n: sorted(own, key=lambda m: -m.share) for n, own in out.items()}


def _larger(one: float, other: float) -> float:
    return other if one != one or other > one else one
