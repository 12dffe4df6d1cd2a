"""The HTML page of a verification: pictures before and after, with what the neuron did. One file without a script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contralens.data.audits import load_audit
from contralens.data.runs import Run
from contralens.data.verifications import OUTCOMES, Verification, inside_words, load_verification
from contralens.errors import InputError
from contralens.pages import render
from contralens.report.audit_tables import movements
from contralens.report.html import write_page
from contralens.report.verify_tables import effect, summary_lines

ABOUT = {
    "verified": "Removing the concept lowers the activation and inserting it raises it; other edits do less.",
    "refuted": "Removing or inserting the concept does not have the expected effect.",
    "untested": "Too few edits, or an effect that is neither clearly strong nor clearly weak.",
}
WORDS = {"remove": "taken out", "insert": "put in"}


def write_verify_page(
    run: Run, found: Verification | None = None, out: str | Path | None = None, *, most: int = 60
) -> Path:
    """Write the page of a run's verification and return where it lies: `out`, or verification.html in the run's folder.

    Args:
        run: the run.
        found: its verification; by default the one in its folder.
        out: the file.
        most: labels of each outcome shown with pictures; all are counted.

    Raises:
        InputError: the run has no verification, or no place to write to.

    >>> import contralens
    >>> found = contralens.verify("run", neurons=[0, 1], images=3)
    >>> write_verify_page(contralens.load("run"), found).as_posix()
    'run/verification.html'
    """
    if run.path is None and (found is None or out is None):
        raise InputError("this run was never saved: give its verification and a file for the page")
    found = found or load_verification(str(run.path))
    path = Path(out) if out is not None else Path(str(run.path)) / "verification.html"
    held = run.path is not None and (run.path / "audit" / "audit.json").is_file()
    write_page(path, verify_page(found, most, movements(load_audit(str(run.path))) if held else None), run)
    return path


def verify_page(found: Verification, most: int = 60, moved: Mapping[int, str] | None = None) -> str:
    """The page as text; `moved` says which classes an audit found each neuron to raise and to lower."""
    pictures: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in found.pictures.to_pylist():
        pictures.setdefault((row["neuron"], row["label"]), []).append(row)
    steered = {(row["neuron"], row["label"]): inside_words(row) for row in found.inside.to_pylist()}
    parts = []
    for word in OUTCOMES:
        rows = found.rows(word)
        cards = [_card(row, pictures.get((row["neuron"], row["label"]), []), (moved or {}).get(row["neuron"], ""),
                       steered.get((row["neuron"], row["label"]), ""))
                 for row in rows[:most]]  # fmt: skip
        parts.append({
            "outcome": word, "about": ABOUT[word], "count": len(rows), "more": max(0, len(rows) - most), "cards": cards,
        })  # fmt: skip
    return render("verify.html", style=("report.css", "verify.css"), lines=summary_lines(found), parts=parts)


def _card(row: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]], moved: str, inside: str) -> dict[str, Any]:
    strips = [
        {"what": WORDS[picture["kind"]], "from": picture["was"], "to": picture["became"], "before": picture["before"],
         "after": picture["after"]}
        for picture in pictures
    ]  # fmt: skip
    removal, insertion = (effect(row[kind], row[f"{kind}_images"]) for kind in ("remove", "insert"))
    told = {key: row[key] for key in ("name", "label", "outcome", "reason", "instead_of")}
    return {
        **told,
        "moved": ", ".join(moved.splitlines()),
        "inside": inside,
        "removal": removal,
        "insertion": insertion,
        "strips": strips,
    }
