"""Runs of several layers of one network side by side: what `contralens.atlas` finds. No torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contralens.checks import nearest
from contralens.data.audits import load_audit
from contralens.data.final_labels import CHANCE, CORRECTED, final
from contralens.data.runs import Run, load
from contralens.data.showing import Tabled
from contralens.data.table_folders import plain, run_folders
from contralens.errors import InputError

MANIFEST = "manifest.json"
SURE = 0.5
"""Confidence from which on a label counts as likely right."""
NEURONS = pa.schema([
    ("run", pa.string()), ("layer", pa.string()), ("depth", pa.float64()), ("neuron", pa.int32()),
    ("name", pa.string()), ("status", pa.string()), ("label", pa.string()), ("best", pa.string()),
    ("score", pa.float64()), ("confidence", pa.float64()), ("fdr", pa.float64()), ("verified", pa.string()),
    ("verdict", pa.string()), ("maximum", pa.float64()), ("firing_rate", pa.float64()), ("picture", pa.int32()),
])  # fmt: skip
"""Columns of `Atlas.neurons`: label as finally judged, `best` what the scorer said, `verdict` that of an audit in
the run, `picture` the image that activates the neuron most."""
ABOUT = {
    "neurons": "neurons of the layer",
    "silent": "dead, constant or NaN",
    "unlabeled": "neither silent nor labeled: not selected, or a label that the null test rejected",
    "labeled": "with a label as finally judged",
    "chance": "labels that the null test rejected",
    "supported": "labels that passed a null test, or that a person corrected; null without a test",
    "sure": "labels with a confidence of at least .5; null without confidence",
    "verified": "labels that an experiment confirmed; null without experiments",
    "refuted": "labels that an experiment refuted; null without experiments",
    "confounded": "neurons that an audit in the run found spurious; null without one",
}
"""Counts of a layer, in `Atlas.layers`, and what each says."""
LINKS = pa.schema([
    ("run", pa.string()), ("neuron", pa.int32()), ("label", pa.string()), ("other_run", pa.string()),
    ("other", pa.int32()), ("other_label", pa.string()), ("correlation", pa.float64()), ("threshold", pa.float64()),
    ("matches", pa.bool_()),
])  # fmt: skip
"""Columns of `Atlas.links`: each neuron's best match in the next layer and in the one before; `threshold` is that of
null neurons."""
EDGES = pa.schema([
    ("run", pa.string()), ("neuron", pa.int32()), ("label", pa.string()), ("other_run", pa.string()),
    ("other", pa.int32()), ("other_label", pa.string()), ("effect", pa.float64()), ("share", pa.float64()),
    ("threshold", pa.float64()), ("p", pa.float64()), ("by", pa.string()),
])  # fmt: skip
"""Columns of `Atlas.edges`: neuron of one layer -> neuron of the next that it feeds, and by how much."""


@dataclass(frozen=True, repr=False)
class Atlas(Tabled):
    """All neurons of several layers in one table, with a summary per layer.

    >>> import contralens
    >>> atlas = contralens.atlas(["run"])
    >>> atlas
    <Atlas of 1 layer of world:1, block3: 64 neurons, 64 labeled, ... concepts>
    >>> atlas.search("striped")[0]["layer"], len(atlas.rows(sort="confidence", descending=True, limit=5))
    ('block3', 5)
    >>> list(atlas.to_dict())
    ['manifest', 'neurons', 'layers', 'concepts', 'links', 'edges']
    """

    manifest: dict[str, Any]
    """Network, runs with their folders, images, notes."""
    neurons: pa.Table
    """As `NEURONS`; layers in the order in which they run."""
    layers: pa.Table
    """One row per layer: run, layer, depth, counts as in `ABOUT`, concepts, new (concepts that no layer before has)."""
    concepts: pa.Table
    """One row per label: concept, neurons, layers, first (its layer), first_depth, first_sure (the first layer with a
    label of at least `SURE` confidence), most (the layer with the most neurons), counts (by layer)."""
    links: pa.Table = field(default_factory=LINKS.empty_table)
    """As `LINKS`; empty unless asked for."""
    edges: pa.Table = field(default_factory=EDGES.empty_table)
    """As `EDGES`; empty unless asked for."""

    def rows(
        self, *, text: str = "", layer: str | None = None, status: str | None = None, sort: str = "depth",
        descending: bool = False, limit: int | None = None,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Neurons of all layers, filtered and sorted; missing values come last.

        Args:
            text: part of a label or a name, in any case.
            layer: only of this layer.
            status: only "labeled", "sure", "verified", "refuted", "confounded", or a status such as "dead" or "chance".
            sort: a column of `neurons`.
            descending: the largest first.
            limit: maximum number of rows.

        Raises:
            InputError: no such column or layer.
        """
        known = self.neurons.column_names
        if sort not in known:
            raise InputError(f"cannot sort by {sort!r}{nearest(sort, known)}; known: {', '.join(known)}")
        layers = self.layers["layer"].to_pylist()
        if layer is not None and layer not in layers:
            raise InputError(f"the atlas has no layer {layer!r}{nearest(layer, layers)}; it has {', '.join(layers)}")
        found = [r for r in self.neurons.to_pylist() if layer in (None, r["layer"]) and _is(r, status)]
        if text.strip():
            words = text.strip().casefold()
            found = [r for r in found if words in (r["label"] or "").casefold() or words in r["name"].casefold()]
        there = [r for r in found if r[sort] is not None]
        there.sort(key=lambda r: r[sort], reverse=descending)
        out = [*there, *(r for r in found if r[sort] is None)]
        return out if limit is None else out[:limit]

    def search(self, text: str, limit: int = 50) -> list[dict[str, Any]]:
        """Neurons of all layers whose label or name contains a text, most confident first."""
        return self.rows(text=text, sort="confidence", descending=True, limit=limit)

    def to_dict(self) -> dict[str, Any]:
        """The atlas as plain values, for JSON."""
        return {"manifest": self.manifest, **{name: t.to_pylist() for name, t in self._tables().items()}}

    def __repr__(self) -> str:
        layers = self.layers["layer"].to_pylist()
        some = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
        labeled = pc.sum(self.layers["labeled"]).as_py()
        return (
            f"<Atlas of {len(layers)} layer{'s' * (len(layers) != 1)} of {self.manifest['target']}, {some}: "
            f"{len(self.neurons):,} neurons, {labeled:,} labeled, {len(self.concepts):,} concepts>"
        )


def _is(row: dict[str, Any], status: str | None) -> bool:
    if status is None:
        return True
    if status == "labeled":
        return row["label"] is not None
    if status == "sure":
        return (row["confidence"] or 0.0) >= SURE
    if status == "confounded":
        return bool(row["verdict"] == "spurious")
    return status in (row["verified"], row["status"])


def opened(runs: str | Path | Run | Sequence[str | Path | Run], trust_code: bool = False) -> list[Run]:
    """The runs, in the order in which their layers run; a folder that is no run stands for the runs in it.

    Raises:
        InputError: there is none, or two of one layer.

    >>> [run.manifest["target"]["layer"] for run in opened("run")]
    ['block3']
    """
    given: Sequence[Any] = [runs] if isinstance(runs, str | Path | Run) else list(runs)
    found = [run for one in given for run in _runs_in(one, trust_code)]
    if not found:
        raise InputError("an atlas needs at least one run; give run folders, or the folder that holds them")
    layers = [run.manifest["target"]["layer"] for run in found]
    for layer in layers:
        if layers.count(layer) > 1:
            raise InputError(f"two runs are of the layer {layer}: an atlas takes one run of each layer")
    return sorted(found, key=lambda run: (_depth(run), _natural(run.manifest["target"]["layer"])))


def _runs_in(given: Any, trust_code: bool) -> list[Run]:
    if isinstance(given, Run):
        return [given]
    found = run_folders([given])
    if found == [Path(given)] and found[0].is_dir() and not (found[0] / MANIFEST).is_file():
        return []
    return [load(path, trust_code=trust_code) for path in found]


def _depth(run: Run) -> float:
    depth = run.manifest["target"].get("depth")
    return 2.0 if depth is None else float(depth)


def _natural(layer: str) -> list[Any]:
    """Order of names with numbers in them, the output last."""
    return [layer == ".", *((int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", layer))]


@dataclass(frozen=True)
class Part:
    """What an atlas takes from one run."""

    run: Run
    about: dict[str, Any]
    """Network, images and encoder, for the atlas's manifest."""
    rows: list[dict[str, Any]]
    """As `NEURONS`; the atlas says the run's name."""
    neurons: pa.Table
    """The same."""
    counts: dict[str, Any]
    """Its row of `Atlas.layers`."""


def part_of(run: Run) -> Part:
    """A run's part of an atlas."""
    rows, told = _neurons(run), run.manifest
    about = {"target": told["target"]["name"], "images": told["images"]["count"], "encoder": told["encoder"]["name"]}
    return Part(run, about, rows, pa.Table.from_pylist(rows, schema=NEURONS), _layer(run, rows))


def atlas_of(runs: Sequence[Run | Part]) -> Atlas:
    """The atlas of runs that are opened and in order, or of their parts.

    >>> atlas_of(opened("run")).layers["labeled"].to_pylist()
    [64]
    """
    parts = [one if isinstance(one, Part) else part_of(one) for one in runs]
    keys = _keys([part.run for part in parts])
    names = {part.about["target"] for part in parts}
    notes = []
    if len(names) > 1:
        notes.append(f"the runs are of several networks: {', '.join(sorted(names))}")
    if len({part.run.manifest["images"].get("fingerprint") for part in parts}) > 1:
        notes.append("the runs were labeled with different images; counts and first layers are not comparable")
    layers = [{**part.counts, "run": key} for part, key in zip(parts, keys, strict=True)]
    concepts = _concepts(
        [{**row, "run": key} for part, key in zip(parts, keys, strict=True) for row in part.rows],
        [layer["layer"] for layer in layers],
    )
    for layer in layers:
        layer["concepts"] = sum(layer["layer"] in c["layers"] for c in concepts)
        layer["new"] = sum(layer["layer"] == c["first"] for c in concepts)
    paths = {key: None if part.run.path is None else str(part.run.path) for part, key in zip(parts, keys, strict=True)}
    neurons = pa.concat_tables([_of_run(part.neurons, key) for part, key in zip(parts, keys, strict=True)])
    manifest = {**parts[0].about, "notes": notes, "runs": paths, "about": ABOUT}
    return Atlas(manifest, neurons, pa.Table.from_pylist(layers), pa.Table.from_pylist(concepts))


def _of_run(neurons: pa.Table, key: str) -> pa.Table:
    at = neurons.schema.get_field_index("run")
    return neurons.set_column(at, NEURONS.field("run"), pa.array([key] * len(neurons), pa.string()))


def _keys(runs: Sequence[Run]) -> list[str]:
    """A short name of each run: its folder's, or the layer's."""
    names = [run.manifest["target"]["layer"] if run.path is None else run.path.resolve().name for run in runs]
    return [name if names.count(name) == 1 else f"{name} {i}" for i, name in enumerate(names)]


def _neurons(run: Run) -> list[dict[str, Any]]:
    judged = final(run)
    target = run.manifest["target"]
    said = {row["neuron"]: row for row in judged.rows()}
    verdicts = _verdicts(run)
    first = run.exemplars.filter(pc.field("rank") == 0)
    pictures = dict(zip(first["neuron"].to_pylist(), first["positive"].to_pylist(), strict=True))
    out = []
    for row in run.neurons.select(["neuron", "name", "status", "maximum", "firing_rate"]).to_pylist():
        own = said.get(row["neuron"]) or {}
        status = own.get("status") if own.get("status") in (CHANCE, CORRECTED) else row["status"]
        out.append({
            **row, "run": None, "layer": target["layer"], "depth": target.get("depth"), "status": status,
            "name": str(row["name"]), "verdict": verdicts.get(row["neuron"]),
            "picture": pictures.get(row["neuron"], -1),
            **{name: own.get(name) for name in ("label", "best", "score", "confidence", "fdr", "verified")},
        })  # fmt: skip
    return [plain(row) for row in out]


def _verdicts(run: Run) -> dict[int, str]:
    """Neuron -> verdict of the audit in the run's folder; nothing without one."""
    if run.path is None or not (run.path / "audit").is_dir():
        return {}
    found = load_audit(run.path).neurons
    return dict(zip(found["neuron"].to_pylist(), found["verdict"].to_pylist(), strict=True))


def _layer(run: Run, rows: list[dict[str, Any]]) -> dict[str, Any]:
    target = run.manifest["target"]
    labeled = [r for r in rows if r["label"] is not None]
    silent = sum(r["status"] in ("dead", "constant", "nan") for r in rows)
    null = any(r["fdr"] is not None for r in rows)
    tested = any(r["verified"] is not None for r in rows)
    audited = any(r["verdict"] is not None for r in rows)
    weighed = any(r["confidence"] is not None for r in rows)
    sure = [r["confidence"] for r in labeled if r["confidence"] is not None]
    return {
        "run": None, "layer": target["layer"], "depth": target.get("depth"), "neurons": len(rows), "silent": silent,
        "unlabeled": len(rows) - silent - sum(r["status"] not in ("dead", "constant", "nan") for r in labeled),
        "labeled": len(labeled), "chance": sum(r["status"] == CHANCE for r in rows) if null else None,
        "supported": sum(r["fdr"] is not None or r["status"] == CORRECTED for r in labeled) if null else None,
        "sure": sum(c >= SURE for c in sure) if weighed else None,
        "confidence": float(np.mean(sure)) if sure else None,
        "verified": sum(r["verified"] == "verified" for r in labeled) if tested else None,
        "refuted": sum(r["verified"] == "refuted" for r in labeled) if tested else None,
        "confounded": sum(r["verdict"] == "spurious" for r in rows) if audited else None,
    }  # fmt: skip


def _concepts(rows: list[dict[str, Any]], layers: list[str]) -> list[dict[str, Any]]:
    """One row per label, those with the most neurons first; a label that an experiment refuted counts for none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["label"] is not None and row["verified"] != "refuted":
            found.setdefault(row["label"].casefold(), []).append(row)
    out = []
    for own in found.values():
        counts = {layer: sum(r["layer"] == layer for r in own) for layer in layers}
        there = [layer for layer in layers if counts[layer]]
        sure = [r["layer"] for r in own if (r["confidence"] or 0.0) >= SURE]
        first = next(r for r in own if r["layer"] == there[0])
        best = max(own, key=lambda r: r["confidence"] or 0.0)
        out.append({
            "concept": own[0]["label"], "neurons": len(own), "layers": there, "first": there[0],
            "first_depth": first["depth"], "first_sure": next((la for la in layers if la in sure), None),
            "most": max(there, key=lambda la: counts[la]), "counts": [counts[la] for la in layers],
            "best_run": best["run"], "best_neuron": best["neuron"], "best_picture": best["picture"],
        })  # fmt: skip
    return sorted(out, key=lambda c: (-c["neurons"], c["concept"]))
