"""Exemplars as crops: each image and its contrast cut down to where the neuron fires, and embedded again.

A positive is cropped to the places with at least half of the peak of its map, no side below a third of the image's, as
`contralens propose --focus crop` shows it. Its contrast hardly activates the neuron: it is cropped to a window of the
same size (as a share of the image, so that both are seen at one scale) around the place where the neuron comes nearest
to firing; where its map is flat (a ReLU that is off everywhere), at the positive's own place. What both crops share is
then as large in the one as in the other. Mining, and so the choice of both images, looks at whole pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from contralens.checks import blaming, counted, shown
from contralens.collecting.collect import Collected
from contralens.collecting.preparing import ahead, threads
from contralens.data.atomic_files import digest
from contralens.data.pictures import Heat, crop_box
from contralens.data.store import TILE, Store
from contralens.errors import ImageError, InputError
from contralens.models.activation_maps import maps, seen
from contralens.models.pixel_attribution import PixelHeat, pixel_heat
from contralens.models.ranking import Ranking
from contralens.types import Encoder, Exemplars, Images, Progress, Target

VERSION = "crops 1"
"""Raise it when the code crops otherwise: what is cached is then computed again."""
GRID = 14
"""Cells along each side over which relevance of pixels is averaged."""
STEPS = 10_000
"""Sides of boxes are kept in these parts of the image's."""
WHOLE = (0, 0, STEPS, STEPS)


@dataclass(frozen=True)
class Crops:
    """Exemplars whose embeddings are those of crops."""

    exemplars: Exemplars
    """As mined, but indices are rows of `embeddings`, and similarities those of the crops."""
    embeddings: Tensor
    """(M,D): one row per different crop."""
    boxes: dict[str, NDArray[np.float32]]
    """"positive", "contrast": (N,K,4), left, top, right, bottom as shares of the image; NaN where there is no image."""
    about: dict[str, Any]
    """For the manifest."""
    notes: list[str]


def wanted_crop(given: Any) -> str | None:
    """None, "map", "relevance", or "relevance:method=lrp"; anything else is refused.

    >>> wanted_crop("relevance:method=gradient")
    'relevance:method=gradient'
    """
    if given is None or given == "map":
        return given  # type: ignore[no-any-return]
    if not isinstance(given, str) or given.partition(":")[0] != "relevance" or "class" in given:
        raise InputError(f'`crop` must be "map", "relevance", or "relevance:method=gradient"; got {shown(given)}')
    Ranking.of(given)
    return given


def cropped(
    kind: str,
    target: Target,
    encoder: Encoder,
    images: Images,
    collected: Collected,
    exemplars: Exemplars,
    embeddings: Tensor,
    store: Store,
    identity: Sequence[str],
    *,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Progress,
) -> Crops:
    """Crop the exemplars and contrasts of a run, and embed the crops.

    Args:
        kind: "map", the layer's own activation map, or "relevance", what of the pixels the activation comes from (see
            `wanted_crop`).
        target: whose neurons fire.
        encoder: what embeds.
        images: the set, opened again.
        collected: which of its images rows (I) are about.
        exemplars: (N,K), indices of these rows.
        embeddings: (I,D) of the whole pictures.
        store: where looks and embedded crops are kept.
        identity: what the exemplars depend on.

    Raises:
        InputError: the layer has no places, or relevance cannot be handed down to the pixels.
    """
    pairs = _Pairs(exemplars)
    pictures = _Pictures(images, collected)
    workers = threads(workers)
    heat = None if kind == "map" else pixel_heat(target, Ranking.of(kind).method)
    notes = [*(heat.notes if heat else ())]
    kind = "map" if heat is None else f"relevance, {heat.method}"
    kept = store.remember("looks", VERSION, kind, *identity)
    looks = kept.get()
    if looks is None:
        looks = _looks(target, heat, pairs, pictures, batch_size, workers, progress)
        if not pictures.lost:
            kept.put(looks)
    boxes = pairs.boxes(np.array(looks["boxes"]), np.array(looks["peaks"]))
    rows, place = np.unique(np.concatenate([b[there] for b, there in boxes]), axis=0, return_inverse=True)
    made = _embedded(encoder, pictures, rows, embeddings, store, batch_size, workers, progress)
    place = place.reshape(-1)
    indices, sides, at = [], {}, 0
    for name, (box, there) in zip(("positive", "contrast"), boxes, strict=True):
        index = torch.full(there.shape, -1, dtype=torch.int64)
        count = int(there.sum())
        index[torch.from_numpy(there)] = torch.from_numpy(place[at : at + count]).long()
        at += count
        indices.append(index)
        sides[name] = np.where(there[..., None], box[..., 1:] / STEPS, np.nan).astype(np.float32)
    similarities = exemplars.similarities.clone()
    both = (indices[0] >= 0) & (indices[1] >= 0)
    first, second = (made[i[both].to(made.device)] for i in indices)
    similarities[both] = (first * second).sum(1).to(similarities.dtype).cpu()
    whole = float((rows[:, 1:] == WHOLE).all(1).mean()) if len(rows) else 0.0
    about = {"by": kind, "crops": len(rows), "whole": round(whole, 4), "lost": pictures.lost}
    notes.append(
        f"scorers compare crops of exemplars and contrasts to where neurons fire ({kind}), "
        f"{counted(len(rows), 'crop')} in all; means over images (centred, priors over images) run over the crops; "
        "lookalike uses whole pictures"
    )
    if pictures.lost:
        notes.append(f"{counted(pictures.lost, 'image')} of exemplars could not be opened again and stayed whole")
    fields = {"positives": indices[0], "contrasts": indices[1], "similarities": similarities}
    return Crops(replace(exemplars, **fields), made, sides, about, notes)


class _Pairs:
    """Which (image, exemplars' row) pairs are looked at: positives and contrasts of all neurons, each once."""

    def __init__(self, exemplars: Exemplars) -> None:
        n = len(exemplars)
        self.sides = [exemplars.positives.numpy(), exemplars.contrasts.numpy()]
        rows = np.arange(n)[:, None]
        keys = [np.where(side >= 0, side * max(1, n) + rows, -1) for side in self.sides]
        flat = np.concatenate([k.ravel() for k in keys])
        self.keys = np.unique(flat[flat >= 0])
        """(P), image * N + row, rising."""
        self.at = [np.searchsorted(self.keys, k) for k in keys]
        self.images, self.rows = self.keys // max(1, n), self.keys % max(1, n)
        self.neurons = exemplars.neurons.numpy()[self.rows]

    def by_image(self) -> list[tuple[int, slice]]:
        """Each image and which of the pairs are of it."""
        images, starts = np.unique(self.images, return_index=True)
        ends = [*starts[1:].tolist(), len(self.images)]
        return [(int(i), slice(int(a), int(b))) for i, a, b in zip(images, starts, ends, strict=True)]

    def boxes(self, boxes: NDArray[np.int64], peaks: NDArray[np.int64]) -> list[tuple[NDArray[Any], NDArray[np.bool_]]]:
        """Image and box (N,K,5) of each positive and each contrast, and where there is one.

        `boxes` (P,4) are what positives are cropped to, `peaks` (P,2) where a neuron fires most, -1 where nowhere more
        than elsewhere.
        """
        out = []
        there = [side >= 0 for side in self.sides]
        own, other = (np.where(t, at, 0) for at, t in zip(self.at, there, strict=True))
        if not len(self.keys):
            return [(np.zeros((*t.shape, 5), np.int64), t) for t in there]
        positive = boxes[own]
        size = positive[..., 2:] - positive[..., :2]
        centre = np.where(peaks[other] >= 0, peaks[other], positive[..., :2] + size // 2)
        start = np.clip(centre - size // 2, 0, STEPS - size)
        for side, box, t in zip(self.sides, (positive, np.concatenate([start, start + size], -1)), there, strict=True):
            out.append((np.concatenate([side[..., None], box], -1), t))
        return out


class _Pictures:
    """The run's images at full size, by row."""

    def __init__(self, images: Images, collected: Collected) -> None:
        self._images, self._usable, self.fingerprints = images, collected.usable, collected.fingerprints
        self._lost: set[int] = set()

    def load(self, row: int) -> Image.Image | None:
        try:
            return self._images.load(self._usable[row])
        except ImageError:
            self._lost.add(row)
            return None

    @property
    def lost(self) -> int:
        return len(self._lost)


def _looks(
    target: Target,
    heat: PixelHeat | None,
    pairs: _Pairs,
    pictures: _Pictures,
    batch_size: int,
    workers: int,
    progress: Progress,
) -> dict[str, NDArray[np.int64]]:
    """Boxes (P,4) and peaks (P,2) of all pairs, in parts of the image's sides."""
    boxes = np.tile(np.array(WHOLE, np.int64), (len(pairs.keys), 1))
    peaks = np.full((len(pairs.keys), 2), -1, np.int64)
    covers: dict[tuple[int, int], tuple[float, float, float, float]] = {}
    work = pairs.by_image()
    with ThreadPoolExecutor(workers) as pool:
        loaded = ahead(pool, lambda item: pictures.load(item[0]), work, 2 * batch_size)
        for start in range(0, len(work), batch_size):
            part = [
                (item[1], future.result()) for item, future in (next(loaded) for _ in work[start : start + batch_size])
            ]
            open_ = [(which, picture) for which, picture in part if picture is not None]
            for (which, picture), values in zip(open_, _heats(target, heat, open_, pairs), strict=True):
                if picture.size not in covers:
                    covers[picture.size] = seen(target.preprocess, picture.size)
                for at, one in zip(range(which.start, which.stop), values, strict=True):
                    boxes[at], peaks[at] = _look(picture.size, Heat(one, covers[picture.size]))
            progress("cropping", min(start + batch_size, len(work)), len(work))
    return {"boxes": boxes, "peaks": peaks}


def _heats(
    target: Target, heat: PixelHeat | None, part: Sequence[tuple[slice, Image.Image]], pairs: _Pairs
) -> list[NDArray[np.float32]]:
    """How strongly the neurons wanted of each picture fire over it, (n,H,W) each."""
    if not part:
        return []
    wanted = [pairs.neurons[which].tolist() for which, _ in part]
    if heat is None:
        found = maps(target, [picture for _, picture in part], wanted)
        if found is None:
            raise InputError(
                f"{target.name}: {target.layer} has no map of where its neurons fire (pooling {target.pooling}): use "
                "crop=relevance, or a layer with places or patch tokens"
            )
        return found
    batch = default_collate([target.preprocess(picture) for _, picture in part])
    return [torch.nn.functional.adaptive_avg_pool2d(one[None], GRID)[0].numpy() for one in heat(batch, wanted)]


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


def _embedded(
    encoder: Encoder, pictures: _Pictures, rows: NDArray[np.int64], embeddings: Tensor, store: Store, batch_size: int,
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
    encoder: Encoder, pictures: _Pictures, rows: NDArray[np.int64], wanted: Sequence[int], size: int,
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
