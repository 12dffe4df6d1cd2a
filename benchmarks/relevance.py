"""Exemplars ranked by relevance, and cropped: how many labels are right in the rendered worlds?

    python benchmarks/relevance.py [--images 2000] [--json FILE]

Worlds 1 to 3, probe sets as `contralens demo` renders them, 38 concepts, K = 30. The neurons are those of the worlds'
trained networks whose truth by intervention is one level or two (`contralens.world.truth`): of block3, the last layer
before the classes, as it is shipped, and of block2, measured here. Planted neurons have no network and so no relevance
and no map.

The networks classify the true factor of their world, so relevance to the predicted class might give the answer away
for neurons that respond to it. Those ("class") and the others ("other": colours, backgrounds) stand apart.
Each difference is to whole pictures ranked by activation with the same scorer, paired by neuron; intervals: 95 %,
bootstrap over the neurons of a world that stand for one level.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import contralens
from contralens.bench.world_images import SEED, score_labels, write_world
from contralens.math.intervals import clustered_interval
from contralens.world.encoder import to_tensor
from contralens.world.render import render
from contralens.world.scenes import Scenes
from contralens.world.targets import WORLDS, load_target
from contralens.world.truth import Truth, base_scenes, load_truth, measure_effects, truth_of

SCORERS = ("csp", "semanticlens", "clip_dissect", "lookalike")
WAYS = (
    ("activation", None), ("activation", "map"), ("activation", "relevance"),
    ("relevance", None), ("relevance", "map"), ("relevance", "relevance"),
)  # fmt: skip
"""What ranks, and what crops."""


def truth_at(index: int, layer: str) -> list[Truth]:
    """What the neurons of a layer respond to, shipped or measured."""
    if layer == "block3":
        return load_truth(index)
    net = load_target(index)

    @torch.inference_mode()
    def activate(scenes: Scenes) -> NDArray[np.float32]:
        parts = to_tensor(render(scenes)).split(128)
        return torch.cat([net.block2(net.block1(net.stem(x))).mean((2, 3)) for x in parts]).numpy()

    return [truth_of(row) for row in measure_effects(activate, base_scenes())]


def rights(folder: Path, index: int, layer: str, truth: Sequence[Truth], rank: str, crop: str | None) -> dict[str, Any]:
    """Scorer -> (N) whether each label is right, NaN where the truth is not known."""
    scorers = [s for s in SCORERS if crop is None or s != "lookalike"]  # which looks at whole pictures anyway
    run = contralens.label(
        f"world:{index}", folder / "images", "world", folder / "vocabulary.txt", layer=layer, scorers=scorers,
        rank_by=rank, crop=crop, confidence=False, cache=folder / "cache",
    )  # fmt: skip
    known = np.array([t.kind == "known" for t in truth])
    found = {}
    for scorer in scorers:
        labels = {row["neuron"]: row["label"] for row in run.rows(scorer)}
        right = score_labels([labels.get(n) for n in range(len(truth))], truth)
        found[scorer] = np.where(known, right.astype(float), np.nan)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--worlds", type=int, nargs="+", default=list(WORLDS))
    parser.add_argument("--layers", nargs="+", default=["block3", "block2"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found: dict[tuple[str, str, str | None, str], list[NDArray[np.float64]]] = {}
    clusters: dict[str, list[str]] = {layer: [] for layer in args.layers}
    kinds: dict[str, list[str]] = {layer: [] for layer in args.layers}
    started = time.process_time()
    with tempfile.TemporaryDirectory() as top:
        for index in args.worlds:
            folder = Path(top) / f"world-{index}"
            write_world(folder, index, args.images, SEED)
            for layer in args.layers:
                truth = truth_at(index, layer)
                clusters[layer] += [f"{index}/{t.levels[0] if t.levels else t.kind}" for t in truth]
                kinds[layer] += [
                    "class" if any(f == WORLDS[index].true for f, _ in t.levels) else "other" for t in truth
                ]
                for rank, crop in WAYS:
                    for scorer, right in rights(folder, index, layer, truth, rank, crop).items():
                        found.setdefault((layer, rank, crop, scorer), []).append(right)
    rows: list[dict[str, Any]] = []
    print("| layer | neurons | ranked by | seen | scorer | count | right | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for (layer, rank, crop, scorer), parts in found.items():
        right, base = np.concatenate(parts), np.concatenate(found[layer, "activation", None, scorer])
        for kind in ("class", "other"):
            here = np.array(kinds[layer]) == kind
            own = np.array(clusters[layer])[here]
            mean, moved = clustered_interval(right[here], own), clustered_interval((right - base)[here], own)
            what = "whole" if crop is None else f"cropped by {crop}"
            told = "-" if (rank, crop) == WAYS[0] else f"{moved.mean:+.3f} [{moved.low:+.3f}, {moved.high:+.3f}]"
            print(f"| {layer} | {kind} | {rank} | {what} | {scorer} | {mean.count} | {mean.mean:.3f} | {told} |")
            rows.append({
                "layer": layer, "neurons": kind, "ranked by": rank, "crop": crop, "scorer": scorer, "count": mean.count,
                "right": mean.mean, "difference": moved.mean, "low": moved.low, "high": moved.high,
            })  # fmt: skip
    print(f"{args.images} images a world, {time.process_time() - started:.0f} CPU seconds")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
