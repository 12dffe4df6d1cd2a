"""Nuisances of version 2: foreign grain on surfaces, an occluder, other objects in the corners, a blurred camera.

Each is on a share of the pictures. What a picture has of them follows from its scene's nuisances alone, so an
intervention on a factor leaves them as they are; no factor determines them. (A small object that would then be like
the scene's own takes the next level.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.world import render as plain
from contralens.world.render import MARGIN, PATCH, SIZE, TILE, Floats, centres, draw, ground, lit, textures
from contralens.world.scenes import FACTORS, Scenes, column

COLUMNS = 24
"""Uniform numbers a scene has for them."""
BAND = 3.5
"""Half the width of an occluder, in pixels."""


@dataclass(frozen=True, slots=True)
class Disturbances:
    """On which share of the pictures, 0 to 1, each nuisance is.

    >>> Disturbances(blur=0.5).about
    'blur 0.5'
    """

    texture: float = 0.0
    """Surfaces carry the grain of a background drawn at random: it speaks for a ground that is not there."""
    occlusion: float = 0.0
    """A grey pole stands in front of the first object."""
    objects: float = 0.0
    """One or two small objects of another shape, colour and pattern lie in the corners. They are not counted."""
    blur: float = 0.0
    """The camera is out of focus (standard deviation .6 to 1.4 pixels) and noisy."""

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} is a share of the pictures, 0 to 1; got {share}")

    @property
    def about(self) -> str:
        """Those that are on, with their shares."""
        return ", ".join(f"{name} {share:g}" for name, share in asdict(self).items() if share) or "none"


def disturbances(shares: Mapping[str, Any] | None) -> Disturbances:
    """Shares by name; raises `InputError` for an unknown name."""
    known = [field.name for field in fields(Disturbances)]
    for name in shares or {}:
        if name not in known:
            raise InputError(f"unknown nuisance {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return Disturbances(**(shares or {}))


def render(scenes: Scenes, shares: Disturbances | None = None) -> NDArray[np.uint8]:
    """Draw scenes with nuisances: (I) to (I,96,96,3) uint8 RGB; without any, the pictures of `render.render`.

    >>> from contralens.world.scenes import sample_scenes
    >>> scenes = sample_scenes(4, seed=0)
    >>> bool((render(scenes) == plain.render(scenes)).all())
    True
    """
    if shares is None or shares == Disturbances():
        return plain.render(scenes)
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(scenes), 64):
        pictures[start : start + 64] = _block(scenes[start : start + 64], shares)
    return pictures


def numbers(scenes: Scenes) -> Floats:
    """(I,24): uniform numbers in [0,1) that follow from the nuisances of each scene."""
    seeds = np.ascontiguousarray(scenes.nuisances).view(np.uint32)
    rows = [np.random.default_rng(row[:6]).random(COLUMNS, np.float32) for row in seeds]
    return np.stack(rows) if rows else np.zeros((0, COLUMNS), np.float32)


def _block(scenes: Scenes, shares: Disturbances) -> NDArray[np.uint8]:
    v, canvas = numbers(scenes), ground(scenes)
    _others(canvas, scenes, v, shares.objects)
    grain = _grain(v, shares.texture)
    for item in range(3):
        there = np.flatnonzero(scenes.of("count") >= item)
        if len(there):
            draw(canvas, scenes[there], there, centres(scenes[there], item), item, grain[there])
    _occlude(canvas, scenes, v, shares.occlusion)
    pictures = lit(canvas, scenes)
    blurred = np.flatnonzero(v[:, 3] < shares.blur)
    for i in blurred:
        pictures[i] = _blurred(pictures[i], 0.6 + 0.8 * float(v[i, 4]), scenes.nuisances[i])
    return pictures


def others(scenes: Scenes, v: Floats) -> Scenes:
    """The small objects of the corners as scenes: of shapes, colours, patterns that the scene's own do not have.

    `v` is `numbers(scenes)`.
    """
    levels = scenes.levels.copy()
    for place, factor in enumerate(("shape", "colour", "pattern")):
        n, own = len(FACTORS[factor]), scenes.of(factor)
        drawn = np.floor(v[:, 5 + place] * n).astype(np.int64)
        levels[:, column(factor)] = np.where(drawn == own, (drawn + 1) % n, drawn)
    levels[:, column("size")] = 0
    return Scenes(levels, scenes.nuisances)


def _others(canvas: Floats, scenes: Scenes, v: Floats, share: float) -> None:
    """Small objects in one or two corners."""
    other = others(scenes, v)
    first = np.floor(v[:, 8] * 4).astype(np.int64)
    for number in range(2):
        there = np.flatnonzero((v[:, 2] < share) & ((number == 0) | (v[:, 9] < 0.5)))
        if not len(there):
            continue
        corner = (first[there] + 2 * number) % 4
        x = np.where(corner % 2 == 0, 9.0, SIZE - 9.0) + 5 * (v[there, 10 + number] - 0.5)
        y = np.where(corner // 2 == 0, 9.0, SIZE - 9.0) + 5 * (v[there, 12 + number] - 0.5)
        draw(canvas, other[there], there, (x.astype(np.float32), y.astype(np.float32)), number)


def _grain(v: Floats, share: float) -> Floats:
    """(I,P,P): how much the grain of a random ground dims a surface; 1 where it carries none."""
    grain = np.ones((len(v), PATCH, PATCH), np.float32)
    for i in np.flatnonzero(v[:, 0] < share):
        number = int(v[i, 14] * len(FACTORS["background"]))
        x, y = int(v[i, 15] * TILE), int(v[i, 16] * TILE)
        tone = textures()[number, y : y + PATCH, x : x + PATCH].mean(-1)
        grain[i] = np.clip(1 + 0.2 * (tone - tone.mean()) / max(float(tone.std()), 1e-3), 0.45, 1.25)
    return grain


def _occlude(canvas: Floats, scenes: Scenes, v: Floats, share: float) -> None:
    """A straight grey pole across the first object, off its middle by up to half a small object's radius."""
    x, y = centres(scenes, 0)
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    for i in np.flatnonzero(v[:, 1] < share):
        angle, off = np.pi * v[i, 17], 10 * (v[i, 18] - 0.5)
        across = np.cos(angle) * (grid[None, :] - x[i]) + np.sin(angle) * (grid[:, None] - y[i]) - off
        cover = np.clip(BAND + 0.5 - np.abs(across), 0, 1)[..., None].astype(np.float32)
        shade = (0.3 + 0.35 * v[i, 19]) * (1 - 0.06 * across[..., None])
        view = canvas[i, MARGIN:-MARGIN, MARGIN:-MARGIN]
        view += cover * (shade.astype(np.float32) - view)


def _blurred(picture: NDArray[np.uint8], sigma: float, own: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Gaussian blur of one picture (96,96,3), edges repeated, and sensor noise of 2.5 levels."""
    reach = np.arange(-4, 5)
    taps = np.exp(-0.5 * (reach / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    soft = np.pad(picture.astype(np.float32), ((4, 4), (4, 4), (0, 0)), mode="edge")
    for axis in (0, 1):
        moved = [t * soft.take(range(k, k + SIZE), axis) for k, t in enumerate(taps)]
        soft = np.sum(moved, axis=0)
    noise = np.random.default_rng(own.view(np.uint32)[6:12]).standard_normal((SIZE, SIZE, 1), np.float32)
    return np.clip(soft + 2.5 * noise + 0.5, 0, 255).astype(np.uint8)
