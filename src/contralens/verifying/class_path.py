"""From a neuron to the network's answer: what switching it off does to class scores on its exemplars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor
from torch.utils.data import default_collate

from contralens.errors import InputError
from contralens.models.interventions import class_scores, layer_of, scalable, scaled
from contralens.types import Brief, Target

if TYPE_CHECKING:
    from PIL.Image import Image

OTHERS = 10
"""Other neurons switched off for comparison."""


@dataclass(frozen=True, slots=True, repr=False)
class ClassPath(Brief):
    """The class that a neuron moves most.

    >>> ClassPath("star", 1.5, 0.9)
    ClassPath(name='star', change=1.5, beyond=0.9)
    """

    name: str
    change: float
    """What the neuron adds to the class's score, before any softmax: the mean over the images."""
    beyond: float
    """Share of other neurons whose strongest change of a class on the same images is smaller."""


def class_path(
    target: Target, images: Sequence[Image], neuron: int, others: Sequence[int], classes: Sequence[str] | None = None
) -> ClassPath | None:
    """The class whose score changes most where a neuron is switched off on some images.

    Args:
        target: whose neuron it is.
        images: pictures, e.g. its exemplars.
        neuron: its index.
        others: neurons to compare with.
        classes: names of the network's outputs; by default those of its weights, else numbers.

    Returns:
        None for neurons that are the network's output, and without images.

    Raises:
        InputError: the target is no part of a network, or the network has no class scores.
    """
    inner = scalable(target)
    layer = layer_of(inner)
    if layer.layer == "." or not images:
        return None
    batch = default_collate([inner.preprocess(image) for image in images])
    before = class_scores(inner, batch)

    def change(switched: int) -> Tensor:
        with scaled(inner, switched, 0.0):
            return (before - class_scores(inner, batch)).mean(0)

    own = change(neuron)
    at = int(own.abs().argmax())
    most = [float(change(other).abs().max()) for other in others]
    names = classes or layer.classes or [f"output/{i}" for i in range(len(own))]
    if len(names) != len(own):
        raise InputError(f"{len(names)} names of classes, but {layer.name} has {len(own)} outputs")
    beyond = float(np.mean([m < abs(float(own[at])) for m in most])) if most else float("nan")
    return ClassPath(str(names[at]), float(own[at]), beyond)
