"""A comparison on the terminal: every method beside one of them, or all pairs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from contralens.report.console import console, name_column, show

MARKS = {1: "▲", 0: "·", -1: "▼"}


def compare_tables(found: Any, most: int, pairs: bool = False) -> None:
    """A `contralens.evaluation.compare.Comparison`: means against the baseline, or, of `pairs` or two, every pair."""
    summary = found.to_dict()
    if pairs or len(found.methods) == 2:
        if found.differences.num_rows:
            _differences(found.differences.to_pylist())
        for pair, counts in summary["labels"].items():
            print(f"{pair}: {counts['changed']} of {counts['neurons']} neurons changed their label")
        for name, counts in summary["experiments"].items():
            print(f"{name}, labels tested: {', '.join(f'{n} {word}' for word, n in counts.items())}")
        _changed_pairs(summary["changes"], most)
    else:
        base = baseline(found)
        _means(found.differences.to_pylist(), summary, base)
        _changed(summary["changes"], base, most)
    for pair, how in summary["matchings"].items():
        by = f"activations on {how['images']:,} images" if how["by"] == "activations" else "exemplars"
        counts = ", ".join(f"{n} {status}" for status, n in how["counts"].items() if n)
        print(f"{pair}: neurons matched by {by}, threshold {how['threshold']:.2f}: {counts}")
    for note in found.notes:
        print(f"note: {note}")


def baseline(found: Any) -> str:
    """The method that the others are next to: the primary scorer of a single run, else the first run."""
    first = found.methods[0]
    if all(m.run is first.run for m in found.methods):
        return str(next((m.name for m in found.methods if m.scorer == m.run.manifest["primary"]), first.name))
    return str(first.name)


def _means(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], base: str) -> None:
    """One table, a row per method: labels unlike the baseline's, means and how they stand to its, experiments."""
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        for own, other, sign in (("one", "other", 1), ("other", "one", -1)):
            if row[other] == base:
                clear = int(math.copysign(sign, row["difference"])) if row["low"] * row["high"] > 0 else 0
                cells[row[own], row["metric"]] = f"{number(row[f'{own}_mean'])} {MARKS[clear]}"
                cells[base, row["metric"]] = f"{number(row[f'{other}_mean'])}  "
    for pair, counts in summary["labels"].items():
        one, _, other = pair.partition(" | ")
        if base in (one, other):
            name = other if one == base else one
            cells[name, "labels changed"] = f"{counts['changed']} of {counts['neurons']}"
    for name, counts in summary["experiments"].items():
        for word in ("verified", "refuted"):
            cells[name, word] = str(counts.get(word, 0))
    out, order = console(), [base, *(name for name in summary["methods"] if name != base)]
    columns = list(dict.fromkeys(["labels changed", *(row["metric"] for row in rows), "verified", "refuted"]))
    columns = [column for column in columns if any((name, column) in cells for name in order)]
    for part in _fitting(columns, out.width - max(map(len, order)) - 2):
        table = Table(name_column("", order), box=None, pad_edge=False)
        for column in part:
            table.add_column(column, justify="right", no_wrap=True)
        for name in order:
            shown = f"[bold]{escape(name)}[/bold]" if name == base else escape(name)
            table.add_row(shown, *(cells.get((name, column), "-") for column in part))
        out.print(table)
    marks = f"▲ ▼: above or below {base}, by a 95 % interval over neurons; ·: neither. " if rows else ""
    print(f"{marks}Every pair: --pairs")


def _fitting(metrics: Sequence[str], room: int) -> list[list[str]]:
    """Metrics in as few tables as the width allows."""
    parts: list[list[str]] = [[]]
    for metric in metrics:
        width = max(len(metric), 8) + 2
        if parts[-1] and sum(max(len(m), 8) + 2 for m in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(metric)
    return parts


def _differences(rows: Sequence[Mapping[str, Any]]) -> None:
    names = [row[side] for row in rows for side in ("one", "other")]
    table = Table("metric", name_column("one", names), name_column("other", names), box=None, pad_edge=False)
    for head in ("means", "difference", "95 % interval", "win/tie/loss"):
        table.add_column(head)
    for row in rows:
        games = f"{row['win']}/{row['tie']}/{row['loss']}" if row["paired"] else f"unpaired, {row['neurons']}"
        table.add_row(
            row["metric"], escape(row["one"]), escape(row["other"]),
            f"{number(row['one_mean'])} {number(row['other_mean'])}", number(row["difference"]),
            interval(row), games,
        )  # fmt: skip
    console().print(table)


def _changed_pairs(rows: Sequence[Mapping[str, Any]], most: int) -> None:
    """Neuron by neuron and pair by pair."""
    names = [row["name"] for row in rows[:most]]
    columns = ["name", "one", "one_label", "other", "other_label"]
    heads: list[Any] = [name_column("neuron", names), "one", "label", "other", "label"]
    if any(row["other_name"] != row["name"] for row in rows[:most]):  # matched neurons of another layer or network
        columns.insert(3, "other_name")
        heads.insert(3, name_column("is", [row["other_name"] for row in rows[:most]]))
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows[:most]:
        table.add_row(*(escape(_said(row[c])) for c in columns))
    show(table, len(rows), most, " (--most)")


def _changed(rows: Sequence[Mapping[str, Any]], base: str, most: int) -> None:
    """A row per neuron: the baseline's label, and which others there are, by how many methods."""
    first: dict[str, str] = {}
    others: dict[str, Counter[str]] = {}
    for row in rows:
        for own, other in (("one", "other"), ("other", "one")):
            if row[other] == base:
                name = row["name"] if row["one"] == base else row["other_name"]
                first[name] = _said(row[f"{other}_label"])
                others.setdefault(name, Counter())[_said(row[f"{own}_label"])] += 1
    table = Table(name_column("neuron", list(first)[:most]), base, "other labels (methods)", box=None, pad_edge=False)
    order = sorted(first, key=lambda name: -sum(others[name].values()))
    for name in order[:most]:
        told = ", ".join(f"{label} ({count})" for label, count in others[name].most_common())
        table.add_row(escape(name), escape(first[name]), escape(told))
    show(table, len(order), most, " (--most)")


def _said(label: Any) -> str:
    return "no label" if label is None else str(label)


def interval(row: Mapping[str, Any]) -> str:
    """Both ends of an interval."""
    return f"{number(row['low'])} .. {number(row['high'])}"


def number(value: float | None) -> str:
    """Three digits, or a dash for what is undefined."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
