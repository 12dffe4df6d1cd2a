"""The HTML page of an audit, beside the report of its run: one file without a script, that asks nobody for anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contralens.data.audits import VERDICTS, Audit, load_audit, margin
from contralens.data.final_labels import final
from contralens.data.runs import Run
from contralens.data.verifications import on_verdict, outcomes_of, verification_of
from contralens.errors import InputError
from contralens.pages import number, render
from contralens.report.cards import Pictures, pair
from contralens.report.html import write_page

ABOUT = {
    "spurious": "What the classifier should not use. The mask removes these.",
    "expected": "What it should use.",
    "undecided": "An expected and a spurious concept tie within noise; the mask keeps these.",
    "unexplained": "No concept of the list is supported; the nearest is shown.",
}
SHOWN = ("spurious", "expected", "undecided", "unexplained")
"""Verdicts in the order of the page."""


def write_audit_page(
    run: Run, found: Audit | None = None, out: str | Path | None = None, *, most: int = 24, pairs: int = 10
) -> Path:
    """Write the page of a run's audit and return where it lies: `out`, or audit.html in the run's folder.

    Args:
        run: the run, with its thumbnails.
        found: its audit; by default the one in its folder.
        out: the file.
        most: neurons of each verdict shown with pictures, those with the largest margin first; all are counted.
        pairs: exemplars of each, above their contrasts.

    Raises:
        InputError: the run has no audit, or no place to write to.

    >>> import contralens
    >>> found = contralens.audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0)
    >>> write_audit_page(contralens.load("run"), found).as_posix()
    'run/audit.html'
    """
    if found is None:
        if run.path is None:
            raise InputError("this run was never saved, so it holds no audit")
        found = load_audit(run.path)
    if out is None and run.path is None:
        raise InputError("this run was never saved; give a file for the page")
    path = Path(out) if out is not None else Path(run.path or "") / "audit.html"
    write_page(path, audit_page(run, found, most, pairs), run)
    return path


def audit_page(run: Run, found: Audit, most: int = 24, pairs: int = 10) -> str:
    """The page as text."""
    m = found.manifest
    run = final(run)
    pictures = Pictures(run)
    moved: dict[int, list[dict[str, Any]]] = {}
    for row in found.influence.to_pylist():
        moved.setdefault(row["neuron"], []).append(row)
    shown = {"spurious": most, "expected": most, "undecided": most // 4, "unexplained": most // 4}
    tested = verification_of(run.path, str(run.manifest["target"]["fingerprint"]))
    outcomes = outcomes_of(tested.labels if tested else None)
    parts = [_part(run, found, verdict, moved, pictures, count, pairs, outcomes) for verdict, count in shown.items()]
    return render(
        "audit.html",
        style=("report.css", "audit.css"),
        target=m["target"],
        concepts=m["concepts"],
        counts=[(verdict, f"{found.counts[verdict]:,}") for verdict in SHOWN],
        facts=_facts(found),
        conclusion=found.conclusion,
        explanation=found.explanation,
        warnings=found.warnings,
        pruning=_pruning(found),
        head=_new_head(found),
        parts=parts,
        pictures=pictures.encoded(),
        version=m["contralens"],
        seed=m["seed"],
        verdicts=VERDICTS,
    )


def _facts(found: Audit) -> list[tuple[str, str]]:
    """What was audited, by what, and what a verdict needs."""
    m = found.manifest
    threshold, told = m["threshold"], m["separation"]
    rule = f"{threshold['fakes']:,} null neurons, false-discovery rate {threshold['fdr']:g}"
    if threshold["empty"]:
        rule = f"score above the empty template's; {rule}"
    if "confidence" in threshold:
        rule += f", confidence {threshold['confidence']:g}; undecided below {threshold['tie']:g} deviations"
    seen = f"; {told['readable']} pass all checks" if "readable" in told else ""
    facts = [
        ("Concepts", f"{m['concepts']['title']}: {len(m['concepts']['expected'])} expected, "
                     f"{len(m['concepts']['spurious'])} spurious ({m['concepts']['source']})"),
        ("Scorer", m["scorer"]),
        ("Encoder", f"{m['encoder']['name']}; separates {told['told_apart']} of {len(told['concepts'])} concepts "
                    f"apart on these images{seen}"),
        ("Threshold", rule),
        ("Layer", ", ".join(f"{name} {number(value)}" for name, value in m["layer"].items())),
    ]  # fmt: skip
    if m["agreement"]:
        pairs = (f"{pair}: {number(x['correlation'])}" for pair, x in m["agreement"].items())
        facts.append(("Influence", "correlation of " + "; ".join(pairs)))
    return facts


def _new_head(found: Audit) -> dict[str, Any] | None:
    """Effect of a new head: its table and what it was fitted on; None where none was fitted."""
    head = found.manifest.get("new_head")
    if not head:
        return None
    rows = [
        [
            row["group"], f"{row['images']:,}",
            *("–" if row[k] is None else f"{row[k]:.1%}" for k in ("before", "pruned", "after", "all_neurons")),
            *_points(row),
        ]
        for row in head["rows"]
    ]  # fmt: skip
    names = ("group", "images", "before", "pruned", "new head", "on all neurons", "points", "95 % interval")
    return {**{k: head[k] for k in ("held_out", "left_out", "fitted_on")}, "columns": names, "rows": rows}


def _pruning(found: Audit) -> dict[str, Any] | None:
    """Effect of pruning: its table; None where it was not measured."""
    if not found.pruning.num_rows:
        return None
    m = found.manifest
    control = {row["group"]: row for row in found.pruning.to_pylist() if row["mode"] == "random"}
    rows = [
        [
            row["group"], f"{row['images']:,}", f"{row['before']:.1%}", f"{row['after']:.1%}", *_points(row),
            *_points(control[row["group"]]),
        ]
        for row in found.pruning.to_pylist()
        if row["mode"] != "random"
    ]  # fmt: skip
    return {
        "columns": ("group", "images", "before", "after", "points", "95 % interval", "random", "95 % interval"),
        "rows": rows,
        "images": str(m["labeled"]["name"]),
        "neurons": found.counts["spurious"],
        "done": "switched off" if m["mode"] == "hard" else "attenuated",
    }


def _points(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{100 * row['difference']:+.1f}", f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"


def _part(
    run: Run,
    found: Audit,
    verdict: str,
    moved: Mapping[int, Sequence[dict[str, Any]]],
    pictures: Pictures,
    most: int,
    pairs: int,
    outcomes: Mapping[tuple[int, str], tuple[str, str]],
) -> dict[str, Any]:
    """The neurons of a verdict, the first `most` with pictures."""
    rows = found.rows(verdict)
    named = Counter(row["best"] for row in rows if row["best"])
    return {
        "verdict": verdict,
        "about": ABOUT[verdict],
        "count": len(rows),
        "most": most if len(rows) > most else None,
        "named": [f"{name} {count:,}" for name, count in named.most_common(12)],
        "cards": [
            _card(run, row, moved.get(row["neuron"], []), pictures, pairs)
            | {"experiment": on_verdict(outcomes.get((row["neuron"], row["best"])))}
            for row in rows[:most]
        ],
    }


def _card(
    run: Run, row: dict[str, Any], moved: Sequence[dict[str, Any]], pictures: Pictures, pairs: int
) -> dict[str, Any]:
    own = run.neuron(row["neuron"])
    label = own["labels"].get(run.manifest["primary"], {}).get("label")
    numbers = [
        f"confidence {number(row['confidence'])}",
        f"stands out {number(row['z'])} deviations, margin {number(margin(row))} (noise {number(row['noise'])})",
        f"score {number(row['score'])}, empty {number(row['empty'])}",
        f"false-discovery rate {number(row['fdr'])}", f"clarity {number(row['clarity'])}",
        f"redundancy {number(row['redundancy'])}", f"polysemanticity {number(row['polysemanticity'])}",
    ]  # fmt: skip
    if label is not None:
        numbers.insert(0, f"labeled “{label}”")
    strongest = sorted(moved, key=lambda r: -abs(_first(r)))[:6]
    return {
        "neuron": row["neuron"],
        "name": own["name"],
        "verdict": row["verdict"],
        "best": row["best"] or "–",
        "numbers": numbers,
        "reason": row["reason"],
        "effects": [[r["class"], *(_signed(r[k]) for k in ("ablation", "gradient", "head"))] for r in strongest],
        "pairs": [pair(run, own, one, pictures) for one in own["exemplars"][:pairs] if one["positive"] >= 0],
    }


def _first(row: Mapping[str, Any]) -> float:
    """What the network itself says of the effect, where that was measured."""
    return next((float(row[k]) for k in ("ablation", "gradient", "head") if row[k] == row[k]), 0.0)


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)
