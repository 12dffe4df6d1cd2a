"""What experiments on labels came to, as the page of a neuron shows it."""

from __future__ import annotations

import base64
from typing import Any

from contralens.data.verifications import inside_words, on_verdict
from contralens.explorer import shapes
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import number

MOST = 20
"""Experiments on one neuron, and pictures of one experiment, that a page holds."""


def experiments(run: OpenRun, neuron: int) -> list[shapes.Experiment] | None:
    """Those on one neuron, with their pictures; None where no label of the run was tested."""
    if "experiments" not in run.tables:
        return None
    pictures: dict[str, list[shapes.Edited]] = {}
    if "edited" in run.tables:
        for row in run.records("SELECT * FROM edited WHERE neuron = ? ORDER BY kind DESC, rowid", [neuron]):
            shown = pictures.setdefault(row["label"], [])
            if len(shown) < MOST and row["before"] and row["after"]:
                shown.append(_edited(row))
    steered = {}
    if "steered" in run.tables:
        steered = {
            row["label"]: f"; {inside_words(row)}"
            for row in run.records("SELECT * FROM steered WHERE neuron = ?", [neuron])
        }
    return [
        {
            "label": row["label"], "outcome": row["outcome"],
            "reason": (row["reason"] or "") + steered.get(row["label"], ""),
            "editor": row["editor"] or "", "instead_of": row["instead_of"],
            "removal": number(row["remove"]), "insertion": number(row["insert"]),
            "removal_images": row["remove_images"] or 0, "insertion_images": row["insert_images"] or 0,
            "edited": pictures.get(row["label"], []),
        }
        for row in run.records("SELECT * FROM experiments WHERE neuron = ? ORDER BY rowid LIMIT ?", [neuron, MOST])
    ]  # fmt: skip


def _edited(row: dict[str, Any]) -> shapes.Edited:
    before, after = (f"data:image/jpeg;base64,{base64.b64encode(row[side]).decode()}" for side in ("before", "after"))
    return {"kind": str(row["kind"]), "before": before, "after": after,
            "was": number(row["was"]), "became": number(row["became"])}  # fmt: skip


def of_verdicts(run: OpenRun) -> dict[tuple[int, str], str]:
    """Neuron and concept -> what an experiment says of an audit's verdict that the one stands for the other."""
    if "experiments" not in run.tables:
        return {}
    found = run.query("SELECT neuron, label, outcome, reason, editor FROM experiments")
    return {(n, label): on_verdict((outcome, f"{why} (editor {editor})")) for n, label, outcome, why, editor in found}
