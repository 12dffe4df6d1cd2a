"""What the audit of a run says, as its page and the page of a neuron show it."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np

from contralens.data.audits import VERDICTS, margin
from contralens.explorer import shapes, tested
from contralens.explorer.columns import OPTIONAL
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import NotThere, number, short

MEASURES = ("ablation", "gradient", "head")
"""What a neuron does to a class, the most confident measure first."""
FIGURES = (
    "score", "empty", "z", "expected", "spurious", "noise", "p", "fdr", "confidence", "clarity", "redundancy",
    "polysemanticity",
)  # fmt: skip
SIDES = ("expected", "spurious")
MOST_CLASSES = 60
"""Classes that the page holds."""
MOST_GROUPS = 2000


def line(run: OpenRun) -> shapes.Audited | None:
    """That a run was audited, and how many neurons got which verdict."""
    if run.audit is None:
        return None
    found = dict(run.query("SELECT verdict, count(*) FROM audit JOIN neurons USING (neuron) GROUP BY verdict"))
    concepts = run.audit.get("concepts")
    title = concepts.get("title") if isinstance(concepts, dict) else None
    return {"concepts": str(title or "a list of concepts"), "counts": {v: found.get(v, 0) for v in VERDICTS}}


def page(run: OpenRun) -> shapes.Audit:
    """The whole audit of a run.

    Raises:
        NotThere: there is none, or none that can be read; says why.
    """
    if run.audit is None:
        what = OPTIONAL["audit"][2]
        raise NotThere(next(m["why"] for m in run.missing if m["what"] == what))
    manifest = run.audit
    rows = run.records("SELECT audit.* FROM audit JOIN neurons USING (neuron) ORDER BY neuron")
    neurons = [row["neuron"] for row in rows]
    classes, influence, left_out = _influence(run, neurons)
    said = tested.of_verdicts(run)
    return {
        "run": run.key,
        "manifest": manifest,
        "conclusion": str(manifest["conclusion"]) if manifest.get("conclusion") else None,
        "explanation": _lines(manifest.get("explanation")),
        "warnings": _lines(manifest.get("warnings")),
        "neuron": neurons,
        "verdict": [row["verdict"] for row in rows],
        "best": [row["best"] for row in rows],
        "side": [row["side"] for row in rows],
        "reason": [row.get("reason") or None for row in rows],
        "experiment": [said.get((row["neuron"], row["best"])) for row in rows],
        "columns": {
            **{name: [short(row.get(name)) for row in rows] for name in FIGURES},
            "margin": [short(_margin(row)) for row in rows],
        },
        "classes": classes,
        "left_out": left_out,
        "influence": influence,
        "pruning": _pruning(run),
        "new_head": _new_head(manifest.get("new_head")),
    }


def _lines(told: Any) -> list[str]:
    return [str(line) for line in told] if isinstance(told, list) else []


def _new_head(told: Any) -> list[shapes.NewHead]:
    """Rows of the new head's accuracies, as far as they can be read."""
    rows = told.get("rows") if isinstance(told, dict) else None
    names = ("before", "pruned", "after", "all_neurons", "difference", "low", "high")
    found: list[Any] = []
    for row in rows[:MOST_GROUPS] if isinstance(rows, list) else []:
        if isinstance(row, dict):
            images = row.get("images")
            values = {name: _plain_number(row.get(name)) for name in names}
            found.append({"group": str(row.get("group")), "images": images if type(images) is int else None, **values})
    return found


def _plain_number(value: Any) -> float | None:
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _influence(run: OpenRun, neurons: list[int]) -> tuple[list[str], dict[str, list[float | None]], int]:
    """Classes, each measure's (N,C) values row by row, and how many classes are left out."""
    if "influence" not in run.tables or not neurons:
        return [], {}, 0
    moved = run.query(
        'SELECT "class" FROM influence WHERE "class" IS NOT NULL GROUP BY "class" '
        f"ORDER BY max(greatest({', '.join(_size(m) for m in MEASURES)})) DESC, min(rowid)"
    )
    kept = [name for (name,) in moved[:MOST_CLASSES]]
    marks = ",".join("?" * len(kept)) or "NULL"
    first = run.query(
        f'SELECT "class" FROM influence WHERE "class" IN ({marks}) GROUP BY "class" ORDER BY min(rowid)', kept
    )
    classes = [name for (name,) in first]
    place = {name: i for i, name in enumerate(classes)}
    row = {neuron: i for i, neuron in enumerate(neurons)}
    values = np.full((len(MEASURES), len(neurons), len(classes)), np.nan)
    for neuron, name, *found in run.query(
        f'SELECT neuron, "class", {", ".join(MEASURES)} FROM influence WHERE "class" IN ({marks})', kept
    ):
        if neuron in row:
            values[:, row[neuron], place[name]] = [np.nan if v is None else v for v in found]
    out = {
        measure: [short(v) for v in table.reshape(-1).tolist()] if np.isfinite(table).any() else []
        for measure, table in zip(MEASURES, values, strict=True)
    }
    return classes, out, len(moved) - len(classes)


def _size(measure: str) -> str:
    return f"CASE WHEN isfinite({measure}) THEN abs({measure}) ELSE 0 END"


def _pruning(run: OpenRun) -> list[shapes.Pruned]:
    if "pruning" not in run.tables:
        return []
    return [
        {
            "group": str(row["group"]),
            "mode": str(row["mode"]),
            "images": row["images"],
            "before": number(row["before"]),
            "after": number(row["after"]),
            "difference": number(row["difference"]),
            "low": number(row["low"]),
            "high": number(row["high"]),
        }
        for row in run.records("SELECT * FROM pruning ORDER BY rowid LIMIT ?", [MOST_GROUPS])
    ]


def verdict(run: OpenRun, neuron: int) -> shapes.Verdict | None:
    """What the audit says of one neuron; None without an audit, or one that left the neuron out."""
    found = [] if run.audit is None else run.records("SELECT * FROM audit WHERE neuron = ?", [neuron])
    if not found:
        return None
    moved: list[shapes.Influenced] = []
    if "influence" in run.tables:
        order = ", ".join(f"{_size(m)} DESC" for m in MEASURES)
        moved = [
            {"name": str(name), "ablation": number(a), "gradient": number(g), "head": number(h)}
            for name, a, g, h in run.query(
                f'SELECT "class", {", ".join(MEASURES)} FROM influence WHERE neuron = ? ORDER BY {order}, rowid '
                f"LIMIT {MOST_CLASSES}",
                [neuron],
            )
        ]
    own = found[0]
    return {
        "verdict": own["verdict"],
        "best": own["best"],
        "side": own["side"],
        "reason": own.get("reason") or None,
        "experiment": tested.of_verdicts(run).get((neuron, own["best"])),
        "figures": {**{name: number(own.get(name)) for name in FIGURES}, "margin": number(_margin(own))},
        "influence": moved,
    }


def _margin(row: dict[str, Any]) -> float:
    return margin({"side": row["side"], **{side: nan if row[side] is None else row[side] for side in SIDES}})
