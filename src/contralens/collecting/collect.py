"""Collecting: each image is decoded once, and every extractor that has no row of it yet gets it.

The unit of work is a tile, `store.TILE` consecutive images of the set. Its rows are computed in batches whose borders
depend on nothing but the tile, and written after a batch: when the tile is done, and every `SAVE_EVERY` seconds
(`batches`). So an interrupted run loses little, however slow the network, and a resumed one gives the same bits.
Threads or processes decode (`preparing`), one thread puts the next batch together. It also runs networks on the CPU;
others run in a second one. Extractors on one network (layers, sparse autoencoders over them) share its forward, which
changes no bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from contralens.collecting.activations import stored_activations
from contralens.collecting.batches import Batches, Speed, grouped, runner
from contralens.collecting.preparing import THUMBNAIL, Preparing, Wanted, ahead, preparers
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.store import TILE, Store, Table, pack
from contralens.errors import ImageError, InputError
from contralens.math.activation_sources import ActivationSource
from contralens.math.tensors import keeping_memory
from contralens.types import Extractor, Images, Progress, silent


@dataclass(frozen=True)
class Collected:
    """What collecting left in the store: the images that count, and where their rows lie."""

    usable: Sequence[int]
    """Indices into the image set of those that every extractor has a row for, in order."""
    skipped: list[dict[str, str]]
    """The others: id and reason."""
    fingerprints: list[str]
    """Of the usable images."""
    tables: list[Table]
    """One per extractor, in the order given."""
    thumbnails: Table
    speed: Speed | None = None
    """How fast what was missing has been computed."""

    def rows(self, extractor: int) -> np.ndarray:
        """Rows (I,width) of the usable images from the extractor at this place in the list."""
        return self.tables[extractor].rows(self.fingerprints)

    def mapped(self, extractor: int) -> np.ndarray:
        """The same rows, in a file rather than in memory if they are many."""
        return self.tables[extractor].mapped(self.fingerprints)

    def activations(self, extractor: int) -> ActivationSource:
        """The same rows as mining reads them; those that are kept without their zeros stay so."""
        return stored_activations(self.tables[extractor], self.fingerprints)


def collect(
    images: Images,
    extractors: Sequence[Extractor],
    store: Store,
    *,
    batch_size: int = 32,
    workers: int | None = None,
    processes: int = 0,
    progress: Progress = silent,
) -> Collected:
    """Rows of every image from every extractor: read from the store where there, else computed and stored.

    `workers` threads decode and preprocess while the networks run (default: one per core, at most 16), or so many
    `processes`, where one process cannot feed the networks.
    """
    speed = Speed()
    how: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "processes": processes, "progress": progress}
    skipped = collect_tiles(images, extractors, store, speed=speed, **how)
    return replace(read_collected(images, extractors, store, skipped), speed=speed)


def collect_tiles(
    images: Images, extractors: Sequence[Extractor], store: Store, tiles: Sequence[int] | None = None, *,
    batch_size: int = 32, workers: int | None = None, processes: int = 0, progress: Progress = silent,
    speed: Speed | None = None,
) -> dict[str, str]:  # fmt: skip
    """Fill the store with the missing rows of these tiles (all by default); any number of processes may share the work.

    `speed` is filled while it runs. A `progress` with a method `note(stage, text)` receives the share of the
    forward.

    Returns:
        The reason why, by fingerprint, for the images that gave no row. Such images are not remembered but tried again
        each time, since the reason may be in the machine.
    """
    tables = _tables(extractors, store)
    fingerprints = known_fingerprints(images, store, tiles[0] * TILE if tiles else 0)
    owned = owned_images(fingerprints)
    chosen = range(len(owned)) if tiles is None else tiles
    total, before = sum(len(owned[t]) for t in chosen), 0
    skipped: dict[str, str] = {}
    speed = speed if speed is not None else Speed()
    note = getattr(progress, "note", None)
    prepare = Preparing(images, [extractor.preprocess for extractor in extractors])
    with (
        keeping_memory(),
        preparers(prepare, workers, processes, 2 * batch_size) as pool,
        runner(extractors) as networks,
    ):
        for tile in chosen:
            work = _collect_tile(
                prepare, fingerprints, owned[tile], extractors, tables, batch_size, pool, networks, skipped, speed
            )
            for done in work:
                progress("collecting", before + done, total)
                if note is not None and speed.images:
                    note("collecting", f"networks busy {speed.forward_share:.0%} of the time")
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
    fingerprints = known_fingerprints(images, store)
    owned = owned_images(fingerprints)
    return [t for t, own in enumerate(owned) if any(fingerprints[i] not in table for i in own for table in tables)]


def _tables(extractors: Sequence[Extractor], store: Store) -> list[Table]:
    """One table per extractor, its own (`streaming`) or one of the store, then that of the thumbnails."""
    own = [getattr(x, "table", None) or store.table("rows", x.fingerprint) for x in extractors]
    return [*own, store.table("thumbnails", f"{THUMBNAIL} px, 2")]


def read_collected(
    images: Images, extractors: Sequence[Extractor], store: Store, reasons: Mapping[str, str] | None = None
) -> Collected:
    """What the store holds of these images; those without a row are skipped, with `reasons` by fingerprint."""
    *tables, thumbnails = _tables(extractors, store)
    fingerprints = known_fingerprints(images, store)
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
    prepare: Preparing,
    fingerprints: Sequence[str],
    owned: Sequence[int],
    extractors: Sequence[Extractor],
    tables: Sequence[Table],
    batch_size: int,
    pool: Any,
    networks: Executor,
    skipped: dict[str, str],
    speed: Speed,
) -> Iterator[int]:
    """Fill what the tables (one per extractor, then the thumbnails) lack of the images that a tile owns.

    Yields how many images are done, about once a batch; images that give no row go to `skipped` with the reason.
    """
    lacking = [frozenset(fingerprints[i] for i in owned if fingerprints[i] not in table) for table in tables]
    needed = [i for i in owned if any(fingerprints[i] in lack for lack in lacking)]
    groups = grouped(extractors, lacking, batch_size, networks, speed)
    in_parts = [one for one in groups if not any(getattr(tables[at], "whole_tiles", False) for at in one.members)]
    pictures: dict[str, bytes] = {}

    def save(some: Sequence[Batches]) -> None:
        for group in some:
            ids = group.ids
            for at, arrays in zip(group.members, group.finish(), strict=True):
                tables[at].append(ids, arrays)
        tables[-1].append(list(pictures), pack(list(pictures.values())))
        pictures.clear()

    def wanted(i: int) -> Wanted:
        by = tuple(group.members[0] for group in groups if fingerprints[i] in group.lacking)
        return Wanted(i, by, fingerprints[i] in lacking[-1])

    started = perf_counter()
    for done, ((i, by, _), prepared) in enumerate(ahead(pool, prepare, [wanted(i) for i in needed], 2 * batch_size)):
        if done % batch_size == 0:
            yield len(owned) - len(needed) + done
        try:
            inputs, picture = prepared.result()
        except ImageError as e:
            skipped[fingerprints[i]] = str(e).removeprefix(f"{prepare.images.ids[i]}: ")
            continue
        prepared_by = dict(zip(by, inputs, strict=True))
        for group in groups:
            if group.members[0] in prepared_by:
                group.add(fingerprints[i], prepared_by[group.members[0]])
        if picture is not None:
            pictures[fingerprints[i]] = picture
        if due := [group for group in in_parts if group.due]:
            save(due)
        speed.images += 1
        speed.seconds += perf_counter() - started
        started = perf_counter()
    save(groups)
    speed.seconds += perf_counter() - started
