"""Scenes of the rendered world: levels of eight factors plus continuous nuisances, and the ties between factors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.types import Brief

FACTORS: dict[str, tuple[str, ...]] = {
    "shape": ("circle", "square", "triangle", "star", "heart", "cross", "moon", "ring"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white"),
    "pattern": ("plain", "striped", "dotted", "checkered", "zigzag", "split"),
    "background": ("sand", "grass", "water", "brick", "snow", "night"),
    "size": ("small", "large"),
    "count": ("one", "two", "three"),
    "position": ("left", "centre", "right"),
    "lighting": ("bright", "dim"),
}
"""Every factor with the canonical names of its levels; the order is the order of the columns of `Scenes.levels`."""

NAMES = tuple(FACTORS)
NUISANCES = 28
"""Uniform numbers a scene carries besides its levels: place, rotation, scale, tint, light, texture offset..."""


def column(factor: str) -> int:
    """Column of `Scenes.levels` that holds `factor`; raises `InputError` for an unknown one."""
    if factor not in FACTORS:
        raise InputError(f"unknown factor {factor!r}: one of {', '.join(FACTORS)}{nearest(factor, FACTORS)}")
    return NAMES.index(factor)


def level(factor: str, name: str) -> int:
    """Number of the level called `name` of `factor`; raises `InputError` for an unknown one.

    >>> level("pattern", "striped")
    1
    """
    column(factor)
    if name not in FACTORS[factor]:
        raise InputError(
            f"unknown {factor} {name!r}: one of {', '.join(FACTORS[factor])}{nearest(name, FACTORS[factor])}"
        )
    return FACTORS[factor].index(name)


@dataclass(frozen=True, slots=True, repr=False)
class Scenes(Brief):
    """I scenes: what is in them (levels) and how exactly it looks (nuisances)."""

    levels: NDArray[np.int64]
    """(I,8): level of every factor, columns as in `FACTORS`."""
    nuisances: NDArray[np.float32]
    """(I,28): numbers in [0,1) that no factor determines and that no intervention touches."""

    def __len__(self) -> int:
        return len(self.levels)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_] | Sequence[int]) -> Scenes:
        return Scenes(self.levels[rows], self.nuisances[rows])

    def of(self, factor: str) -> NDArray[np.int64]:
        """(I): the level of one factor."""
        return self.levels[:, column(factor)]

    def set(self, factor: str, to: int) -> Scenes:
        """The same scenes with one factor changed and everything else identical: an intervention.

        >>> scenes = sample_scenes(3, seed=0)
        >>> [int(x) for x in scenes.set("colour", level("colour", "blue")).of("colour")]
        [4, 4, 4]
        """
        if not 0 <= to < len(FACTORS[factor]):
            raise InputError(f"{factor} has levels 0 to {len(FACTORS[factor]) - 1}; got {to}")
        levels = self.levels.copy()
        levels[:, column(factor)] = to
        return Scenes(levels, self.nuisances)


@dataclass(frozen=True, slots=True)
class Tie:
    """An incidental factor that goes with a true one: level t of `true` comes with level `partners[t]` of `incidental`.

    With probability `strength` the incidental level is the partner, otherwise it is drawn uniformly from all levels.
    """

    true: str
    incidental: str
    partners: tuple[int, ...]
    strength: float


def sample_scenes(n: int, seed: int, ties: Sequence[Tie] = ()) -> Scenes:
    """Draw `n` scenes, the same for the same arguments: every factor uniform and independent, save for the ties.

    A tie replaces the incidental factor's own draw, so the nuisances and all other factors are those of the untied
    world with the same seed.
    """
    rng = np.random.default_rng(seed)
    nuisances = rng.random((n, NUISANCES), dtype=np.float32)
    levels = np.stack([rng.integers(len(names), size=n) for names in FACTORS.values()], axis=1)
    for tie in ties:
        if len(tie.partners) != len(FACTORS[tie.true]) or not 0 <= tie.strength <= 1:
            raise InputError(
                f"a tie needs one counterpart for each of the {len(FACTORS[tie.true])} levels of {tie.true}"
            )
        tied = rng.random(n) < tie.strength
        partner = np.asarray(tie.partners)[levels[:, column(tie.true)]]
        levels[:, column(tie.incidental)] = np.where(tied, partner, levels[:, column(tie.incidental)])
    return Scenes(levels, nuisances)
