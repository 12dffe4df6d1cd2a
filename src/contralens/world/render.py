"""Render scenes to pictures of 96 px: textured ground, soft shadows, anti-aliased patterned shapes, shaded and lit.

Every shape is a signed distance function evaluated on a small patch around its centre, so edges are smooth at any
rotation and size; the grounds are periodic textures made once from filtered noise. A picture depends on its scene
alone, so a scene with one factor changed differs in that factor and in nothing else.

A level beyond those of `FACTORS` is drawn with what `world.foreign` says of it: a brown, a four, a size in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.world import foreign
from contralens.world.scenes import FACTORS, NUISANCES, Scenes, Tie, sample_scenes

__all__ = ["FACTORS", "SIZE", "Scenes", "Tie", "render", "sample_scenes"]

SIZE = 96
"""Side of a picture in pixels."""
PATCH = 52
"""Side of the square around an object's centre that is drawn; the largest object and its shadow fit."""
MARGIN = 32
"""Ring of pixels around the picture into which a patch may reach; cut off at the end."""
PAD = 4
TILE = 256

Floats = NDArray[np.floating[Any]]

COLOURS = np.array(
    [(214, 40, 48), (244, 132, 24), (250, 214, 44), (44, 160, 68), (36, 92, 220), (122, 52, 178), (248, 136, 190),
     (246, 246, 242)], np.float32,
) / 255  # fmt: skip
ACCENTS = np.array(
    [(255, 200, 190), (110, 44, 0), (130, 90, 0), (196, 244, 190), (186, 214, 255), (228, 196, 252), (140, 20, 84),
     (92, 92, 104)], np.float32,
) / 255  # fmt: skip
"""The second tone of a patterned surface: a light or dark shade of the same hue."""


@cache
def _tones() -> tuple[Floats, Floats]:
    """Both tones of every colour, foreign ones last."""
    first, second = foreign.tones(COLOURS)
    return np.concatenate([COLOURS, first]), np.concatenate([ACCENTS, second])


def render(scenes: Scenes) -> NDArray[np.uint8]:
    """Draw scenes: (I) to (I,96,96,3) uint8 RGB, about one millisecond each on one core."""
    pictures = np.empty((len(scenes), SIZE, SIZE, 3), np.uint8)
    for start in range(0, len(scenes), 64):
        pictures[start : start + 64] = _render_block(scenes[start : start + 64])
    return pictures


def _render_block(scenes: Scenes) -> NDArray[np.uint8]:
    canvas = ground(scenes)
    for item in range(1 + int(scenes.of("count").max(initial=0))):
        there = np.flatnonzero(scenes.of("count") >= item)
        if len(there):
            draw(canvas, scenes[there], there, centres(scenes[there], item), item)
    return lit(canvas, scenes)


def light_of(scenes: Scenes) -> Floats:
    """(I,2): towards the side the light comes from, in the plane of the picture."""
    angle = scenes.nuisances[:, 3] * 2 * np.pi
    return np.stack([np.cos(angle), np.sin(angle)], 1)


def radius_of(scenes: Scenes) -> Floats:
    """(I): of the objects, in pixels."""
    size = np.array([10.5, 17.0, foreign.RADIUS], np.float32)[scenes.of("size")]
    return size * (0.95 + 0.1 * scenes.nuisances[:, 2])


def lit(canvas: Floats, scenes: Scenes) -> NDArray[np.uint8]:
    """What stands on the canvas, lit, without its margin: (I,96,96,3) uint8."""
    u, light = scenes.nuisances, light_of(scenes)
    canvas = canvas[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
    slope = light[:, :1, None] * ramp[None, None, :] + light[:, 1:, None] * ramp[None, :, None]
    gain = np.array([0.96, 0.48, foreign.GAIN], np.float32)[scenes.of("lighting")] * (0.95 + 0.1 * u[:, 4])
    shown = canvas * (255 * gain[:, None, None] * (1 + 0.1 * slope))[..., None]
    shown += 0.5
    return np.clip(shown, 0, 255, out=shown).astype(np.uint8)


def centres(scenes: Scenes, item: int) -> tuple[Floats, Floats]:
    """Column and row of the centre of object `item` of every scene, in pixels."""
    u = scenes.nuisances
    count, side = scenes.of("count"), np.where(u[:, 13] < 0.5, -1.0, 1.0)
    across = np.array([[0, 0, 0, 0], [-8, 8, 0, 0], [-10, 10, -10, 0], foreign.FOUR[0]])[count, item] * side
    down = np.array([[0, 0, 0, 0], [-21, 21, 0, 0], [-29, 0, 29, 0], foreign.FOUR[1]])[count, item] * 1.0
    loose = np.array([14.0, 4.0, 0.5, 4.0])[count]  # fewer objects have more room to move up and down
    place = np.array([-1, 0, 1, *foreign.PLACES])[scenes.of("position")]
    x = SIZE / 2 + 16.0 * place + across + 5 * (u[:, 0] - 0.5) + 2 * (u[:, 16 + item % 3] - 0.5)
    y = SIZE / 2 + down + 2 * loose * (u[:, 1] - 0.5) + 2 * (u[:, 19 + item % 3] - 0.5)
    return x.astype(np.float32), y.astype(np.float32)


def draw(
    canvas: Floats, scenes: Scenes, rows: NDArray[np.int64], at: tuple[Floats, Floats], item: int = 0,
    grain: Floats | None = None,
) -> None:  # fmt: skip
    """Draw one object of every scene into rows of `canvas` (I, SIZE + 2 MARGIN, same, 3), in place.

    The object is centred on column and row `at`; `item` counts the objects of a picture; `grain` (I,P,P) dims its
    surface.
    """
    u, light, radius = scenes.nuisances, light_of(scenes), radius_of(scenes)
    x, y = at
    corner = MARGIN - PATCH // 2
    left, top = np.floor(x).astype(np.int64) + corner, np.floor(y).astype(np.int64) + corner  # of the patch
    grid = np.arange(PATCH, dtype=np.float32) + 0.5 - MARGIN
    dx = (grid + (left - x)[:, None]).astype(np.float32)[:, None, :]  # (I,1,P) pixels right of the centre
    dy = (grid + (top - y)[:, None]).astype(np.float32)[:, :, None]
    radius = radius * (0.97 + 0.06 * u[:, 22 + item % 3])
    turn = ((u[:, 25 + item % 3] - 0.5) * 0.7).astype(np.float32)
    cos, sin, size = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None], radius[:, None, None]
    px, py = (cos * dx + sin * dy) / size, (cos * dy - sin * dx) / size
    distance = np.empty_like(px)
    for number, signed in enumerate([*SHAPES.values(), *foreign.SHAPES.values()]):
        of = scenes.of("shape") == number
        if of.any():
            distance[of] = signed(px[of], py[of])
    distance *= size  # in pixels, negative inside
    inside = np.clip(0.5 - distance, 0, 1)
    # The shadow is the shape itself, blurred and moved away from the light by whole pixels.
    shift = PAD - np.rint(light * -3.4).astype(np.int64)
    blurred = np.pad(np.clip(0.5 - distance / 5, 0, 1) * 0.45, ((0, 0), (PAD, PAD), (PAD, PAD)))
    shade = np.stack([b[r : r + PATCH, c : c + PATCH] for b, (c, r) in zip(blurred, shift, strict=True)])
    # The surface: two tones mixed by the pattern, a rounded look, a darker rim.
    tint = 1 + 0.12 * (u[:, 5:8] - 0.5)
    first, second = (tones[scenes.of("colour")] * tint for tones in _tones())
    mix = _pattern(scenes, dx, dy, radius)[..., None]
    surface = first[:, None, None] * (1 - mix) + second[:, None, None] * mix
    round_ = 1 + 0.16 * (light[:, :1, None] * dx + light[:, 1:, None] * dy) / size
    rim = 1 - 0.5 * np.clip(distance + 1.6, 0, 1)
    surface *= (round_ * rim)[..., None]
    if grain is not None:
        surface *= grain[..., None]
    below = np.stack([canvas[i, r : r + PATCH, c : c + PATCH] for i, r, c in zip(rows, top, left, strict=True)])
    below *= (1 - shade)[..., None]
    below += inside[..., None] * (surface - below)
    for i, r, c, patch in zip(rows, top, left, below, strict=True):
        canvas[i, r : r + PATCH, c : c + PATCH] = patch


def _pattern(scenes: Scenes, dx: Floats, dy: Floats, radius: Floats) -> Floats:
    """(I,P,P) in [0,1]: how much of the second tone shows, from pixel offsets to the object's centre."""
    u = scenes.nuisances
    turn = u[:, 12] * np.pi
    period = (3.4 + 0.3 * radius)[:, None, None]
    cos, sin = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    a = (cos * dx + sin * dy) / period + u[:, 10, None, None]
    b = (cos * dy - sin * dx) / period + u[:, 11, None, None]
    mix = np.zeros(a.shape, np.float32)
    for number, name in enumerate([*FACTORS["pattern"], *foreign.PATTERNS]):
        of = scenes.of("pattern") == number
        if not of.any() or name == "plain":
            continue
        p, q, per = a[of], b[of], period[of]
        if name == "striped":
            signed = np.sin(2 * np.pi * p) / (2 * np.pi)
        elif name == "dotted":
            scale = 1.15
            signed = (0.31 - np.hypot((p / scale) % 1 - 0.5, (q / scale) % 1 - 0.5)) * scale
        elif name == "checkered":
            signed = np.sin(np.pi * p / 0.62) * np.sin(np.pi * q / 0.62) * 0.62 / np.pi
        elif name == "zigzag":
            bend = np.abs((q / 1.5) % 1 - 0.5) * 1.5
            signed = np.sin(2 * np.pi * (p + bend)) / (2 * np.pi) * 0.7
        elif name == "split":  # one half of the object in each tone
            signed = p - u[of, 10, None, None]
        else:
            signed = foreign.pattern(name, p - u[of, 10, None, None], q - u[of, 11, None, None])
        mix[of] = np.clip(0.5 + signed * per, 0, 1)
    return mix


def _triangle(x: Floats, y: Floats) -> Floats:
    distance: Floats = np.maximum(np.abs(x) * 0.866 - (y + 0.12) * 0.5, y + 0.12) - 0.6
    return distance


def _star(x: Floats, y: Floats) -> Floats:
    # Fold the plane onto one half of one of the five points, then take the distance to that point's edge line.
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)
    r = np.hypot(x, y)
    tip, notch = np.array([1.12, 0.0]), 0.5 * np.array([np.cos(sector / 2), np.sin(sector / 2)])
    edge = notch - tip
    normal = np.array([edge[1], -edge[0]]) / np.hypot(*edge)
    signed: Floats = (r * np.cos(angle) - tip[0]) * normal[0] + r * np.sin(angle) * normal[1]
    return signed


def _heart(x: Floats, y: Floats) -> Floats:
    # A square on its corner with a half disc on each of its two upper sides.
    side, half = np.abs(x), 0.56
    v = y + 0.08
    corner = np.maximum((side + v) * 0.7071, (side - v) * 0.7071) - half
    corner = np.maximum(corner, np.maximum(-(v - side) * 0.7071, -(side + v) * 0.7071) - half)
    lobe = np.hypot(side - half * 0.7071, v + half * 0.7071) - half
    distance: Floats = np.minimum(corner, lobe)
    return distance


def _cross(x: Floats, y: Floats) -> Floats:
    side, up = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(side - 0.98, up - 0.36), np.maximum(side - 0.36, up - 0.98))


SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.94,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.84,
    "triangle": _triangle, "star": _star, "heart": _heart, "cross": _cross,
    "moon": lambda x, y: np.maximum(np.hypot(x - 0.35, y) - 1.0, 0.74 - np.hypot(x - 0.85, y)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.3,
}  # fmt: skip
"""Signed distances in units of the object's radius; y points down."""


def ground(scenes: Scenes) -> Floats:
    """(I, SIZE + 2 MARGIN, same, 3): a crop of the ground's texture at the scene's own offset, sometimes mirrored."""
    canvas = np.zeros((len(scenes), SIZE + 2 * MARGIN, SIZE + 2 * MARGIN, 3), np.float32)
    for picture, number, u in zip(canvas, scenes.of("background"), scenes.nuisances, strict=True):
        x, y = int(u[8] * TILE), int(u[9] * TILE)
        known = number < len(FACTORS["background"])
        tiles = textures() if known else foreign.textures(TILE, SIZE)
        crop = tiles[number if known else number - len(FACTORS["background"]), y : y + SIZE, x : x + SIZE]
        crop = crop if u[14] < 0.5 else crop[:, ::-1]
        np.multiply(crop, 0.93 + 0.14 * u[15], out=picture[MARGIN:-MARGIN, MARGIN:-MARGIN])
    return canvas


@cache
def textures() -> Floats:
    """(6,352,352,3): one periodic texture per background, its start repeated at the end; always the same."""
    tiles = [_TEXTURES[name](np.random.default_rng(index)) for index, name in enumerate(FACTORS["background"])]
    return np.pad(np.stack(tiles), ((0, 0), (0, SIZE), (0, SIZE), (0, 0)), mode="wrap")


def _noise(rng: np.random.Generator, wide: float, high: float, power: float = 2.0) -> Floats:
    """(256,256) periodic noise with standard deviation 1, smooth over `wide` by `high` pixels."""
    fx, fy = np.meshgrid(np.fft.fftfreq(TILE), np.fft.fftfreq(TILE))
    spectrum = np.fft.fft2(rng.standard_normal((TILE, TILE))) * np.exp(-((fx * wide) ** 2 + (fy * high) ** 2) * power)
    field: Floats = np.fft.ifft2(spectrum).real.astype(np.float32)
    unit: Floats = (field - field.mean()) / field.std()
    return unit


def _toned(base: tuple[int, int, int], *layers: tuple[Floats, tuple[float, float, float]]) -> Floats:
    """A flat colour (0-255) plus fields, each times its own colour."""
    picture = np.broadcast_to(np.array(base, np.float32), (TILE, TILE, 3)).copy()
    for field, colour in layers:
        picture += field[..., None] * np.array(colour, np.float32)
    return np.clip(picture, 0, 255) / 255


def _waves(rng: np.random.Generator, across: int, down: int, warp: float) -> Floats:
    """Periodic ripples with `across` and `down` whole periods, bent by slow noise."""
    x, y = np.meshgrid(np.arange(TILE) / TILE, np.arange(TILE) / TILE)
    return np.sin(2 * np.pi * (across * x + down * y) + warp * _noise(rng, 40, 20)).astype(np.float32)


def _sand(rng: np.random.Generator) -> Floats:
    dunes, grain, specks = _waves(rng, 3, 14, 2.2), _noise(rng, 1, 1), _noise(rng, 2.5, 2.5) > 2.3
    return _toned((216, 188, 138), (dunes, (9, 9, 9)), (grain, (6, 6, 6)), (specks.astype(np.float32), (-60, -58, -50)))


def _grass(rng: np.random.Generator) -> Floats:
    blades, clumps, tips = _noise(rng, 2, 11), _noise(rng, 30, 30), np.maximum(_noise(rng, 2, 14) - 1, 0)
    return _toned((84, 142, 58), (blades, (16, 20, 10)), (clumps, (7, 7, 3)), (tips, (30, 26, 4)))


def _water(rng: np.random.Generator) -> Floats:
    swell, glint = _waves(rng, 1, 12, 3.0), np.maximum(_noise(rng, 24, 5) - 0.9, 0)
    return _toned((48, 132, 178), (swell, (8, 13, 14)), (glint, (70, 66, 52)), (_noise(rng, 60, 40), (4, 8, 9)))


def _brick(rng: np.random.Generator) -> Floats:
    x, y = np.meshgrid(np.arange(TILE), np.arange(TILE))
    row = y // 16
    x = x + 16 * (row % 2)
    edge = np.minimum(np.minimum(x % 32, 31 - x % 32), np.minimum(y % 16, 15 - y % 16))
    own = rng.standard_normal((16, 8)).astype(np.float32)[row, (x // 32) % 8]
    mortar = np.clip(1.4 - edge, 0, 1)[..., None].astype(np.float32)
    wall = _toned((164, 84, 64), (own, (13, 9, 7)), (_noise(rng, 2, 2), (6, 5, 5)))
    return (wall * (1 - mortar) + np.array((0.74, 0.70, 0.66), np.float32) * mortar).astype(np.float32)


def _snow(rng: np.random.Generator) -> Floats:
    hollows, sparkle = _noise(rng, 34, 22), (_noise(rng, 1, 1) > 3.0).astype(np.float32)
    return _toned((228, 235, 244), (hollows, (9, 7, 4)), (_noise(rng, 2, 2), (3, 3, 3)), (sparkle, (-40, -30, -8)))


def _night(rng: np.random.Generator) -> Floats:
    stars = np.zeros((TILE, TILE), np.float32)
    y, x = rng.integers(TILE, size=(2, 150))
    glow = rng.random(150).astype(np.float32) ** 2 * 0.9 + 0.2
    for down, across, fall in ((0, 0, 1.0), (0, 1, 0.4), (1, 0, 0.4), (0, -1, 0.4), (-1, 0, 0.4)):
        np.maximum.at(stars, ((y + down) % TILE, (x + across) % TILE), glow * fall)
    return _toned((20, 24, 56), (_noise(rng, 46, 30), (7, 4, 12)), (stars, (235, 230, 200)))


_TEXTURES = {"sand": _sand, "grass": _grass, "water": _water, "brick": _brick, "snow": _snow, "night": _night}

assert NUISANCES == 28, "the renderer reads columns 0 to 27"
