"""A section for a model's page on a hub: what was labeled, how, how many labels are supported, examples, limits."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from contralens.checks import counted, whole
from contralens.data.atlases import SURE, Atlas, atlas_of, opened
from contralens.data.atomic_files import write_whole
from contralens.data.card import card
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.pages import markdown_cell, render
from contralens.report.atlas_tables import share
from contralens.sharing.local_paths import anonymous

MARK = "<!-- written by contralens card -->"
NAMES = ("neurons.md", "neurons.html")
COLUMNS = {
    "supported": "passed the null test", "sure": "with confidence ≥ 0.5", "verified": "verified by experiment",
    "refuted": "refuted by experiment", "confounded": "spurious in the audit",
}  # fmt: skip
CONCEPTS = 12
CONCEPT_HEADS = ("Concept", "Neurons", "First with confidence ≥ 0.5", "First at all", "Most in")
PICTURES = "Above: the images that activate the neuron most; below each the most similar image that does not."


def write_model_card(runs: Sequence[str | Path | Run], out: str | Path, *, examples: int = 6) -> list[Path]:
    """Write neurons.md, neurons.html and the pictures that the Markdown shows into a folder.

    Args:
        runs: runs of layers of one network, or a folder that holds them.
        out: the folder.
        examples: neurons shown with pictures, the most confident ones of different labels.

    Raises:
        InputError: no runs; or one of the files is there and was not written by this.

    >>> [path.name for path in write_model_card(["run"], "model-card", examples=1)]
    ['neurons.md', 'neurons.html', 'neuron-1.jpg']
    """
    whole("examples", examples, 0)
    found = opened(runs)
    folder = Path(out)
    for name in NAMES:
        there = folder / name
        if there.exists() and MARK not in there.read_text(encoding="utf-8", errors="replace"):
            raise InputError(f"{there} was not written by contralens: move it away, or give another folder with --out")
    atlas = atlas_of(found)
    about = card_of(found, atlas)
    shown = [{**row, "picture": f"neuron-{i}.jpg"} for i, row in enumerate(chosen(atlas, examples), 1)]
    pictures = [_jpeg(found, row) for row in shown]
    folder.mkdir(parents=True, exist_ok=True)
    texts = [markdown(about, shown), html(about, shown, pictures)]
    files = dict(zip(NAMES, (text.encode() for text in texts), strict=True))
    files |= {row["picture"]: jpeg for row, jpeg in zip(shown, pictures, strict=True)}
    for name, blob in files.items():
        write_whole(folder / name, blob)
    return [folder / name for name in files]


def card_of(runs: Sequence[Run], atlas: Atlas) -> dict[str, Any]:
    """What the section says, as plain values."""
    first: dict[str, Any] = anonymous(runs[0].manifest)
    layers = [{**row, "layer": name_of(row["layer"])} for row in atlas.layers.to_pylist()]
    columns = [name for name in COLUMNS if any(row[name] is not None for row in layers)]
    totals = {name: sum(row[name] or 0 for row in layers) for name in ("neurons", "silent", "labeled", *columns)}
    facts = [
        ("Network", first["target"]["name"]),
        ("Layers", ", ".join(row["layer"] for row in layers)),
        ("Probe images", f"{first['images']['count']:,} of {first['images']['name']}"),
        ("Image-text encoder", first["encoder"]["name"]),
        ("Concepts", f"{first['vocabulary']['concepts']:,} from {first['vocabulary']['source']}"),
        ("Scorer", first["primary"]),
        ("Exemplars per neuron", f"{first.get('k', '?')}, each with a contrastive example"),
        ("Tool", f"contralens {first['contralens']}"),
    ]
    return {
        "target": first["target"]["name"], "facts": facts, "layers": layers, "columns": columns, "totals": totals,
        "concepts": [
            {**row, **{key: name_of(row[key]) for key in ("first", "first_sure", "most")}}
            for row in atlas.concepts.slice(0, CONCEPTS).to_pylist()
        ],
        "limits": limits(runs, atlas, totals),
        "version": first["contralens"],
    }  # fmt: skip


def limits(runs: Sequence[Run], atlas: Atlas, totals: dict[str, int]) -> list[str]:
    """What a reader must not take from the labels."""
    first = anonymous(runs[0].manifest)
    out = [
        f"A label is the concept of a fixed list ({first['vocabulary']['concepts']:,}) that fits the images best that "
        "activate a neuron most. A concept that is not in the list cannot be found, and a neuron may respond to more "
        "than one.",
        f"Labels hold for the {first['images']['count']:,} probe images. Where two properties always co-occur in them, "
        "no label can separate them.",
        f"The encoder ({first['encoder']['name']}) decides what counts as similar; its errors are in every label.",
    ]
    if "supported" not in totals:
        out.append("No null test was made, so it is unknown how many of these labels would also arise by chance.")
    if "verified" not in totals:
        out.append("No label was tested by changing images (contralens verify).")
    if "random" in first["target"]["name"]:
        out.append("The network has random weights, so its labels are meaningless.")
    notes = [note for run in runs for note in run.manifest["notes"]] + list(atlas.manifest["notes"])
    return [*out, *list(dict.fromkeys(f"{note[:1].upper()}{note[1:]}." for note in anonymous(notes)))[:6]]


def name_of(layer: str | None) -> str:
    """A layer as a reader knows it; a dash for none.

    >>> name_of("."), name_of("layer4"), name_of(None)
    ('output', 'layer4', '–')
    """
    return "–" if layer is None else "output" if layer == "." else layer


def chosen(atlas: Atlas, count: int) -> list[dict[str, Any]]:
    """Neurons to show: verified ones first, then by confidence, one of each label, no layer more than its share."""
    rows = [r for r in atlas.neurons.to_pylist() if r["label"] is not None and r["verified"] != "refuted"]
    rows.sort(key=lambda r: (r["verified"] != "verified", -(r["confidence"] or 0.0), -(r["depth"] or 0.0)))
    most = -(-count // max(1, min(count, len(atlas.layers))))
    out: list[dict[str, Any]] = []
    for sure, full in ((True, False), (True, True), (False, False), (False, True)):  # if there are too few, others
        for row in rows:
            if sure and row["verified"] != "verified" and (row["confidence"] or 0.0) < SURE:
                continue
            fresh = row["label"].casefold() not in {r["label"].casefold() for r in out}
            room = full or sum(r["layer"] == row["layer"] for r in out) < most
            if fresh and room and len(out) < count:
                out.append(row)
    return out


def _jpeg(runs: Sequence[Run], row: dict[str, Any]) -> bytes:
    run = next(run for run in runs if run.manifest["target"]["layer"] == row["layer"])
    out = io.BytesIO()
    card(run, row["neuron"]).save(out, "JPEG", quality=85)
    return out.getvalue()


def markdown(about: dict[str, Any], shown: Sequence[dict[str, Any]]) -> str:
    """The section in Markdown, as a model's README holds it."""
    heads = ["Layer", "Neurons", "Silent", "Labeled", *(COLUMNS[name].capitalize() for name in about["columns"])]
    rows = [
        [markdown_cell(row["layer"]), f"{row['neurons']:,}", f"{row['silent']:,}",
         *(share(row[name], row["neurons"]) for name in ("labeled", *about["columns"]))]
        for row in about["layers"]
    ]  # fmt: skip
    concepts = [
        [
            markdown_cell(c["concept"]),
            f"{c['neurons']:,}",
            markdown_cell(c["first_sure"]),
            markdown_cell(c["first"]),
            markdown_cell(c["most"]),
        ]
        for c in about["concepts"]
    ]
    parts = [
        MARK, "## What the neurons respond to", _headline(about),
        _table(["", ""], [[name, markdown_cell(value)] for name, value in about["facts"]]),
        "### Labels by layer", _table(heads, rows),
        "### Most frequent concepts", _table(CONCEPT_HEADS, concepts),
    ]  # fmt: skip
    if shown:
        parts.append(f"### Examples\n\n{PICTURES}")
        parts += [
            f"![{markdown_cell(_caption(row))}]({row['picture']})\n\n{markdown_cell(_caption(row))}" for row in shown
        ]
    parts += ["### Limits", "\n".join(f"- {markdown_cell(line)}" for line in about["limits"])]
    return "\n\n".join(parts) + "\n"


def _headline(about: dict[str, Any]) -> str:
    t = about["totals"]
    layers = counted(len(about["layers"]), "layer")
    said = [f"{t['labeled']:,} of {counted(t['neurons'], 'neuron')} in {layers} have a label"]
    said += [f"{t[name]:,} {COLUMNS[name]}" for name in about["columns"]]
    return "; ".join(said) + "."


def _caption(row: dict[str, Any]) -> str:
    sure = "" if row["confidence"] is None else f", confidence {row['confidence']:.2f}"
    tested = "" if row["verified"] is None else f", {row['verified']} by experiment"
    return f"{row['name']} ({name_of(row['layer'])}): {row['label']}{sure}{tested}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def html(about: dict[str, Any], shown: Sequence[dict[str, Any]], pictures: Sequence[bytes]) -> str:
    """The section as a page of its own, with everything in it."""
    return MARK + "\n" + render(
        "model_card.html",
        style=("report.css", "model_card.css"),
        **{name: about[name] for name in ("target", "facts", "limits", "version")},
        headline=_headline(about),
        heads=[COLUMNS[name] for name in about["columns"]],
        layers=[
            {"layer": row["layer"], "neurons": row["neurons"], "silent": row["silent"],
             "cells": [share(row[name], row["neurons"]) for name in ("labeled", *about["columns"])]}
            for row in about["layers"]
        ],
        concepts=about["concepts"],
        shown=[
            {"caption": _caption(row), "data": base64.b64encode(jpeg).decode()}
            for row, jpeg in zip(shown, pictures, strict=True)
        ],
    )  # fmt: skip
