"""The versions of the world benchmark: worlds, dials, seeds, sizes, nuisances, encoder. A version never changes.

Version 1 is that of `docs/results.md`. Version 2 stands in `world/version_2.json`: its encoder names combinations that
it never saw, it has a world more, its own seeds, and nuisances.
"""

from __future__ import annotations

from dataclasses import dataclass

from contralens.bench.world_images import IMAGES, SEED
from contralens.checks import nearest
from contralens.errors import InputError
from contralens.world.combinations import frozen
from contralens.world.disturbances import Disturbances, disturbances
from contralens.world.targets import WORLDS, World

DIALS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
SEEDS = (SEED, SEED + 1)

BENCH_WORLDS: dict[int, World] = {
    **WORLDS,
    4: World(4, "size", {"background": {"small": "water", "large": "brick"}}),
    5: World(5, "count", {"colour": {"one": "orange", "two": "green", "three": "pink"}}),
    6: World(6, "background", {
        "shape": {"sand": "star", "grass": "heart", "water": "moon", "brick": "cross", "snow": "circle",
                  "night": "ring"},
    }),
}  # fmt: skip
"""The worlds with a trained network, and three more whose neurons are all planted."""
TEXTURED = World(7, "shape", {
    "pattern": {"circle": "striped", "square": "zigzag", "triangle": "dotted", "star": "plain", "heart": "checkered",
                "cross": "split", "moon": "dotted", "ring": "zigzag"},
    "position": {"circle": "left", "square": "right", "triangle": "centre", "star": "left", "heart": "right",
                 "cross": "centre", "moon": "left", "ring": "right"},
})  # fmt: skip
"""The world of texture bias: shapes come with a surface and with a place. Version 2 only; its neurons are planted."""


@dataclass(frozen=True)
class Version:
    """A version of the benchmark."""

    number: int
    worlds: dict[int, World]
    dials: tuple[float, ...]
    seeds: tuple[int, ...]
    images: int
    k: int
    nuisances: dict[str, Disturbances]
    """Named sets of nuisances; "none" is always one."""

    def world(self, index: int | str | World) -> World:
        """A world by number, or a world itself; raises `InputError` for an unknown one."""
        if isinstance(index, World):
            return index
        if str(index) not in map(str, self.worlds):
            raise InputError(f"unknown world {index!r}: one of {', '.join(map(str, self.worlds))}")
        return self.worlds[int(index)]

    def shares(self, nuisances: str) -> Disturbances:
        """A set of nuisances by name; raises `InputError` for an unknown one."""
        if nuisances not in self.nuisances:
            raise InputError(
                f"unknown nuisances {nuisances!r}{nearest(nuisances, self.nuisances)}; version {self.number} has "
                f"{', '.join(self.nuisances)}"
            )
        return self.nuisances[nuisances]


def version(number: int) -> Version:
    """A version by number; raises `InputError` for an unknown one.

    >>> version(2).world(7).true, sorted(version(2).nuisances)
    ('shape', ['all', 'blur', 'none', 'objects', 'occlusion', 'texture'])
    """
    if number == 1:
        return Version(1, BENCH_WORLDS, DIALS, SEEDS, IMAGES, 30, {"none": Disturbances()})
    if number != 2:
        raise InputError(f"the world benchmark has the versions 1 and 2; got {number}")
    read = frozen()
    worlds = {**BENCH_WORLDS, TEXTURED.index: TEXTURED}
    return Version(
        2, {index: worlds[index] for index in read["worlds"]}, tuple(read["dials"]), tuple(read["seeds"]),
        read["images"], read["k"], {name: disturbances(shares) for name, shares in read["nuisances"].items()},
    )  # fmt: skip
