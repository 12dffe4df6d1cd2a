"""Planted neurons: activations made so that they follow what images are known to show, so that the truth is known.

Each follows one concept, or one in five two of them: relu(gain (shown fires strength + leak other) + |noise|), with a
gain from 1 to 8 noise deviations, a strength that varies from image to image, images on which it does not fire, and for
half of the neurons a leak, up to .7 of the gain, of another concept. All of this is drawn at random for each neuron.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from contralens.errors import InputError

LEAST = 3
"""Images that must show a concept before a neuron is made to follow it."""


def plant(shows: Tensor, count: int, seed: int = 0) -> tuple[Tensor, list[set[int]]]:
    """`count` neurons that follow what images show: activations (I,count), and the concepts that each one follows.

    Args:
        shows: (I,C) bool, whether the image shows the concept.
        seed: of everything that is drawn.

    >>> activations, truth = plant(torch.eye(3).bool().repeat(4, 1), 2)
    >>> activations.shape, [len(own) for own in truth]
    (torch.Size([12, 2]), [1, 1])
    """
    draw = torch.Generator().manual_seed(seed)
    there = (shows.sum(0) >= LEAST).nonzero()[:, 0].tolist()
    images = len(shows)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=draw))

    def concept() -> int:
        return int(there[int(torch.randint(len(there), (), generator=draw))])

    columns, truth = [], []
    for _ in range(count if there else 0):
        own = {concept()} | ({concept()} if uniform(0, 1) < 0.2 else set())
        gain = math.exp(uniform(0, math.log(8)))
        strength = 1 + uniform(0, 0.6) * torch.randn(images, generator=draw)
        fires = torch.rand(images, generator=draw) < uniform(0.5, 1)
        other, leak = concept(), uniform(0, 0.7) if uniform(0, 1) < 0.5 else 0.0
        signal = shows[:, sorted(own)].any(1) * fires * strength
        signal = signal + leak * shows[:, other] * torch.rand(images, generator=draw)
        columns.append((gain * signal + torch.randn(images, generator=draw).abs()).clamp_min(0.0))
        truth.append(own)
    return torch.stack(columns, 1) if columns else torch.zeros(images, 0), truth


def plant_meanings(shows: Tensor, meanings: Sequence[int], seed: int = 0) -> tuple[Tensor, list[set[int]]]:
    """Neurons with one meaning or several: activations (I,N), and the concepts that each one follows.

    a = max over its concepts c of gain[c] shown[c] u + .05 |z|, with gains uniform on [.6, 1], u uniform on [.6, 1]
    per image and concept, and z normal. So meanings differ in strength, and where two are shown the stronger counts.

    Args:
        shows: (I,C) bool, whether the image shows the concept.
        meanings: (N) how many concepts each neuron follows, drawn without repetition from those that `LEAST` images
            or more show.
        seed: of everything that is drawn.

    >>> activations, truth = plant_meanings(torch.eye(4).bool().repeat(5, 1), [1, 3])
    >>> activations.shape, [len(own) for own in truth]
    (torch.Size([20, 2]), [1, 3])
    """
    draw = torch.Generator().manual_seed(seed)
    there = (shows.sum(0) >= LEAST).nonzero()[:, 0]
    most = max(meanings, default=0)
    if most > len(there):
        raise InputError(f"a neuron with {most} meanings needs as many concepts that {LEAST} images show")
    columns, truth = [torch.zeros(len(shows), 0)], []
    for count in meanings:
        own = there[torch.randperm(len(there), generator=draw)[:count]]
        gains = 0.6 + 0.4 * torch.rand(count, generator=draw)
        strength = 0.6 + 0.4 * torch.rand(len(shows), count, generator=draw)
        noise = 0.05 * torch.randn(len(shows), generator=draw).abs()
        columns.append(((shows[:, own] * gains * strength).amax(1) + noise)[:, None])
        truth.append(set(own.tolist()))
    return torch.cat(columns, 1), truth
