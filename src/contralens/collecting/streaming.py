"""Activations (I,N) that are never stored: two passes of the network instead, and memory O(N K).

The first pass (`FirstPass`) takes the place of the target's table while images are collected: of each tile's rows it
keeps what mining asks of all images (means, extremes, firing rates, the K strongest, a histogram) and drops the rest.
It is saved tile by tile, so an interrupted run resumes to the same bits. Later (`RecomputedActivations`) the network
runs again, in the same batches, for the images that mining asks about; what is looked up is saved until mining is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from contralens.collecting.collect import Collected, collect, owned_images
from contralens.collecting.preparing import ahead, threads
from contralens.data.atomic_files import digest
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.store import TILE, Log, Snapshot, Store
from contralens.errors import ImageError, InputError
from contralens.math.activation_sources import ActivationSource, DenseActivations, SparseActivations, pairwise
from contralens.math.grouping import Groups, same_groups
from contralens.math.histograms import RunningHistogram
from contralens.math.statistics import NeuronStatistics, RunningSurvey
from contralens.math.tensors import BLOCK_BYTES, blocks
from contralens.models.shared_forward import rows_together
from contralens.types import Extractor, Images, Progress, silent

VERSION = "1"
SNAPSHOT_SECONDS = 2.0
"""Seconds between two snapshots of the first pass, at least."""
WAITING_BYTES = 16 * 2**20
"""Values of the second pass that wait to be saved, bytes."""


class FirstPass:
    """What mining needs of all images, gathered while they are collected: a table of rows that keeps none.

    Args:
        fingerprints: of all images of the set.
        held: whether each is held out, and so does not count.
        k: strongest images kept of each neuron.
        snapshot: where it is saved.
        groups: of all images of the set; the strongest few of each count, and no copies are looked for.
    """

    whole_tiles = True  # it takes in a tile at once or not at all

    def __init__(
        self, fingerprints: Sequence[str], held: Sequence[bool], k: int, snapshot: Snapshot,
        groups: Groups | None = None,
    ) -> None:  # fmt: skip
        self.k, self.held, self._snapshot, self._written = k, np.asarray(held, bool), snapshot, -SNAPSHOT_SECONDS
        self.groups = groups
        self.owned = owned_images(fingerprints)
        self.place = {fingerprints[i]: i for own in self.owned for i in own}
        self.owner = np.array([self.place[f] for f in fingerprints], np.int64)
        """Of images with equal content the first stands for all."""
        self._copies = np.bincount(self.owner[~self.held], minlength=len(self.owner))
        kept = snapshot.get() or {}
        self.given: NDArray[np.bool_] = kept.pop("given", np.zeros(len(fingerprints), bool))
        """Whether each image (of equal ones, the first) gave a row."""
        self._done: NDArray[np.bool_] = kept.pop("done", np.zeros(len(self.owned), bool))
        parts: dict[str, dict[str, Tensor]] = {"survey": {}, "histogram": {}}
        for name, array in kept.items():
            part, _, field = name.partition(".")
            parts[part][field] = torch.from_numpy(array)
        self.survey = RunningSurvey(k, parts["survey"] or None, groups)
        self.histogram = RunningHistogram(parts["histogram"])

    def __contains__(self, fingerprint: str) -> bool:
        return self.has_row(fingerprint)

    def has_row(self, fingerprint: str) -> bool:
        return bool(self.given[self.place[fingerprint]])

    def append(
        self, fingerprints: Sequence[str], arrays: Mapping[str, NDArray[Any]], skipped: Mapping[str, str] | None = None
    ) -> None:
        """Take in the rows of one tile, in image order. Of a tile that has been taken in nothing is taken any more."""
        if not fingerprints:
            return
        places = np.array([self.place[f] for f in fingerprints])
        tile = int(places[0]) // TILE
        if self._done[tile]:
            return
        source = _source_of(arrays)
        for start, rows in source.blocks(budget=8 * 2**20):
            some = places[start : start + len(rows)]
            counts = ~self.held[some]
            if not counts.any():
                continue
            if not counts.all():
                rows, some = rows[torch.from_numpy(counts)], some[counts]
            copies = torch.from_numpy(self._copies[some])
            self.survey.add(0, rows, images=torch.from_numpy(some), times=copies if bool((copies > 1).any()) else None)
            self.histogram.add(rows if bool((copies == 1).all()) else rows.repeat_interleave(copies, 0))
        self.given[places] = True
        self._done[tile] = True
        if monotonic() - self._written > SNAPSHOT_SECONDS:
            self.save()

    def save(self) -> None:
        arrays = {"given": self.given, "done": self._done}
        for part, state in (("survey", self.survey.state()), ("histogram", self.histogram.state())):
            arrays |= {f"{part}.{name}": value.numpy() for name, value in state.items()}
        self._snapshot.put(arrays)
        self._written = monotonic()

    @property
    def counted(self) -> NDArray[np.int64]:
        """The images (I) that were taken in, copies among them, without those held out."""
        return np.flatnonzero(self.given[self.owner] & ~self.held)

    def statistics(self) -> NeuronStatistics:
        return self.survey.statistics(len(self.counted))

    def top(self) -> tuple[Tensor, Tensor]:
        """The strongest activations (N,k) and their images (N,k) as rows among `counted`; copies have their own."""
        values, images = self.survey.top()
        number = np.full(len(self.owner) + 1, -1, np.int64)  # the last place is for -1, none
        number[self.counted] = np.arange(len(self.counted))
        copied = np.flatnonzero(self._copies > 1)
        out_values, out_images = values.clone(), torch.from_numpy(number)[images]
        for neuron in torch.isin(images, torch.from_numpy(copied)).any(1).nonzero()[:, 0].tolist():
            entries: list[tuple[float, int]] = []
            for value, image in zip(values[neuron].tolist(), images[neuron].tolist(), strict=True):
                if image >= 0:
                    same = np.flatnonzero(self.owner == image) if self._copies[image] > 1 else [image]
                    entries += [(-value, int(number[i])) for i in same]
            entries = sorted(entries)[: self.k]
            out_values[neuron, : len(entries)] = torch.tensor([-v for v, _ in entries], dtype=values.dtype)
            out_images[neuron, : len(entries)] = torch.tensor([i for _, i in entries])
        return out_values, out_images


def _source_of(arrays: Mapping[str, NDArray[Any]]) -> ActivationSource:
    if "rows" in arrays:
        return DenseActivations(arrays["rows"])
    counts = arrays["counts"].astype(np.int64)
    starts = np.concatenate([[0], counts.cumsum()])
    return SparseActivations(starts, arrays["neurons"], arrays["values"], (len(counts), int(arrays["width"][0])))


class _Streamed:
    """An extractor whose rows go to a first pass; in all else the extractor that it wraps."""

    def __init__(self, extractor: Extractor, table: FirstPass) -> None:
        self.wrapped, self.table = extractor, table

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)

    def __call__(self, batch: Any) -> Tensor:
        return self.wrapped(batch)


def collect_streamed(
    images: Images,
    target: Extractor,
    others: Sequence[Extractor],
    store: Store,
    *,
    k: int,
    held: Sequence[bool] | None = None,
    groups: Groups | None = None,
    batch_size: int = 32,
    **how: Any,
) -> tuple[Collected, RecomputedActivations]:
    """As `collect` of [target, *others], without storing the target's rows.

    Args:
        k: strongest images kept of each neuron.
        held: whether each image of the set is held out: it is collected, but not among the activations. Where there
            are groups, all copies of an image but the first must be.
        groups: of all images of the set; the strongest images are then those that `survey` finds with them.
        how: workers, processes, progress: as of `collect`.

    Returns:
        What was collected (of the target nothing can be read there), held-out images included, and the activations.
    """
    fingerprints = known_fingerprints(images, store)
    held = [False] * len(fingerprints) if held is None else held
    identity = [VERSION, target.fingerprint, digest(*fingerprints), digest(*map(str, held)), f"{k} {batch_size}"]
    if groups is not None:
        identity.append(f"{groups.most} {digest(*map(str, groups.numbers.tolist()))}")
    snapshot = store.snapshot("surveys", *identity)
    for again in (False, True):
        first = FirstPass(fingerprints, held, k, snapshot, groups)
        extractors: list[Any] = [_Streamed(target, first), *others]
        collected = collect(images, extractors, store, batch_size=batch_size, **how)
        first.save()
        usable = np.array(collected.usable)
        if np.array_equal(usable[~first.held[usable]], first.counted):
            break
        snapshot.clear()  # an image that a killed run took in cannot be read any more
        if again:
            raise InputError(f"images of {images.name} change while they are read; run the command again")
    if not len(first.counted):
        raise InputError(f"all images of {images.name} are held out")
    walks, threads = store.root / "walks" / digest(*identity), how.get("workers")
    progress = how.get("progress", silent)
    return collected, RecomputedActivations(images, target, first, batch_size, walks, threads, progress)


class RecomputedActivations:
    """Rows computed again whenever they are asked for: an `ActivationSource`, `LoggedActivations` and `Surveyed`.

    Row i is the i-th image of `FirstPass.counted`.
    """

    def __init__(
        self,
        images: Images,
        target: Extractor,
        first: FirstPass,
        batch_size: int,
        walks: Path,
        workers: int | None = None,
        progress: Progress = silent,
    ) -> None:
        self.first, self._images, self._target = first, images, target
        self._workers, self._progress = threads(workers), progress
        counted = first.counted
        self.shape = (len(counted), target.width)
        self._batches: list[list[int]] = []
        """The batches of the first pass: images of each."""
        batch_of = np.full(len(first.owner), -1, np.int64)
        place_of = np.full(len(first.owner), -1, np.int64)
        for own in first.owned:
            given = [i for i in own if first.given[i]]
            for start in range(0, len(given), batch_size):
                batch = given[start : start + batch_size]
                batch_of[batch], place_of[batch] = len(self._batches), np.arange(len(batch))
                self._batches.append(batch)
        owner = first.owner[counted]
        self._batch, self._place, self._own = batch_of[owner], place_of[owner], owner == counted
        self._walks = walks
        self._open: tuple[str, Log] | None = None
        self._found: list[Tensor] = []
        """Values that wait to be saved, of `_images_found` images."""
        self._part: list[Tensor] = []
        """And of those that have not all of theirs yet."""
        self._images_found, self._written = 0, monotonic()

    def surveyed(self, k: int, groups: Groups | None = None) -> tuple[NeuronStatistics, Tensor, Tensor] | None:
        own = self.first.groups and self.first.groups.at(self.first.counted)
        if k > self.first.k or (k and not same_groups(own, groups)):
            return None
        values, images = self.first.top()
        return self.first.statistics(), values[:, :k], images[:, :k]

    def histograms(self) -> Tensor:
        """As `contralens.math.histograms.histograms` between each neuron's extremes, (N,32)."""
        return self.first.histogram.counts()

    def visit(self, images: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Which of `images`, rising, and their rows; batches are computed once, those of copies again."""
        steps = list(self._steps(images.numpy()))
        todo = np.array([i for _, needed in steps for batch in needed for i in self._batches[batch]], np.int64)
        total, done = len(todo), 0
        with ThreadPoolExecutor(self._workers) as pool:
            loaded = ahead(pool, lambda i: self._target.preprocess(self._images.load(int(i))), todo, 64)
            for some, needed in steps:
                made: dict[int, Tensor] = {}
                for batch in needed:
                    pixels = [self._ready(next(loaded)) for _ in self._batches[batch]]
                    made[batch] = rows_together([self._target], default_collate(pixels))[0]
                    done += len(pixels)
                    self._progress("computing activations again", done, total)
                at = torch.from_numpy(some)
                if len(needed) == 1:
                    yield at, made[needed[0]][torch.from_numpy(self._place[some])]
                else:
                    yield (
                        at,
                        torch.stack([made[b][p] for b, p in zip(self._batch[some], self._place[some], strict=True)]),
                    )

    def logged(self, key: str) -> Iterator[tuple[int, list[Tensor]]]:
        """What a run before this one, killed perhaps, has found along the lists named by `key`."""
        log = Log(self._walks / key)
        self._open, self._found, self._part, self._images_found = (key, log), [], [], 0
        values: list[Tensor] = []
        complete = 0
        for arrays in log:
            values.append(torch.from_numpy(arrays["values"]))
            if images := int(arrays["images"][0]):
                complete = log.count
                yield images, values
                values = []
        log.count = complete

    def log(self, key: str, images: int, values: Tensor) -> None:
        """Values found, and how many images are done with them; saved every few seconds, or if they are many."""
        assert self._open is not None
        assert self._open[0] == key
        self._part.append(values)
        if images:
            self._found, self._part = self._found + self._part, []
            self._images_found += images
        many = sum(part.nbytes for part in (*self._found, *self._part)) > WAITING_BYTES
        if many or (images and monotonic() - self._written > SNAPSHOT_SECONDS):
            for done, values_of in ((self._images_found, self._found), (0, self._part)):
                if values_of:
                    self._open[1].append({"images": np.array([done]), "values": torch.cat(values_of).numpy()})
            self._found, self._part, self._images_found, self._written = [], [], 0, monotonic()

    def forget(self) -> None:
        """Delete what was saved, once what it was for is done."""
        shutil.rmtree(self._walks, ignore_errors=True)

    def _ready(self, item: tuple[Any, Any]) -> Any:
        image, future = item
        try:
            return future.result()
        except ImageError as e:
            name = self._images.ids[int(image)]
            raise ImageError(f"image {name} was read before and now cannot be read: {e}") from e

    def _steps(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
        """Rows that are computed together, and the batches that this takes; whole batches, and no more than a block."""
        batch = self._batch[rows]
        turn = np.maximum.accumulate(np.where(self._own[rows], batch, -1))  # a copy goes with what is around it
        most, start = max(1, min(TILE, BLOCK_BYTES // (4 * self.shape[1]))), 0
        ends = np.append(np.flatnonzero(np.diff(turn)) + 1, len(rows))
        for end, following in zip(ends, [*ends[1:], np.inf], strict=False):
            if end > start and following - start > most:
                yield rows[start:end], np.unique(batch[start:end]).tolist()
                start = end

    def blocks(self, neurons: Tensor | None = None, budget: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
        """(first image, rows (b,N)) in image order; only the columns `neurons` if given."""
        for some, rows in self.visit(torch.arange(self.shape[0])):
            part = rows if neurons is None else rows.index_select(1, neurons.cpu())
            for block in blocks(len(part), part.shape[1] * part.element_size(), budget):
                yield int(some[0]) + block.start, part[block]

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """The activations of given pairs, (L),(L) -> (L); each batch that holds one of them is computed once."""
        return pairwise(self, images, neurons)
