"""Rendered worlds with ties drawn at random, and networks in worlds with the measured truth of their neurons."""

from __future__ import annotations

import numpy as np
from torch import nn

from contralens.bench.training import train_target, tune_target
from contralens.world.render import render
from contralens.world.scenes import FACTORS
from contralens.world.targets import World, load_target
from contralens.world.truth import Truth, load_truth, measure_target, truth_of

CLASSIFIED = ("pattern", "shape", "colour", "background")
Target = tuple[nn.Module, list[Truth]]
"""A network, and the truth of its block3 and its head."""


def drawn_world(index: int) -> World:
    """The world of an index: one or two factors, drawn at random, are tied to what its network classifies."""
    rng = np.random.default_rng(index)
    true = CLASSIFIED[index % len(CLASSIFIED)]
    others = [factor for factor in CLASSIFIED if factor != true]
    tied = [others[i] for i in rng.permutation(len(others))[: rng.integers(1, 3)]]
    partners = {}
    for factor in tied:
        levels = rng.permutation(list(FACTORS[factor])).tolist()
        partners[factor] = {name: levels[i % len(levels)] for i, name in enumerate(FACTORS[true])}
    return World(index, true, partners)


def shipped_target(place: World) -> Target:
    """The network of one of the three shipped worlds."""
    return load_target(place.index), load_truth(place.index, "block3") + load_truth(place.index, "head")


def tuned_target(place: World) -> Target:
    """The shipped network of world 2, fine-tuned in this one."""
    scenes = place.scenes(6000, 7_000, 0.7)
    classes = FACTORS[place.true]
    return _measured(
        tune_target(render(scenes), scenes.of(place.true), classes, seed=place.index, log=lambda line: None)
    )


def trained_target(place: World) -> Target:
    """A network trained from scratch, as the shipped ones were."""
    return _measured(train_target(place, log=lambda line: None))


def _measured(net: nn.Module) -> Target:
    return net, [truth_of(row) for effects in measure_target(net).values() for row in effects]
