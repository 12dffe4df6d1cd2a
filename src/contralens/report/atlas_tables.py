"""An atlas of layers on the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from contralens.checks import counted
from contralens.data.atlases import Atlas
from contralens.report.console import console, name_column, show

SHARES = ("supported", "sure", "verified", "refuted", "confounded")
"""Columns of layers that stand only where one of the runs has the numbers."""
P = 0.05
"""Edges are listed up to this p."""


def atlas_tables(found: Atlas, most: int = 15) -> None:
    """Layer by layer, the concepts with most neurons, contrasts and edges."""
    layers = found.layers.to_pylist()
    print(repr(found)[1:-1])
    shown = [name for name in SHARES if any(row[name] is not None for row in layers)]
    table = Table(
        name_column("layer", [row["layer"] for row in layers]), "depth",
        *(Column(name, justify="right") for name in ("neurons", "silent", "labeled", *shown, "concepts", "new")),
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in layers:
        shares = [share(row[name], row["neurons"]) for name in shown]
        table.add_row(
            escape(row["layer"]), "-" if row["depth"] is None else f"{row['depth']:.2f}", f"{row['neurons']:,}",
            f"{row['silent']:,}", share(row["labeled"], row["neurons"]), *shares, f"{row['concepts']:,}",
            f"{row['new']:,}",
        )  # fmt: skip
    console().print(table)
    _concepts(found, most)
    _links(found)
    _edges(found, most)
    for note in found.manifest["notes"]:
        print(f"note: {note}")


def share(count: int | None, whole: int) -> str:
    """A count and its share.

    >>> share(3, 12), share(None, 12)
    ('3 (25 %)', '-')
    """
    return "-" if count is None else f"{count:,} ({100 * count / max(1, whole):.0f} %)"


def _concepts(found: Atlas, most: int) -> None:
    rows = found.concepts.to_pylist()
    if not rows or most < 1:
        return
    table = Table(
        "concept", Column("neurons", justify="right"), "first in", "first sure in", "most in", box=None, pad_edge=False
    )
    for row in rows[:most]:
        cells = (row["concept"], f"{row['neurons']:,}", row["first"], row["first_sure"] or "-", row["most"])
        table.add_row(*map(escape, cells))
    print()
    show(table, len(rows), most, " concepts")


def _links(found: Atlas) -> None:
    links = found.links.to_pylist()
    if not links:
        return
    print()
    order = {key: at for at, key in enumerate(found.layers["run"].to_pylist())}
    for key in order:
        own = [row for row in links if row["run"] == key and order[row["other_run"]] == order[key] + 1]
        if own:
            near = [row for row in own if row["matches"]]
            same = sum(row["label"] is not None and row["label"] == row["other_label"] for row in near)
            print(
                f"{key} to {own[0]['other_run']}: {counted(len(near), 'neuron')} of {len(own):,} have a match there "
                f"above the threshold, {same:,} of them with the same label"
            )


def _edges(found: Atlas, most: int) -> None:
    rows = [row for row in found.edges.to_pylist() if row["label"] is not None and row["other_label"] is not None]
    if not len(found.edges):
        return
    strong = sorted((row for row in rows if row["p"] <= P), key=lambda row: (row["p"], -abs(row["effect"])))
    print(f"\n{counted(len(strong), 'edge')} of {len(rows):,} between labeled neurons at p <= {P:g}")
    table = Table("from", "label", "to", "label", Column("effect", justify="right"), "p", box=None, pad_edge=False)
    for row in strong[:most]:
        table.add_row(
            f"{escape(row['run'])}/{row['neuron']}", escape(row["label"]), f"{escape(row['other_run'])}/{row['other']}",
            escape(row["other_label"]), f"{row['effect']:.3f}", f"{row['p']:.3f}",
        )  # fmt: skip
    if strong and most > 0:
        console().print(table)


def neurons_table(rows: list[dict[str, Any]], most: int) -> None:
    """Neurons of all layers."""
    sures = Column("confidence", justify="right")
    table = Table("layer", "neuron", "label", sures, "verified", box=None, pad_edge=False)
    for row in rows[:most]:
        sure = "-" if row["confidence"] is None else f"{row['confidence']:.2f}"
        cells = (row["layer"], row["name"], row["label"] or "-", sure, row["verified"] or "-")
        table.add_row(*map(escape, cells))
    console().print(table)
    print(f"{counted(len(rows), 'neuron')}" + (f", {most} shown" if len(rows) > most else ""))
