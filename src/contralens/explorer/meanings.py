"""The meanings of a neuron for its page: a label each, with share, confidence and pictures."""

from __future__ import annotations

from typing import Any

from contralens.explorer import shapes
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import image_number, number

SHOWN = 6
"""Pictures of each meaning on the page."""


def meanings(run: OpenRun, row: dict[str, Any]) -> list[shapes.Meaning]:
    """The meanings in a row of the labels as finally judged; empty where there is one only, or none was asked for."""
    labels, shares, sure = (row.get(name) or [] for name in ("meanings", "meaning_shares", "meaning_confidences"))
    if len(labels) < 2:
        return []
    positives, contrasts = _images(run, row["neuron"], row["scorer"])
    return [
        {
            "label": str(label),
            "share": number(shares[i]) if i < len(shares) else None,
            "confidence": number(sure[i]) if i < len(sure) else None,
            "positives": positives[i] if i < len(positives) else [],
            "contrasts": contrasts[i] if i < len(contrasts) else [],
        }
        for i, label in enumerate(labels[:20])
    ]


def _images(run: OpenRun, neuron: int, scorer: str) -> tuple[list[list[int]], list[list[int]]]:
    """Image numbers of each meaning's exemplars and contrasts; none in an evaluation of an older contralens."""
    names = ("meaning_positives", "meaning_contrasts")
    if "verdicts" not in run.tables or not set(names) <= set(run.columns("verdicts")):
        return [], []
    found = run.query(
        f"SELECT {', '.join(names)} FROM verdicts WHERE neuron = ? AND scorer = ? LIMIT 1", [neuron, scorer]
    )
    sides = found[0] if found else (None, None)
    one, other = (
        [[n for n in map(image_number, own or ()) if n in run.pictures][:SHOWN] for own in side or ()] for side in sides
    )
    return one, other
