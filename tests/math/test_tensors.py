import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from contralens.math.tensors import return_memory

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
