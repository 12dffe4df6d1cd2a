"""Tables on the terminal."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from shlex import quote
from typing import Any

from rich.markup import escape
from rich.table import Column, Table

from contralens.checks import counted
from contralens.data.answers import (
    abstentions,
    answer,
    because,
    corrected,
    experiments,
    notes,
    rates,
    several,
    supported,
    tested,
    trust,
)
from contralens.data.contrast_changes import contrast_pair
from contralens.data.final_labels import OVERRULED, final
from contralens.data.runs import Run
from contralens.proposing.candidates import folder_of
from contralens.report.concept_origin import MARK, asked, is_proposed, origin
from contralens.report.console import console, name_column
from contralens.sharing.label_files import LabelFile
from contralens.types import AUTO


def labels_table(run: Run, most: int = 20) -> None:
    """The first neurons with the label of each scorer and the primary score; that of "auto" is its confidence."""
    run = final(run)
    asked_chance = bool(run.manifest.get("chance"))
    asked_trust = bool(run.manifest.get("confidence"))
    asked_test = any(row["verified"] is not None for row in run.rows())
    columns = [run.rows(scorer) for scorer in run.scorers]
    shown = [row for row in zip(*columns, strict=True) if any(r["status"] in ("ok", *OVERRULED) for r in row)]
    primary = run.scorers.index(run.manifest["primary"])
    scored = not (asked_trust and run.manifest["primary"] == AUTO)
    cells: dict[str, list[str]] = {name: [] for name in ("neuron", *run.scorers, *["score"] * scored)}
    for row in shown[:most]:
        first = row[primary]
        cells["neuron"].append(first["name"])
        if scored:
            cells["score"].append("-" if first["score"] is None else f"{first['score']:.3f}")
        for scorer, one in zip(run.scorers, row, strict=True):
            mark = f" {MARK}" if is_proposed(run, one["label"] or "") else ""
            cells[scorer].append((one["label"] or f"({one['status']})") + mark)
        if asked_chance:
            cells.setdefault("null test", []).append("-" if first.get("fdr") is None else f"fdr {first['fdr']:.3f}")
        if asked_trust:
            cells.setdefault("confidence", []).append(trust(first) or "-")
        if asked_test:
            cells.setdefault("experiment", []).append(first["verified"] or "-")
    out = console()
    left_out = _left_out(run, cells, out.width)
    heads = [name for name in cells if name not in left_out]
    table = Table(
        *(name_column(h, cells[h]) if h == "neuron" else Column(h, overflow="fold") for h in heads),
        box=None, pad_edge=False,
    )  # fmt: skip
    for at in range(len(shown[:most])):
        table.add_row(*(escape(cells[head][at]) for head in heads))
    out.print(table)
    if len(shown) > most:
        out.print(f"... and {len(shown) - most} more")
    if left_out:
        print(f"not shown to save space: {', '.join(left_out)} (contralens show RUN NEURON)")


def _left_out(run: Run, cells: dict[str, list[str]], width: int) -> list[str]:
    """The scorers whose labels do not fit beside the primary one's; the one without contrast stays longest."""
    primary, (without, _) = run.manifest["primary"], contrast_pair(run)
    room = {name: 2 + min(24, max(map(len, (name, *own)))) for name, own in cells.items()}
    others = [scorer for scorer in run.scorers if scorer != primary]
    out: list[str] = []
    for scorer in sorted(others, key=lambda scorer: scorer == without):
        if sum(room.values()) > width:
            out.append(scorer)
            del room[scorer]
    return out


def summary(run: Run, page: Path | None) -> None:
    """How the numbers were computed, and where to look."""
    run = final(run)
    m = run.manifest
    no_label = ", ".join(f"{n} {status}" for status, n in m["neurons"]["skipped"].items())
    skipped = len(m["images"]["skipped"])
    print(
        f"\n{counted(m['neurons']['labeled'], 'neuron')} of {m['target']['name']} {m['target']['layer']} labeled"
        + (f" (no label: {no_label})" if no_label else "")
        + f" over {m['images']['count']} images"
        + (f" ({skipped} skipped, listed in manifest.json)" if skipped else "")
        + f", {m['vocabulary']['concepts']} concepts, encoder {m['encoder']['name']}"
    )
    for line in filter(None, [supported(run), experiments(run), *abstentions(run)]):
        print(line)
    if came := asked(run):
        print(f"candidates: {came}; {MARK} marks labels that are not in the vocabulary")
        for error in m["candidates"].get("errors", [])[:5]:
            print(f"  {error['name']}: no candidate: {error['error']}")
    for note in notes(m):
        print(f"note: {note}")
    print(f"run folder: {run.path}")
    if page:
        print(f"report:     {page}   (open it in any browser, e.g. python -m webbrowser {page.resolve().as_uri()})")
    folder = quote(str(run.path))
    print(f"share:      {program()} card {folder}   (the clearest change by contrast, as a picture)")
    print(f"next:       {program()} explore {folder}   (or evaluate, to measure the labels; verify, to test them)")


def program() -> str:
    """How to call contralens from this shell: by name, else by the path of the running program (a `.venv/bin`)."""
    here = sys.argv[0]
    return here if Path(here).name == "contralens" and shutil.which("contralens") is None else "contralens"


def neuron_table(run: Run, found: dict[str, Any]) -> None:
    """One neuron: labels by scorer, then exemplars beside their contrasts."""
    out = console()
    out.print(
        f"{escape(found['name'])} (neuron {found['neuron']}): {found['status']}, mean {found['mean']:.4g},"
        f" maximum {found['maximum']:.4g}, fires on {found['firing_rate']:.1%} of the images"
    )
    whole = (Column(name, no_wrap=True) for name in ("scorer", "label", "score", "confidence"))
    labels = Table(*whole, "then", box=None, pad_edge=False)
    for scorer, row in found["labels"].items():
        others = ", ".join(f"{c} {s:.3f}" for c, s in list(zip(row["concepts"], row["scores"], strict=True))[1:5])
        score = "" if row["score"] is None or (scorer == AUTO and trust(row)) else f"{row['score']:.3f}"
        labels.add_row(scorer, escape(answer(row)), score, trust(row) or "-", escape(others))
    out.print(labels)
    for scorer, row in found["labels"].items():
        if told := "; ".join(filter(None, [because(row), corrected(row) or rates(row), tested(row), several(row)])):
            print(f"{scorer}: {told}")
    for concept in dict.fromkeys(row["label"] for row in found["labels"].values()):
        if came := origin(run, found["neuron"], concept):
            print(f"{concept}: {came[0].lower()}{came[1:]}")
    if named := dict.fromkeys(row["concept"] for row in found["proposals"]):
        print(f"proposed for this neuron: {', '.join(named)}")
        reply = folder_of(run.path or Path()) / "replies" / f"{found['proposals'][0]['reply']}.json"
        if reply.is_file():
            print(f"the reply and its pictures: {reply}")
    pairs = Table(
        "rank", "activating image", "activation", "contrast", "activation", "cosine", box=None, pad_edge=False
    )
    for row in found["exemplars"]:
        pairs.add_row(
            str(row["rank"] + 1),
            escape(row["positive_id"] or "-"),
            f"{row['activation']:.4g}",
            "itself" if row["contrast"] == row["positive"] else escape(row["contrast_id"] or "-"),
            f"{row['contrast_activation']:.4g}",
            f"{row['similarity']:.3f}",
        )
    out.print(pairs)
    if any(row["contrast"] == row["positive"] for row in found["exemplars"]):
        print("itself: already below the neuron's mean, so it is its own contrast and csp gains nothing from it")


def granularity_table(found: list[dict[str, Any]], most: int = 10) -> None:
    """Labels with their chain of broader concepts, and where the evidence stops."""
    out = console()
    for entry in found[:most]:
        if not entry["chain"]:
            out.print(f"{escape(entry['name'])}: {escape(entry['label'])}, which WordNet does not know\n")
            continue
        verdict = f"holds up to “{entry['broadest']}”" if entry["broadest"] else "the label itself does not hold"
        if entry["broadest"] and not entry["stops"]:
            verdict = f"no broader concept failed, up to “{entry['broadest']}”"
        out.print(f"{escape(entry['name'])}: {escape(entry['label'])}; {escape(verdict)}", highlight=False)
        table = Table("concept", "score", "pairs", "p", "", "what WordNet says", box=None, pad_edge=False)
        room = out.width - max(len(step["concept"]) for step in entry["chain"]) - 38
        for step in entry["chain"]:
            told = (
                "stops here"
                if step["concept"] == entry["stops"]
                else {True: "holds", False: "fails"}.get(step["holds"])
            )
            values = [
                "-" if step[name] is None else form.format(step[name])
                for name, form in (("score", "{:.3f}"), ("pairs", "{:.0%}"), ("p", "{:.2g}"))
            ]
            table.add_row(escape(step["concept"]), *values, told or "-", escape(_cut(step["gloss"], room)))
        out.print(table)
        out.print()
    if len(found) > most:
        out.print(f"... and {len(found) - most} more neurons (--most, --json)")
    if any(step["score"] is None for entry in found[:most] for step in entry["chain"]):
        print("-: the encoder does not read this concept")
    known = [entry for entry in found if entry["chain"]]
    own = sum(entry["broadest"] is not None for entry in known)
    print(
        f"{len(known)} of {len(found)} labels are known to WordNet, {own} of these hold: significantly more positives "
        "than contrasts are closer to them (one-sided sign test, p <= 0.05)"
    )


def label_file_table(found: LabelFile, rows: list[dict[str, Any]], most: int = 20) -> None:
    """What a label file holds: how it was made, and its first labels."""
    c = found.content
    print(
        f"{c['target']['name']} {c['target']['layer']}: {counted(len(found), 'neuron')}, labels by "
        f"{', '.join(found.scorers)} (primary {c['primary']})\n{c['probe']['count']:,} probe images of "
        f"{c['probe']['name']}, {c['vocabulary']['concepts']:,} concepts, encoder {c['encoder']['name']}, "
        f"contralens {c['made_with']['contralens']}"
    )
    names = name_column("neuron", [row["name"] for row in rows[:most]])
    table = Table(names, "label", "score", box=None, pad_edge=False)
    for row in rows[:most]:
        score = "" if row["score"] is None else f"{row['score']:.3f}"
        table.add_row(escape(row["name"]), escape(row["label"] or f"none ({row['status']})"), score)
    console().print(table)
    if len(rows) > most:
        print(f"... and {len(rows) - most} more (--json)")


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else "" if room < 12 else f"{text[: room - 1].rstrip()}…"


def layers_table(layers: Any) -> None:
    """Layers with what `target(layer=...)` would make of them."""
    layers = list(layers)
    table = Table(
        name_column("layer", [layer.name for layer in layers]),
        "type",
        "kind",
        "output",
        "neurons",
        "pooling",
        "note",
        box=None,
        pad_edge=False,
    )
    for layer in layers:
        shape = "x".join(map(str, layer.shape)) if layer.shape else "-"
        table.add_row(
            escape(layer.name),
            layer.type,
            ", ".join(layer.kinds) or "-",
            shape,
            str(layer.neurons or "-"),
            layer.pooling or "-",
            escape(layer.note or ""),
        )
    console().print(table)


def demo_table(rows: list[dict[str, Any]]) -> None:
    """Share of right labels by scorer and group of neurons, with intervals."""
    groups = list(dict.fromkeys(row["neurons"] for row in rows))
    overall = [g for g in groups if g.startswith(("all", "dominated"))]
    count = {row["neurons"]: row["of"] for row in rows}
    print("Labels that name what the neuron truly responds to (95 % intervals).")
    print("planted: neurons with a known rule; trained: neurons of small CNNs, truth measured by intervention;")
    print("dominated: a confounder is present in most activating images. A random label is right in 1 of 38 cases.\n")
    scorers = list(dict.fromkeys(row["scorer"] for row in rows))
    single = [g for g in groups if g not in overall]
    table = Table(name_column("scorer", scorers), *(_stacked(g, count[g]) for g in overall), box=None, pad_edge=False)
    worlds = Table(name_column("scorer", scorers), *(_stacked(g, count[g]) for g in single), box=None, pad_edge=False)
    for scorer in scorers:
        own = {row["neurons"]: row for row in rows if row["scorer"] == scorer}
        table.add_row(scorer, *(f"{_share(own[g])} ({_interval(own[g])})" for g in overall))
        worlds.add_row(scorer, *(_share(own[g]) for g in single))
    out = console()
    out.print(table)
    if len({group.rpartition(" ")[0] for group in single}) > 1:  # of one world, the table above says it all
        out.print()
        out.print(worlds)


def _stacked(group: str, neurons: int) -> str:
    first, last = group.rsplit(" ", 1)
    return f"{first}\n{last}\n({neurons})"


def _interval(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{low:.2f}-{high:.2f}"


def _share(row: dict[str, Any]) -> str:
    return "-" if row["share"] is None else f"{row['share']:.2f}"
