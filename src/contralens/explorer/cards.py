"""Beside a neuron's label on its page: the label that contrast replaced, its true class, a card to share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from contralens.data.answers import answer
from contralens.data.card import Card, draw, made_from
from contralens.data.contrast_changes import before_contrast
from contralens.data.synonyms import plain, synonyms, words_of
from contralens.explorer import shapes
from contralens.explorer.overview import remembered
from contralens.explorer.runs import OpenRun
from contralens.pages import link
from contralens.types import word_of

PAIRS = 6


def before(run: OpenRun, labels: Sequence[shapes.ScorerLabels]) -> str | None:
    """The label without contrast, where contrast made it that of the primary scorer."""
    said = {row["scorer"]: row["label"] for row in labels}
    return before_contrast({scorer: said.get(scorer) for scorer in run.scorers}, run.primary)


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


def card_of(run: OpenRun, detail: shapes.Detail) -> Card:
    """What a neuron's card shows."""
    target = run.manifest["target"]
    row = next((row for row in detail["labels"] if row["scorer"] == run.primary), None)

    def side(picture: shapes.Picture | None, other: shapes.Picture | None = None) -> bytes | None:
        own = picture is not None and other is not None and picture["image"] == other["image"]
        return None if picture is None or own else run.pictures.get(picture["image"])

    pairs = [
        (side(p["positive"]), p["activation"], side(p["contrast"], p["positive"]), p["contrast_activation"])
        for p in detail["exemplars"][:PAIRS]
    ]
    return Card(
        f"{detail['name']}  ·  {target['name']} {target['layer']}",
        "no label" if row is None else answer(row), detail["before"],
        None if row is None else row["confidence"], None if row is None else row["verified"], pairs,
        made_from({**run.manifest, "primary": run.primary}),
    )  # fmt: skip


def write_link(folder: Path, run: OpenRun, detail: shapes.Detail, url: str) -> None:
    """The page links/RUN/NEURON.html of an export, for links that are previewed, and its picture."""
    shown, name = card_of(run, detail), f"links/{run.key}/{detail['neuron']}"
    said = [] if shown.before is None else [f"Without contrast, its label was “{shown.before}”."]
    if shown.confidence is not None:
        said.append(f"Confidence {shown.confidence:.2f}, {word_of(shown.confidence)}.")
    if shown.outcome in ("verified", "refuted"):
        said.append(f"The label was {shown.outcome} by experiment.")
    page = f"../../index.html#/{quote(run.key)}/n/{detail['neuron']}"
    title = f"{detail['name']}: {shown.label}"
    text = link(title, " ".join(said), f"{url.rstrip('/')}/{quote(name)}", f"{detail['neuron']}.jpg", page)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.html").write_text(text, encoding="utf-8")
    draw(shown).save(folder / f"{name}.jpg", "JPEG", quality=85)
