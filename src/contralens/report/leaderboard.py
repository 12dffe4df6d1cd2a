"""The leaderboard of the world benchmark on paper: one table in Markdown, one for a terminal. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

BEGIN = "<!-- contralens bench leaderboard --docs -->"
END = "<!-- end of contralens bench leaderboard -->"
COLUMNS = {
    "right": "right", "right_rough": "right, nuisances", "planted": "planted", "trained": "trained", "exact": "exact",
    "exact_rough": "exact, nuisances",
}  # fmt: skip
"""Shares of a row, with their headings."""


def markdown(board: Mapping[str, Any]) -> str:
    """The table between its two markers, with the settings."""
    shown = [name for name in COLUMNS if any(name in row for row in board["rows"])]
    out = [
        BEGIN, settings_line(board), "",
        "| scorer | " + " | ".join(COLUMNS[name] for name in shown) + " | CPU s | MB |",
        "|---" * (len(shown) + 3) + "|",
    ]  # fmt: skip
    for row in board["rows"]:
        cells = [_share(row.get(name)) for name in shown]
        out.append(f"| `{row['scorer']}` | " + " | ".join([*cells, *_cost(row)]) + " |")
    return "\n".join([*out, "", END]) + "\n"


def plain_table(board: Mapping[str, Any]) -> str:
    """The means in a table of at most 80 columns."""
    heads = ["right", "rough", "planted", "trained", "exact", "CPU s", "MB"]
    keys = ["right", "right_rough", "planted", "trained", "exact"]
    wide = max(len(row["scorer"]) for row in board["rows"])
    lines = [" " * wide + "".join(f"{head:>8}" for head in heads)]
    for row in board["rows"]:
        cells = [f"{row[key][0]:.2f}" if key in row else "-" for key in keys]
        lines.append(f"{row['scorer']:<{wide}}" + "".join(f"{cell:>8}" for cell in [*cells, *_cost(row)]))
    return "\n".join([*lines, "", settings_line(board)])


def settings_line(board: Mapping[str, Any]) -> str:
    """What was measured, and which settings are not the frozen ones."""
    s = board["settings"]
    changed = f" Not the frozen settings: {', '.join(s['changed'])}." if s["changed"] else ""
    return (
        f"Version {board['version']}, worlds {_list(s['worlds'])}, dials {_list(s['dials'])}, "
        f"seeds {_list(s['seeds'])}, {s['images']:,} images per probe set, K = {s['k']}.{changed}"
    )


def _share(value: Sequence[float] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = value
    return f"{mean:.2f} ({low:.2f}–{high:.2f})"


def _cost(row: Mapping[str, Any]) -> list[str]:
    seconds, size = row["seconds"], row["bytes"]
    return ["-" if seconds is None else f"{seconds:.3f}", "-" if size is None else f"{size / 1e6:.0f}"]


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
