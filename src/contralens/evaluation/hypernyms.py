"""How specific labels are: their place in WordNet, and how well the levels above them would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from contralens.data.wordnet import WordNet, find_wordnet
from contralens.errors import InputError
from contralens.math.intervals import mean_interval
from contralens.math.metric_registry import metric
from contralens.math.metrics import pearson

if TYPE_CHECKING:
    from contralens.evaluation.measuring import Session

STEPS = 6
"""Levels above a label that the curve follows."""
PLAIN = ("csp:gamma=0", "semanticlens")
"""What contrast is compared with, the first of these that the run has."""


def depth(words: WordNet, label: str) -> float:
    """Levels between a label and WordNet's broadest noun, words before its own noun count one each; NaN if unknown."""
    chain = words.chain(label)
    return float(len(chain) - 1) if chain else float("nan")


@metric(
    "granularity",
    "wordnet",
    "labels",
    name="depth",
    about="levels from the label up to the most general noun of WordNet",
)
def depths(words: WordNet, labels: Sequence[str]) -> Tensor:
    """The depth of each label, (n)."""
    return torch.tensor([depth(words, label) for label in labels], dtype=torch.float64)


def move(words: WordNet, before: str, after: str) -> str:
    """Where a label went: "same", "down" (more specific), "up", "sideways", or "unknown" to WordNet.

    The most frequent sense of each noun is taken.
    """
    if before.casefold() == after.casefold():
        return "same"
    one, other = ([gloss or text for text, gloss in words.chain(label)] for label in (before, after))
    if not one or not other:
        return "unknown"
    if one[0] == other[0]:
        return "same"
    return "down" if one[0] in other else "up" if other[0] in one else "sideways"


def levels(session: Session, scorers: Sequence[str]) -> dict[str, Any]:
    """For the manifest: how contrast moved labels, and the curve of specificity.

    The curve holds, for the label (step 0) and its hypernyms, the mean held-out correlation over the neurons whose
    chain goes that far: a label at the right level does better than the levels above it.
    """
    words = find_wordnet()
    details: dict[str, Any] = {}
    labels = {s: {row["neuron"]: row["label"] for row in session.rows(s)} for s in scorers}
    plain = next((s for s in PLAIN if s in scorers), None)
    if plain is not None:
        details["moved from"] = plain
        details["moves"] = {
            s: dict(
                Counter(move(words, labels[plain][n], after) for n, after in labels[s].items() if n in labels[plain])
            )
            for s in scorers
            if s != plain
        }
    if session.judge is not None:
        chains = {s: _chains(words, labels[s]) for s in scorers}
        try:
            for some in chains.values():
                for step in range(STEPS + 1):
                    session.read([chain[step] for chain in some.values() if len(chain) > step])
        except InputError as e:  # it refuses a text: with a closed vocabulary it need not know every hypernym
            session.reopened.notes.append(f"no curve along the hypernyms: {e}")
        else:
            details["curve"] = {s: _curve(session, some) for s, some in chains.items()}
    details["source"] = words.source
    return details


def _chains(words: WordNet, labels: dict[int, str]) -> dict[int, list[str]]:
    """The label and its hypernyms by neuron, for the labels that WordNet knows."""
    chains = {n: [text for text, _ in words.chain(label)][: STEPS + 1] for n, label in labels.items()}
    return {n: chain for n, chain in chains.items() if chain}


def _curve(session: Session, chains: dict[int, list[str]]) -> list[dict[str, Any]]:
    found: dict[int, list[float]] = {step: [] for step in range(STEPS + 1)}
    neurons = list(chains)
    for block in session.blocks(len(neurons)):
        a = session.activations(neurons[block])
        for step, values in found.items():
            there = [(at, chains[n][step]) for at, n in enumerate(neurons[block]) if len(chains[n]) > step]
            if there:
                columns, words_there = zip(*there, strict=True)
                values += pearson(a[:, list(columns)], session.cosines(words_there)).tolist()
    return [{"step": step, **asdict(mean_interval(values))} for step, values in found.items() if values]
