"""Does `contralens match` find which neuron is which, where that is known? In rendered worlds.

    python benchmarks/match.py [--worlds 1 2 3] [--images 400] [--seeds 3] [--json FILE]
    python benchmarks/match.py --quick            # world 1, 120 images, 8 exemplars, one seed

Three questions to the 64 neurons of block3, by world and seed:

- permuted: a copy of the network with its neurons in another order, on the same images. Right: a neuron is matched to
  itself. By activations with both nulls, and by exemplars.
- retrained: 8 neurons trained anew on other pictures to see dim light. Found: how many of the 8 are `new`; false: how
  many of the 56 others are not matched to themselves; named: whether a new neuron is labeled "dim light" or "bright
  light".
- other images: the network itself on two image sets that share no picture, by exemplars. Right: matched to itself; same
  label: of the matched, those whose two labels are the same. At random, 1 neuron in 64 is right.

The tables say the mean over worlds and seeds, and the least. Nothing was tuned on these worlds and seeds; world 1 with
seed 0 is what the tests use.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, publish, table

import contralens
from contralens.bench.altered import permuted, retrained
from contralens.bench.world_images import write_world
from contralens.data.matchings import Matching
from contralens.data.runs import Run
from contralens.world.encoder import preprocess
from contralens.world.targets import LAYER

WIDTH, TRAINED = 64, 8
WAYS: dict[str, dict[str, Any]] = {
    "activations, mixture": {}, "activations, permuted": {"null": "permuted"}, "exemplars": {"by": "exemplars"},
}  # fmt: skip


class Place:
    """A world's images, and runs on them."""

    def __init__(self, home: Path, world: int, images: int, k: int, fakes: int) -> None:
        self.home, self.world, self.k, self.fakes = home, world, k, fakes
        for name, seed in (("w", world), ("other", 1000 + world)):
            write_world(home / name, world, images, seed=seed)
        self.run = self.label(f"world:{world}")

    def label(self, net: Any, images: str = "w") -> Run:
        given: dict[str, Any] = {"layer": LAYER}
        if not isinstance(net, str):
            net, given = contralens.target(net, layer=LAYER, preprocess=preprocess), {}
        return contralens.label(
            net, self.home / images / "images", "world", self.home / "w" / "vocabulary.txt", k=self.k, scorers=["csp"],
            confidence=False, cache=self.home / "cache", **given,
        )  # fmt: skip

    def match(self, other: Run, **way: Any) -> Matching:
        return contralens.match(self.run, other, cache=self.home / "cache", fakes=self.fakes, **way)

    def of_permuted(self, seed: int) -> dict[str, float]:
        order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(seed)).tolist()
        copy = self.label(permuted(self.world, order))
        out = {}
        for name, way in WAYS.items():
            found = self.match(copy, **way)
            right = sum(order[other] == one for one, other in found.partners.items())
            out[name] = right / found.manifest["one"]["compared"]
        return out

    def of_retrained(self, seed: int) -> dict[str, float]:
        found = self.match(self.label(retrained(self.world, "lighting", "dim", TRAINED, seed)))
        new = found.rows("new")
        kept = sum(found.partners.get(n) == n for n in range(TRAINED, WIDTH))
        alive = found.manifest["one"]["compared"] - sum(n < TRAINED for n in self.alive)
        named = {row["other_label"] for row in new} & {"dim light", "bright light"}
        return {
            "found": sum(row["other"] < TRAINED for row in new), "false": alive - kept, "others": alive,
            "named": float(bool(named)),
        }  # fmt: skip

    @property
    def alive(self) -> list[int]:
        return [row["neuron"] for row in self.run.neurons.to_pylist() if row["status"] == "ok"]

    def of_other_images(self) -> dict[str, float]:
        other = self.label(f"world:{self.world}", "other")
        found = self.match(other)
        assert found.manifest["by"] == "exemplars", found.manifest
        labels = [{row["neuron"]: row["label"] for row in run.rows()} for run in (self.run, other)]
        pairs = found.partners.items()
        same = [labels[0][one] == labels[1][two] for one, two in pairs]
        alive = found.manifest["one"]["compared"]
        return {
            "matched": len(found.partners) / alive, "right": sum(one == two for one, two in pairs) / alive,
            "same label": float(np.mean(same)) if same else 0.0,
        }  # fmt: skip


def cells(rows: Sequence[Mapping[str, float]], name: str, percent: bool = True) -> str:
    """Mean and least of a number over worlds and seeds."""
    values = [row[name] for row in rows]
    shown = (100 * np.mean(values), 100 * min(values)) if percent else (np.mean(values), min(values))
    return f"{shown[0]:.0f} % ({shown[1]:.0f} %)" if percent else f"{shown[0]:.1f} ({shown[1]:.0f})"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-k", type=int, default=30, help="exemplars of a neuron")
    parser.add_argument("--fakes", type=int, default=1000, help="null neurons")
    args = parser.parse_args()
    if args.quick:
        args.worlds, args.images, args.seeds, args.fakes, args.k = args.worlds[:1], 120, 1, 200, 8
    torch.set_num_threads(args.threads)
    told: dict[str, list[dict[str, float]]] = {"permuted": [], "retrained": [], "other images": []}
    for world in args.worlds:
        with tempfile.TemporaryDirectory() as home:
            place = Place(Path(home), world, args.images, args.k, args.fakes)
            for seed in range(args.seeds):
                told["permuted"].append({"world": world, "seed": seed, **place.of_permuted(seed)})
                told["retrained"].append({"world": world, "seed": seed, **place.of_retrained(seed)})
            told["other images"].append({"world": world, **place.of_other_images()})
        print(f"world {world}: {[rows[-1] for rows in told.values()]}", file=sys.stderr, flush=True)
    new, false = told["retrained"], [row["false"] / row["others"] for row in told["retrained"]]
    shown = [
        *((f"permuted, by {name}", "neurons matched to themselves", cells(told["permuted"], name)) for name in WAYS),
        ("retrained", f"of {TRAINED} new neurons found", cells(new, "found", percent=False)),
        ("retrained", "other neurons not matched to themselves (most)",
         f"{100 * np.mean(false):.1f} % ({100 * max(false):.1f} %)"),
        ("retrained", "a new neuron is labeled with the new concept",
         f"{sum(row['named'] for row in new):.0f} of {len(new)}"),
        *(("other images, by exemplars", f"neurons: {name}", cells(told["other images"], name))
          for name in ("matched", "right", "same label")),
    ]  # fmt: skip
    worlds = ", ".join(map(str, args.worlds))
    some = f"Worlds {worlds}, seeds 0 to {args.seeds - 1}; {args.images} images, k = {args.k}"
    some += f", {args.fakes} null neurons."
    publish("match", f"{some}\n\n{table(['network', 'measured', 'mean (least)'], shown)}", args, told)


if __name__ == "__main__":
    main()
