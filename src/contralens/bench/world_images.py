"""Probe pictures of a world on disk, and how many labels are right, with intervals."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from contralens.checks import whole
from contralens.data.added_files import check_listed, write_listed
from contralens.data.atomic_files import TEMPORARY, explained
from contralens.data.locks import lock_beside, locked
from contralens.data.seals import DIGEST, read_object
from contralens.errors import InputError
from contralens.math.intervals import wilson as wilson
from contralens.settings.bench import IMAGES as IMAGES
from contralens.settings.bench import SEED as SEED
from contralens.world.captions import concepts, names
from contralens.world.render import SIZE, render
from contralens.world.scenes import FACTORS, Scenes
from contralens.world.targets import STRENGTH, World, world
from contralens.world.truth import Truth


def probe_scenes(index: int | str | World, n: int = IMAGES, seed: int = SEED, strength: float = STRENGTH) -> Scenes:
    """The scenes on which a world's neurons are labeled: drawn from the tied world."""
    return world(index).scenes(n, 10_000 + seed, strength)


def vocabulary() -> list[str]:
    """The headline vocabulary: the names of the 38 single levels."""
    return [c.text for c in concepts()]


MOST_IMAGES = 1_000_000
"""Pictures of a world at most: all are in memory at once."""


def write_world(folder: Path, index: int | str, n: int = IMAGES, seed: int = SEED) -> tuple[Scenes, NDArray[np.uint8]]:
    """Render a world's probe scenes into `folder`: PNG files under images/, scenes.parquet, world.json, vocabulary.txt.

    Returns the scenes and their pictures (I,96,96,3). Files are named by number, so sorted order is scene order.
    world.json lists what was written: files of a world that was there before are replaced, all others stay.

    Raises:
        InputError: a file that was not rendered here is in the way, or the folder holds others and no world.
    """
    whole("images", n, 1, MOST_IMAGES)
    scenes = probe_scenes(index, n, seed)
    about = {"world": world(index).index, "true": world(index).true, "partners": world(index).partners,
             "strength": STRENGTH, "images": n, "seed": seed, "size": SIZE}  # fmt: skip
    older = _older(folder)
    names = [f"images/{i:05d}.png" for i in range(n)]
    written = [*names, "scenes.parquet", "vocabulary.txt"]
    busy = f"another process is writing {folder}: wait until it has ended, or choose another folder"
    with explained(folder), ExitStack() as held:
        folder.resolve().parent.mkdir(parents=True, exist_ok=True)
        held.enter_context(locked(lock_beside(folder.resolve()), busy))
        check_listed(folder, "world.json", written, older=older)
        pictures, files = _rendered(scenes, names)
        write_listed(folder, "world.json", about, files, older=older, sync=False)
    return scenes, pictures


def _rendered(scenes: Scenes, names: list[str]) -> tuple[NDArray[np.uint8], dict[str, bytes]]:
    """Pictures of scenes, and all files of their world by path."""
    pictures = render(scenes)
    with ThreadPoolExecutor(2) as pool:
        files = dict(zip(names, pool.map(png, pictures, chunksize=64), strict=True))
    files["scenes.parquet"] = scene_table(scenes, names)
    files["vocabulary.txt"] = ("\n".join(vocabulary()) + "\n").encode()
    return pictures, files


def scene_table(scenes: Scenes, names: Sequence[str]) -> bytes:
    """A parquet file with a row per picture: its name, the level of every factor, the nuisances."""
    table: dict[str, Sequence[str]] = {"image": names}
    for factor, levels in FACTORS.items():
        table[factor] = [levels[i] for i in scenes.of(factor)]
    columns = pa.BufferOutputStream()
    pq.write_table(pa.table({**table, "nuisances": list(scenes.nuisances)}), columns)
    written: bytes = columns.getvalue().to_pybytes()
    return written


def png(picture: NDArray[np.uint8]) -> bytes:
    """A picture (96,96,3) as a PNG file; without a search for repeats, which rendered noise has none of."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
    return out.getvalue()


def _older(folder: Path) -> list[str]:
    """Files of a world written by a version that listed none; raises if the folder holds files and no world."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"{folder} is a file; choose a new folder")
    content = read_object(folder / "world.json") or {}
    ours = {"world", "true", "partners", "strength", "images"} <= content.keys()
    if not ours and folder.is_dir() and any(not left.name.startswith(TEMPORARY) for left in folder.iterdir()):
        raise InputError(f"{folder} holds files but no rendered world; choose a new folder")
    if not ours or DIGEST in content:
        return []
    images = sorted(f"images/{path.name}" for path in (folder / "images").glob("[0-9][0-9][0-9][0-9][0-9].png"))
    return [*images, "scenes.parquet", "vocabulary.txt"]


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
