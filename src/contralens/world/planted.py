"""Planted neurons: their rule is written down, so their truth needs no measurement.

The neuron of level l has activation a = m u + L m' u' + .05 |z|: m says whether the scene has l, m' is the share of
the tied partner levels that it has, u and u' are uniform on [.6, 1], z is normal, L is the leak of the incidental.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contralens.errors import InputError
from contralens.world.scenes import FACTORS, Scenes
from contralens.world.targets import World, world
from contralens.world.truth import Truth

LEAKS = (0.0, 0.25)
COPIES = 2
"""Neurons per level and leak, with other noise."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One planted neuron."""

    level: tuple[str, int]
    partners: tuple[tuple[str, int], ...]
    """The incidental levels tied to it in this world."""
    leak: float
    copy: int

    @property
    def name(self) -> str:
        """A readable name, e.g. "planted/pattern-striped/leak0.25/0"."""
        factor, number = self.level
        return f"planted/{factor}-{FACTORS[factor][number]}/leak{self.leak:g}/{self.copy}"


def rules(of: World) -> list[Rule]:
    """The planted neurons of a world: every level of the true factor and every partner level of the tied ones."""
    return [
        Rule(level, tuple(tied), leak, copy)
        for leak in LEAKS for copy in range(COPIES) for level, tied in of.partner_levels.items()
    ]  # fmt: skip


def planted_activations(
    scenes: Scenes, index: int | str | World, seed: int = 0
) -> tuple[NDArray[np.float32], list[str], list[Truth]]:
    """Activations (I,N) of a world's planted neurons on scenes, with their names and their truth, by rule.

    >>> from contralens.world.scenes import sample_scenes
    >>> a, names, truth = planted_activations(sample_scenes(5, seed=0), 1)
    >>> a.shape, names[1], truth[1].levels
    ((5, 72), 'planted/pattern-striped/leak0/0', (('pattern', 1),))
    """
    planted = rules(world(index))
    rng = np.random.default_rng([seed, world(index).index])
    columns = []
    for rule in planted:
        u, v = rng.uniform(0.6, 1.0, (2, len(scenes)))
        own = scenes.of(rule.level[0]) == rule.level[1]
        tied = _share(scenes, rule.partners)
        columns.append(own * u + rule.leak * tied * v + 0.05 * np.abs(rng.standard_normal(len(scenes))))
    truth = [Truth((rule.level,), "known", float("nan")) for rule in planted]
    return np.stack(columns, 1).astype(np.float32), [rule.name for rule in planted], truth


def _share(scenes: Scenes, partners: tuple[tuple[str, int], ...]) -> NDArray[np.float64]:
    """(I): over the factors that partner levels belong to, the share of which the scene has a partner level."""
    by_factor: dict[str, NDArray[np.bool_]] = {}
    for factor, number in partners:
        by_factor[factor] = by_factor.get(factor, np.zeros(len(scenes), bool)) | (scenes.of(factor) == number)
    share: NDArray[np.float64] = np.mean(list(by_factor.values()), axis=0)
    return share


def content(pixels: NDArray[np.uint8]) -> str:
    """Hash of a picture's pixels."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:32]


class PlantedTarget:
    """Planted neurons as a `types.Target`: a picture's activations are looked up by its pixels.

    A network cannot see factors, so the neurons are computed from the scenes when this is made; any picture of that set
    then goes through the same path as with a trained network. A strange picture raises `InputError`.
    """

    layer, pooling = "planted", "none"

    def __init__(self, index: int | str, scenes: Scenes, pictures: NDArray[np.uint8], seed: int = 0) -> None:
        self.name = f"world:{index}:planted"
        values, names, self.truth = planted_activations(scenes, index, seed)
        self.neurons: Sequence[str] = names
        self.width = len(names)
        self._values = torch.from_numpy(values)
        self._row = {content(picture): i for i, picture in enumerate(pictures)}
        keys = "".join(self._row)
        self.fingerprint = hashlib.sha256(keys.encode() + values.tobytes()).hexdigest()[:32]

    def preprocess(self, image: Image.Image) -> Tensor:
        """An RGB picture of the set to its row number."""
        row = self._row.get(content(np.asarray(image.convert("RGB"))))
        if row is None:
            raise InputError(
                f"{self.name} knows the activations of its own probe pictures only; this is another picture"
            )
        return torch.tensor(row)

    def __call__(self, batch: Tensor) -> Tensor:
        """Row numbers (B) to activations (B,N)."""
        return self._values[batch]
