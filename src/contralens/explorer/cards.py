"""Beside a neuron's label on its page: the label that contrast replaced, its true class, a card to share."""

from __future__ import annotations

from collections.abc import Sequence

from contralens.data.answers import answer
from contralens.data.card import Card, draw, made_from, png, replaced
from contralens.data.contrast_changes import contrast_of
from contralens.data.synonyms import plain, synonyms, words_of
from contralens.explorer import shapes
from contralens.explorer.overview import remembered
from contralens.explorer.runs import OpenRun

PAIRS = 6


def before(run: OpenRun, labels: Sequence[shapes.ScorerLabels]) -> str | None:
    """The label without contrast, where contrast made the primary scorer say another one."""
    without, contrasted = contrast_of(run.scorers, run.primary)
    if without is None or contrasted != run.primary:
        return None
    said = {row["scorer"]: row["label"] for row in labels}
    return replaced(said.get(without), said.get(run.primary))


def true_class(run: OpenRun, name: str, label: str | None) -> shapes.TrueClass | None:
    """Of a neuron of an output layer: its class, and whether the label names it; None elsewhere."""
    if not remembered(run, "output layer", lambda: _is_output(run)):
        return None
    known = words_of(name, remembered(run, "wordnet", synonyms))
    return {"name": name, "named": None if label is None else plain(label) in known}


def _is_output(run: OpenRun) -> bool:
    """Whether neurons are outputs with the names of classes."""
    target = run.manifest["target"]
    if target.get("layer") != "." or target.get("sae") is not None:
        return False
    names = [str(name) for (name,) in run.query("SELECT name FROM neurons LIMIT 200")]
    return not all(name.rpartition("/")[2].isdigit() for name in names)


def card_png(run: OpenRun, detail: shapes.Detail, dark: bool = False) -> bytes:
    """A neuron's card as a PNG."""
    m, target = run.manifest, run.manifest["target"]
    row = next((row for row in detail["labels"] if row["scorer"] == run.primary), None)

    def side(picture: shapes.Picture | None, other: shapes.Picture | None = None) -> bytes | None:
        own = picture is not None and other is not None and picture["image"] == other["image"]
        return None if picture is None or own else run.pictures.get(picture["image"])

    pairs = [
        (side(p["positive"]), p["activation"], side(p["contrast"], p["positive"]), p["contrast_activation"])
        for p in detail["exemplars"][:PAIRS]
    ]
    return png(
        draw(
            Card(
                f"{detail['name']}  ·  {target['name']} {target['layer']}",
                "no label" if row is None else answer(row), detail["before"],
                None if row is None else row["confidence"], None if row is None else row["verified"], pairs,
                made_from({**m, "primary": run.primary}),
            ),
            dark,
        )
    )  # fmt: skip
