"""Layers of one network side by side: all neurons in one table, matches in the next layer, and what feeds what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import default_collate

from contralens.data.atlases import EDGES, LINKS, Atlas, atlas_of, opened
from contralens.data.layer_relations import keep
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.evaluation.matching import match
from contralens.math.layer_edges import Fed, feeding, strongest_of
from contralens.models.hooked_layer import HookedTarget
from contralens.models.layer_edges import ablated, linear_weights
from contralens.models.targets import targets
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import AtlasOf
from contralens.settings.record import job
from contralens.types import Exemplars

IMAGES = 8
"""Exemplars of a neuron on which others are switched off."""
CANDIDATES = 8
"""Neurons of the layer before that are switched off for each neuron: those that fire most on its exemplars."""
NULL_EDGES = 19
"""Other neurons, drawn at random, that are switched off for comparison: the fewest with which p can reach .05."""


@job(AtlasOf)
def atlas(settings: AtlasOf) -> Atlas:
    """Search, sort and compare the neurons of several layers of one network; the depth at which concepts appear.

    Without `links` and `edges` it reads only the run folders. With them it opens the runs' images and networks and
    reads activations from the cache, and adds what it finds to the run folders, where the explorer reads it.

    Returns:
        The `Atlas`.

    Raises:
        InputError: no runs, two of one layer, or edges between runs of several networks.

    >>> found = atlas(["run"], links=True)
    >>> len(found.neurons), found.concepts["first"][0].as_py(), len(found.links)
    (64, 'block3', 0)
    """
    runs = opened(settings.runs)
    found = atlas_of(runs)
    links: list[dict[str, Any]] = []
    edges: list[dict[str, Any]] = []
    notes: list[str] = []
    keys = found.layers["run"].to_pylist()
    labels = _labels(found)
    for (one, a), (other, b) in pairwise(zip(runs, keys, strict=True)):
        if settings.links:
            links += _links(settings, (one, other), (a, b), labels)
        if settings.edges != "none":
            own, why = _edges(settings, (one, other), (a, b), labels)
            edges += own
            notes += why
    found = replace(
        found, links=pa.Table.from_pylist(links, schema=LINKS), edges=pa.Table.from_pylist(edges, schema=EDGES)
    )
    if settings.save:
        notes += keep(found, runs)
    return replace(
        found, manifest={**found.manifest, **settings.written(), "notes": [*found.manifest["notes"], *notes]}
    )


def _labels(found: Atlas) -> dict[tuple[str, int], str | None]:
    return {(r["run"], r["neuron"]): r["label"] for r in found.neurons.select(["run", "neuron", "label"]).to_pylist()}


def _links(
    settings: AtlasOf, runs: Sequence[Run], keys: Sequence[str], labels: dict[tuple[str, int], str | None]
) -> list[dict[str, Any]]:
    given = {name: getattr(settings, name) for name in ("source", "encoder", "cache", "device", "fakes", "seed")}
    nets = None if settings.target is None else [settings.target, settings.target]
    found = match(*runs, targets=nets, progress=settings.progress, **given)
    rows = []
    for row in found.best.to_pylist():
        at = 0 if row["run"] == "one" else 1
        rows.append({
            "run": keys[at], "neuron": row["neuron"], "label": labels.get((keys[at], row["neuron"])),
            "other_run": keys[1 - at], "other": row["best"], "other_label": labels.get((keys[1 - at], row["best"])),
            "correlation": row["correlation"], "threshold": found.manifest["threshold"], "matches": row["matches"],
        })  # fmt: skip
    return rows


def _edges(
    settings: AtlasOf, runs: Sequence[Run], keys: Sequence[str], labels: dict[tuple[str, int], str | None]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Edges from one layer to the next, or why there are none."""
    sides = [Reopened.of(run, settings) for run in runs]
    one, other = _layers(settings, sides)
    names = f"{one.layer} to {other.layer}"
    exemplars = sides[1].exemplars
    images = [f for f in sides[1].probe if f in set(sides[0].probe)]
    if images != list(sides[1].probe):
        return [], [f"{names}: no edges, as the runs were labeled with different images"]
    rows = torch.cat([block for _, block in sides[0].activations(images).blocks()]).float().nan_to_num()
    differences = torch.stack([rows[own[own >= 0]].mean(0) for own in exemplars.positives]) - rows.mean(0)
    if settings.edges == "weights":
        picture = sides[1].pictures(range(len(images)))
        some = list(islice((p for i in range(len(images)) if (p := picture(i)) is not None), 4))
        if not some:
            raise InputError(f"{sides[1].images.name}: no image can be read, so there are no edges by weights")
        batch = default_collate([one.preprocess(p) for p in some])
        weights = linear_weights(one, other, batch)
        if weights is None:
            return [], [
                f"{names}: not linear, so weights are not informative; use edges by ablation (--edges ablation)"
            ]
        fed = feeding(
            weights[exemplars.neurons], differences, settings.edges_per_neuron, settings.fakes, settings.seed
        )  # fmt: skip
        neurons = exemplars.neurons.tolist()
    else:
        neurons, fed = _by_ablation(settings, (one, other), sides[1], exemplars, differences, labels, keys)
    out = [
        {
            "run": keys[0], "neuron": int(source), "label": labels.get((keys[0], int(source))), "other_run": keys[1],
            "other": n, "other_label": labels.get((keys[1], n)), "effect": float(effect), "share": float(share),
            "threshold": float(fed.thresholds[m]), "p": float(p), "by": settings.edges,
        }
        for m, n in enumerate(neurons)
        for source, effect, share, p in zip(fed.sources[m], fed.effects[m], fed.shares[m], fed.p[m], strict=True)
    ]  # fmt: skip
    return out, []


def _layers(settings: AtlasOf, sides: Sequence[Reopened]) -> tuple[HookedTarget, HookedTarget]:
    """The layers of both runs on one network in memory."""
    manifests = [side.run.manifest["target"] for side in sides]
    network = settings.target if settings.target is not None else manifests[0].get("spec")
    if network is None or len({m["name"] for m in manifests}) > 1 or any(m.get("sae") for m in manifests):
        raise InputError("edges need layers of one network that the manifests name, or target= in Python")
    options = {name: value for name, value in (manifests[0].get("options") or {}).items() if name != "pooling"}
    if not isinstance(network, str) and "preprocess" not in options:
        options["preprocess"] = getattr(sides[0].target, "preprocess", None)
    one, other = targets(network, [m["layer"] for m in manifests], device=settings.device, **options)
    return one, other


def _by_ablation(
    settings: AtlasOf,
    layers: tuple[HookedTarget, HookedTarget],
    side: Reopened,
    exemplars: Exemplars,
    differences: Tensor,
    labels: dict[tuple[str, int], str | None],
    keys: Sequence[str],
) -> tuple[list[int], Fed]:
    """What neurons lose on their exemplars when one of the layer before is switched off, against random others."""
    one, other = layers
    places = [m for m, n in enumerate(exemplars.neurons.tolist()) if labels.get((keys[1], n)) is not None]
    places = places[: settings.most]
    random = torch.Generator().manual_seed(settings.seed)
    effects = torch.zeros(len(places), one.width, dtype=torch.float64)
    strongest = torch.zeros(NULL_EDGES, len(places), dtype=torch.float64)
    spread = differences.std(0).clamp_min(1e-9)
    wanted = [[i for i in exemplars.positives[m, :IMAGES].tolist() if i >= 0] for m in places]
    pictures = side.pictures({i for own in wanted for i in own})
    seen = []
    for at, m in enumerate(places):
        settings.progress("ablation", at, len(places))
        own = [p for i in wanted[at] if (p := pictures(i)) is not None]
        if not own:  # none of its pictures is there any more
            continue
        seen.append(at)
        batch = default_collate([one.preprocess(picture) for picture in own])
        neuron = int(exemplars.neurons[m])
        sources = (differences[m] / spread).topk(min(CANDIDATES, one.width)).indices
        others = torch.randperm(one.width, generator=random)
        others = others[~torch.isin(others, sources)][:NULL_EDGES]
        effects[at, sources] = ablated(one, other, batch, neuron, sources.tolist()).double().cpu()
        null = ablated(one, other, batch, neuron, others.tolist()).double().abs().cpu()
        strongest[: len(null), at] = null
    settings.progress("ablation", len(places), len(places))
    if not seen:
        raise InputError(f"{side.images.name}: none of the exemplars can be read, so there are no edges by ablation")
    fed = strongest_of(effects[seen], strongest[:, seen], settings.edges_per_neuron)
    fed = replace(fed, shares=torch.full_like(fed.shares, torch.nan))  # of a sum that nobody knows
    return [int(exemplars.neurons[places[at]]) for at in seen], fed
