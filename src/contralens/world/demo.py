"""Probe pictures of a world on disk, and how many labels are right, with intervals."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from contralens.checks import whole
from contralens.math.intervals import wilson as wilson
from contralens.world.captions import concepts, names
from contralens.world.render import SIZE, render
from contralens.world.scenes import FACTORS, Scenes
from contralens.world.targets import STRENGTH, World, world
from contralens.world.truth import Truth

IMAGES = 2000
"""Probe scenes of a world in the demo."""
SEED = 5
"""Seed of the probe scenes; the targets were trained on others."""


def probe_scenes(index: int | str | World, n: int = IMAGES, seed: int = SEED, strength: float = STRENGTH) -> Scenes:
    """The scenes on which a world's neurons are labeled: drawn from the tied world."""
    return world(index).scenes(n, 10_000 + seed, strength)


def vocabulary() -> list[str]:
    """The headline vocabulary: the names of the 38 single levels."""
    return [c.text for c in concepts()]


MOST_IMAGES = 1_000_000
"""Pictures of a world at most: all stand in memory at once."""


def write_world(folder: Path, index: int | str, n: int = IMAGES, seed: int = SEED) -> tuple[Scenes, NDArray[np.uint8]]:
    """Render a world's probe scenes into `folder`: PNG files under images/, scenes.parquet, world.json, vocabulary.txt.

    Returns the scenes and their pictures (I,96,96,3). Files are named by number, so sorted order is scene order.
    Pictures of a world that was there before go first; world.json comes before the new ones, so that the folder of a
    killed call is known as one that may be written again.
    """
    whole("images", n, 1, MOST_IMAGES)
    scenes = probe_scenes(index, n, seed)
    pictures = render(scenes)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for old in (folder / "images").glob("*.png"):
        if old.stem.isdigit():
            old.unlink()
    about = {"world": world(index).index, "true": world(index).true, "partners": world(index).partners,
             "strength": STRENGTH, "images": n, "seed": seed, "size": SIZE}  # fmt: skip
    (folder / "world.json").write_text(json.dumps(about, indent=1) + "\n")

    def write(i: int) -> None:
        Image.fromarray(pictures[i]).save(folder / "images" / f"{i:05d}.png", compress_level=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(n), chunksize=64))
    table = {"image": [f"images/{i:05d}.png" for i in range(n)]}
    for factor, levels in FACTORS.items():
        table[factor] = [levels[i] for i in scenes.of(factor)]
    columns = {**table, "nuisances": list(scenes.nuisances)}
    pq.write_table(pa.table(columns), folder / "scenes.parquet")
    (folder / "vocabulary.txt").write_text("\n".join(vocabulary()) + "\n")
    return scenes, pictures


def score_labels(labels: Sequence[str | None], truth: Sequence[Truth]) -> NDArray[np.bool_]:
    """(N): whether each label names a true level of its neuron.

    No label is a wrong one, and so is any label of a neuron whose truth is unknown: leave those out with `truth.known`.

    >>> striped = Truth((("pattern", 1),), "known", 2.0)
    >>> score_labels(["banded", "red", None], [striped] * 3).tolist()
    [True, False, False]
    """
    return np.array(
        [
            label is not None and any(names(label, f, i) for f, i in t.levels)
            for label, t in zip(labels, truth, strict=True)
        ],
        bool,
    )


def dominated(positives: NDArray[np.int64], scenes: Scenes, truth: Sequence[Truth]) -> NDArray[np.bool_]:
    """(N): neurons whose positives (N,K) mostly share a level of a factor that is not their true one.

    The level shows on at least 60 % of the positives and at least twice as often as in the probe set.
    """
    out = np.zeros(len(positives), bool)
    for factor, levels in FACTORS.items():
        other = np.array([all(f != factor for f, _ in t.levels) for t in truth], bool)
        shown = scenes.of(factor)
        for i in range(len(levels)):
            share = (shown[positives] == i).mean(1)
            out |= other & (share >= 0.6) & (share >= 2 * (shown == i).mean())
    return out
