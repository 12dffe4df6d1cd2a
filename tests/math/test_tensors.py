import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from contralens.math.tensors import keeping_memory, return_memory

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not GLIBC, reason="only glibc keeps what lies between")
def test_memory_between_what_is_used_goes_back_to_the_system():
    before, kept = resident(), []
    scratch = []
    for _ in range(2000):
        scratch.append(torch.zeros(25_000))  # 100 kB, from the heap
        kept.append(torch.zeros(250))
    full = resident()
    scratch.clear()
    return_memory()
    assert full - before > 150e6
    assert resident() - before < 50e6
    assert len(kept) == 2000


@pytest.mark.skipif(not GLIBC, reason="only glibc keeps what lies between")
def test_a_step_may_leave_some_memory_to_the_next(monkeypatch):
    calls = []
    monkeypatch.setattr("contralens.math.tensors._TRIM", lambda size: calls.append(size))
    return_memory()
    held = torch.ones(4_000_000)  # 16 MB
    return_memory(64 * 2**20)
    assert len(calls) == 1
    more = torch.ones(20_000_000)
    return_memory(64 * 2**20)
    assert len(calls) == 2
    return_memory(64 * 2**20)
    assert len(calls) == 2, "counted from when memory was last given back"
    assert len(held) + len(more) == 24_000_000


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_freed_memory_is_kept_inside_and_given_back_at_the_end(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)

    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.zeros(20_000_000)  # 80 MB
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    outside, before = faults(), resident()
    with keeping_memory():
        with keeping_memory():
            faults()  # the first few may lie beside one another, as the addresses happen to be aligned
        assert faults() < outside / 5  # the inner one has left it so
    assert resident() - before < 40e6
    calls = []
    monkeypatch.setattr("contralens.math.tensors._OPTION", lambda *option: calls.append(option))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "131072")  # the user's word counts
    with keeping_memory():
        pass
    assert not calls
