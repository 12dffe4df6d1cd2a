"""Decoding and preprocessing images while the networks run: in threads, or in processes that share no lock of Python's.

One process decodes some hundred images a second, however many threads it has, since Python runs one of them at a time.
Where many cores feed a GPU, processes decode instead. They are forked, so that a preprocessing of anybody's own needs
no pickle, and they give the same bits. Inputs come back through memory that both see, which is allocated once. A
process that is killed is replaced; what it had in progress is done again.
"""

from __future__ import annotations

import gc
import io
import itertools
import mmap
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import get_context
from os import cpu_count
from typing import Any, NamedTuple

import torch
from torch import Tensor

from contralens.checks import first_line
from contralens.errors import ImageError, InputError, MissingPackage, ModelUnavailable, StoreError
from contralens.loading.fast_preprocessing import Steps
from contralens.loading.fast_preprocessing import pixels as pixels_of
from contralens.types import Images

THUMBNAIL = 128
"""Longest side of a thumbnail, px."""
WATCHED_SECONDS = 1.0
"""How often a process looks whether the one that started it still lives."""


class Wanted(NamedTuple):
    """An image, and what is to be made of it."""

    image: int
    """Index into the image set."""
    by: tuple[int, ...]
    """Which of the preprocessings."""
    thumbnail: bool


@dataclass(frozen=True)
class Preparing:
    """What turns an image into the inputs of networks and a thumbnail.

    >>> import contralens
    >>> prepare = Preparing(contralens.images("world-1/images"), (lambda image: image.size, lambda image: image.mode))
    >>> inputs, thumbnail = prepare(Wanted(3, by=(1,), thumbnail=True))
    >>> inputs, thumbnail[:3]
    (['RGB'], b'\\xff\\xd8\\xff')
    """

    images: Images
    preprocessings: Sequence[Callable[[Any], Any]]

    def __call__(self, wanted: Wanted) -> tuple[list[Any], bytes | None]:
        """The inputs, one for each preprocessing that is wanted, and the thumbnail as JPEG.

        Raises:
            ImageError: the image cannot be decoded or preprocessed.
        """
        image = self.images.load(wanted.image)
        chosen = [self.preprocessings[at] for at in wanted.by]
        try:
            shared: Any = pixels_of(image) if any(isinstance(p, Steps) for p in chosen) else None
            inputs = [preprocess(shared if isinstance(preprocess, Steps) else image) for preprocess in chosen]
        except (Exception, SystemExit) as e:
            if isinstance(e, (MemoryError, MissingPackage, ModelUnavailable, StoreError)):  # not this image's fault
                raise
            raise ImageError(f"preprocessing failed: {first_line(e)}") from e
        return inputs, _thumbnail(image) if wanted.thumbnail else None


def _thumbnail(image: Any) -> bytes:
    scale = min(1.0, THUMBNAIL / max(image.size))
    size = [max(1, round(side * scale)) for side in image.size]
    small = image.resize(size, reducing_gap=1.0)  # a gap of 2, as `Image.thumbnail` has it, takes three times as long
    out = io.BytesIO()
    note = image.info.get("note")
    small.save(out, "JPEG", quality=85, **({"comment": note.encode()} if note else {}))  # told by `picture_notes`
    return out.getvalue()


def threads(workers: int | None) -> int:
    """Threads that decode: as many as were asked for, else one a core, up to 16.

    >>> threads(3), 1 <= threads(None) <= 16
    (3, True)
    """
    return workers or min(16, cpu_count() or 1)


def preparers(prepare: Preparing, workers: int | None, processes: int, most: int) -> AbstractContextManager[Any]:
    """What `ahead` hands its work to: so many processes or, of none, `workers` threads (None: one a core, up to 16).

    `most` is how much is in progress at once.
    """
    return Processes(prepare, processes, most) if processes else ThreadPoolExecutor(threads(workers))


def ahead(pool: Any, work: Any, items: Any, most: int) -> Iterator[tuple[Any, Future[Any]]]:
    """Futures of work(item) in order, with at most `most` in progress, so that memory stays bounded."""
    futures = [pool.submit(work, item) for item in items[:most]]
    for at, item in enumerate(items):
        future, futures[at % most] = futures[at % most], _done
        if at + most < len(items):
            futures[at % most] = pool.submit(work, items[at + most])
        yield item, future


_done: Future[Any] = Future()


class Processes:
    """A pool of processes that do one piece of work, `prepare`; as a `with` block.

    Inputs that are tensors of the shape of the first come back in one of `2 * most` places of shared memory, which are
    read (and copied) when a result is asked for; others come back as pickles.

    Raises:
        InputError: the system cannot fork (Windows).
    """

    def __init__(self, prepare: Preparing, count: int, most: int) -> None:
        if sys.platform == "win32":
            raise InputError("--processes needs a system with fork; omit it")
        self._prepare, self._count, self._places = prepare, count, 2 * most
        self._turn = itertools.count()
        self._shared: dict[int, Tensor] = {}
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Any, item: Wanted) -> Any:
        """A future of prepare(item)."""
        assert work is self._prepare, "these processes were started for another task"
        if self._pool is None:
            return self._first(item)
        place = next(self._turn) % self._places
        try:
            return _Task(self, item, place, self._pool.submit(_prepared, item, place))
        except BrokenExecutor:
            self._pool = self._start(self._count, self._shared)
            return _Task(self, item, place, self._pool.submit(_prepared, item, place))

    def _first(self, item: Wanted) -> Future[Any]:
        """Prepare one image, see what its inputs are, make room for more of the kind and start the processes."""
        done: Future[Any] = Future()
        try:
            inputs, thumbnail = self.alone(item)
        except Exception as e:  # that image's fault, or told to whoever asks for it
            done.set_exception(e)
            return done
        self._shared = {by: _room(self._places, one) for by, one in zip(item.by, inputs, strict=True) if _plain(one)}
        self._pool = self._start(self._count, self._shared)
        done.set_result((inputs, thumbnail))
        return done

    def alone(self, item: Wanted) -> Any:
        """Do it in a process of its own: in a pool that breaks, all that is in progress is lost.

        Raises:
            ImageError: that process ends, too.
        """
        pool = self._start(1, {})
        try:
            return self.received(item, 0, pool.submit(_prepared, item, 0).result())
        except BrokenExecutor as e:
            raise ImageError("decoding it crashed the decoding process") from e
        finally:
            pool.shutdown()

    def received(self, item: Wanted, place: int, prepared: tuple[list[bytes | None], bytes | None]) -> Any:
        """The inputs, out of shared memory or a pickle that a process of ours made."""
        inputs = [
            self._shared[by][place].clone() if one is None else pickle.loads(one)
            for by, one in zip(item.by, prepared[0], strict=True)
        ]
        return inputs, prepared[1]

    def _start(self, count: int, shared: Mapping[int, Tensor]) -> ProcessPoolExecutor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: these hold no lock of ours
            how = (self._prepare, os.getpid(), shared)
            pool = ProcessPoolExecutor(count, get_context("fork"), initializer=_begin, initargs=how)
            pool.submit(int).result()  # all are forked now, in this thread
        return pool


@dataclass(frozen=True)
class _Task:
    """Of a `Future`, what `ahead` and those who read it need."""

    pool: Processes
    item: Wanted
    place: int
    future: Future[Any]

    def result(self) -> Any:
        """What was prepared; if the process was killed meanwhile, that of another."""
        try:
            return self.pool.received(self.item, self.place, self.future.result())
        except BrokenExecutor:
            return self.pool.alone(self.item)


def _plain(x: Any) -> bool:
    """Whether it is a tensor as `default_collate` stacks them, torchvision's images included."""
    return isinstance(x, Tensor) and x.device.type == "cpu" and x.layout == torch.strided and x.numel() > 0


def _room(places: int, like: Tensor) -> Tensor:
    """(places, *shape) in memory that forked processes share; unlike /dev/shm it has no small limit in a container."""
    memory = mmap.mmap(-1, places * like.numel() * like.element_size())
    return torch.frombuffer(memory, dtype=like.dtype).view(places, *like.shape)


# What runs in the processes.

_work: list[Any] = []


def _begin(prepare: Preparing, parent: int, shared: Mapping[int, Tensor]) -> None:
    _work[:] = [prepare, shared]
    gc.freeze()  # to look through what was inherited would copy each page of it
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCHED_SECONDS)
    os._exit(1)


def _prepared(item: Wanted, place: int) -> tuple[list[bytes | None], bytes | None]:
    prepare, shared = _work
    inputs, thumbnail = prepare(item)
    sent: list[bytes | None] = []
    for by, one in zip(item.by, inputs, strict=True):
        room = shared.get(by)
        if room is not None and _plain(one) and one.dtype == room.dtype and one.shape == room.shape[1:]:
            room[place].copy_(one)
            sent.append(None)
        else:
            sent.append(pickle.dumps(one, pickle.HIGHEST_PROTOCOL))
    return sent, thumbnail
