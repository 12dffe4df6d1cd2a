"""Does `contralens contrast` name the factor in which two classes differ? In rendered worlds.

    python benchmarks/contrast_classes.py [--worlds 1 2 A --ties 0 .9 --images 60 --seed 0] [--json FILE]
    python benchmarks/contrast_classes.py --folder TEXTURES     # photographs in class folders

The two classes of a pair differ in one factor and in nothing else: scenes of the world (its ties included) are drawn
once and rendered with the factor set to each of its levels. All pairs of levels of all factors are classes A and B, 94
pairs a world and tie. Reported: share of the pairs that at least one neuron separates; of these, how often the factor
is named by the strongest neuron (any level of it), and by all neurons that fire for the same class together (`words`);
how often it is the level of that class; and the same for the difference of the mean embeddings, which does not look at
the network. Null
pairs: two halves of the same scenes, which differ in nothing; no neuron should separate them.

With --folder, the target is EfficientNet-Lite0 and the encoder `offline`; the folder has a sub-folder per class.
Reported: how many neurons separate each pair of classes, and how often the first of the words is the class's own name.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

import contralens
from contralens.bench.training import tune_target
from contralens.bench.world_images import vocabulary
from contralens.evaluation.image_classes import plain
from contralens.math.intervals import wilson
from contralens.world.captions import names
from contralens.world.encoder import preprocess
from contralens.world.render import render
from contralens.world.scenes import FACTORS, Scenes, sample_scenes
from contralens.world.targets import LAYER, WORLDS, World

NEW = {
    "A": World(21, "background", {
        "shape": {"sand": "cross", "grass": "star", "water": "moon", "brick": "ring", "snow": "heart",
                  "night": "square"},
    }),
}  # fmt: skip
"""A world that nothing was chosen on."""
TRAIN = 6000


def network(name: str, seed: int) -> tuple[Any, World]:
    """A world's network; that of a new world is trained."""
    if name not in NEW:
        return contralens.target(f"world:{name}", layer=LAYER), WORLDS[int(name)]
    place = NEW[name]
    scenes = place.scenes(TRAIN, 7_000 + seed, 0.7)
    net = tune_target(
        render(scenes), scenes.of(place.true), FACTORS[place.true], start=2, seed=place.index + seed,
        log=lambda line: None,
    )  # fmt: skip
    return contralens.target(net, layer=LAYER, preprocess=preprocess), place


def scenes_of(place: World, factor: str, tie: float, images: int, seed: int) -> tuple[Scenes, list[str]]:
    """`images` other scenes for each level of a factor, and their classes; first two null classes, "x" and "y"."""
    levels = len(FACTORS[factor])
    drawn = place.scenes((levels + 2) * images, 9_000 + seed, tie) if tie else sample_scenes(
        (levels + 2) * images, 9_000 + 31 * seed + place.index
    )  # fmt: skip
    parts = [drawn[slice(0, 2 * images)]]
    labels = ["x"] * images + ["y"] * images
    for number, name in enumerate(FACTORS[factor]):
        start = (number + 2) * images
        parts.append(drawn[slice(start, start + images)].set(factor, number))
        labels += [name] * images
    whole = Scenes(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("levels", "nuisances")))
    return whole, labels


def named(concept: str | None, factor: str) -> int | None:
    """The level of the factor that a concept names, None if it names none."""
    levels = range(len(FACTORS[factor]))
    return None if concept is None else next((i for i in levels if names(concept, factor, i)), None)


def measured(run: Any, labels: list[str], factor: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per pair of levels of a factor, and one for the null pair."""
    rows = []
    levels = FACTORS[factor]
    for one, other in [("x", "y"), *combinations(levels, 2)]:
        found = contralens.contrast_classes(run, one, other, labels=labels, **options)
        row: dict[str, Any] = {"factor": factor, "a": one, "b": other, "separating": len(found.rows())}
        if one != "x" and found.rows():
            top = found.rows()[0]
            level = named(top["concept"], factor)
            row |= {"top": top["concept"], "top factor": level is not None,
                    "top level": level is not None and levels[level] == top["fires_for"]}  # fmt: skip
            for way in ("words", "images_differ"):
                side = top["fires_for"]
                said = (found.manifest[way][side] or [None])[0]
                level = named(said, factor)
                row |= {way: said, f"{way} factor": level is not None,
                        f"{way} level": level is not None and levels[level] == side}  # fmt: skip
        rows.append(row)
    return rows


def worlds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of all worlds and ties."""
    rows: list[dict[str, Any]] = []
    for name in args.worlds:
        target, place = network(name, args.seed)
        for tie in args.ties:
            for factor in args.factors:
                with tempfile.TemporaryDirectory() as temporary:
                    folder = Path(temporary)
                    scenes, labels = scenes_of(place, factor, tie, args.images, args.seed)
                    write(folder / "images", scenes)
                    run = contralens.label(
                        target, folder / "images", "world", vocabulary(), scorers=["csp"], k=10,
                        cache=folder / "cache", confidence=False,
                    )  # fmt: skip
                    here = [labels[int(i.split(".")[0])] for i in run.images["id"].to_pylist()]
                    options = {
                        "target": target,
                        "cache": folder / "cache",
                        "describe": args.describe,
                        "scorer": args.scorer,
                    }
                    rows += [{"world": name, "tie": tie, **r} for r in measured(run, here, factor, options)]
            print(
                line(f"world {name}, ties {tie:g}", [r for r in rows if (r["world"], r["tie"]) == (name, tie)]),
                flush=True,
            )
    return rows


def write(folder: Path, scenes: Scenes) -> None:
    from PIL import Image

    folder.mkdir(parents=True)
    for i, picture in enumerate(render(scenes)):
        Image.fromarray(picture).save(folder / f"{i:05d}.png", compress_level=1)


HEAD = ("", "pairs", "separated", "factor, strongest neuron", "right level", "factor, all neurons", "right level",
        "factor, images alone", "right level", "null pairs separated")  # fmt: skip


def line(title: str, rows: list[dict[str, Any]]) -> str:
    """A line of the table."""
    pairs = [r for r in rows if r["a"] != "x"]
    null = [r["separating"] > 0 for r in rows if r["a"] == "x"]
    apart = [r for r in pairs if r["separating"]]
    keys = ("top factor", "top level", "words factor", "words level", "images_differ factor", "images_differ level")
    cells = [share([r["separating"] > 0 for r in pairs]), *(share([r[key] for r in apart]) for key in keys)]
    return f"| {title} | {len(pairs)} | " + " | ".join(cells) + f" | {sum(null)} of {len(null)} |"


def share(of: list[bool]) -> str:
    if not of:
        return "-"
    low, high = wilson(sum(of), len(of))
    return f"{np.mean(of):.3f} ({low:.2f} to {high:.2f})"


TEXTURES = [
    "banded", "blotchy", "braided", "bubbly", "bumpy", "chequered", "cobwebbed", "cracked", "crosshatched",
    "crystalline", "dotted", "fibrous", "flecked", "freckled", "frilly", "gauzy", "grid", "grooved",
    "honeycombed", "interlaced", "knitted", "lacelike", "lined", "marbled", "matted", "meshed", "paisley",
    "perforated", "pitted", "pleated", "polka-dotted", "porous", "potholed", "scaly", "smeared", "spiralled",
    "sprinkled", "stained", "stratified", "striped", "studded", "swirly", "veined", "waffled", "woven",
    "wrinkled", "zigzagged",
]  # fmt: skip
"""The 47 words of the Describable Textures Dataset."""


def photographs(folder: Path, words: list[str], describe: int) -> None:
    """All pairs of class folders of photographs, with these words; how often a class's own name is the first word."""
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    run = contralens.label(
        "offline:lite0", folder, "offline", words, layer="bn2", scorers=["csp"], k=20, confidence=False
    )
    counts: dict[str, list[bool]] = {"separated": [], "strongest": [], "all": [], "images": []}
    print("| classes | images | neurons that separate them | strongest | words |", "|---" * 5 + "|", sep="\n")
    for a, b in combinations(classes, 2):
        found = contralens.contrast_classes(run, a, b, describe=describe)
        m, rows = found.manifest, found.rows()
        counts["separated"].append(bool(rows))
        if not rows:
            continue
        top = rows[0]
        own = [plain(side) for side in (a, b)]
        counts["strongest"].append(plain(top["concept"]) == plain(top["fires_for"]))
        for key, said in (("all", m["words"]), ("images", m["images_differ"])):
            counts[key] += [plain(said[side][0]) == name for side, name in zip((a, b), own, strict=True) if said[side]]
        best = f"{top['name']} AUC {top['auc']:.3f} for {top['fires_for']}: {top['concept']}"
        said = "; ".join(f"{side}: {', '.join(m['words'][side][:3])}" for side in (a, b))
        print(
            f"| {a}, {b} | {m['images_a']}, {m['images_b']} | {len(rows)} of {m['tested']} | {best} | {said} |",
            flush=True,
        )
    for key, right in counts.items():
        print(f"{key}: {sum(right)} of {len(right)}, {share(right)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--worlds", nargs="+", default=["1", "2"], choices=[*map(str, WORLDS), *NEW])
    parser.add_argument("--ties", nargs="+", type=float, default=[0.0, 0.9])
    parser.add_argument("--factors", nargs="+", default=list(FACTORS), choices=list(FACTORS))
    parser.add_argument("--images", type=int, default=60, help="of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--describe", type=int, default=20)
    parser.add_argument("--scorer", default="csp")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--vocabulary", help="with --folder: of what words are (default: 47 of textures)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.folder:
        photographs(args.folder, args.vocabulary or TEXTURES, args.describe)
        return
    print("| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|", sep="\n")
    rows = worlds(args)
    print(line("all", rows))
    if args.json:
        args.json.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
