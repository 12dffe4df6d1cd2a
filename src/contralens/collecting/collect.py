"""Collecting: each image is decoded once, and every extractor that lacks its row gets it.

The unit of work is a tile, `store.TILE` consecutive images of the set. A tile's rows are written when all of them are
computed, in batches whose borders depend on nothing but the tile, so a killed run that goes on gives the same bits.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import Any

import numpy as np
import torch
from torch.utils.data import default_collate

from contralens.checks import ImageError, InputError
from contralens.collecting.activations import TiledActivations
from contralens.data.store import TILE, Store, Table, pack, sparse
from contralens.math.sources import ActivationSource, SparseActivations
from contralens.types import Extractor, Images, Progress, silent

THUMBNAIL = 128
"""Longest side of a thumbnail, px."""


@dataclass(frozen=True)
class Collected:
    """What collecting left in the store: the images that count, and where their rows lie."""

    usable: list[int]
    """Indices into the image set of those that every extractor has a row for, in order."""
    skipped: list[dict[str, str]]
    """The others: id and reason."""
    fingerprints: list[str]
    """Of the usable images."""
    tables: list[Table]
    """One per extractor, in the order given."""
    thumbnails: Table

    def rows(self, extractor: int) -> np.ndarray:
        """Rows (I,width) of the usable images from the extractor at this place in the list."""
        return self.tables[extractor].rows(self.fingerprints)

    def activations(self, extractor: int) -> ActivationSource:
        """The same rows as mining reads them; those that are kept without their zeros stay so."""
        table = self.tables[extractor]
        if not table.sparse:
            width = table.rows(self.fingerprints[:1]).shape[1]
            return TiledActivations(
                (len(self.fingerprints), width),
                TILE,
                lambda start, stop: torch.from_numpy(table.rows(self.fingerprints[start:stop])),
            )
        starts, neurons, values, width = table.sparse_rows(self.fingerprints)
        return SparseActivations(starts, neurons, values, (len(self.fingerprints), width))


def collect(
    images: Images,
    extractors: Sequence[Extractor],
    store: Store,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Progress = silent,
) -> Collected:
    """Rows of every image from every extractor: read from the store where there, else computed and stored.

    `workers` threads decode and preprocess while the networks run (default: one per core, at most 16).
    """
    skipped = collect_tiles(images, extractors, store, batch_size=batch_size, workers=workers, progress=progress)
    return read_collected(images, extractors, store, skipped)


def collect_tiles(
    images: Images,
    extractors: Sequence[Extractor],
    store: Store,
    tiles: Sequence[int] | None = None,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    progress: Progress = silent,
) -> dict[str, str]:
    """Fill the store with what it lacks of these tiles (all by default); any number of processes may share the work.

    Returns:
        The reason why, by fingerprint, for the images that gave no row. Such images are not remembered but tried again
        each time, since the reason may lie in the machine.
    """
    tables = _tables(extractors, store)
    fingerprints = list(images.fingerprints())
    owned = owned_images(fingerprints)
    chosen = range(len(owned)) if tiles is None else tiles
    total, before = sum(len(owned[t]) for t in chosen), 0
    skipped: dict[str, str] = {}
    with ThreadPoolExecutor(workers or min(16, cpu_count() or 1)) as pool:
        for tile in chosen:
            for done in _collect_tile(images, fingerprints, owned[tile], extractors, tables, batch_size, pool, skipped):
                progress("collecting", before + done, total)
            before += len(owned[tile])
            progress("collecting", before, total)
    return skipped


def owned_images(fingerprints: Sequence[str]) -> list[list[int]]:
    """The image indices of each tile. Of images with equal content the first stands for all, in its own tile."""
    first: dict[str, int] = {}
    owned: list[list[int]] = [[] for _ in range(0, len(fingerprints), TILE)]
    for i, fingerprint in enumerate(fingerprints):
        if first.setdefault(fingerprint, i) == i:
            owned[i // TILE].append(i)
    return owned


def lacking_tiles(images: Images, extractors: Sequence[Extractor], store: Store) -> list[int]:
    """Tiles that are not wholly in the store."""
    tables = _tables(extractors, store)
    fingerprints = images.fingerprints()
    owned = owned_images(fingerprints)
    return [t for t, own in enumerate(owned) if any(fingerprints[i] not in table for i in own for table in tables)]


def _tables(extractors: Sequence[Extractor], store: Store) -> list[Table]:
    """One table per extractor, then that of the thumbnails."""
    return [*(store.table("rows", x.fingerprint) for x in extractors), store.table("thumbnails", str(THUMBNAIL))]


def read_collected(
    images: Images, extractors: Sequence[Extractor], store: Store, reasons: Mapping[str, str] | None = None
) -> Collected:
    """What the store holds of these images; those that lack a row are skipped, `reasons` tells why by fingerprint."""
    *tables, thumbnails = _tables(extractors, store)
    fingerprints = images.fingerprints()
    usable, skipped = [], []
    for i, fingerprint in enumerate(fingerprints):
        if all(fingerprint in table for table in (thumbnails, *tables)):
            usable.append(i)
        else:
            skipped.append({"id": images.ids[i], "reason": (reasons or {}).get(fingerprint, "not collected")})
    if not usable:
        raise InputError(
            f"none of the {len(images)} images of {images.name} can be used; "
            f"the first: {skipped[0]['id']}: {skipped[0]['reason']}"
        )
    return Collected(usable, skipped, [fingerprints[i] for i in usable], tables, thumbnails)


def _collect_tile(
    images: Images,
    fingerprints: Sequence[str],
    owned: Sequence[int],
    extractors: Sequence[Extractor],
    tables: Sequence[Table],
    batch_size: int,
    pool: ThreadPoolExecutor,
    skipped: dict[str, str],
) -> Iterator[int]:
    """Fill what the tables (one per extractor, then the thumbnails) lack of the images that a tile owns.

    Yields how many images are done, about once a batch; images that give no row go to `skipped` with the reason.
    """
    lacking = [{fingerprints[i] for i in owned if fingerprints[i] not in table} for table in tables]
    needed = [i for i in owned if any(fingerprints[i] in lack for lack in lacking)]
    batches = [_Batches(extractor, batch_size) for extractor in extractors]
    pictures: dict[str, bytes] = {}

    def prepare(i: int) -> tuple[list[Any], bytes | None]:
        image = images.load(i)
        wanted = [fingerprints[i] in lack for lack in lacking]
        try:
            pixels = [x.preprocess(image) if w else None for x, w in zip(extractors, wanted[:-1], strict=True)]
        except (ValueError, RuntimeError, ArithmeticError) as e:
            raise ImageError(f"preprocessing failed: {str(e).splitlines()[0] if str(e) else type(e).__name__}") from e
        return pixels, _thumbnail(image) if wanted[-1] else None

    for done, (i, prepared) in enumerate(_ahead(pool, prepare, needed, 2 * batch_size)):
        if done % batch_size == 0:
            yield len(owned) - len(needed) + done
        try:
            pixels, picture = prepared.result()
        except ImageError as e:
            skipped[fingerprints[i]] = str(e).removeprefix(f"{images.ids[i]}: ")
            continue
        for batch, one in zip(batches, pixels, strict=True):
            if one is not None:
                batch.add(fingerprints[i], one)
        if picture is not None:
            pictures[fingerprints[i]] = picture
    for batch, table in zip(batches, tables[:-1], strict=True):
        table.append(*batch.finish())
    tables[-1].append(list(pictures), pack(list(pictures.values())))


class _Batches:
    """Preprocessed images in, the arrays of a tile out, a batch at a time.

    The rows of an extractor with `sparse = True` (it need not have the attribute) are kept without their zeros.
    """

    def __init__(self, extractor: Extractor, size: int) -> None:
        self.extractor, self.size = extractor, size
        self.sparse = bool(getattr(extractor, "sparse", False))
        self.ids: list[str] = []
        self.waiting: list[Any] = []
        self.parts: list[dict[str, np.ndarray]] = []

    def add(self, fingerprint: str, pixels: Any) -> None:
        self.ids.append(fingerprint)
        self.waiting.append(pixels)
        if len(self.waiting) == self.size:
            self._flush()

    def _flush(self) -> None:
        rows = self.extractor(default_collate(self.waiting)).numpy()
        self.parts.append(sparse(rows) if self.sparse else {"rows": rows})
        self.waiting = []

    def finish(self) -> tuple[list[str], dict[str, np.ndarray]]:
        if self.waiting:
            self._flush()
        if not self.parts:
            return self.ids, {}
        arrays = {name: np.concatenate([part[name] for part in self.parts]) for name in self.parts[0]}
        return self.ids, {**arrays, "width": np.array([self.extractor.width])} if self.sparse else arrays


def _ahead(pool: ThreadPoolExecutor, work: Any, items: Sequence[int], most: int) -> Iterator[tuple[int, Future[Any]]]:
    """Futures of work(item) in order, with at most `most` under way, so that memory stays bounded."""
    futures = [pool.submit(work, item) for item in items[:most]]
    for at, item in enumerate(items):
        future, futures[at % most] = futures[at % most], _done
        if at + most < len(items):
            futures[at % most] = pool.submit(work, items[at + most])
        yield item, future


_done: Future[Any] = Future()


def _thumbnail(image: Any) -> bytes:
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
