"""Images of a run cropped to where groups of its neurons fire, and embedded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from contralens.checks import counted
from contralens.collecting.crops import WHOLE, Pictures, beside, by_image, different, embedded, looks, own_maps, summary
from contralens.collecting.preparing import threads
from contralens.data.store import Store
from contralens.run_data.stored import RunImages
from contralens.types import Encoder, Progress, Target, silent

Pair = tuple[int, tuple[int, ...]]
"""An image, and the neurons that are looked for on it."""
BATCH = 32


class RunCrops:
    """Crops of a run's images to where groups of neurons fire.

    Args:
        target: the run's network, with a layer that has places or patch tokens.
        encoder: the run's encoder.
        images: the run's images at full size.
        embeddings: (I,D) of the whole pictures; they stand for images that cannot be opened again.
        store: where embedded crops are kept, those of `label --crop` among them.
    """

    def __init__(
        self, target: Target, encoder: Encoder, images: RunImages, embeddings: Tensor, store: Store,
        progress: Progress = silent,
    ) -> None:  # fmt: skip
        self._target, self._encoder, self._store, self._progress = target, encoder, store, progress
        self._pictures, self._embeddings = Pictures(images.load, images.fingerprints), embeddings
        self._known: dict[Pair, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self.about: dict[str, Any] = {}
        """Of the latest call: how many crops, and what share of them is the whole picture."""

    def __call__(
        self, asked: Sequence[tuple[Sequence[int], Tensor, Tensor]]
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Embeddings (M,D) of the crops, and of each group the rows of its positives and contrasts.

        Args:
            asked: neurons of a group, its positives and its contrasts, as rows of the run's images; -1 is none.
                Contrasts are cropped to windows as large as those of the positives at the same ranks (in turn, if there
                are fewer positives), see `contralens.collecting.crops.beside`.

        Raises:
            InputError: the layer has no places.
        """
        self._look({(i, tuple(group)) for group, *sides in asked for side in sides for i in side.tolist() if i >= 0})
        boxes: list[NDArray[np.int64]] = []
        for group, positives, contrasts in asked:
            own, other = self._of(group, positives), self._of(group, contrasts)
            boxes.append(_rows(positives, own[0]))
            there = own[0][positives.numpy() >= 0]
            like = there[np.arange(len(other[0])) % len(there)] if len(there) else np.full_like(other[0], WHOLE)
            boxes.append(_rows(contrasts, beside(like, other[1])))
        rows, found = different(boxes)
        made = embedded(
            self._encoder, self._pictures, rows, self._embeddings, self._store, BATCH, threads(None), self._progress
        )  # fmt: skip
        self.about = summary(rows, "map", self._pictures.lost)
        return made, list(zip(found[::2], found[1::2], strict=True))

    @property
    def notes(self) -> list[str]:
        """For the manifest."""
        lost = self._pictures.lost
        return [f"{counted(lost, 'image')} could not be opened again and stayed whole"] if lost else []

    def _of(self, group: Sequence[int], images: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Boxes (K,4) and peaks (K,2) of a group on images (K)."""
        none = (np.array(WHOLE, np.int64), np.full(2, -1, np.int64))
        found = [none if i < 0 else self._known[i, tuple(group)] for i in images.tolist()]
        return (
            np.array([box for box, _ in found], np.int64).reshape(-1, 4),
            np.array([peak for _, peak in found], np.int64).reshape(-1, 2),
        )

    def _look(self, pairs: set[Pair]) -> None:
        """Find out where the groups fire on those pictures that were not looked at."""
        new = sorted(pairs - self._known.keys())

        def heats(part: Sequence[tuple[slice, Image.Image]]) -> list[NDArray[np.float32]]:
            groups = [[group for _, group in new[which]] for which, _ in part]
            wanted = [[n for group in own for n in group] for own in groups]
            found = own_maps(self._target, [picture for _, picture in part], wanted, "omit `focus`")
            out = []
            for own, values in zip(groups, found, strict=True):
                ends = np.cumsum([len(group) for group in own])[:-1]
                out.append(np.stack([together(maps) for maps in np.split(values, ends)]))
            return out

        work = by_image(np.array([image for image, _ in new], np.int64))
        found = looks(self._target, work, heats, self._pictures, BATCH, threads(None), self._progress)
        self._known.update(zip(new, zip(found["boxes"], found["peaks"], strict=True), strict=True))


def together(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where a group fires (H,W): the mean of its neurons' maps (n,H,W), each divided by its greatest absolute value.

    So no neuron outweighs another because its activations are larger. A map of zeros stays so; NaN counts 0. The map of
    a single neuron is as it is.

    >>> together(np.array([[[2.0, 0.0]], [[0.0, 0.1]]], np.float32)).tolist()
    [[0.5, 0.5]]
    """
    if len(maps) == 1:
        return np.asarray(maps[0], np.float32)
    values = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)
    peak = np.abs(values).max((1, 2), keepdims=True)
    scaled = values / np.where(peak > 0, peak, 1)
    return np.asarray(scaled.mean(0), np.float32)


def _rows(images: Tensor, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Image and box (K,5)."""
    return np.concatenate([images.numpy()[:, None], boxes], 1)
