"""Crops of images: boxes around where neurons fire, cut out, embedded and kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from contralens.checks import blaming
from contralens.collecting.preparing import ahead
from contralens.data.atomic_files import digest
from contralens.data.pictures import Heat, crop_box
from contralens.data.store import TILE, Store
from contralens.errors import ImageError, InputError
from contralens.models.activation_maps import maps, seen
from contralens.types import Encoder, Progress, Target

VERSION = "crops 1"
"""Raise it when the code crops otherwise: what is cached is then computed again."""
STEPS = 10_000
"""Sides of boxes are kept in these parts of the image's."""
WHOLE = (0, 0, STEPS, STEPS)


class Pictures:
    """Images at full size, by row; those that cannot be opened any more are counted."""

    def __init__(self, load: Callable[[int], Image.Image], fingerprints: Sequence[str]) -> None:
        self._load, self.fingerprints = load, fingerprints
        self._lost: set[int] = set()

    def load(self, row: int) -> Image.Image | None:
        """The RGB picture, or None."""
        try:
            return self._load(row)
        except ImageError:
            self._lost.add(row)
            return None

    @property
    def lost(self) -> int:
        """How many could not be opened."""
        return len(self._lost)


def by_image(images: NDArray[np.int64]) -> list[tuple[int, slice]]:
    """Each image of rising pairs, and which of the pairs are of it.

    >>> by_image(np.array([3, 3, 7]))
    [(3, slice(0, 2, None)), (7, slice(2, 3, None))]
    """
    if not len(images):
        return []
    found, starts = np.unique(images, return_index=True)
    ends = [*starts[1:].tolist(), len(images)]
    return [(int(i), slice(int(a), int(b))) for i, a, b in zip(found, starts, ends, strict=True)]


def own_maps(
    target: Target, pictures: Sequence[Image.Image], wanted: Sequence[Sequence[int]], instead: str
) -> list[NDArray[np.float32]]:
    """The layer's own maps, as in `maps`.

    Raises:
        InputError: the layer has no places; the message ends with what to do `instead`.
    """
    found = maps(target, pictures, wanted)
    if found is None:
        raise InputError(
            f"{target.name}: {target.layer} has no map of where its neurons fire "
            f"(pooling {target.pooling}): {instead}, or a layer with places or patch tokens"
        )
    return found


def looks(
    target: Target,
    work: Sequence[tuple[int, slice]],
    heats: Callable[[Sequence[tuple[slice, Image.Image]]], Sequence[NDArray[np.float32]]],
    pictures: Pictures,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> dict[str, NDArray[np.int64]]:
    """Boxes (P,4) and peaks (P,2) of all pairs, in parts of the image's sides.

    Args:
        target: whose preprocessing says what part of an image a map covers.
        work: see `by_image`.
        heats: how strongly what is wanted of each picture fires over it, (n,H,W) each, for the n pairs of its slice.
        pictures: the images.
    """
    count = work[-1][1].stop if work else 0
    boxes = np.tile(np.array(WHOLE, np.int64), (count, 1))
    peaks = np.full((count, 2), -1, np.int64)
    covers: dict[tuple[int, int], tuple[float, float, float, float]] = {}
    with ThreadPoolExecutor(workers) as pool:
        loaded = ahead(pool, lambda item: pictures.load(item[0]), work, 2 * batch_size)
        for start in range(0, len(work), batch_size):
            part = [
                (item[1], future.result()) for item, future in (next(loaded) for _ in work[start : start + batch_size])
            ]
            open_ = [(which, picture) for which, picture in part if picture is not None]
            for (which, picture), values in zip(open_, heats(open_) if open_ else [], strict=True):
                if picture.size not in covers:
                    covers[picture.size] = seen(target.preprocess, picture.size)
                for at, one in zip(range(which.start, which.stop), values, strict=True):
                    boxes[at], peaks[at] = _look(picture.size, Heat(one, covers[picture.size]))
            progress("cropping", min(start + batch_size, len(work)), len(work))
    return {"boxes": boxes, "peaks": peaks}


def beside(positive: NDArray[np.int64], peaks: NDArray[np.int64]) -> NDArray[np.int64]:
    """Boxes (...,4) of contrasts: as large as those of the positives, around the contrasts' own peaks (...,2).

    Where a peak is -1, since the map is flat, at the positive's own place.

    >>> beside(np.array([[0, 0, 4000, 4000]]), np.array([[9000, 5000]])).tolist()
    [[6000, 3000, 10000, 7000]]
    """
    size = positive[..., 2:] - positive[..., :2]
    centre = np.where(peaks >= 0, peaks, positive[..., :2] + size // 2)
    start = np.clip(centre - size // 2, 0, STEPS - size)
    return np.concatenate([start, start + size], -1)


def different(sides: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], list[Tensor]]:
    """Different crops (M,5), image and box each, of sides (...,5), and which of them each is; -1 where its image is.

    >>> rows, (at,) = different([np.array([[2, *WHOLE], [-1, *WHOLE], [2, *WHOLE]])])
    >>> len(rows), at.tolist()
    (1, [0, -1, 0])
    """
    there = [side[..., 0] >= 0 for side in sides]
    every = [side[t] for side, t in zip(sides, there, strict=True)]
    if not sum(map(len, every)):
        return np.zeros((0, 5), np.int64), [torch.full(t.shape, -1, dtype=torch.int64) for t in there]
    rows, place = np.unique(np.concatenate(every), axis=0, return_inverse=True)
    out, parts = [], np.split(place.reshape(-1), np.cumsum([len(one) for one in every])[:-1])
    for t, part in zip(there, parts, strict=True):
        index = torch.full(t.shape, -1, dtype=torch.int64)
        index[torch.from_numpy(t)] = torch.from_numpy(part).long()
        out.append(index)
    return rows, out


def summary(rows: NDArray[np.int64], by: str, lost: int) -> dict[str, Any]:
    """For the manifest: how many crops (M,5), and what share of them is the whole picture."""
    whole = float((rows[:, 1:] == WHOLE).all(1).mean()) if len(rows) else 0.0
    return {"by": by, "crops": len(rows), "whole": round(whole, 4), "lost": lost}


def _look(size: tuple[int, int], warm: Heat) -> tuple[tuple[int, ...], tuple[int, int]]:
    """A positive's box and the peak of its map, in parts of the image's sides."""
    values = np.nan_to_num(warm.values, nan=-np.inf, neginf=-np.inf)
    box = crop_box(size, Heat(np.nan_to_num(warm.values, nan=0.0), warm.box))
    sides = WHOLE if box is None else tuple(round(v / size[i % 2] * STEPS) for i, v in enumerate(box))
    if not values.max() > values.min():
        return sides, (-1, -1)
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    left, top, right, bottom = warm.box
    across, down = (
        left + (x + 0.5) / values.shape[1] * (right - left),
        top + (y + 0.5) / values.shape[0] * (bottom - top),
    )
    return sides, (round(across / size[0] * STEPS), round(down / size[1] * STEPS))


def embedded(
    encoder: Encoder, pictures: Pictures, rows: NDArray[np.int64], embeddings: Tensor, store: Store, batch_size: int,
    workers: int, progress: Progress,
) -> Tensor:  # fmt: skip
    """Embeddings (M,D) of crops (M,5), image and box each; kept in the store under the image's content and the box."""
    table = store.table("crops", VERSION, encoder.fingerprint)
    whole = (rows[:, 1:] == WHOLE).all(1)
    keys = [digest(pictures.fingerprints[row[0]], *map(str, row[1:])) for row in rows.tolist()]
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(rows), TILE):
            lacking = [i for i in range(start, min(start + TILE, len(rows))) if not whole[i] and keys[i] not in table]
            parts, ids = [], []
            for some, batch in _batches(encoder, pictures, rows, lacking, batch_size, pool):
                with blaming(f"{encoder.name} failed on a batch of crops"), torch.no_grad():
                    parts.append(encoder(default_collate(batch)).float().cpu().numpy())
                ids += [keys[i] for i in some]
            if ids:
                table.append(ids, {"rows": np.concatenate(parts)})
            progress("embedding crops", min(start + TILE, len(rows)), len(rows))
    out = embeddings.new_empty(len(rows), embeddings.shape[1])
    known = torch.tensor([not w and table.has_row(key) for w, key in zip(whole, keys, strict=True)], dtype=torch.bool)
    of_image = torch.from_numpy(rows[:, 0].copy())
    out[~known.to(out.device)] = embeddings[of_image[~known].to(embeddings.device)]
    if bool(known.any()):
        own = table.rows([key for key, k in zip(keys, known.tolist(), strict=True) if k])
        out[known.to(out.device)] = torch.from_numpy(own).to(out)
    return out


def _batches(
    encoder: Encoder, pictures: Pictures, rows: NDArray[np.int64], wanted: Sequence[int], size: int,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[list[int], list[Any]]]:  # fmt: skip
    """Some of the crops wanted and their preprocessed pixels; those of images that are gone are left out."""
    by_image: dict[int, list[int]] = {}
    for i in wanted:
        by_image.setdefault(int(rows[i, 0]), []).append(i)

    def work(item: tuple[int, list[int]]) -> list[tuple[int, Any]]:
        picture = pictures.load(item[0])
        return [] if picture is None else [(i, encoder.preprocess(_cut(picture, rows[i, 1:]))) for i in item[1]]

    waiting: list[tuple[int, Any]] = []
    for _, future in ahead(pool, work, list(by_image.items()), 2 * size):
        waiting += future.result()
        while len(waiting) >= size:
            yield [i for i, _ in waiting[:size]], [x for _, x in waiting[:size]]
            waiting = waiting[size:]
    if waiting:
        yield [i for i, _ in waiting], [x for _, x in waiting]


def _cut(picture: Image.Image, box: NDArray[np.int64]) -> Image.Image:
    left, top, right, bottom = (round(int(v) / STEPS * picture.size[i % 2]) for i, v in enumerate(box))
    return picture.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
