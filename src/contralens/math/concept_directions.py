"""The direction of a concept in a layer: how its activations change with what images show, all else alike.

S (I,C) are similarities of images and concepts, centered and in deviations; A (I,N) a layer's activations, centered.
The layer's pattern of concept c is row c of the ridge regression of A on all of S,

    W = (S'S + lambda I)^-1 S'A,    lambda = RIDGE I,

so what often goes with c has its own row and stays out of it. A pattern says what to add to activations, where the
weights of a probe would only say how to read them (Haufe et al. 2014, Pahde et al. 2022). S has rank D at most (D of
the encoder), and W comes from an (I,I) or (C,C) system, whichever is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from contralens.errors import InputError
from contralens.types import Brief

RIDGE = 0.1
"""lambda for each image."""
MANY = 0.05
"""Share of the images, those most similar to a concept, that count as images with it; the less similar half are those
without."""


@dataclass(frozen=True, slots=True, repr=False)
class Direction(Brief):
    """What a concept adds to the activations of a layer.

    >>> found = Patterns(torch.eye(4), torch.tensor([[1.0], [0.0], [0.0], [0.0]]))[0]
    >>> found.vector.shape, round(found.correlation, 2), found.moved > 0
    (torch.Size([4]), 1.0, True)
    """

    vector: Tensor
    """(N) the pattern times how much more similar images with the concept are to it than images without."""
    correlation: float
    """Of the activations along the pattern with the similarity to the concept: how well the layer tells it."""
    moved: float
    """Length of `vector`, in deviations of the activations along it over the images."""


class Patterns:
    """Directions of concepts in a layer, each made when it is asked for.

    Args:
        activations: (I,N) finite.
        similarities: (I,C) finite, of the same images with all concepts.

    Raises:
        InputError: matrices of different images.
    """

    def __init__(self, activations: Tensor, similarities: Tensor) -> None:
        if len(activations) != len(similarities) or len(activations) < 2:
            raise InputError(
                f"{len(activations)} rows of activations, {len(similarities)} of similarities: two of both at least"
            )
        self.rows = activations.double() - activations.double().mean(0)
        s = similarities.double() - similarities.double().mean(0)
        self.similarities = s / s.std(0).clamp_min(1e-12)
        images, concepts = s.shape
        ridge = RIDGE * images
        if concepts <= images:
            gram = self.similarities.T @ self.similarities + ridge * torch.eye(concepts, dtype=torch.float64)
            self.patterns = torch.linalg.solve(gram, self.similarities.T @ self.rows)
        else:
            gram = self.similarities @ self.similarities.T + ridge * torch.eye(images, dtype=torch.float64)
            self.patterns = self.similarities.T @ torch.linalg.solve(gram, self.rows)

    def __getitem__(self, concept: int) -> Direction:
        pattern, shown = self.patterns[concept], self.similarities[:, concept]
        length = pattern.norm().clamp_min(1e-12)
        along = self.rows @ (pattern / length)
        order = shown.argsort(descending=True)
        present, absent = shown[order[: max(1, round(MANY * len(order)))]], shown[order[len(order) // 2 :]]
        more = float(present.mean() - absent.mean())
        spread = float(along.std().clamp_min(1e-12))
        return Direction(
            (pattern * more).float(), float((along * shown).mean()) / spread, float(length) * more / spread
        )  # fmt: skip
