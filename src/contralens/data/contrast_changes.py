"""What contrast changes: neurons whose label differs without and with it, the clearest first.

How clear a change is, by the run's own vectors: with v(gamma) = normalise(positive_mean - gamma contrast_mean), it is
the lead of the old label over the new one without contrast, plus that of the new label over the old one with it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from contralens.data.final_labels import CORRECTED, final
from contralens.data.runs import Run
from contralens.specs import gamma_of
from contralens.types import SUPPORTED, UNCERTAIN


@dataclass(frozen=True)
class Change:
    """A neuron whose label contrast changed.

    >>> found = changes("run")
    >>> found[0].before != found[0].after, found[0].strength >= found[-1].strength or found[0].trust > found[-1].trust
    (True, True)
    """

    neuron: int
    name: str
    before: str
    """The label without contrast."""
    after: str
    """The label with it."""
    strength: float
    """The two leads, added: cosines."""
    trust: int
    """2: the new label is supported or verified; 1: nothing is known; 0: uncertain; -1: unsupported or refuted."""


def contrast_pair(run: Run) -> tuple[str | None, str | None]:
    """The scorers that show what contrast changes: without it, and with it; None where the run has not both."""
    return contrast_of(run.scorers, str(run.manifest["primary"]))


def contrast_of(scorers: Sequence[str], primary: str) -> tuple[str | None, str | None]:
    """The same of a run's scorers.

    >>> contrast_of(["semanticlens", "clip_dissect", "csp"], "csp"), contrast_of(["csp"], "csp")
    (('semanticlens', 'csp'), (None, None))
    """
    plain = [s for s in scorers if gamma_of(s) == 0]
    without = next((s for s in (*plain, "semanticlens") if s in scorers), None)
    contrasted = [s for s in scorers if gamma_of(s) is not None and s != without]
    if without is None or not contrasted:
        return None, None
    return without, primary if primary in contrasted else "csp" if "csp" in contrasted else contrasted[-1]


def before_contrast(labels: Mapping[str, str | None], primary: str) -> str | None:
    """The label without contrast, where contrast made it that of the primary scorer; `labels` by scorer, in order.

    >>> before_contrast({"semanticlens": "red", "csp": "striped", "auto": "striped"}, "auto")
    'red'
    >>> before_contrast({"semanticlens": "red", "csp": "striped", "auto": "sand"}, "auto")
    """
    without, contrasted = contrast_of(list(labels), primary)
    if without is None or contrasted is None or labels[contrasted] != labels[primary]:
        return None
    return labels[without] if labels[primary] is not None and labels[without] != labels[primary] else None


def changes(run: Run | str) -> list[Change]:
    """The neurons whose label contrast changed, those one may trust first, and among them the clearest.

    Labels that a null test rejected, or that a person corrected, are left out.

    >>> [change.strength > 0 for change in changes("run")][:2]
    [True, True]
    """
    run = final(run)
    without, contrasted = contrast_pair(run)
    if without is None or contrasted is None:
        return []
    first = {row["neuron"]: row for row in run.rows(without)}
    pairs = [(first[row["neuron"]], row) for row in run.rows(contrasted) if row["neuron"] in first]
    pairs = [pair for pair in pairs if all(map(_stands, pair)) and pair[0]["label"] != pair[1]["label"]]
    strengths = _strengths(run, pairs, gamma_of(contrasted) or 0.0)
    found = [
        Change(after["neuron"], after["name"], before["label"], after["label"], strength, _trust(after))
        for (before, after), strength in zip(pairs, strengths, strict=True)
    ]
    return sorted(found, key=lambda change: (-change.trust, -change.strength, change.neuron))


def varied(found: Sequence[Change], most: int) -> list[Change]:
    """The first changes, but each pair of labels once before any is twice.

    >>> varied([Change(n, "", "red", after, 1.0, 1) for n, after in enumerate(["dog", "dog", "cat"])], 2)[1].after
    'cat'
    """
    seen: dict[tuple[str, str], int] = {}
    order = []
    for at, change in enumerate(found):
        key = (change.before, change.after)
        order.append((seen.setdefault(key, 0), -change.trust, at))
        seen[key] += 1
    return [found[at] for *_, at in sorted(order)[:most]]


def telling_pairs(exemplars: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """A neuron's exemplars that have a contrast, the most telling first: alike to the encoder, unlike to the neuron.

    >>> rows = [
    ...     {"positive": 1, "contrast": 2, "activation": 5.0, "contrast_activation": 4.0, "similarity": 0.9},
    ...     {"positive": 3, "contrast": 4, "activation": 5.0, "contrast_activation": 0.0, "similarity": 0.8},
    ... ]
    >>> telling_pairs(rows)[0]["positive"]
    3
    """
    whole = [row for row in exemplars if row["contrast"] >= 0 and row["contrast"] != row["positive"]]

    def telling(row: Mapping[str, Any]) -> float:
        value = (row["activation"] - row["contrast_activation"]) * row["similarity"]
        return float(value) if math.isfinite(value) else -math.inf

    return sorted(whole, key=telling, reverse=True)


def _stands(row: Mapping[str, Any]) -> bool:
    return row["label"] is not None and row["status"] != CORRECTED


def _trust(row: Mapping[str, Any]) -> int:
    """An experiment says more than the confidence."""
    sure, tested = row.get("confidence"), row.get("verified")
    if tested in ("verified", "refuted"):
        return 2 if tested == "verified" else -1
    return 1 if sure is None else 2 if sure >= SUPPORTED else 0 if sure >= UNCERTAIN else -1


def _strengths(run: Run, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], gamma: float) -> list[float]:
    """How clear each change is; 0 where the vectors do not tell."""
    place = {concept: i for i, concept in enumerate(run.concepts["concept"].to_pylist())}
    row = {n: i for i, n in enumerate(dict.fromkeys(run.exemplars["neuron"].to_pylist()))}
    positive, contrast, texts = (run.vectors[name] for name in ("positive_mean", "contrast_mean", "texts"))
    out = []
    for before, after in pairs:
        at = row.get(after["neuron"])
        old, new = place.get(before["label"]), place.get(after["label"])
        if at is None or at >= len(positive) or old is None or new is None:
            out.append(0.0)
            continue
        way = texts[new].astype(np.float64) - texts[old]
        lead = _unit(positive[at] - gamma * contrast[at]) @ way - _unit(positive[at]) @ way
        out.append(float(lead) if np.isfinite(lead) else 0.0)
    return out


def _unit(vector: Any) -> Any:
    size = np.linalg.norm(vector.astype(np.float64))
    return vector / size if size > 0 else vector
