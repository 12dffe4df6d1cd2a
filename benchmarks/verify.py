"""Are verified labels right, and refuted ones wrong? In rendered worlds that nothing was chosen on.

    python benchmarks/verify.py [--worlds A B --ties 0 .5 .95 --editors "world?clumsy=0.3" retrieve swap] [--json FILE]
    python benchmarks/verify.py --worlds C D --refine 6 --editors "world?clumsy=0.3" retrieve inside
    python benchmarks/verify.py --worlds C D --ties 1 --editors world inside

The thresholds of `contralens.math.experiments` were chosen on worlds 1 to 3. Here networks are fine-tuned in new worlds
(other classes, other ties, other seeds), and what each neuron of block3 responds to is measured by rendering with one
factor changed. Labels of CSP and SemanticLens on 1,200 pictures are then put to the test by `contralens.verify`. Told:
share right before; share verified and how many of these are right; share of the right labels that are refuted; share
tested (verified or refuted); how far the confidence of the labels is from the truth before and after it is updated by
the outcomes. Null labels: control concepts in the labels' place. With --refine also: how much larger the share of right
labels is where a refuted label gives way to a concept that is verified in its place.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import contralens
from contralens.bench.training import tune_target
from contralens.bench.world_images import score_labels, vocabulary
from contralens.data.experiment_evidence import after_experiments
from contralens.math.intervals import mean_interval, wilson
from contralens.world.encoder import preprocess
from contralens.world.render import render
from contralens.world.scenes import FACTORS, Scenes
from contralens.world.targets import LAYER, World
from contralens.world.truth import base_scenes, known, measure_target, truth_of

NEW = {
    "A": World(11, "background", {
        "shape": {"sand": "star", "grass": "circle", "water": "ring", "brick": "cross", "snow": "moon",
                  "night": "heart"},
    }),
    "B": World(12, "pattern", {
        "shape": {"plain": "square", "striped": "heart", "dotted": "star", "checkered": "circle", "zigzag": "moon",
                  "split": "triangle"},
    }),
    "C": World(13, "shape", {
        "background": {"circle": "water", "square": "grass", "triangle": "snow", "star": "night", "heart": "grass",
                       "cross": "brick", "moon": "snow", "ring": "sand"},
    }),
    "D": World(14, "colour", {
        "pattern": {"red": "dotted", "orange": "plain", "yellow": "zigzag", "green": "checkered", "blue": "striped",
                    "purple": "split", "pink": "dotted", "white": "plain"},
    }),
}  # fmt: skip
SCORERS = ("semanticlens", "csp")
TRAIN, PROBE = 6000, 1200


def pictures(folder: Path, scenes: Scenes) -> None:
    """A rendered world on disk, as `contralens world` writes it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "images").mkdir(parents=True)
    names = [f"images/{i:05d}.png" for i in range(len(scenes))]
    for name, picture in zip(names, render(scenes), strict=True):
        Image.fromarray(picture).save(folder / name, compress_level=1)
    table = {"image": names} | {f: [levels[i] for i in scenes.of(f)] for f, levels in FACTORS.items()}
    pq.write_table(pa.table({**table, "nuisances": list(scenes.nuisances)}), folder / "scenes.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--worlds", nargs="+", default=["A", "B"], choices=list(NEW))
    parser.add_argument("--ties", nargs="+", type=float, default=[0.0, 0.5, 0.95])
    parser.add_argument("--editors", nargs="+", default=["world?clumsy=0.3", "retrieve", "swap"])
    parser.add_argument("--refine", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    nulls: list[dict[str, Any]] = []
    gains: list[dict[str, Any]] = []
    for name in args.worlds:
        place = NEW[name]
        trained = place.scenes(TRAIN, 7_000, 0.7)
        classes = FACTORS[place.true]
        net = tune_target(
            render(trained), trained.of(place.true), classes, start=2, seed=place.index, log=lambda line: None
        )  # fmt: skip
        truth = [truth_of(row) for row in measure_target(net, base_scenes(100))[LAYER]]
        told = known(truth)
        print(f"world {name}: {int(told.sum())} of {len(truth)} neurons known", flush=True)
        for tie in args.ties:
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                pictures(folder / "w", place.scenes(PROBE, 8_000 + int(100 * tie), tie))
                target = contralens.target(net, layer=LAYER, preprocess=preprocess)
                run = contralens.label(
                    target, folder / "w" / "images", "world", vocabulary(), scorers=SCORERS, cache=folder / "cache",
                )  # fmt: skip
                for editor in args.editors:
                    for scorer in SCORERS:
                        found = contralens.verify(
                            run, editor=editor, scorer=scorer, target=target, cache=folder / "cache", save=False,
                            refine=args.refine,
                        )  # fmt: skip
                        own = [r for r in found.rows() if r["instead_of"] is None]
                        right = score_labels([r["label"] for r in own], [truth[r["neuron"]] for r in own])
                        about = {"world": name, "tie": tie, "editor": editor, "scorer": scorer}
                        rows += [
                            {**about, "right": bool(ok), "outcome": r["outcome"], "before": b, "after": a}
                            for r, ok, b, a in zip(own, right, *weighed(run, scorer, own), strict=True)
                            if told[r["neuron"]]
                        ]  # fmt: skip
                        gains += [{**about, **g} for g in gained(found.rows(), truth, told)]
                        nulls += [{**about, "outcome": word} for r in own for word in r["nulls"]]
                        print(about, found.counts, found.manifest["nulls"], flush=True)
    head = ("editor", "labels of", "tie", "labels", "right", "verified", "of these right", "tested",
            "right but refuted", "null labels verified")  # fmt: skip
    print("| " + " | ".join(head) + " |", "|---" * len(head) + "|", sep="\n")
    for editor in args.editors:
        for scorer in (*SCORERS, "both"):
            for tie in (*args.ties, "all"):
                some = [
                    [r for r in of if (r["editor"], scorer, tie) in
                     {(editor, s, t) for s in (r["scorer"], "both") for t in (r["tie"], "all")}]
                    for of in (rows, nulls)
                ]  # fmt: skip
                print(line(editor, scorer, tie, *some))
        own = [g for g in gains if g["editor"] == editor]
        if args.refine and own:
            print(f"{editor}, --refine {args.refine}: {said(own)}")
        print(f"{editor}: {evidence([row for row in rows if row['editor'] == editor])}")
    if args.json:
        args.json.write_text(json.dumps({"labels": rows, "nulls": nulls}) + "\n")


def weighed(run: contralens.Run, scorer: str, own: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Confidence of labels before and after their experiments."""
    confidence = {row["neuron"]: row["confidence"] for row in run.rows(scorer)}
    before = [confidence[row["neuron"]] for row in own]
    return before, after_experiments(before, [row["outcome"] for row in own]).tolist()


def evidence(own: list[dict[str, Any]]) -> str:
    """Whether the experiments make the confidence truer, paired, with the bootstrap interval of the gain."""
    right, before, after = (np.array([row[name] for row in own], float) for name in ("right", "before", "after"))
    lost = (before - right) ** 2 - (after - right) ** 2
    gain = mean_interval(lost)
    return (
        f"Brier score of the confidence {((before - right) ** 2).mean():.4f} before the experiments, "
        f"{((after - right) ** 2).mean():.4f} after, gain {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}); "
        f"mean confidence {before.mean():.3f} and {after.mean():.3f}, right {right.mean():.3f}"
    )


def gained(rows: list[dict[str, Any]], truth: list[Any], told: np.ndarray) -> list[dict[str, Any]]:
    """Per label, whether it is right, and whether what stands in its place after refinement is."""
    place = {r["neuron"]: r["label"] for r in rows if r["instead_of"] is not None and r["outcome"] == "verified"}
    own = [r for r in rows if r["instead_of"] is None and told[r["neuron"]]]
    truths = [truth[r["neuron"]] for r in own]
    before = score_labels([r["label"] for r in own], truths)
    after = score_labels([place.get(r["neuron"], r["label"]) for r in own], truths)
    return [
        {"before": bool(b), "after": bool(a), "refuted": r["outcome"] == "refuted", "replaced": r["neuron"] in place}
        for r, b, a in zip(own, before, after, strict=True)
    ]


def said(own: list[dict[str, Any]]) -> str:
    """The gain over labels without refinement, paired, with its bootstrap interval."""
    before, after = (np.array([g[name] for g in own], float) for name in ("before", "after"))
    gain = mean_interval(after - before)
    replaced = [g for g in own if g["replaced"]]
    return (
        f"{len(own)} labels, {sum(g['refuted'] for g in own)} refuted, {len(replaced)} replaced, of these right "
        f"{sum(g['before'] for g in replaced)} before and {sum(g['after'] for g in replaced)} after; right "
        f"{before.mean():.3f} -> {after.mean():.3f}, gain {gain.mean:+.3f} ({gain.low:+.3f} to {gain.high:+.3f})"
    )


def line(editor: str, scorer: str, tie: Any, rows: list[dict[str, Any]], nulls: list[dict[str, Any]]) -> str:
    right = np.array([r["right"] for r in rows], bool)
    words = np.array([r["outcome"] for r in rows])
    verified, refuted = words == "verified", words == "refuted"
    none = np.array([r["outcome"] == "verified" for r in nulls], bool)

    def share(of: np.ndarray) -> str:
        if not len(of):
            return "-"
        low, high = wilson(int(of.sum()), len(of))
        return f"{of.mean():.3f} ({low:.3f} to {high:.3f})"

    cells = [right.mean(), verified.mean(), share(right[verified]), (verified | refuted).mean(), share(refuted[right])]
    told = [c if isinstance(c, str) else f"{c:.3f}" for c in cells]
    return f"| {editor} | {scorer} | {tie} | {len(rows)} | " + " | ".join(told) + f" | {share(none)} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
