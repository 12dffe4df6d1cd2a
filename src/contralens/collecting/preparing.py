"""Decoding and preprocessing images while the networks run: in threads, or in processes that share no lock of Python's.

One process decodes some hundred images a second, however many threads it has, since Python runs one of them at a time.
Where many cores feed a GPU, processes decode instead. They are forked, so that a preprocessing of anybody's own needs
no pickle, and they give the same bits. One that is killed is replaced; what it had under way is done again.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from os import cpu_count
from shutil import disk_usage
from typing import Any, NamedTuple

import torch
import torch.multiprocessing  # makes tensors cross between processes in shared memory

from contralens.checks import first_line
from contralens.errors import ImageError, InputError, MissingPackage, ModelUnavailable, StoreError
from contralens.loading.fast_preprocessing import Steps
from contralens.loading.fast_preprocessing import pixels as pixels_of
from contralens.types import Images

THUMBNAIL = 128
"""Longest side of a thumbnail, px."""
ROOM = 2**30
"""Bytes that must be free in shared memory for tensors to cross there; else (Docker gives 64 MB) they are copied."""
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


def preparers(prepare: Preparing, workers: int | None, processes: int) -> AbstractContextManager[Any]:
    """What `ahead` hands its work to: so many processes or, of none, `workers` threads (None: one a core, up to 16)."""
    return Processes(prepare, processes) if processes else ThreadPoolExecutor(workers or min(16, cpu_count() or 1))


def ahead(pool: Any, work: Any, items: Any, most: int) -> Iterator[tuple[Any, Future[Any]]]:
    """Futures of work(item) in order, with at most `most` under way, so that memory stays bounded."""
    futures = [pool.submit(work, item) for item in items[:most]]
    for at, item in enumerate(items):
        future, futures[at % most] = futures[at % most], _done
        if at + most < len(items):
            futures[at % most] = pool.submit(work, items[at + most])
        yield item, future


_done: Future[Any] = Future()


class Processes:
    """A pool of processes that do one piece of work, `prepare`; as a `with` block.

    Raises:
        InputError: the system cannot fork (Windows).
    """

    def __init__(self, prepare: Preparing, count: int) -> None:
        if sys.platform == "win32":
            raise InputError("processes that decode need a system that can fork; leave --processes out")
        self._prepare, self._count, self._copied = prepare, count, _little_room()
        self._pool = self._start(count)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Any, item: Wanted) -> _Task:
        """A future of prepare(item)."""
        assert work is self._prepare, "these processes were started for another work"
        try:
            return _Task(self, item, self._pool.submit(_prepared, item))
        except BrokenExecutor:
            self._pool = self._start(self._count)
            return _Task(self, item, self._pool.submit(_prepared, item))

    def alone(self, item: Wanted) -> Any:
        """Do it once more, in a process of its own: in a pool that breaks, all that is under way is lost.

        Raises:
            ImageError: that process ends, too.
        """
        pool = self._start(1)
        try:
            return _received(pool.submit(_prepared, item).result())
        except BrokenExecutor as e:
            raise ImageError("decoding it ended the process that did so, twice") from e
        finally:
            pool.shutdown()

    def _start(self, count: int) -> ProcessPoolExecutor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: these hold no lock of ours
            how = (self._prepare, os.getpid(), self._copied)
            pool = ProcessPoolExecutor(count, get_context("fork"), initializer=_begin, initargs=how)
            pool.submit(int).result()  # all are forked now, in this thread
        return pool


@dataclass(frozen=True)
class _Task:
    """Of a `Future`, what `ahead` and those who read it need."""

    pool: Processes
    item: Wanted
    future: Future[Any]

    def result(self) -> Any:
        """What was prepared; if the process was killed meanwhile, that of another."""
        try:
            return _received(self.future.result())
        except BrokenExecutor:
            return self.pool.alone(self.item)


def _little_room() -> bool:
    with suppress(OSError):
        return disk_usage("/dev/shm").free < ROOM
    return sys.platform == "linux"


# What runs in the processes.

_work: list[Any] = []


def _begin(prepare: Preparing, parent: int, copied: bool) -> None:
    _work[:] = [prepare, copied]
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(WATCHED_SECONDS)
    os._exit(1)


def _prepared(item: Wanted) -> tuple[list[Any], bytes | None]:
    prepare, copied = _work
    inputs, thumbnail = prepare(item)
    if copied:
        inputs = [_Copied(x.numpy()) if _plain(x) else x for x in inputs]
    return inputs, thumbnail


@dataclass(frozen=True)
class _Copied:
    """The values of a tensor, to be sent and not shared."""

    values: Any


def _plain(x: Any) -> bool:
    return type(x) is torch.Tensor and x.device.type == "cpu" and x.dtype != torch.bfloat16


def _received(prepared: tuple[list[Any], bytes | None]) -> tuple[list[Any], bytes | None]:
    inputs, thumbnail = prepared
    return [torch.from_numpy(x.values) if isinstance(x, _Copied) else x for x in inputs], thumbnail
