"""How many exemplars are near-copies: alike to the encoder, and alike to the eye."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contralens.math.near_copies import ALIKE, near_pairs
from contralens.types import Exemplars

GREY_LEVELS = 6.0
"""Mean difference of two thumbnails of `SIDE` x `SIDE` pixels, of 255, up to which they look the same."""
SIDE = 16
TOLD = 0.01
"""Share of the exemplars from which near-copies are noted."""


@dataclass(frozen=True, slots=True)
class NearCopies:
    """How many exemplars are near-copies of a stronger exemplar of the same neuron."""

    exemplars: int
    of: int
    neurons: int
    """Neurons that have any."""
    neurons_of: int

    def about(self) -> dict[str, Any]:
        """For a manifest."""
        return {
            "cosine": ALIKE, "grey_levels": GREY_LEVELS, "exemplars": self.exemplars, "of": self.of,
            "neurons": self.neurons,
        }  # fmt: skip

    def notes(self) -> list[str]:
        """A note, if they are more than a few."""
        if self.exemplars < TOLD * self.of or not self.exemplars:
            return []
        return [
            f"{self.exemplars:,} of {self.of:,} exemplars, of {self.neurons:,} of {self.neurons_of:,} neurons, are "
            f"near-copies of a stronger exemplar (cosine {ALIKE} or more, thumbnails that differ by at most "
            f"{GREY_LEVELS:g} of 255 grey levels) and count as further evidence: remove such images, or give groups "
            "(--groups) of images that belong together"
        ]


def near_copies(
    exemplars: Exemplars, embeddings: Tensor, fingerprints: Sequence[str], thumbnails: pa.Table
) -> NearCopies:
    """Count them, by the embeddings (I,D) and, where these are alike, by the thumbnails.

    Args:
        exemplars: of the neurons.
        embeddings: (I,D), unit rows.
        fingerprints: (I) content of the images.
        thumbnails: a run's table, by fingerprint.
    """
    pairs = near_pairs(exemplars, embeddings).numpy()
    images, place = np.unique(pairs[:, 1:], return_inverse=True)
    place = place.reshape(-1, 2)
    row = {fingerprint: i for i, fingerprint in enumerate(thumbnails["fingerprint"].to_pylist())} if len(images) else {}
    looks = np.array([_look(thumbnails["jpeg"][row[fingerprints[i]]].as_py()) for i in images.tolist()], np.int16)
    differ = np.full(len(pairs), np.inf)
    for start in range(0, len(pairs), 4096):
        some = place[start : start + 4096]
        differ[start : start + 4096] = np.abs(looks[some[:, 0]] - looks[some[:, 1]]).mean(1)
    same = np.unique(pairs[differ <= GREY_LEVELS, :2], axis=0)
    of = int((exemplars.positives >= 0).sum())
    return NearCopies(len(same), of, len(np.unique(same[:, 0])), len(exemplars))


def _look(jpeg: bytes) -> NDArray[np.int16]:
    """A thumbnail as SIDE x SIDE x 3 numbers."""
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(picture, np.int16).reshape(-1)
