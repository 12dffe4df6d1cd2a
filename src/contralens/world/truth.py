"""What a neuron truly responds to, measured by intervention: change one factor, render again, compare activations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from contralens.errors import InputError, ModelUnavailable
from contralens.world.encoder import WEIGHTS, to_tensor
from contralens.world.render import render
from contralens.world.scenes import FACTORS, Scenes, sample_scenes
from contralens.world.targets import LAYER, TargetNet, world

LEAST_EFFECT = 1.0
"""A level is true only if it moves the neuron by at least this many of its standard deviations."""
MARGIN = 0.75
"""Levels within this share of the strongest effect are true as well."""
MOST_LEVELS = 2
"""A neuron with more true levels than this is "mixed"."""
DEAD = 1e-4
"""A neuron whose activation varies less than this over the untied world is "dead"."""

LEVELS: tuple[tuple[str, int], ...] = tuple((f, i) for f, names in FACTORS.items() for i in range(len(names)))
"""The 38 levels in the order of the columns of effects."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What one neuron responds to."""

    levels: tuple[tuple[str, int], ...]
    """(factor, level number) by falling effect; empty where the neuron is mixed or dead."""
    kind: str
    """"known", "mixed" or "dead"."""
    effect: float
    """The largest standardised effect of any level."""


def base_scenes(n: int = 200, seed: int = 77) -> Scenes:
    """The untied scenes on which interventions are made."""
    return sample_scenes(n, seed)


def measure_effects(activate: Callable[[Scenes], NDArray[np.float32]], base: Scenes) -> NDArray[np.float64]:
    """Standardised effect of every level on every neuron, (N,38); NaN for a dead neuron.

    `activate` maps scenes (I) to activations (I,N). With a[b,l] the activation on base scene b set to level l:
    d(l) = (mean_b a[b,l] - mean over b and the factor's other levels) / standard deviation of a over the untied world.
    """
    spread = np.asarray(activate(base), np.float64).std(0)
    effects = []
    for factor, names in FACTORS.items():
        means = np.stack([np.asarray(activate(base.set(factor, i)), np.float64).mean(0) for i in range(len(names))])
        effects.append(means - (means.sum(0) - means) / (len(names) - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread[:, None] < DEAD, np.nan, np.concatenate(effects).T / spread[:, None])


def truth_of(effects: NDArray[np.float64]) -> Truth:
    """The rule: from one neuron's 38 effects to its true levels.

    >>> effects = np.zeros(38)
    >>> effects[9], effects[17] = 0.4, 2.5
    >>> truth_of(effects).levels
    (('pattern', 1),)
    """
    if np.isnan(effects).any():
        return Truth((), "dead", 0.0)
    best = float(effects.max())
    order = np.argsort(-effects, kind="stable")
    found = [LEVELS[i] for i in order if effects[i] >= max(LEAST_EFFECT, MARGIN * best)]
    if not 1 <= len(found) <= MOST_LEVELS:
        return Truth((), "mixed", best)
    return Truth(tuple(found), "known", best)


@torch.inference_mode()
def target_activations(net: nn.Module, pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """(I,96,96,3) to the activations of the target's two labeled layers: "block3" (I,64) and "head" (I,classes)."""
    assert isinstance(net, TargetNet)
    hidden, logits = [], []
    for start in range(0, len(pictures), 128):
        x = to_tensor(pictures[start : start + 128])
        x = net.block3(net.block2(net.block1(net.stem(x)))).mean((2, 3))
        hidden.append(x)
        logits.append(net.head(x))
    return {LAYER: torch.cat(hidden).numpy(), "head": torch.cat(logits).numpy()}


def measure_target(net: nn.Module, base: Scenes | None = None) -> dict[str, NDArray[np.float64]]:
    """Effects (N,38) of both labeled layers of a target; about 7,600 pictures are rendered for 200 base scenes."""
    hidden = net.get_submodule(LAYER)[0].out_channels  # type: ignore[index]

    def activate(scenes: Scenes) -> NDArray[np.float32]:
        return np.concatenate(list(target_activations(net, render(scenes)).values()), axis=1)

    effects = measure_effects(activate, base_scenes() if base is None else base)
    return {LAYER: effects[:hidden], "head": effects[hidden:]}


def load_truth(index: int | str, layer: str = LAYER) -> list[Truth]:
    """The shipped truth of a target's neurons, as `scripts/make_world.py` measured it."""
    path = WEIGHTS / f"target-{world(index).index}.json"
    if not path.exists():
        raise ModelUnavailable(f"{path} is missing: run `make world` to measure the truth again")
    effects = json.loads(path.read_text())["effects"]
    if layer not in effects:
        raise InputError(f"truth is known for the layers {', '.join(effects)}; got {layer!r}")
    return [truth_of(np.array([np.nan if x is None else x for x in row], np.float64)) for row in effects[layer]]


def describe(truth: Truth) -> str:
    """Words for a report.

    >>> describe(Truth((("pattern", 1), ("colour", 0)), "known", 2.0)), describe(Truth((), "mixed", 0.3))
    ('striped or red', 'mixed')
    """
    return " or ".join(FACTORS[f][i] for f, i in truth.levels) or truth.kind


def known(truths: Sequence[Truth]) -> NDArray[np.bool_]:
    """(N): the neurons with a single-valued truth, the ones that label accuracy is about."""
    return np.array([t.kind == "known" for t in truths], bool)
