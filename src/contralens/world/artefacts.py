"""Artefacts planted into the rendered world: something beside the object that goes with one class, as a dial.

A picture shows one large object, as a dermoscopic image shows one lesion, and its class is the object's shape. An
artefact lies on a share `strength` of the pictures of one class and on a share `leak` of all others: in the ISIC
archive coloured patches lie on about half of the benign lesions and on no malignant one (Rieger et al., ICML 2020).
Whether it is shown changes nothing else in the picture, so what a network makes of it is measured by showing and not
showing it.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contralens.checks import nearest
from contralens.errors import InputError
from contralens.world.captions import SYNONYMS, concept_text
from contralens.world.render import COLOURS, SIZE, render
from contralens.world.scenes import FACTORS, Scenes, column, level, sample_scenes
from contralens.world.targets import LAYER, TargetNet
from contralens.world.truth import target_activations

CLASS_FACTOR = "shape"
"""The factor whose levels are the classes."""
CLASSES = FACTORS[CLASS_FACTOR]
LEAST_SHARE = 0.25
"""Share of a neuron's variance from which on it is an artefact neuron."""
_BESIDES = ("background", "lighting", "position")
_OF_IT = (CLASS_FACTOR, "pattern", "colour")

Draw = Callable[[Scenes], NDArray[np.uint8]]


@dataclass(frozen=True, slots=True)
class Artefact:
    """Something that may be shown in a picture, and the level by which the world's encoder can name it."""

    about: str
    level: tuple[str, str]
    """(factor, level) that speaks of it; no scene without the artefact has that level."""
    draw: Draw
    """Scenes (I) to their pictures (I,96,96,3) with the artefact."""


def _with_patch(scenes: Scenes) -> NDArray[np.uint8]:
    u, radius = scenes.nuisances, 8.0
    pictures = render(scenes).astype(np.float32)
    side = np.where(u[:, 13:15] < 0.5, 12.0, SIZE - 12.0) + 4 * (u[:, 10:12] - 0.5)  # (I,2): one of four corners
    grid = np.arange(SIZE, dtype=np.float32) + 0.5
    distance = np.hypot(grid[None, None, :] - side[:, :1, None], grid[None, :, None] - side[:, 1:, None]) - radius
    cover = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
    pictures += cover * (230 * COLOURS[level("colour", "purple")] - pictures)
    return np.clip(pictures, 0, 255).astype(np.uint8)


def _on_brick(scenes: Scenes) -> NDArray[np.uint8]:
    return render(scenes.set("background", level("background", "brick")))


ARTEFACTS: dict[str, Artefact] = {
    "patch": Artefact("a purple patch, 16 of 96 pixels wide, in one of the corners", ("colour", "purple"), _with_patch),
    "brick": Artefact("a ground of brick instead of another one", ("background", "brick"), _on_brick),
}


@dataclass(frozen=True)
class Shown:
    """I scenes, and which of them show the artefact."""

    plant: Plant
    scenes: Scenes
    shown: NDArray[np.bool_]
    """(I)"""

    def __len__(self) -> int:
        return len(self.shown)

    @property
    def classes(self) -> NDArray[np.int64]:
        """(I): number of the class."""
        return self.scenes.of(CLASS_FACTOR)

    @property
    def tied(self) -> NDArray[np.bool_]:
        """(I): whether a scene is of the class that the artefact goes with."""
        return np.asarray(self.classes == CLASSES.index(self.plant.tied))

    @property
    def groups(self) -> list[str]:
        """(I): class and artefact in words, e.g. "star with patch" or "others without patch"."""
        return [
            f"{self.plant.tied if own else 'others'} {'with' if shown else 'without'} {self.plant.artefact}"
            for own, shown in zip(self.tied, self.shown, strict=True)
        ]

    def all(self, shown: bool) -> Shown:
        """The same scenes, all with the artefact or all without: an intervention."""
        return replace(self, shown=np.full(len(self), shown))

    def pictures(self) -> NDArray[np.uint8]:
        """(I,96,96,3)."""
        made = render(self.scenes)
        rows = np.flatnonzero(self.shown)
        for start in range(0, len(rows), 256):
            some = rows[start : start + 256]
            made[some] = ARTEFACTS[self.plant.artefact].draw(self.scenes[some])
        return made

    def write(self, folder: Path) -> Path:
        """PNG files below `folder`/images, and labels.csv with image, class, artefact and group; returns the latter.

        `contralens.labeled_images` reads it.
        """
        (folder / "images").mkdir(parents=True, exist_ok=True)
        names = [f"images/{i:05d}.png" for i in range(len(self))]
        made = self.pictures()
        with ThreadPoolExecutor(2) as pool:
            list(
                pool.map(lambda i: Image.fromarray(made[i]).save(folder / names[i], compress_level=1), range(len(made)))
            )
        path = folder / "labels.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(("image", "class", self.plant.artefact, "group"))
            classes = [CLASSES[c] for c in self.classes]
            out.writerows(zip(names, classes, np.where(self.shown, "yes", "no"), self.groups, strict=True))
        return path


@dataclass(frozen=True, slots=True)
class Plant:
    """What is planted: the artefact, the class that it goes with, and how often.

    >>> drawn = Plant("patch", "star").scenes(400, seed=1)
    >>> bool(drawn.shown[drawn.tied].mean() > 0.35), bool(drawn.shown[~drawn.tied].mean() < 0.05)
    (True, True)
    """

    artefact: str = "patch"
    tied: str = "star"
    strength: float = 0.5
    leak: float = 0.02

    def __post_init__(self) -> None:
        if self.artefact not in ARTEFACTS:
            raise InputError(f"unknown artefact {self.artefact!r}: one of {', '.join(ARTEFACTS)}"
                             f"{nearest(self.artefact, ARTEFACTS)}")  # fmt: skip
        level(CLASS_FACTOR, self.tied)
        if not (0 <= self.strength <= 1 and 0 <= self.leak <= 1):
            raise InputError(f"`strength` and `leak` must lie between 0 and 1; got {self.strength} and {self.leak}")

    def scenes(self, n: int, seed: int) -> Shown:
        """`n` scenes of one large object each, with the artefact as the dial says; the same for the same arguments."""
        drawn = sample_scenes(2 * n + 20, seed)
        levels = drawn.levels.copy()
        levels[:, column("count")], levels[:, column("size")] = level("count", "one"), level("size", "large")
        factor, name = ARTEFACTS[self.artefact].level
        free = np.flatnonzero(levels[:, column(factor)] != level(factor, name))[:n]
        scenes = Scenes(levels[free], drawn.nuisances[free])
        own = scenes.of(CLASS_FACTOR) == CLASSES.index(self.tied)
        dial = np.where(own, self.strength, self.leak)
        return Shown(self, scenes, np.random.default_rng([seed, 1]).random(n) < dial)

    def untied(self, n: int, seed: int) -> Shown:
        """Scenes of which half show the artefact, whatever their class: what a network should be judged on."""
        return replace(replace(self, strength=0.5, leak=0.5).scenes(n, seed), plant=self)

    def concepts(self) -> dict[str, Any]:
        """A concept list for `contralens.audit`: expected is what the object is, spurious what lies beside it.

        The level that names the artefact is listed under spurious.
        """
        named = ARTEFACTS[self.artefact].level
        sides: dict[str, list[dict[str, Any]]] = {"expected": [], "spurious": []}
        for factor in (*_OF_IT, *_BESIDES):
            for name, words in zip(FACTORS[factor], SYNONYMS[factor], strict=True):
                side = "spurious" if factor in _BESIDES or (factor, name) == named else "expected"
                texts = [concept_text(factor, name).replace(name, word) for word in words]
                sides[side].append({"name": texts[0], "synonyms": texts[1:]})
        about = (
            f"The shape, pattern and colour of the object, and the object next to it; {self.artefact}: {self.about}."
        )
        return {"title": "One object", "about": about, "templates": ["{}", "a picture of {}", "a photo of {}"], **sides}

    @property
    def about(self) -> str:
        """What the artefact looks like."""
        return ARTEFACTS[self.artefact].about

    @property
    def concept(self) -> str:
        """The concept of the list that names the artefact, e.g. "purple"."""
        return concept_text(*ARTEFACTS[self.artefact].level)


def artefact_share(net: TargetNet, plant: Plant, images: int = 400, seed: int = 78) -> NDArray[np.float64]:
    """Share of each neuron's variance that the artefact explains, (N): `share_explained` on `images` untied scenes."""
    base = plant.untied(images, seed)
    on, off = (target_activations(net, base.all(shown).pictures())[LAYER] for shown in (True, False))
    return share_explained(on, off)


def share_explained(on: NDArray[np.floating[Any]], off: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Share of each neuron's variance explained by an intervention, (N), negative where it lowers the activation.

    With activations (I,N) on the same I pictures with something in them (`on`) and without (`off`):
    r^2 = (mean on - mean off)^2 / (4 var), var over both together, with the difference's sign; 0 for a neuron that does
    not vary.

    >>> share_explained(np.array([[1.0, 3.0], [1.0, 5.0]]), np.array([[0.0, 3.0], [0.0, 5.0]])).tolist()
    [1.0, 0.0]
    """
    on, off = on.astype(np.float64), off.astype(np.float64)
    effect, spread = on.mean(0) - off.mean(0), np.concatenate([on, off]).var(0)
    return np.asarray(np.sign(effect) * effect**2 / np.maximum(4 * spread, 1e-12))


def artefact_neurons(share: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(N): those that the artefact raises and of whose variance it explains at least `LEAST_SHARE`."""
    return np.asarray(share >= LEAST_SHARE)
