"""Are the neurons that the audit calls spurious spurious? Against the shipped truth of the three tied worlds.

    python benchmarks/audit_worlds.py [--images 2000]

The expected concepts are the levels that the world's network classifies, the spurious ones those of the factors tied to
them (`contralens.world.targets`); what each of the 64 trained neurons responds to was measured by intervention
(`contralens.world.truth`). Precision and recall of "spurious" with Wilson's intervals; "chance" calls as many neurons
spurious, drawn at random, so its precision is the share of spurious neurons. "of verdicts": how many of the neurons
with a verdict for a side have the right concept; "undecided": neurons whose sides tie. "ranks": how often a spurious
neuron has a larger margin (z of the best spurious concept - z of the best expected one) than another.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import contralens
from contralens.bench.world_images import vocabulary, write_world
from contralens.math.intervals import wilson
from contralens.world.captions import SYNONYMS
from contralens.world.scenes import FACTORS
from contralens.world.targets import WORLDS, World
from contralens.world.truth import load_truth

SCORERS = ("csp", "csp:gamma=0.5", "csp:gamma=0", "semanticlens", "clip_dissect", "centred", "mean_difference")


def concepts(world: World) -> dict[str, Any]:
    """The world's list: what it classifies against what is tied to that."""

    def levels(factor: str) -> list[dict[str, Any]]:
        return [{"name": words[0], "synonyms": list(words[1:])} for words in SYNONYMS[factor]]

    return {
        "templates": ["{}", "a photo of a {} object", "a picture with {}"],
        "expected": levels(world.true),
        "spurious": [level for factor in world.partners for level in levels(factor)],
    }


def share(right: int, of: int) -> str:
    """A share with its interval."""
    low, high = wilson(right, of)
    return f"{right:3}/{of:<3} {low:.2f} .. {high:.2f}" if of else "  -/-              "


def auc(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """How often a value of `one` is above one of `other`, ties one half."""
    return float(((one[:, None] > other) + 0.5 * (one[:, None] == other)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=2000)
    args = parser.parse_args()
    print(
        "world  scorer            precision             recall                names right           of verdicts        "
        "   undecided  chance  ranks"
    )
    with tempfile.TemporaryDirectory() as folder:
        for index, world in WORLDS.items():
            home = Path(folder) / str(index)
            write_world(home, index, args.images)
            common = {"cache": Path(folder) / "cache"}
            contralens.label(f"world:{index}", home / "images", "world", vocabulary(), out=home / "run", **common)
            truth = {n: t for n, t in enumerate(load_truth(index)) if t.kind == "known"}
            spurious = {n for n, t in truth.items() if {factor for factor, _ in t.levels} <= set(world.partners)}
            for scorer in SCORERS:
                found = contralens.audit(
                    home / "run", concepts(world), scorer=scorer, sample=0, images=1, head="none", save=False, **common
                )  # fmt: skip
                rows = {row["neuron"]: row for row in found.rows() if row["neuron"] in truth}
                called = {n for n, row in rows.items() if row["verdict"] == "spurious"}
                named = [any(FACTORS[f][v] == rows[n]["concept"] for f, v in t.levels) for n, t in truth.items()
                         if n in rows]  # fmt: skip
                sided = [n for n, row in rows.items() if row["concept"] is not None]
                right = sum(any(FACTORS[f][v] == rows[n]["concept"] for f, v in truth[n].levels) for n in sided)
                undecided = sum(row["verdict"] == "undecided" for row in rows.values())
                margin = np.array([row["spurious"] - row["expected"] for row in rows.values()])
                is_spurious = np.array([n in spurious for n in rows])
                ranks = "-"
                if is_spurious.any() and not is_spurious.all():
                    ranks = f"{auc(margin[is_spurious], margin[~is_spurious]):.2f}"
                print(
                    f"{index}      {scorer:16}  {share(len(called & spurious), len(called))}  "
                    f"{share(len(called & spurious), len(spurious))}  {share(sum(named), len(named))}  "
                    f"{share(right, len(sided))}  {undecided:9}  {len(spurious) / len(truth):.2f}    {ranks}"
                )


if __name__ == "__main__":
    main()
