"""The world benchmark on paper: tables in Markdown, which can be read again, and a plot. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contralens.checks import require
from contralens.data.atomic_files import write_whole
from contralens.errors import InputError, MissingPackage
from contralens.specs import gamma_of

BEGIN = "<!-- contralens bench world --docs -->"
END = "<!-- end of contralens bench world -->"

TITLES = {
    "right": "right: the label, out of 38 levels, names what the neuron truly responds to",
    "difference": "right, minus CSP (gamma 1), paired by neuron",
    "misled": "misled: the label names what is tied to the truth instead",
    "exact": "exact: the label, out of 330 levels and pairs of levels, names the truth and nothing else",
    "complete": "complete: the same, and all of the truth",
    "answered": "answered: the label passes the null test at the 5 % setting",
    "right_answered": "right among the answered",
}
"""The tables, in order; the title's first word is how a table is found again."""
Key = tuple[str, str, str, float]
"""Kind, table, scorer, dial."""
Numbers = tuple[float, float, float]
"""Mean, low, high."""
NOTHING = (float("nan"),) * 3
COLOURS = 10
"""Colours of a plot; further scorers have the same ones, dashed."""


def numbers(bench: Mapping[str, Any]) -> dict[Key, Numbers]:
    """The cells of all tables, from `WorldBench.to_dict` that tell something; an interval may be NaN."""
    found: dict[Key, Numbers] = {}
    for row in bench["rows"]:
        place = row["kind"], row["scorer"], row["dial"]
        told = {row["measure"]: row}
        if row["measure"] == "right" and "difference" in row:
            told["difference"] = row["difference"]
        for name, of in told.items():
            if name in TITLES and of["mean"] is not None:
                mean, low, high = (
                    float("nan") if of[key] is None else float(of[key]) for key in ("mean", "low", "high")
                )
                found[place[0], name, place[1], place[2]] = mean, low, high
    return found


def markdown(bench: Mapping[str, Any]) -> str:
    """All tables of a benchmark, with how they were got, between the two markers."""
    cells, s = numbers(bench), bench["settings"]
    out = [
        BEGIN,
        f"{len(s['worlds'])} worlds, {len(s['seeds'])} probe sets a world and dial (seeds {_list(s['seeds'])}), "
        f"{s['images']:,} pictures each, K = {s['k']}, "
        f"null distribution from {s['fakes']:,} null neurons. A cell: mean (95 % "
        "interval; bootstrap over the levels that neurons stand for, so that neurons of one level count once).",
    ]
    for kind in s["kinds"]:
        count = next(r["count"] for r in bench["rows"] if r["kind"] == kind and r["measure"] == "right")
        for name, title in TITLES.items():
            scorers = list(dict.fromkeys(k[2] for k in cells if k[:2] == (kind, name)))
            out += [f"\n**{kind} ({count}), {title}**\n", "| dial | " + " | ".join(f"{d:g}" for d in s["dials"]) + " |"]
            out += ["|---" * (1 + len(s["dials"])) + "|"]
            for scorer in scorers:
                row = [cell(cells.get((kind, name, scorer, d), NOTHING), name == "difference") for d in s["dials"]]
                out.append(f"| `{scorer}` | " + " | ".join(row) + " |")
    return "\n".join([*out, END]) + "\n"


def cell(value: Numbers, signed: bool = False) -> str:
    """One cell of a table.

    >>> cell((0.5, 0.25, 0.75)), cell((0.5, 0.25, 0.75), signed=True), cell((float("nan"),) * 3)
    ('0.50 (0.25–0.75)', '+0.50 (+0.25–+0.75)', '-')
    """
    mean, low, high = (f"{v:+.2f}" if signed else f"{v:.2f}" for v in value)
    return "-" if value[0] != value[0] else mean if value[1] != value[1] else f"{mean} ({low}–{high})"


def read(text: str) -> dict[Key, Numbers]:
    """The cells of tables that `markdown` wrote, found between the markers of a document."""
    found: dict[Key, Numbers] = {}
    kind, name, dials = "", "", list[float]()
    for line in _between(text).splitlines():
        if title := re.match(r"\*\*(\w+) \(\d+\), (.*)\*\*", line):
            kind = title[1]
            name = next(key for key, words in TITLES.items() if words == title[2])
        elif line.startswith("| dial |"):
            dials = [float(x) for x in line.strip("| ").split(" | ")[1:]]
        elif row := re.match(r"\| `(.+?)` \| (.*) \|", line):
            for dial, told in zip(dials, row[2].split(" | "), strict=True):
                if told == "-":
                    continue
                three = [float(x) for x in re.findall(r"[+-]?\d+\.\d+", told)]
                mean, low, high = (*three, *[float("nan")] * (3 - len(three)))
                found[kind, name, row[1], dial] = mean, low, high
    return found


def outside(bench: Mapping[str, Any], text: str) -> tuple[int, list[str]]:
    """How many cells of a benchmark a document has, too, and those whose mean is outside the document's interval.

    Rounding counts for the document: its cells have two digits.
    """
    told = read(text)
    shared = {key: value for key, value in numbers(bench).items() if key in told and told[key][1] == told[key][1]}
    out = []
    for key, (mean, _, _) in shared.items():
        if mean == mean and not told[key][1] - 0.005 <= mean <= told[key][2] + 0.005:
            out.append(f"{' '.join(map(str, key))}: {mean:.3f} is not in {cell(told[key])}")
    return len(shared), out


def write_into(document: Path, text: str) -> None:
    """Put tables into a document, which must have their first and their last line, the markers, too."""
    whole, (begin, *_, end) = document.read_text(encoding="utf-8"), text.strip().splitlines()
    write_whole(document, whole.replace(_between(whole, begin, end, str(document)), text.strip()).encode())


def _between(text: str, begin: str = BEGIN, end: str = END, where: str = "the document") -> str:
    first, last = text.find(begin), text.find(end)
    if not 0 <= first < last:
        raise InputError(f"{where} has no markers {begin} and {end} around the tables")
    return text[first : last + len(end)]


def _list(values: Any) -> str:
    return ", ".join(map(str, values))


def plot(bench: Mapping[str, Any], path: Path) -> Path | None:
    """Right, exact and answered against the dial, a line per scorer, some with a band; None without matplotlib."""
    try:
        require("matplotlib", "plots")
    except MissingPackage:
        return None
    from matplotlib.figure import Figure

    cells, s = numbers(bench), bench["settings"]
    shown = ("right", "exact", "answered")
    figure = Figure(figsize=(4.2 * len(shown), 3.4 * len(s["kinds"]) + 0.8), layout="constrained")
    axes = figure.subplots(len(s["kinds"]), len(shown), squeeze=False, sharex=True, sharey=True)
    places = list(range(len(s["dials"])))
    scorers = list(dict.fromkeys(key[2] for key in cells))
    for row, kind in enumerate(s["kinds"]):
        for column, name in enumerate(shown):
            ax = axes[row, column]
            for at, scorer in enumerate(scorers):
                three = [cells.get((kind, name, scorer, d), NOTHING) for d in s["dials"]]
                mean, low, high = ([v[i] for v in three] for i in range(3))
                style = {"color": f"C{at}", "linestyle": "-" if at < COLOURS else "--"}
                if scorer == "chance":
                    style = {"color": "black", "linestyle": ":"}
                wide = gamma_of(scorer) == 1
                ax.plot(places, mean, label=scorer, linewidth=2.2 if wide else 1.2, marker=".", **style)
                if wide or scorer == "semanticlens":
                    ax.fill_between(places, low, high, color=style["color"], alpha=0.13, linewidth=0)
            ax.set(title=f"{kind}: {name}", ylim=(-0.02, 1.02))
            ax.grid(alpha=0.3)
            ax.set_xticks(places, [f"{d:g}" for d in s["dials"]])
        axes[row, 0].set_ylabel("share of neurons")
    figure.supxlabel("dial: co-occurrence rate of confounder and true concept", fontsize="medium")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper")
    figure.savefig(path, dpi=110)
    return path
