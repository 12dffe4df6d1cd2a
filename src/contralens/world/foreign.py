"""Foreign levels: what a training picture may show in place of a level, so that a factor is seen without the others.

A blue cross that is neither small nor large, four of them, on a ground that has no name. Each looks unlike every level
of its factor, no word names it, and nothing is asked about it. A pattern is then learnt on objects of a size in between
where the large ones would be a held-out combination. The numbers of foreign levels follow those of `scenes.FACTORS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

RADIUS = 13.6
"""Pixels, between small (10.5) and large (17)."""
GAIN = 0.69
"""Between bright (.96) and dim (.48)."""
PLACES = (-0.5, 0.5)
"""Between left (-1), centre (0) and right (1)."""
FOUR = ((-11.0, 11.0, -11.0, 11.0), (-16.0, -16.0, 16.0, 16.0))
"""Four objects, two by two: pixels right of and below their middle."""
COLOURS = 48
PATTERNS = ("rings", "wedges", "blots", "grid")
GROUNDS = 24
_KNOWN = np.array(
    [(216, 188, 138), (84, 142, 58), (48, 132, 178), (164, 84, 64), (228, 235, 244), (20, 24, 56)], np.float32
)
"""The tones of sand, grass, water, brick, snow, night in `render`: foreign grounds keep away from them."""
_GREY = np.array([0.3, 0.59, 0.11])


def tones(known: Floats) -> tuple[Floats, Floats]:
    """Both tones (48,3) of the foreign colours, 0 to 1: random, away from the `known` ones (8,3), always the same."""
    rng, found = np.random.default_rng(77), np.zeros((0, 2, 3))
    while len(found) < COLOURS:
        first, second = rng.uniform(0.05, 0.97, (2, 3))
        if np.abs(known - first).sum(1).min() > 0.6 and np.abs(first @ _GREY - second @ _GREY) > 0.25:
            found = np.concatenate([found, np.stack([first, second])[None]])
    return found[:, 0].astype(np.float32), found[:, 1].astype(np.float32)


def pattern(name: str, p: Floats, q: Floats) -> Floats:
    """Signed distance, in periods, of a foreign pattern; p and q are in periods from the object's middle."""
    if name == "rings":
        signed = np.sin(2 * np.pi * np.hypot(p, q)) / (2 * np.pi)
    elif name == "wedges":
        signed = np.sin(5 * np.arctan2(q, p)) * np.hypot(p, q) / 5
    elif name == "blots":
        signed = (np.sin(4.1 * p + 1.3 * np.sin(3.1 * q)) + np.sin(3.7 * q + 1.9 * np.sin(2.3 * p)) - 0.4) / 6
    else:
        signed = 0.14 - np.minimum(np.abs(p % 1 - 0.5), np.abs(q % 1 - 0.5))
    return signed


def _blob(*waves: tuple[int, float, float]) -> Callable[[Floats, Floats], Floats]:
    """A round thing whose radius varies with the angle: (waves around, how much, where they begin)."""

    def distance(x: Floats, y: Floats) -> Floats:
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        edge = 0.8 + sum(high * np.cos(number * angle + start) for number, high, start in waves)
        return (radius - edge) * 0.8

    return distance


def _tee(x: Floats, y: Floats) -> Floats:
    top = np.maximum(np.abs(x) - 0.9, np.abs(y + 0.6) - 0.34)
    found: Floats = np.minimum(top, np.maximum(np.abs(x) - 0.34, np.abs(y) - 0.94))
    return found


SHAPES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "bar": lambda x, y: np.maximum(np.abs(x) - 1.05, np.abs(y) - 0.42),
    "tee": _tee,
    "hourglass": lambda x, y: np.maximum((np.abs(x) - np.abs(y) - 0.1) * 0.7071, np.abs(y) - 0.9),
    "bean": _blob((2, 0.2, 0.7), (3, 0.16, 2.0)),
    "leaf": _blob((2, -0.3, 0.0), (1, 0.1, 1.0)), "splash": _blob((3, 0.16, 4.0), (4, 0.18, 1.0)),
}  # fmt: skip
"""Signed distances as in `render.SHAPES`."""


SIZES = {
    "shape": len(SHAPES), "colour": COLOURS, "pattern": len(PATTERNS), "background": GROUNDS, "size": 1, "count": 1,
    "position": len(PLACES), "lighting": 1,
}  # fmt: skip
"""How many foreign levels each factor has."""


@cache
def textures(tile: int, margin: int) -> Floats:
    """(G,tile+margin,tile+margin,3): periodic grounds of random tones, each of one or two noises; always the same."""
    return np.pad(
        np.stack([_texture(np.random.default_rng(1000 + i), tile) for i in range(GROUNDS)]),
        ((0, 0), (0, margin), (0, margin), (0, 0)), mode="wrap",
    )  # fmt: skip


def _texture(rng: np.random.Generator, tile: int) -> Floats:
    tone = rng.uniform(20, 240, 3)
    while np.abs(_KNOWN - tone).sum(1).min() < 110:
        tone = rng.uniform(20, 240, 3)
    picture = np.broadcast_to(tone, (tile, tile, 3)).astype(np.float32)
    f = np.fft.fftfreq(tile)
    for _ in range(rng.integers(1, 3)):
        wide, high = 10 ** rng.uniform(0, 1.5, 2)
        spectrum = np.fft.fft2(rng.standard_normal((tile, tile))) * np.exp(
            -2 * ((f[None] * wide) ** 2 + (f[:, None] * high) ** 2)
        )
        field = np.fft.ifft2(spectrum).real
        picture += (field / field.std())[..., None] * (rng.uniform(2, 18) + rng.uniform(-5, 5, 3))
    return np.clip(picture, 0, 255).astype(np.float32) / 255
