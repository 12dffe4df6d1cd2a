"""The exact editor: scenes of a rendered world rendered again, one factor changed. And its clumsy version."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contralens.data.atomic_files import digest
from contralens.errors import InputError
from contralens.verifying.editors import Bench, Request, scenes_of
from contralens.world.captions import meaning
from contralens.world.render import render
from contralens.world.scenes import FACTORS, NAMES, Scenes, column

if TYPE_CHECKING:
    from PIL.Image import Image


class WorldEditor:
    """Renders a scene again with the concept's factor at another level (removal) or at the concept's (insertion).

    Args:
        scenes: by file name of the picture.
        clumsy: share of the edits that also change another factor, at random.
    """

    by_region, exact = False, True

    def __init__(self, names: list[str], scenes: Scenes, bench: Bench, clumsy: float = 0.0) -> None:
        self.at = {PurePath(name).name: i for i, name in enumerate(names)}
        self.scenes, self.bench, self.clumsy = scenes, bench, clumsy
        self.name = f"world, clumsy={clumsy:g}" if clumsy else "world"
        self.fingerprint = digest("world-editor-1", scenes.levels.tobytes(), scenes.nuisances.tobytes(), str(clumsy))

    def edit(self, request: Request) -> Image | str:
        from PIL import Image

        levels = meaning(request.concept)
        name = str(self.bench.reopened.run.images["id"][request.image])
        row = self.at.get(PurePath(name).name)
        if row is None:
            return "the image has no scene description"
        if len(levels) != 1:
            return "the world has no such single level"
        ((factor, level),) = levels
        draw = np.random.default_rng([request.seed, row, column(factor), level, request.kind == "insert"])
        scene = self.scenes.levels[row].copy()
        shown = scene[column(factor)] == level
        if shown == (request.kind == "insert"):
            return "it shows the concept already" if shown else "it does not show the concept"
        others = [i for i in range(len(FACTORS[factor])) if i != level]
        scene[column(factor)] = level if request.kind == "insert" else int(draw.choice(others))
        if draw.random() < self.clumsy:
            extra = str(draw.choice([f for f in NAMES if f != factor]))
            scene[column(extra)] = int(draw.integers(len(FACTORS[extra])))
        return Image.fromarray(render(Scenes(scene[None], self.scenes.nuisances[[row]]))[0])


def world(rest: str, bench: Bench, *, clumsy: float = 0.0) -> WorldEditor:
    """From "FOLDER"; without a folder the run's images are looked at.

    Raises:
        InputError: the folder holds no rendered world, or `clumsy` is not from 0 to 1.
    """
    if not 0 <= clumsy <= 1:
        raise InputError(f"the editor world takes clumsy=SHARE, from 0 to 1, e.g. world?clumsy=0.3; got {clumsy:g}")
    source = Path(rest or str(bench.reopened.run.manifest["images"].get("source") or ""))
    found = scenes_of(source)
    if found is None:
        raise InputError(
            f"the editor world needs the folder of a rendered world (contralens world 1 --out FOLDER), and "
            f"{source} is none; on other images use retrieve or swap"
        )
    try:
        table = pq.read_table(found)
        levels = [[FACTORS[f].index(name) for name in table[f].to_pylist()] for f in NAMES]
        scenes = Scenes(np.array(levels).T, np.array(table["nuisances"].to_pylist(), np.float32))
        names = [str(name) for name in table["image"].to_pylist()]
    except (OSError, ValueError, KeyError, pa.ArrowException) as e:
        raise InputError(f"{found} describes no scenes of a rendered world: {e}") from e
    return WorldEditor(names, scenes, bench, clumsy)
