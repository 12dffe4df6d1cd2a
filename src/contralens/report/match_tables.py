"""A matching of two runs on the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from contralens.checks import few
from contralens.data.matchings import ABOUT, STATUSES, Matching
from contralens.report.console import show

LABELS = 12
"""Labels listed that only one run has."""


def match_tables(found: Matching, most: int = 20) -> None:
    """How many neurons are which, what changed, and how the threshold was got."""
    m, counts = found.manifest, found.counts
    where = f"activations on {m['images']:,} shared images" if m["by"] == "activations" else "their exemplars"
    sides = [f"{m[side]['name']} {m[side]['layer']} ({m[side]['compared']} neurons)" for side in ("one", "other")]
    print(f"{' and '.join(sides)}, compared by {where}")
    null = f"{1 - m['level']:.0%} of the null neurons ({m['null']}) have no match as close"
    print(f"matched from {m['threshold']:.3f} on: {null}")
    for status in STATUSES:
        if counts[status]:
            print(f"  {counts[status]:>6,} {status}: {ABOUT[status]}")
    rows = [row for row in found.rows() if row["status"] not in ("kept", "unlabeled")]
    table = Table("status", "one", Column("label"), "other", Column("label"), "correlation", box=None, pad_edge=False)
    for row in _each(rows, most):
        cells = (row["one_name"], row["one_label"], row["other_name"], row["other_label"])
        table.add_row(row["status"], *(escape(cell or "-") for cell in cells), f"{row['correlation']:.3f}")
    show(table, len(rows), most)
    for key, side in (("labels_new", "other"), ("labels_gone", "one")):
        if m[key]:
            print(f"labels of {m[side]['name']} alone: {few(m[key], LABELS)}")
    for note in m["notes"]:
        print(f"note: {note}")


def _each(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Some rows of every status, in order."""
    kinds = [[row for row in rows if row["status"] == status] for status in STATUSES]
    kinds = [own for own in kinds if own]
    share = max(1, most // max(1, len(kinds)))
    left = most - sum(min(share, len(own)) for own in kinds)
    out = []
    for own in kinds:
        count = min(len(own), share + max(0, left))
        left -= max(0, count - share)
        out += own[:count]
    return out[:most]
