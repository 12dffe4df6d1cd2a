"""A run in a few lines: what the page over several runs says of each."""

from __future__ import annotations

from collections import Counter
from typing import Any

from contralens.data.contrast_changes import contrast_of
from contralens.data.places import place_of
from contralens.explorer import shapes
from contralens.explorer.overview import ready, remembered, shown
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import number
from contralens.types import SUPPORTED, word_of

MOST = 4
"""Neurons that stand for a run."""
LONG = 50
"""Entries of a list in a manifest that pages still get."""


def summary(run: OpenRun) -> shapes.Summary:
    """Which network and layer, how many neurons, how sure their labels are, and a few neurons to recognise it by."""
    ready(run)
    return remembered(run, "summary", lambda: _summary(run))


def brief(manifest: Any) -> Any:
    """A manifest without long lists: of these, how many entries they have.

    >>> brief({"seed": 0, "holdout": {"fingerprints": ["a"] * 1000}})
    {'seed': 0, 'holdout': {'fingerprints': '1,000 entries'}}
    """
    if isinstance(manifest, dict):
        return {key: brief(value) for key, value in manifest.items()}
    if isinstance(manifest, list):
        return [brief(value) for value in manifest] if len(manifest) <= LONG else f"{len(manifest):,} entries"
    return manifest


def _summary(run: OpenRun) -> shapes.Summary:
    target, images, encoder = (_record(run.manifest.get(key)) for key in ("target", "images", "encoder"))
    rows, plain = _rows(run), _plain(run)
    counted = Counter(word_of(row["confidence"]) for row in rows if row["confidence"] is not None)
    tested = Counter(row["verified"] for row in rows if row["verified"] is not None)
    changed = sum(_before(row, plain) is not None for row in rows)
    return {
        "network": str(target.get("name") or run.path.name),
        "layer": None if target.get("layer") is None else str(target["layer"]),
        "place": repr(place_of(target)),
        "fingerprint": None if target.get("fingerprint") is None else str(target["fingerprint"]),
        "neurons": len(run.neurons),
        "labeled": len(rows),
        "images": images["count"] if isinstance(images.get("count"), int) else None,
        "probe": None if images.get("fingerprint") is None else str(images["fingerprint"]),
        "encoder": None if encoder.get("name") is None else str(encoder["name"]),
        "words": dict(counted),
        "verified": dict(tested),
        "changed": changed if plain else None,
        "highlights": _highlights(run, rows, plain),
    }


def _record(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(run: OpenRun) -> dict[int, str]:
    """The labels without contrast of the neurons whose label is the one with contrast."""
    without, contrasted = contrast_of(run.scorers, run.primary)
    if without is None or contrasted is None:
        return {}
    labels, plain = _labels(run, run.primary), _labels(run, without)
    return {n: plain[n] for n, label in _labels(run, contrasted).items() if labels.get(n) == label and n in plain}


def _labels(run: OpenRun, scorer: str) -> dict[int, str]:
    return dict(run.query("SELECT neuron, label FROM overview WHERE scorer = ? AND label IS NOT NULL", [scorer]))


def _rows(run: OpenRun) -> list[dict[str, Any]]:
    """The labeled neurons, with what speaks for their labels."""
    known = run.columns("overview")
    confidence = "confidence" if "confidence" in known else "NULL"
    found = run.records(
        f"SELECT neuron, name, status, label, verified, score, {confidence} AS confidence FROM overview "
        "WHERE scorer = ? AND label IS NOT NULL ORDER BY neuron",
        [run.primary],
    )
    return [{**row, "confidence": number(row["confidence"]), "score": number(row["score"])} for row in found]


def _before(row: dict[str, Any], plain: dict[int, str]) -> str | None:
    """The label without contrast, where contrast changed it."""
    said = plain.get(row["neuron"])
    return said if said != row["label"] and row["status"] != "corrected" else None


def _highlights(run: OpenRun, rows: list[dict[str, Any]], plain: dict[int, str]) -> list[shapes.Highlight]:
    """The most confident labels, each once, those first that contrast changed."""

    def order(row: dict[str, Any]) -> tuple[bool, bool, float, int]:
        sure = row["confidence"] if row["confidence"] is not None else row["score"] or 0.0
        believed = row["verified"] == "verified" or (row["confidence"] or 0.0) >= SUPPORTED
        return (not believed, _before(row, plain) is None, -sure, row["neuron"])

    positives, _ = shown(run)
    place = {neuron: at for at, neuron in enumerate(run.neurons)}
    out: list[shapes.Highlight] = []
    for row in sorted((r for r in rows if r["verified"] != "refuted"), key=order):
        pictures = [int(i) for i in positives[place[row["neuron"]]] if i >= 0]
        if len(out) < MOST and pictures and row["label"] not in [h["label"] for h in out]:
            out.append(
                {
                    "neuron": row["neuron"],
                    "name": str(row["name"]),
                    "label": row["label"],
                    "before": _before(row, plain),
                    "confidence": row["confidence"],
                    "pictures": pictures,
                }
            )
    return out
