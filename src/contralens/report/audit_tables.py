"""An audit on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from contralens.data.audits import Audit, margin
from contralens.data.checked_reading import Checked
from contralens.data.runs import READABLE as RUNS
from contralens.data.table_folders import reading
from contralens.data.verifications import ON_VERDICT, outcomes_of, verification_of
from contralens.pages import number
from contralens.report.console import console, name_column, show


def audit_tables(found: Audit, most: int = 15) -> None:
    """Verdicts with the classes that their neurons move most, the effect of pruning, and how the numbers were got."""
    m = found.manifest
    out = console()
    moved, tested, names = movements(found), _experiments(found), _names(found)
    for line in filter(None, (found.conclusion, *found.explanation)):
        print(line)
    for verdict in ("spurious", "expected"):
        rows = found.rows(verdict)
        print(f"{verdict}: {len(rows)} neurons")
        first = name_column("neuron", [names[row["neuron"]] for row in rows[:most]])
        table = Table(
            first, "concept", "confidence", "z", "margin", "noise", "fdr",
            Column("raises, lowers", no_wrap=True), *["experiment"] * bool(tested), box=None, pad_edge=False,
        )  # fmt: skip
        for row in rows[:most]:
            table.add_row(
                escape(names[row["neuron"]]), escape(row["concept"]),
                *(number(row[key]) for key in ("confidence", "z")), number(margin(row)),
                number(row["noise"]), number(row["fdr"]), escape(moved.get(row["neuron"], "-")),
                *[ON_VERDICT.get(tested.get((row["neuron"], row["best"]), ("",))[0], "-")] * bool(tested),
            )  # fmt: skip
        show(table, len(rows), most)
    for verdict in ("undecided", "unexplained"):
        print(f"{verdict}: {found.counts[verdict]} neurons")
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
    if head := m.get("new_head"):
        out.print(_head_table(head))
        print(
            f"new head: without {head['left_out']} of {head['neurons'] + head['left_out']} neurons, fitted on "
            f"{head['fitted_on']} images, measured on {head['held_out']} others; difference: new head - before"
        )
    for note in found.warnings:
        print(f"note: {note}")
    if found.path is not None:
        head_file = f"   new head: {found.path / 'head.safetensors'}" if found.new_head is not None else ""
        print(f"audit: {found.path}   mask: {found.path / 'mask.safetensors'}{head_file}")


def _names(found: Audit) -> dict[int, str]:
    """Neuron -> its name, where the audit is in a run; else its number."""
    numbers = found.neurons["neuron"].to_pylist()
    names = {n: str(n) for n in numbers}
    if found.path is not None:
        with reading(found.path.parent):
            table = Checked.of(found.path.parent, "manifest.json", "Run", RUNS).table("neurons")
        names |= dict(zip(table["neuron"].to_pylist(), table["name"].to_pylist(), strict=True))
    return names


def _experiments(found: Audit) -> dict[tuple[int, str], tuple[str, str]]:
    """What experiments on the verdicts' concepts came to, where the audit is in a run that was tested."""
    run = found.path.parent if found.path is not None else None
    tested = verification_of(run, str(found.manifest["target"]["fingerprint"]))
    every = outcomes_of(tested.labels if tested else None)
    named = {(row["neuron"], row["best"]) for row in found.rows()}
    return {key: outcome for key, outcome in every.items() if key in named}


def _head_table(head: Mapping[str, Any]) -> Table:
    """Accuracy on held-out images: the network, pruned, with the new head, and with one on all neurons."""
    table = Table(
        "group", "images", "before", "pruned", "new head", "on all neurons", "difference", "95 % interval",
        box=None, pad_edge=False,
    )  # fmt: skip
    for row in head["rows"]:
        table.add_row(
            escape(row["group"]), str(row["images"]),
            *(number(row[k]) for k in ("before", "pruned", "after", "all_neurons")),
            f"{row['difference']:+.3f}", f"{row['low']:+.3f} .. {row['high']:+.3f}",
        )  # fmt: skip
    return table


def movements(found: Audit) -> dict[int, str]:
    """Neuron -> the class that it raises most and the one that it lowers most, as the network itself says where that
    was measured."""
    moved: dict[int, list[tuple[float, str]]] = {}
    for row in found.influence.to_pylist():
        value = next((row[k] for k in ("ablation", "gradient", "head") if row[k] == row[k]), None)
        if value is not None:
            moved.setdefault(row["neuron"], []).append((value, row["class"]))
    ends = {neuron: dict.fromkeys((max(own), min(own))) for neuron, own in moved.items()}
    return {neuron: "\n".join(f"{name} {value:+.2f}" for value, name in own) for neuron, own in ends.items()}
