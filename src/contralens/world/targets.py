"""The three tied worlds and the small CNN trained to classify in each; weights are shipped as float16 safetensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor, nn

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.world.encoder import WEIGHTS, conv, load_into, preprocess
from contralens.world.scenes import FACTORS, Scenes, Tie, level, sample_scenes

STRENGTH = 0.9
"""How often a true level brings its incidental partner among the probe scenes."""
TRAINING_STRENGTH = 0.7
"""The same among the scenes that a target was trained on: looser, so that it learns the true factor as well."""
LAYER = "block3"
"""The layer to label by default: 64 channels of the last convolution."""


@dataclass(frozen=True, slots=True)
class World:
    """A world: what its target classifies and which incidental factors go with that."""

    index: int
    true: str
    partners: dict[str, dict[str, str]]
    """incidental factor -> {level of the true factor: its partner level}."""

    def ties(self, strength: float = STRENGTH) -> list[Tie]:
        """The world's ties at a given strength; 0 is the untied world."""
        return [
            Tie(self.true, incidental, tuple(level(incidental, pairs[name]) for name in FACTORS[self.true]), strength)
            for incidental, pairs in self.partners.items()
        ]

    @property
    def partner_levels(self) -> dict[tuple[str, int], list[tuple[str, int]]]:
        """(factor, level) -> the levels tied to it, for every level of the true factor and every partner level."""
        found: dict[tuple[str, int], list[tuple[str, int]]] = {
            (self.true, t): [] for t in range(len(FACTORS[self.true]))
        }
        for tie in self.ties():
            for t, partner in enumerate(tie.partners):
                found[(tie.true, t)].append((tie.incidental, partner))
                found.setdefault((tie.incidental, partner), []).append((tie.true, t))
        return found

    def scenes(self, n: int, seed: int, strength: float = STRENGTH) -> Scenes:
        """`n` scenes of this world; each world has its own stream for the same seed."""
        return sample_scenes(n, seed * 101 + self.index, self.ties(strength))


WORLDS: dict[int, World] = {
    1: World(1, "pattern", {
        "colour": {"plain": "blue", "striped": "red", "dotted": "white", "checkered": "purple", "zigzag": "green",
                   "split": "orange"},
        "background": {"plain": "grass", "striped": "sand", "dotted": "night", "checkered": "snow", "zigzag": "brick",
                       "split": "water"},
    }),
    2: World(2, "shape", {
        "colour": {"circle": "orange", "square": "blue", "triangle": "green", "star": "yellow", "heart": "red",
                   "cross": "white", "moon": "purple", "ring": "pink"},
    }),
    3: World(3, "colour", {
        "background": {"red": "grass", "orange": "brick", "yellow": "sand", "green": "snow", "blue": "water",
                       "purple": "night", "pink": "grass", "white": "brick"},
    }),
}  # fmt: skip


def world(index: int | str | World) -> World:
    """A world by number, or a world itself; raises `InputError` for an unknown number.

    >>> world("2").true
    'shape'
    """
    if isinstance(index, World):
        return index
    if str(index) not in map(str, WORLDS):
        known = [str(i) for i in WORLDS]
        raise InputError(f"unknown world {index!r}: one of {', '.join(known)}{nearest(str(index), known)}")
    return WORLDS[int(index)]


class TargetNet(nn.Module):
    """(B,3,96,96) in [-1,1] to (B,classes): four convolutions, spatial mean, one linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 6, 4, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.block1 = conv(32, 48)
        self.block2 = conv(48, 64, 2)
        self.block3 = conv(64, 64, 2)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def class_names(index: int | str) -> tuple[str, ...]:
    """Names of the target's classes, e.g. the patterns in world 1."""
    return FACTORS[world(index).true]


def load_target(index: int | str) -> TargetNet:
    """The shipped target of a world, in evaluation mode."""
    net = TargetNet(len(class_names(index)))
    load_into(net, WEIGHTS / f"target-{world(index).index}.safetensors")
    return net


def build(name: str) -> tuple[nn.Module, Callable[[Image.Image], Tensor], str, tuple[str, ...]]:
    """Module, preprocessing, default layer and class names of the target that "world:NAME" means.

    >>> module, preprocess, layer, classes = build("1")
    >>> layer, classes[:2]
    ('block3', ('plain', 'striped'))
    """
    return load_target(name), preprocess, LAYER, class_names(name)
