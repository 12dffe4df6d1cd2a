"""An audit on the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from contralens.data.audits import Audit, margin
from contralens.report.cards import number
from contralens.report.console import console


def audit_tables(found: Audit, most: int = 15) -> None:
    """Verdicts with the classes that their neurons move most, the effect of pruning, and how the numbers were got."""
    m = found.manifest
    out = console()
    moved = movements(found)
    for verdict in ("spurious", "expected"):
        rows = found.rows(verdict)
        print(f"{verdict}: {len(rows)} neurons")
        if rows and most > 0:
            table = Table(
                "neuron", "concept", "z", "margin", "score", "empty", "fdr", "raises, lowers", box=None, pad_edge=False
            )
            for row in rows[:most]:
                table.add_row(
                    str(row["neuron"]), escape(row["concept"]),
                    number(row["z"]), number(margin(row)), *(number(row[key]) for key in ("score", "empty", "fdr")),
                    escape(moved.get(row["neuron"], "-")),
                )  # fmt: skip
            out.print(table)
            if len(rows) > most:
                print(f"... and {len(rows) - most} more")
    print(f"unexplained: {found.counts['unexplained']} neurons")
    print(
        f"layer: clarity {number(m['layer']['clarity'])}, redundancy {number(m['layer']['redundancy'])}, "
        f"polysemanticity {number(m['layer']['polysemanticity'])}"
    )
    for pair, told in m["agreement"].items():
        print(
            f"influence by {pair}: correlation {number(told['correlation'])}, largest difference "
            f"{number(told['largest difference'])} over {told['pairs']} pairs of neuron and class"
        )
    if found.pruning.num_rows:
        table = Table(
            "pruned", "group", "images", "before", "after", "difference", "95 % interval", box=None, pad_edge=False
        )
        for row in found.pruning.to_pylist():
            table.add_row(
                row["mode"], escape(row["group"]), str(row["images"]), *(number(row[k]) for k in ("before", "after")),
                f"{row['difference']:+.3f}", f"{row['low']:+.3f} .. {row['high']:+.3f}",
            )  # fmt: skip
        out.print(table)
        print("random: the same factors given to random neurons of the layer, mean of several draws")
    for note in found.warnings:
        print(f"note: {note}")
    if found.path is not None:
        print(f"audit: {found.path}   mask: {found.path / 'mask.safetensors'}")


def movements(found: Audit) -> dict[int, str]:
    """Neuron -> the class that it raises most and the one that it lowers most, as the network itself says where that
    was measured."""
    moved: dict[int, list[tuple[float, str]]] = {}
    for row in found.influence.to_pylist():
        value = next((row[k] for k in ("ablation", "gradient", "head") if row[k] == row[k]), None)
        if value is not None:
            moved.setdefault(row["neuron"], []).append((value, row["class"]))
    ends = {neuron: dict.fromkeys((max(own), min(own))) for neuron, own in moved.items()}
    return {neuron: ", ".join(f"{name} {value:+.2f}" for value, name in own) for neuron, own in ends.items()}
