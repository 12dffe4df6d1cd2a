"""The page of all layers: what the runs of one network know, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyarrow import ArrowException

from contralens.checks import first_line
from contralens.data.atlases import Atlas, Part, atlas_of, opened, part_of
from contralens.data.final_labels import final
from contralens.data.layer_relations import read
from contralens.data.runs import Run, load
from contralens.errors import ContralensError, RunError
from contralens.explorer import shapes
from contralens.explorer.shelf import NotReadable, Shelf
from contralens.explorer.values import dumps, short

CONCEPTS = 1000
"""Concepts that the page lists at most."""


def live(shelf: Shelf) -> bytes:
    """The page as JSON, made again when a run or its notes changed."""
    stamps = []
    for key in shelf.paths:
        try:
            run = shelf.run(key)
        except NotReadable:
            continue
        stamps.append((key, run.stamp, str(run.noted)))
    kept = shelf.pages.get("layers")
    if kept is None or kept[0] != stamps:
        kept = (stamps, dumps(page({key: shelf.paths[key] for key, *_ in stamps})))
        shelf.pages["layers"] = kept
    return kept[1]


def page(paths: Mapping[str, Path], corrections: bool = True) -> shapes.Layers:
    """The layers of the network that most of the runs are of.

    Args:
        paths: run folders by key.
        corrections: whether labels that people corrected count.
    """
    parts: dict[str, Part] = {}
    notes = []
    for key, path in paths.items():
        try:
            parts[key] = part_of(final(load(path), corrections=corrections))
        except ContralensError as e:
            notes.append(f"{key} is left out: {e}")
        except (KeyError, TypeError, ValueError, ArrowException) as e:  # what was not written by this version
            notes.append(f"{key} is left out: its tables have an unknown form ({first_line(e)})")
    runs = {key: part.run for key, part in parts.items()}
    names = [run.manifest["target"]["name"] for run in runs.values()]
    common = max(dict.fromkeys(names), key=names.count, default="")
    chosen: dict[str, str] = {}
    for key, run in runs.items():
        target = run.manifest["target"]
        if target["name"] != common:
            notes.append(f"{key} is left out: it is of another network, {target['name']}")
        elif target["layer"] in chosen:
            notes.append(f"{key} is left out: {chosen[target['layer']]} is of the same layer")
        else:
            chosen[target["layer"]] = key
    if not chosen:
        return _shape(None, {}, notes)
    ordered = opened([runs[key] for key in chosen.values()])
    found = atlas_of([parts[chosen[run.manifest["target"]["layer"]]] for run in ordered])
    between, damaged = _relations(found, {layer: runs[key] for layer, key in chosen.items()})
    return _shape(found, chosen, [*notes, *found.manifest["notes"], *damaged], between)


def _relations(found: Atlas, runs: Mapping[str, Run]) -> tuple[shapes.LayerRelations, list[str]]:
    """What `contralens atlas` added to the runs, of the layers that are here; which files are damaged."""
    layers, numbers = found.neurons["layer"].to_pylist(), found.neurons["neuron"].to_pylist()
    place = {key: at for at, key in enumerate(zip(layers, numbers, strict=True))}
    fingerprints = {layer: run.manifest["target"]["fingerprint"] for layer, run in runs.items()}
    rows, notes = [], []
    for layer, run in runs.items():
        try:
            added = [] if run.path is None else read(run.path).to_pylist()
        except RunError as e:
            notes.append(f"links and edges are left out: {e}")
            continue
        for row in added:
            one, other = place.get((layer, row["neuron"])), place.get((row["other_layer"], row["other"]))
            if None not in (one, other) and fingerprints[row["other_layer"]] == row["other_fingerprint"]:
                rows.append({**row, "one": one, "other": other})
    return {
        "one": [row["one"] for row in rows], "other": [row["other"] for row in rows],
        "kind": [row["kind"] for row in rows], "value": [short(row["value"]) for row in rows],
        "null": [short(row["null"]) for row in rows], "p": [short(row["p"]) for row in rows],
        "holds": [bool(row["holds"]) for row in rows],
    }, notes  # fmt: skip


NO_RELATIONS: shapes.LayerRelations = {
    "one": [], "other": [], "kind": [], "value": [], "null": [], "p": [], "holds": [],
}  # fmt: skip


def _shape(
    found: Atlas | None, keys: Mapping[str, str], notes: list[str], between: shapes.LayerRelations = NO_RELATIONS
) -> shapes.Layers:
    if found is None:
        return {
            "title": "", "layers": [], "concepts": [], "notes": notes, "labels": [], "layer": [], "neuron": [],
            "name": [], "label": [], "confidence": [], "verified": [], "picture": [],
            "relations": between,
        }  # fmt: skip
    layers = found.layers.to_pylist()
    place = {row["layer"]: at for at, row in enumerate(layers)}
    columns = {name: found.neurons[name].to_pylist() for name in ("layer", "neuron", "name", "label", "verified")}
    labels = sorted({label for label in columns["label"] if label is not None})
    of = {label: at for at, label in enumerate(labels)}
    by_run = {row["run"]: keys[row["layer"]] for row in layers}
    return {
        "title": found.manifest["target"],
        "layers": [_row(row, keys) for row in layers],
        "concepts": [
            {
                "concept": c["concept"], "neurons": c["neurons"], "first": c["first"], "first_sure": c["first_sure"],
                "most": c["most"], "counts": list(c["counts"]), "run": by_run[c["best_run"]],
                "neuron": c["best_neuron"], "picture": c["best_picture"],
            }
            for c in found.concepts.slice(0, CONCEPTS).to_pylist()
        ],
        "notes": notes,
        "labels": labels,
        "layer": [place[layer] for layer in columns["layer"]],
        "neuron": columns["neuron"],
        "name": columns["name"],
        "label": [of.get(label, -1) for label in columns["label"]],
        "confidence": [short(value) for value in found.neurons["confidence"].to_pylist()],
        "verified": columns["verified"],
        "picture": found.neurons["picture"].to_pylist(),
        "relations": between,
    }  # fmt: skip


def _row(row: dict[str, Any], keys: Mapping[str, str]) -> shapes.LayerRow:
    return {
        "run": keys[row["layer"]], "layer": row["layer"], "depth": short(row["depth"]), "neurons": row["neurons"],
        "silent": row["silent"], "labeled": row["labeled"], "supported": row["supported"], "sure": row["sure"],
        "verified": row["verified"], "refuted": row["refuted"], "confounded": row["confounded"],
        "concepts": row["concepts"], "new": row["new"],
    }  # fmt: skip
