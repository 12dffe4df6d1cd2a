"""The combinations of levels that the encoder of version 2 never saw: of every two factors, some pairs of levels.

They stand in `version_2.json`: of shape and colour, and of pattern and background, one pair for every level (8 and 6, a
Latin square's worth); of any other two factors, one pair. No pair is tied in any world. A tenth of all combinations
of eight levels is left, and in training scenes some factors show foreign levels, which are in no held-out combination.
"""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.errors import InputError
from contralens.world import foreign
from contralens.world.scenes import FACTORS, NAMES, NUISANCES, Scenes, column, level, sample_scenes

SIZES = tuple(len(levels) for levels in FACTORS.values())
OFFSETS = np.cumsum((0, *SIZES))[:-1]
"""Where each factor's levels begin among the 38."""


@cache
def frozen() -> dict[str, Any]:
    """Version 2 as it is written down: worlds, dials, seeds, sizes, nuisances, held-out combinations."""
    read: dict[str, Any] = json.loads((Path(__file__).parent / "version_2.json").read_text(encoding="utf-8"))
    return read


@cache
def held_out_table() -> NDArray[np.bool_]:
    """(38,38): whether two levels, numbered through all factors, are a held-out combination; symmetric."""
    table = np.zeros((sum(SIZES), sum(SIZES)), bool)
    for pair, combinations in frozen()["held_out"].items():
        factors = pair.split()
        for names in combinations:
            a, b = (OFFSETS[column(f)] + level(f, name) for f, name in zip(factors, names, strict=True))
            table[a, b] = table[b, a] = True
    return table


def numbered(levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """(I,8) levels to their numbers among the 38; a foreign level is 38."""
    return np.where(levels < SIZES, levels + OFFSETS, sum(SIZES))


def possible(levels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(I,38): whether each level, in place of the scene's own of that factor, makes no held-out combination.

    In training scenes each factor is uniform over its possible levels, whatever the others are: other factors exclude
    levels and say nothing more.
    """
    own, table = numbered(levels), np.pad(held_out_table(), ((0, 1), (0, 0)))
    bad = np.zeros((len(levels), sum(SIZES)), bool)
    for place in range(len(NAMES)):  # what the level of this factor excludes among the others
        bad |= table[own[:, place]]
    return ~bad


def seen(scenes: Scenes) -> NDArray[np.bool_]:
    """(I): scenes without any held-out combination; a foreign level is in none."""
    can = np.pad(possible(scenes.levels), ((0, 0), (0, 1)), constant_values=True)
    return np.asarray(np.take_along_axis(can, numbered(scenes.levels), 1).all(1))


@cache
def _seen_levels() -> NDArray[np.int64]:
    """All combinations of eight levels without a held-out one, (7292,8) of 82,944."""
    every = np.array(list(itertools.product(*map(range, SIZES))), np.int64)
    return every[seen(Scenes(every, np.zeros((len(every), 0), np.float32)))]


def seen_scenes(n: int, seed: int) -> Scenes:
    """`n` scenes without held-out combinations, uniform over those that are left.

    >>> bool(seen(seen_scenes(50, seed=1)).all())
    True
    """
    rng = np.random.default_rng(seed)
    left = _seen_levels()
    return Scenes(left[rng.integers(len(left), size=n)], rng.random((n, NUISANCES), dtype=np.float32))


ALL_KNOWN = 0.2
"""Share of training scenes without foreign levels."""
FOREIGN = (0.1, 0.65)
"""In the others, each factor is foreign with a probability between these, drawn for each scene anew."""
RELATIVE = np.array([0.5 if name in ("shape", "pattern") else 1.0 for name in NAMES])
"""Shapes and patterns, learnt the slowest, are foreign half as often."""


def training_scenes(n: int, seed: int) -> Scenes:
    """`n` scenes without held-out combinations in which some factors show foreign levels (`world.foreign`).

    >>> scenes = training_scenes(50, seed=1)
    >>> bool(seen(scenes).all()), bool((scenes.levels >= SIZES).any())
    (True, True)
    """
    rng = np.random.default_rng(seed)
    share = np.where(rng.random(n) < ALL_KNOWN, 0.0, rng.uniform(*FOREIGN, n))
    strange = rng.random((n, len(NAMES))) < share[:, None] * RELATIVE
    levels = np.asarray(SIZES) + rng.integers(tuple(foreign.SIZES.values()), size=(n, len(NAMES)))
    nuisances, left = rng.random((n, NUISANCES), dtype=np.float32), np.arange(n)
    while len(left):  # each scene's known factors are drawn until they make no held-out combination
        drawn = rng.integers(SIZES, size=(len(left), len(NAMES)))
        levels[left] = np.where(strange[left], levels[left], drawn)
        left = left[~seen(Scenes(levels[left], nuisances[left]))]
    return Scenes(levels, nuisances)


PAIRS: tuple[tuple[str, str], ...] = tuple(itertools.combinations(NAMES, 2))
"""The 28 pairs of factors."""


def held_out_scenes(pair: tuple[str, str], n: int, seed: int) -> Scenes:
    """`n` scenes with a held-out combination of two factors; the other factors are uniform, seen or not.

    >>> scenes = held_out_scenes(("shape", "colour"), 20, seed=1)
    >>> bool(seen(scenes).any())
    False
    """
    if pair not in PAIRS:
        raise InputError(f"`pair` must be two factors in the order {', '.join(NAMES)}; got {', '.join(pair)}")
    names = frozen()["held_out"][" ".join(pair)]
    base = sample_scenes(n, seed)
    pick = np.random.default_rng([seed, PAIRS.index(pair)]).integers(len(names), size=n)
    levels = base.levels.copy()
    for place, factor in enumerate(pair):
        levels[:, column(factor)] = np.array([level(factor, of[place]) for of in names])[pick]
    return Scenes(levels, base.nuisances)
