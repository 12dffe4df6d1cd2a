"""Where a concept came from, in words: the vocabulary, or a model that was shown pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from contralens.checks import counted
from contralens.data.runs import Run

MARK = "✦"
"""Stands behind a concept that was proposed and is not in the vocabulary."""


def is_proposed(run: Run, concept: str) -> bool:
    """Whether a concept of the run was proposed and is not in its vocabulary."""
    if run.candidates is None:
        return False
    row = int(pc.index(run.concepts["concept"], concept).as_py())
    return row >= 0 and bool(run.concepts["source"][row].as_py() == "proposed")


def origin(run: Run, neuron: int, concept: str | None) -> str:
    """Who proposed a neuron's concept, for whom, and how; empty for one that only the vocabulary holds."""
    rows = run.sources(concept)
    if concept is None or not rows:
        return ""
    own = [row for row in rows if row["neuron"] == neuron]
    row = (own or rows)[0]
    others = len({r["neuron"] for r in rows} - {row["neuron"]})
    more = f" and {counted(others, 'other neuron')}" if others else ""
    whom = f"for this neuron{more}" if own else f"for {row['name']}{more}, not for this neuron,"
    start = "Proposed" if is_proposed(run, concept) else "In the vocabulary, and also proposed"
    return f"{start} {whom} by {row['model']} ({_how(row)})"


def seen_as(manifest: Mapping[str, Any]) -> str:
    """What ranked a run's exemplars, and whether scorers saw crops of them.

    >>> seen_as({})
    'strongest images of each neuron'
    >>> seen_as({"ranking": {"method": "lrp", "class": None}, "crop": {"by": "map"}})
    'images in which each neuron is most relevant to the predicted class (lrp), cropped by map'
    """
    ranking, crop = manifest.get("ranking"), manifest.get("crop")
    which = "strongest images of each neuron"
    if ranking:
        goal = "the predicted class" if ranking.get("class") is None else f"class {ranking['class']}"
        which = f"images in which each neuron is most relevant to {goal} ({ranking['method']})"
    return f"{which}, cropped by {crop['by']}" if crop else which


def _how(row: dict[str, Any]) -> str:
    parts = [f"{row['prompt']} prompt", f"named {_ordinal(row['place'] + 1)}"]
    if row["text"].casefold() != row["concept"].casefold():
        parts.append(f"as “{row['text']}”, cosine {row['cosine']:.2f}")
    if row["score"] is not None:
        parts.append(f"score {row['score']:.2f}")
    return ", ".join(parts)


def _ordinal(number: int) -> str:
    """
    >>> [_ordinal(n) for n in (1, 2, 3, 4, 11, 21)]
    ['1st', '2nd', '3rd', '4th', '11th', '21st']
    """
    last = 0 if number // 10 % 10 == 1 else number % 10
    return f"{number}{({1: 'st', 2: 'nd', 3: 'rd'}).get(last, 'th')}"


def asked(run: Run) -> str:
    """How a run's candidates were made, and for how many neurons; empty for a run without any."""
    made = run.manifest.get("candidates")
    if not made or run.candidates is None:
        return ""
    concepts = len(set(run.candidates["concept"].to_pylist()))
    counts, merge = made.get("neurons", {}), made.get("merge", {})
    answered = f"for {counted(counts.get('answered', 0), 'neuron')}"
    parts = [f"{concepts:,} proposed by {made['proposer']} ({made['prompt']} prompt) {answered}"]
    if counts.get("failed"):
        parts.append(f"{counted(counts['failed'], 'neuron')} without any")
    if merge.get("merged"):
        parts.append(f"{merge['merged']:,} merged into near-synonyms (cosine {merge['threshold']} or more)")
    parts.append("scored for their own neurons only" if made.get("own_only") else "scored for all neurons")
    return "; ".join(parts)
