"""What crops gain: right labels and right proposals with whole images and with crops to where neurons fire.

    python benchmarks/crops.py [--part test|development] [--folder DATA] [--quick] [--write] [--json FILE]

Rendered worlds 1 to 3, trained networks, layers block3 and block2, K = 30, the neurons whose truth by intervention is
known. "Object" neurons respond to shape, colour or pattern, "scene" neurons to anything else. Three questions:

- Does a crop hold the object? Its pixels are those that change with its colour while all else stays.
- Is the label right, for scorers that compare crops (`label --crop map`)?
- Do the words of a caption bank (`propose --focus crop`) name the truth: first, at all (eight words), and as CSP's
  label out of the neuron's own words? Without contrasts ("alone"), with the run's, or with FALCON's.

With --folder, a fourth: output neurons of EfficientNet-Lite0, whose names are known, on photographs, cropped by
gradient times pixel (an output has no map). DATA needs imagenet-samples/, one folder a class in the order of the names.

Differences are paired by neuron; intervals: 95 %, bootstrap over the neurons of a world that stand for one level, and
over neurons for photographs. Development: probe seed 5, even classes; test: probe seed 41, odd classes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, publish, table
from numpy.typing import NDArray
from relevance import truth_at

import contralens
from contralens.bench.world_images import score_labels, write_world
from contralens.data.runs import Run
from contralens.loading.offline_networks import offline_target_module
from contralens.math.intervals import clustered_interval
from contralens.proposing.propose import propose
from contralens.world.captions import captions
from contralens.world.encoder import load_encoder
from contralens.world.render import render
from contralens.world.scenes import Scenes, sample_scenes
from contralens.world.truth import known

SCORERS = ("csp", "semanticlens", "clip_dissect")
OBJECT = ("shape", "colour", "pattern")
CONTRASTS = {
    "alone": {"prompt": "positives"},
    "the run's contrasts": {},
    "FALCON's contrasts": {"caption_options": {"contrast": "falcon"}},
}
PARTS = {"development": {"seed": 5, "first": 0}, "test": {"seed": 41, "first": 1}}
WORDS = 8
PHOTO_K = 8
Found = dict[str, dict[str, NDArray[np.float64]]]
"""What is asked -> "whole" or "crop" -> (N) values of the known neurons."""


def world_case(
    folder: Path, index: int, layer: str, images: int, seed: int
) -> tuple[Found, Found, NDArray[Any], NDArray[Any]]:
    """Of one layer of a world: whether labels are right, how much of the object crops hold, clusters and kinds."""
    scenes, _ = write_world(folder, index, images, seed)
    truth = truth_at(index, layer)
    ok = known(truth)
    clusters = np.array([f"{index}/{t.levels[0]}" if t.levels else "" for t in truth])[ok]
    kinds = np.array(["object" if any(f in OBJECT for f, _ in t.levels) else "scene" for t in truth])[ok]
    given: dict[str, Any] = {
        "layer": layer, "scorers": SCORERS, "confidence": False, "cache": folder / "cache",
        "neurons": np.flatnonzero(ok).tolist(),
    }  # fmt: skip
    place = [f"world:{index}", folder / "images", "world"]
    runs = {
        way: contralens.label(*place, folder / "vocabulary.txt", crop=crop, **given)
        for way, crop in (("whole", None), ("crop", "map"))
    }

    def right(run: Run, scorer: str) -> NDArray[np.float64]:
        labels = {row["neuron"]: row["label"] for row in run.rows(scorer)}
        return score_labels([labels.get(n) for n in range(len(truth))], truth)[ok].astype(float)

    found: Found = {f"label, {s}": {way: right(run, s) for way, run in runs.items()} for s in SCORERS}
    (folder / "captions.txt").write_text("\n".join(captions(sample_scenes(3000, 4242), 7)) + "\n")
    target = contralens.target(f"world:{index}", layer=layer)
    for number, (contrast, options) in enumerate(CONTRASTS.items()):
        for way, focus in (("whole", None), ("crop", "crop")):
            asked = propose(
                runs["whole"], f"captions:{folder / 'captions.txt'}", neurons=given["neurons"], focus=focus,
                target=target, images=folder / "images", encoder=load_encoder(), merge=None, cache=folder / "cache",
                folder=folder / f"words-{layer}-{number}-{way}", **options,
            )  # fmt: skip
            words = [(asked.of(n) + [None] * WORDS)[:WORDS] for n in range(len(truth))]
            places = [score_labels([w[i] for w in words], truth)[ok] for i in range(WORDS)]
            own = contralens.label(
                *place, ["picture", "image"], **{**given, "scorers": "csp"}, candidates=asked, own_only=True
            )
            for what, values in (
                ("first word", places[0]), ("one of eight words", np.any(places, 0)),
                ("CSP's label of its own words", right(own, "csp")),
            ):  # fmt: skip
                found.setdefault(f"{what}, {contrast}", {})[way] = np.asarray(values, float)
    return found, held(runs["crop"], scenes, kinds == "object"), clusters, kinds


def held(run: Run, scenes: Scenes, wanted: NDArray[np.bool_]) -> Found:
    """By neuron, mean over its exemplars: the share of the object's pixels in a picture, and of a picture's that are
    the object's; NaN for neurons that are not wanted."""
    rows = run.exemplars.select(["neuron", "positive", "positive_box"]).to_pylist()
    names = run.images["id"].to_pylist()
    at = {n: i for i, n in enumerate(sorted({row["neuron"] for row in rows}))}
    rows = [row for row in rows if wanted[at[row["neuron"]]]]
    used = sorted({row["positive"] for row in rows})
    own = scenes[[int(Path(names[i]).stem) for i in used]]
    red, blue = (render(own.set("colour", c)).astype(int) for c in (0, 4))
    masks = dict(zip(used, (np.abs(red - blue).max(-1) > 12), strict=True))
    inside, dense, base = ([[] for _ in at] for _ in range(3))
    for row in rows:
        mask, n = masks[row["positive"]], at[row["neuron"]]
        left, top, right, bottom = (round(v * len(mask)) for v in row["positive_box"])
        window = mask[top:bottom, left:right]
        inside[n].append(window.sum() / max(1, mask.sum()))
        dense[n].append(window.mean())
        base[n].append(mask.mean())
    mean = [np.array([np.mean(v) if v else np.nan for v in part]) for part in (inside, dense, base)]
    return {
        "share of the object that is seen": {"whole": np.where(np.isnan(mean[0]), np.nan, 1.0), "crop": mean[0]},
        "share of what is seen that is object": {"whole": mean[2], "crop": mean[1]},
    }


def photographs(folder: Path, first: int, count: int, cache: Path) -> Found:
    """Whether the labels of output neurons are the names of their classes."""
    net, preprocess, titles = offline_target_module("lite0")
    names = [str(title) for title in titles]
    chosen = [n for n in range(first, len(names), 2) if names.count(names[n]) == 1]
    neurons = sorted(np.random.default_rng(23).permutation(chosen)[:count].tolist())
    target = contralens.target(net, layer=".", preprocess=preprocess, neurons=names)
    found: Found = {f"label, {s}": {} for s in SCORERS}
    for way, crop in (("whole", None), ("crop", "relevance:method=gradient")):
        run = contralens.label(
            target, folder / "imagenet-samples", "offline:lite2", list(dict.fromkeys(names)), k=PHOTO_K,
            scorers=SCORERS, crop=crop, confidence=False, neurons=neurons, cache=cache,
        )  # fmt: skip
        for scorer in SCORERS:
            labels = {row["neuron"]: row["label"] for row in run.rows(scorer)}
            found[f"label, {scorer}"][way] = np.array([float(labels.get(n) == names[n]) for n in neurons])
    return found


def lines(where: str, kind: str, found: Found, clusters: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Each question with whole images and crops, and the difference."""
    for what, by in found.items():
        if np.isfinite(by["whole"]).any():
            moved = clustered_interval(by["crop"] - by["whole"], clusters)
            yield {
                "where": where, "neurons": kind, "count": moved.count, "what": what,
                "whole": float(np.nanmean(by["whole"])), "crop": float(np.nanmean(by["crop"])),
                "difference": moved.mean, "low": moved.low, "high": moved.high,
            }  # fmt: skip


def worlds(args: argparse.Namespace, top: Path) -> Iterator[dict[str, Any]]:
    """The rows of all worlds, layer by layer."""
    for layer in args.layers:
        cases = [
            world_case(top / f"world-{index}", index, layer, args.images, PARTS[args.part]["seed"])
            for index in args.worlds
        ]
        clusters, kinds = (np.concatenate([case[i] for case in cases]) for i in (2, 3))
        for which in (1, 0):
            joined = {
                what: {way: np.concatenate([case[which][what][way] for case in cases]) for way in ("whole", "crop")}
                for what in cases[0][which]
            }
            for kind in ("object", "scene") if which == 0 else ("object",):
                here = kinds == kind
                own = {what: {way: v[here] for way, v in by.items()} for what, by in joined.items()}
                yield from lines(layer, kind, own, clusters[here])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--part", choices=list(PARTS), default="test")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--layers", nargs="+", default=["block3", "block2"])
    parser.add_argument("--folder", type=Path, help="folder with imagenet-samples/: also photographs")
    parser.add_argument("--neurons", type=int, default=100, help="output neurons on photographs")
    parser.add_argument("--cache", type=Path, help="where rows of photographs are kept")
    args = parser.parse_args()
    if args.quick:
        args.images, args.worlds, args.layers, args.neurons = 200, [1], ["block3"], 4
    torch.set_num_threads(args.threads)
    started = time.process_time()
    with tempfile.TemporaryDirectory() as top:
        rows = list(worlds(args, Path(top)))
        if args.folder:
            kept = args.cache or Path(top) / "photographs"
            found = photographs(args.folder, PARTS[args.part]["first"], args.neurons, kept)
            rows += lines("photographs", "output", found, np.arange(args.neurons))
    heads = ["where", "neurons", "count", "what", "whole", "crops", "difference"]
    cells = [
        [*(row[k] for k in ("where", "neurons", "count", "what")), f"{row['whole']:.2f}", f"{row['crop']:.2f}",
         f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})"] for row in rows
    ]  # fmt: skip
    publish("crops", f"{table(heads, cells)}\n\n{time.process_time() - started:.0f} CPU seconds.", args, rows)


if __name__ == "__main__":
    main()
