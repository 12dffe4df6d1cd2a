"""Which thread runs the networks, and what that spares the system."""

from __future__ import annotations

import ctypes
import resource
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import ColourEncoder, draw_discs
from torch import Tensor

import contralens
from contralens.collecting.collect import Collected, collect
from contralens.data.store import Store

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
BLOCK = 100_000_000
"""Bytes of a network's scratch memory: more than glibc keeps for other threads than the main one."""


def scratch() -> None:
    """A block is taken, written and freed (not by torch, which asks for aligned ones: those fit less often)."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    block = libc.malloc(BLOCK)
    ctypes.memset(block, 1, BLOCK)
    libc.free(block)


class Wide(ColourEncoder):
    """It takes a large block for each batch, and remembers which thread ran it."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.threads = torch.device(device), set[int]()

    def __call__(self, batch: Tensor) -> Tensor:
        self.threads.add(threading.get_ident())
        if GLIBC:
            scratch()
        return super().__call__(batch)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_discs(tmp_path_factory.mktemp("pictures"), count=20)


def collected(network: Wide, pictures: Path, cache: Path) -> Collected:
    return collect(contralens.images(pictures), [network], Store(cache), batch_size=2, workers=1)


def test_networks_on_the_cpu_run_in_this_thread_and_others_beside_it_with_the_same_bits(
    pictures: Path, tmp_path: Path
) -> None:
    here, beside = Wide("cpu"), Wide("meta")
    one, other = (collected(n, pictures, tmp_path / str(n.device)) for n in (here, beside))
    assert here.threads == {threading.get_ident()}
    assert len(beside.threads) == 1
    assert beside.threads.isdisjoint(here.threads)
    assert np.array_equal(one.rows(0), other.rows(0))


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told to keep memory")
def test_memory_of_a_network_on_the_cpu_is_not_mapped_anew_for_each_batch(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    collected(Wide("cpu"), pictures, tmp_path)
    pages = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize()
    assert pages < 3 * BLOCK, "ten batches map the block once, and some memory beside it"


def test_a_network_that_fails_in_this_thread_says_so(pictures: Path, tmp_path: Path) -> None:
    class Failing(Wide):
        def __call__(self, batch: Tensor) -> Tensor:
            raise RuntimeError("no memory on this machine")

    with pytest.raises(Exception, match="no memory on this machine"):
        collected(Failing("cpu"), pictures, tmp_path)
