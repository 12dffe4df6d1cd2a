"""A verification on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from contralens.data.verifications import OUTCOMES, Verification, inside_words
from contralens.report.console import name_column, show


def verify_tables(found: Verification, most: int = 30, only: Collection[int] = ()) -> None:
    """Labels by outcome, what each experiment came to, and how far "verified" can be trusted; `only` some neurons'."""
    for line in summary_lines(found):
        print(line)
    rows = [row for word in OUTCOMES for row in found.rows(word) if not only or row["neuron"] in only]
    names = name_column("neuron", [row["name"] for row in rows[:most]])
    table = Table(
        names, Column("label", no_wrap=True), Column("outcome", no_wrap=True), "removal", "insertion", "because",
        box=None, pad_edge=False,
    )  # fmt: skip
    steered = {(row["neuron"], row["label"]): inside_words(row) for row in found.inside.to_pylist()}
    for row in rows[:most]:
        inside = steered.get((row["neuron"], row["label"]))
        reason = f"{row['reason']}; {inside}" if inside else str(row["reason"])
        sides = (effect(row["remove"], row["remove_images"]), effect(row["insert"], row["insert_images"]))
        table.add_row(row["name"], escape(_label(row)), row["outcome"], *sides, escape(reason))
    show(table, len(rows), most)


def summary_lines(found: Verification) -> list[str]:
    """How many labels were tested with which outcome, how null labels fared, and what a reader should know."""
    m, counts = found.manifest, found.counts
    editors = " and ".join(dict.fromkeys(found.labels["editor"].to_pylist())) or m["editor"]["name"]
    lines = [
        f"{len(found.rows())} labels of {m['scorer']} tested with the editor {editors}: "
        + ", ".join(f"{counts[word]} {word}" for word in OUTCOMES)
    ]
    if counts["verified"] and (nulls := sum(m["nulls"].values())):
        lines.append(
            f"of {nulls} null labels (control concepts in the labels' place) {m['nulls']['verified']} were verified: a "
            f"false-discovery rate of at most about {m['false-discovery rate of verified']:.0%}"
        )
    return lines + [f"note: {note}" for note in m["notes"]]


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['label']} (not {row['instead_of']})" if row["instead_of"] is not None else str(row["label"])


def effect(share: float | None, images: int) -> str:
    """
    >>> effect(0.82, 8), effect(float("nan"), 0)
    ('82% (8)', '-')
    """
    return f"{share:.0%} ({images})" if images and share is not None else "-"
