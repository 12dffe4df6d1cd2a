"""Batches: preprocessed images put together, through the networks, and their rows kept until a tile is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from contralens.data.store import sparse
from contralens.models.hooks import pinned
from contralens.models.shared_forward import forward_key, rows_together
from contralens.types import Extractor

SAVE_EVERY = 20.0
"""Seconds after which finished batches are written before their tile is done."""


@dataclass
class Speed:
    """How fast collecting goes, and what holds it up."""

    images: int = 0
    """Images that something was computed of."""
    seconds: float = 0.0
    """Spent on them, all in all."""
    forward_seconds: float = 0.0
    """Of these, inside the networks; the rest is waiting for decoded images, and writing."""
    workers: int = 1
    """Processes whose seconds are added up."""

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds * self.workers if self.seconds else 0.0

    @property
    def forward_share(self) -> float:
        """The share of the time that the networks run; 1 is the speed of the forward alone."""
        return self.forward_seconds / self.seconds if self.seconds else 0.0

    def summary(self) -> dict[str, float]:
        """For JSON: images, seconds, images_per_second, forward_share."""
        return {
            "images": self.images,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.images_per_second, 2),
            "forward_share": round(self.forward_share, 4),
        }


def grouped(
    extractors: Sequence[Extractor],
    lacking: Sequence[frozenset[str]],
    batch_size: int,
    networks: Executor,
    speed: Speed,
) -> list[Batches]:
    """Extractors that share a forward and need the same images, so that batches are those that each has alone."""
    groups: dict[Hashable, list[int]] = {}
    for at, (extractor, lack) in enumerate(zip(extractors, lacking, strict=False)):
        if lack:
            groups.setdefault((forward_key(extractor), lack), []).append(at)
    return [
        Batches([extractors[at] for at in members], members, lacking[members[0]], batch_size, networks, speed)
        for members in groups.values()
    ]


class _Here(Executor):
    """Does what it is given at once, in the thread that gives it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done = Future[Any]()
        done.set_result(fn(*args, **kwargs))
        return done


def runner(extractors: Sequence[Extractor]) -> Executor:
    """What runs the networks: this thread on the CPU, else one that runs while the next batch is put together.

    On the CPU nothing would be gained, since both need its cores, and glibc keeps no block above 64 MB that another
    than the main thread frees: it maps and clears it anew, whatever `keeping_memory` asks for.
    """
    cpu = torch.device("cpu")
    return _Here() if all(getattr(x, "device", cpu) == cpu for x in extractors) else ThreadPoolExecutor(1)


class Batches:
    """Preprocessed images in, the arrays of a tile for each extractor of a group out, a batch at a time.

    `networks` runs them on one batch, while the next is put together at most. The rows of an extractor with `sparse =
    True` (it need not have the attribute) are kept without their zeros.
    """

    def __init__(
        self,
        extractors: list[Extractor],
        members: list[int],
        lacking: frozenset[str],
        size: int,
        networks: Executor,
        speed: Speed,
    ) -> None:
        self.extractors, self.members, self.lacking, self.size, self.speed = extractors, members, lacking, size, speed
        self.networks, self.running = networks, deque[Future[list[Tensor]]]()
        self.sparse = [bool(getattr(x, "sparse", False)) for x in extractors]
        self.ids: list[str] = []
        self.waiting: list[Any] = []
        self.parts: list[list[dict[str, np.ndarray]]] = [[] for _ in extractors]
        self.saved = perf_counter()

    @property
    def due(self) -> bool:
        """Whether whole batches have waited for `SAVE_EVERY` seconds to be written."""
        return bool(self.ids) and not self.waiting and perf_counter() - self.saved > SAVE_EVERY

    def add(self, fingerprint: str, pixels: Any) -> None:
        self.ids.append(fingerprint)
        self.waiting.append(pixels)
        if len(self.waiting) == self.size:
            self._flush()

    def _flush(self) -> None:
        batch = pinned(default_collate(self.waiting), getattr(self.extractors[0], "device", None))
        self.waiting = []
        self._take(1)
        self.running.append(self.networks.submit(self._run, batch))

    @torch.no_grad()
    def _run(self, batch: Any) -> list[Tensor]:
        started = perf_counter()
        rows = rows_together(self.extractors, batch)
        self.speed.forward_seconds += perf_counter() - started
        return rows

    def _take(self, left: int) -> None:
        """Wait for rows until only so many batches are in progress."""
        while len(self.running) > left:
            rows = self.running.popleft().result()
            for parts, is_sparse, one in zip(self.parts, self.sparse, rows, strict=True):
                parts.append(sparse(one.numpy()) if is_sparse else {"rows": one.numpy()})

    def finish(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of each extractor, for `ids`, and an empty start; empty where no image gave a row."""
        if self.waiting:
            self._flush()
        self._take(0)
        every, self.parts, self.ids, self.saved = self.parts, [[] for _ in self.parts], [], perf_counter()
        for extractor, is_sparse, parts in zip(self.extractors, self.sparse, every, strict=True):
            arrays = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
            yield {**arrays, "width": np.array([extractor.width])} if is_sparse and parts else arrays
