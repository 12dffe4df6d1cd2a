"""What all the maths shares: arrays in, checked tensors out, and one weighted sum."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from contralens.errors import InputError

BLOCK_BYTES = 32 * 2**20
"""Scratch memory that one step of blocked work may take."""
SPARE = 2 * BLOCK_BYTES
"""Free memory that a step of blocked work may leave to the next one."""


def matrix(value: Any, name: str) -> Tensor:
    """A torch tensor or numpy array as a 2-D float32 or float64 tensor (half precision is widened).

    Raises:
        InputError: it has another number of dimensions.

    >>> matrix([[1, 2]], "embeddings")
    tensor([[1., 2.]])
    """
    out = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if out.ndim != 2:
        raise InputError(f"`{name}` must be a matrix; got shape {tuple(out.shape)}")
    if out.dtype not in (torch.float32, torch.float64):
        out = out.float()
    return out.detach()


def blocks(total: int, bytes_each: int, budget: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices that cover range(total), each of at most `budget` bytes when one item takes `bytes_each`.

    >>> list(blocks(5, bytes_each=4, budget=8))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, budget // max(1, bytes_each))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def spread(work: Callable[[slice], None], parts: Sequence[slice], device: torch.device | None) -> None:
    """Calls `work` for each part, on the CPU with as many at a time as torch has threads, each on one thread; if
    `device` is None, one after the other.

    Faster than one part after the other on all threads, since no thread waits for another after every small step;
    several times so on a machine that is busy with other things.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) <= 1 or device is None or device.type != "cpu":
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for _ in pool.map(work, parts):
                pass
        finally:
            torch.set_num_threads(threads)  # new threads inherit the number set last


def eigen(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D), rising, and eigenvectors (D,D), on one thread.

    Its many small steps wait for all threads each: on a busy machine that made 50 ms of 512 rows ten seconds.

    >>> eigen(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))[0]
    tensor([1., 2.])
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values, vectors = torch.linalg.eigh(symmetric)
    finally:
        torch.set_num_threads(threads)
    return values, vectors


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TRIM, _OPTION = (getattr(_LIBC, name, None) for name in ("malloc_trim", "mallopt"))
_KEEP = {-3: 2**30, -1: 2**30, -2: 2**26}
"""Options M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD of mallopt, in bytes."""
_USUAL = {-3: 2**25, -1: 2**26, -2: 2**17}
"""Where glibc moves its thresholds by itself once large blocks have been freed."""
_USERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables of the environment by which a user sets them."""
_inside: list[None] = []
"""One for each `keeping_memory` that has been entered."""
_floor = 0
"""Bytes that the process held when memory was last given back."""


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Inside, memory that is freed stays with the process; at the end the system gets it.

    glibc otherwise hands large blocks back at once, and the system clears every page of the next ones: a third to a
    half of the CPU time of convolutional networks (`benchmarks/allocating.py`). Other threads than the main one keep
    only blocks of less than 64 MB. Without effect where there is no glibc, or where a variable of the environment says
    how to allocate. It may be entered again inside.
    """
    if _OPTION is None or any(name in os.environ for name in _USERS):
        yield
        return
    _inside.append(None)
    for option, size in _KEEP.items():
        _OPTION(option, size)
    try:
        yield
    finally:
        _inside.pop()
        if not _inside:
            for option, size in _USUAL.items():
                _OPTION(option, size)
            return_memory()


def return_memory(spare: int = 0) -> None:
    """Gives the system the memory that is free but is between what is used; without effect where there is no glibc.

    Threads allocate apart from one another, so a step of big scratch and small results otherwise leaves much behind.
    One of many such steps leaves up to `spare` bytes to the next: the system would clear them for it again.
    """
    global _floor
    if _TRIM is None or (spare and _resident() < _floor + spare):
        return
    _TRIM(0)
    _floor = _resident()


def _resident() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def room(device: torch.device, cpu: int = BLOCK_BYTES) -> int:
    """Scratch memory that one step may take on a device: `cpu` bytes, or more on a GPU, which needs larger steps."""
    return 16 * BLOCK_BYTES if device.type == "cuda" else cpu


def shares(total: int, device: torch.device, least: int = 64) -> list[slice]:
    """range(total) in one part a thread, of `least` items or more; in one on a GPU, which is many threads itself.

    >>> shares(100, torch.device("cuda"))
    [slice(0, 100, None)]
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return list(blocks(total, 1, budget=max(least, -(-total // threads)))) or [slice(0, 0)]


@contextmanager
def all_bits(device: torch.device) -> Iterator[None]:
    """Inside, a GPU multiplies float32 as float32 and adds up bfloat16 in float32, whatever the user's settings."""
    if device.type != "cuda":
        yield
        return
    reduced = torch.backends.cuda.matmul
    before = reduced.allow_bf16_reduced_precision_reduction
    reduced.allow_bf16_reduced_precision_reduction = False
    try:
        with products("highest"):
            yield
    finally:
        reduced.allow_bf16_reduced_precision_reduction = before


@contextmanager
def products(precision: str) -> Iterator[None]:
    """Inside, torch multiplies float32 matrices as `torch.set_float32_matmul_precision(precision)` says.

    Raises:
        InputError: the user has set this both by that function and by torch's newer `fp32_precision`.
    """
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError as e:
        raise InputError(
            "float32 products are set by two of torch's interfaces: call set_float32_matmul_precision('highest') last"
        ) from e
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def combine(rows: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows: out[n] = sum_k weights[n,k] * rows[indices[n,k]], (I,D),(N,K),(N,K) -> (N,D).

    Index -1 adds nothing; a neuron with no index at all gets NaN. The device of `rows` does the work.

    >>> combine(embeddings, exemplars.positives, exemplars.activations / 5)  # each neuron's weighted mean
    tensor([[0.8000, 0.5040, 0.1920],
            [0.8000, 0.1440, 0.5520]])
    """
    indices = indices.to(rows.device)
    there = indices >= 0
    stand_in = indices.clamp_min(0).gather(1, there.int().argmax(1, keepdim=True))
    weights = weights.to(rows).masked_fill(~there, 0.0)
    out = torch.nn.functional.embedding_bag(
        torch.where(there, indices, stand_in), rows, per_sample_weights=weights, mode="sum"
    )
    return out.masked_fill(~there.any(1, keepdim=True), torch.nan)


def finite_rows(e: Tensor) -> Tensor:
    """(I) bool: rows (I,D) without NaN and infinite values; in blocks, since e may be mapped from a file.

    >>> finite_rows(torch.tensor([[1.0, 2.0], [torch.nan, 0.0]]))
    tensor([ True, False])
    """
    out = torch.empty(len(e), dtype=torch.bool, device=e.device)
    for block in blocks(len(e), e.shape[1] * e.element_size()):
        out[block] = e[block].isfinite().all(1)
    return out


def unit_rows(rows: Tensor, name: str) -> None:
    """Refuses rows (I,D) of which one that is finite does not have length 1; in blocks.

    Raises:
        InputError: such a row (off by more than .01, so that half precision passes), or no finite row.

    >>> unit_rows(2 * embeddings, "embeddings")
    Traceback (most recent call last):
    contralens.errors.InputError: `embeddings` must be rows of length 1; row 0 has length 2: divide each by its length
    """
    finite = finite_rows(rows)
    if not bool(finite.any()):
        raise InputError(f"`{name}` holds no row of finite numbers")
    for block in blocks(len(rows), rows.shape[1] * rows.element_size()):
        lengths = rows[block].float().norm(dim=1)
        wrong = (finite[block] & ((lengths - 1).abs() > 0.01)).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise InputError(
                f"`{name}` must be rows of length 1; row {block.start + at} has length {float(lengths[at]):.3g}: "
                "divide each by its length"
            )
