"""A contrast between two classes on the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Column, Table

from contralens.data.class_contrasts import ClassContrast
from contralens.report.console import show


def contrast_tables(found: ClassContrast, most: int = 20) -> None:
    """What the difference is in words, and the neurons that separate the classes, strongest first."""
    m = found.manifest
    print(
        f"{m['a']} ({m['images_a']:,} images) against {m['b']} ({m['images_b']:,}), classes from {m['source']}: "
        f"{sum(m['separating'].values())} of {m['tested']} neurons of {m['layer']} separate them "
        f"(false-discovery rate {m['fdr']:g})"
    )
    for side in (m["a"], m["b"]):
        if m["words"][side]:
            print(f"{m['separating'][side]} fire for {side}, because of: {', '.join(m['words'][side])}")
        print(f"  what the encoder finds more of in {side}, whatever the network does: "
              f"{', '.join(m['images_differ'][side])}")  # fmt: skip
    rows = found.rows()
    above = f"AUC, {escape(m['a'])} above"
    table = Table(
        "neuron", "fires for", Column("because of", no_wrap=True), "label over all images", above,
        "95 % interval", "q", "pairs separated", box=None, pad_edge=False,
    )  # fmt: skip
    for row in rows[:most]:
        told = "-" if row["pairs"] is None else f"{row['pairs']:.0%}"
        table.add_row(
            escape(row["name"]), escape(row["fires_for"]), escape(row["concept"] or "-"),
            escape(row["label"] or "-"), f"{row['auc']:.3f}", f"{row['low']:.3f} .. {row['high']:.3f}",
            f"{row['q']:.2g}", told,
        )  # fmt: skip
    show(table, len(rows), most)
    for note in m["notes"]:
        print(f"note: {note}")
