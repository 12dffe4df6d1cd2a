"""A world's network altered in a known way: which neuron of the copy is which is known (for `contralens match`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from contralens.world.encoder import to_tensor
from contralens.world.render import render
from contralens.world.scenes import FACTORS, sample_scenes
from contralens.world.targets import load_target

PARTS = ("weight", "bias", "running_mean", "running_var")


def permuted(world: int, order: Sequence[int]) -> Any:
    """The world's network with the neurons of block3 in another order: neuron i is order[i] of before.

    >>> permuted(1, range(64)).training
    False
    """
    net: Any = load_target(world)
    own = torch.as_tensor(list(order))
    with torch.no_grad():
        net.block3[0].weight.copy_(net.block3[0].weight[own].clone())
        for name in PARTS:
            getattr(net.block3[1], name).copy_(getattr(net.block3[1], name)[own].clone())
        net.head.weight.copy_(net.head.weight[:, own].clone())
    return net.eval()


def retrained(world: int, factor: str, level: str, neurons: int, seed: int = 0, images: int = 200) -> Any:
    """The world's network, its first neurons of block3 trained anew, together, to see whether a factor has a level.

    Args:
        world: its number.
        factor: of the scenes, such as "lighting".
        level: of the factor, such as "dim".
        neurons: how many are trained; the others stay as they are.
        seed: of the training; the pictures are drawn with seed + 7.
        images: pictures to train on.
    """
    torch.manual_seed(seed)
    net: Any = load_target(world)
    scenes = sample_scenes(images, 7 + seed)
    truth = torch.from_numpy((scenes.of(factor) == FACTORS[factor].index(level)).astype(np.float32))
    with torch.no_grad():
        seen = net.block2(net.block1(net.stem(to_tensor(render(scenes)))))
    conv, norm = nn.Conv2d(seen.shape[1], neurons, 3, 2, 1, bias=False), nn.BatchNorm2d(neurons)
    head = nn.Linear(neurons, 1)
    learner = torch.optim.AdamW([*conv.parameters(), *norm.parameters(), *head.parameters()], lr=1e-2)
    for _ in range(6):
        for some in torch.randperm(len(seen)).split(50):  # type: ignore[no-untyped-call]
            guess = head(torch.relu(norm(conv(seen[some]))).mean((2, 3)))[:, 0]
            learner.zero_grad()
            nn.functional.binary_cross_entropy_with_logits(guess, truth[some]).backward()  # type: ignore[no-untyped-call]
            learner.step()
    with torch.no_grad():
        net.block3[0].weight[:neurons] = conv.weight
        for name in PARTS:
            getattr(net.block3[1], name)[:neurons] = getattr(norm, name)
    return net.eval()
