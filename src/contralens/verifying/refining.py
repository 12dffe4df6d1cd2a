"""Which concept to test next where a label was refuted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from contralens.data.runs import Run
from contralens.data.wordnet import WordNet, find_wordnet
from contralens.errors import ContralensError, InputError
from contralens.math.experiments import STRONG
from contralens.specs import gamma_of
from contralens.verifying.tested import Tested

FIRST = 5
"""Concepts of each scorer that come into question."""


def next_ones(run: Run, tested: Tested, concepts: Sequence[str], scorer: str | None) -> list[str]:
    """Concepts to test in place of a refuted label, the likeliest first, each once.

    1. Control concepts of the experiment whose edits moved the neuron as those of a true concept do: the experiment
       itself points at them.
    2. The scorer's next best concepts, then what a scorer without contrast says, which often is a confounder, and the
       other scorers' labels.
    3. Concepts of the vocabulary right above or below the label in WordNet, where WordNet is installed.
    """
    seen = {tested.label}
    out = []
    for concept in (*_moved(tested), *_of_scorers(run, tested.neuron, scorer), *_around(tested.label, concepts)):
        if concept not in seen:
            seen.add(concept)
            out.append(concept)
    return out


def _moved(tested: Tested) -> list[str]:
    """Control concepts by their mean effect in units of `STRONG`, of those that reach it in removal and insertion."""
    found = {}
    for concept, outcome in tested.others.items():
        shares = [side.effect / STRONG[side.kind] for side in (outcome.remove, outcome.insert)]
        if min(shares) >= 1:
            found[concept] = min(shares)
    return sorted(found, key=lambda concept: (-found[concept], concept))


def _of_scorers(run: Run, neuron: int, scorer: str | None) -> Iterator[str]:
    labels: dict[str, dict[str, Any]] = run.neuron(neuron)["labels"]
    first = scorer or str(run.manifest["primary"])
    plain = [s for s in labels if s != first and (gamma_of(s) == 0 or s == "semanticlens")]
    if first in labels:
        yield from (labels[first]["concepts"] or [])[:FIRST]
    for other in (*plain, *(s for s in labels if s != first and s not in plain)):
        yield from (labels[other]["concepts"] or [])[:1]


def _around(label: str, concepts: Sequence[str]) -> Iterator[str]:
    """Concepts whose noun is the label's hypernym, and those whose hypernym is the label's noun."""
    try:
        words = find_wordnet()
    except ContralensError:  # not installed
        return
    own = _chain(words, label)
    for concept in concepts:
        other = _chain(words, concept)
        if own and other and (own[1:2] == other[:1] or other[1:2] == own[:1]):
            yield concept


def _chain(words: WordNet, label: str) -> list[str]:
    """Glosses of a label's noun and of what is above it."""
    try:
        return [gloss for _, gloss in words.chain(label) if gloss]
    except InputError:
        return []
