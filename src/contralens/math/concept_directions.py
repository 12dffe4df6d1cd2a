"""The direction of a concept in a layer: how its activations change with what images show, all else alike.

S (I,C) are similarities of images and concepts, centered and in deviations; A (I,N) a layer's activations, centered.
The layer's pattern of concept c is row c of the ridge regression of A on all of S,

    W = (S'S + lambda I)^-1 S'A,    lambda = RIDGE I,

so what often goes with c has its own row and stays out of it. A pattern says what to add to activations, where the
weights of a probe would only say how to read them (Haufe et al. 2014, Pahde et al. 2022).

S is never made. With M (I,D) the centered embeddings of the images, and B (C,D) the embeddings of the texts, each over
the deviation of its similarities, S = M B', and

    W = B X,    X = (M'M B'B + lambda I)^-1 M'A,

so memory holds (I,D), (I,N), (C,D), (D,D) and (D,N), however many concepts there are.
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

    >>> found = Patterns(torch.eye(4), torch.tensor([[1.0], [0.0], [0.0], [0.0]]), torch.ones(1, 1))[0]
    >>> found.vector.shape, round(found.correlation, 2), found.moved > 0
    (torch.Size([4]), 1.0, True)
    """

    vector: Tensor
    """(N) the pattern times how much more similar images with the concept are to it than images without."""
    correlation: float
    """Of the activations along the pattern with the similarity to the concept: how well the layer shows it."""
    moved: float
    """Length of `vector`, in deviations of the activations along it over the images."""


class Patterns:
    """Directions of concepts in a layer, each made when it is asked for.

    Args:
        activations: (I,N) finite.
        embeddings: (I,D) finite, of the same images.
        texts: (C,D) of the concepts; similarities are products of the two.

    Raises:
        InputError: matrices that do not belong together, or fewer than two images.

    >>> activations = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 1.0], [0.0, 1.0]])
    >>> found = Patterns(activations, activations - 1, torch.eye(2))[0]
    >>> found.vector[0] > 1, found.vector[1].abs() < 1e-6
    (tensor(True), tensor(True))
    """

    def __init__(self, activations: Tensor, embeddings: Tensor, texts: Tensor) -> None:
        if len(activations) != len(embeddings) or len(activations) < 2:
            raise InputError(
                f"{len(activations)} rows of activations, {len(embeddings)} of embeddings: two of both at least"
            )
        if embeddings.shape[1] != texts.shape[1]:
            raise InputError(f"embeddings {tuple(embeddings.shape)} and texts {tuple(texts.shape)} are of two widths")
        self.rows = activations.double() - activations.double().mean(0)
        self.images = embeddings.double() - embeddings.double().mean(0)
        gram = self.images.T @ self.images
        wide = texts.double()
        deviations = ((wide @ gram) * wide).sum(1).clamp_min(0).div(len(self.rows) - 1).sqrt()
        self.texts = wide / deviations.clamp_min(1e-12)[:, None]
        ridge = RIDGE * len(self.rows) * torch.eye(len(gram), dtype=torch.float64)
        self.solved = torch.linalg.solve(gram @ (self.texts.T @ self.texts) + ridge, self.images.T @ self.rows)

    def __getitem__(self, concept: int) -> Direction:
        pattern, shown = self.texts[concept] @ self.solved, self.images @ self.texts[concept]
        length = pattern.norm().clamp_min(1e-12)
        along = self.rows @ (pattern / length)
        order = shown.argsort(descending=True)
        present, absent = shown[order[: max(1, round(MANY * len(order)))]], shown[order[len(order) // 2 :]]
        more = float(present.mean() - absent.mean())
        spread = float(along.std().clamp_min(1e-12))
        return Direction(
            (pattern * more).float(), float(along @ shown) / (len(shown) - 1) / spread, float(length) * more / spread
        )  # fmt: skip
