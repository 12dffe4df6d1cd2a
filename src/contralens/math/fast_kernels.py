"""What this machine multiplies fast, found by trying once a process: speed and agreement, no list of processors.

bfloat16 is several times faster than float32 on hardware that multiplies it (Intel AMX, NVIDIA since Ampere) and
several times slower where it is emulated (processors with AVX2 alone). Training, `--precision bf16` and mining all ask
`bfloat16_is_fast` and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

GAIN = 1.25
"""How many times faster than float32 bfloat16 must be to count as fast. Emulated it takes several times as long."""
ROUNDS = 5
"""Both precisions take turns this often and the quickest turn of each counts, so other work on the machine cannot
decide."""
ROUNDING = 2.0**-8
"""Half a unit in the last place of bfloat16, relative."""


def bfloat16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 runs faster than float32 on this device, in matrix products and in convolutions, and is right.

    On a GPU the driver knows; on a CPU it is measured, in about a tenth of a second, once a process.

    >>> bfloat16_is_fast("meta")
    False
    """
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and _measured()


@cache
@torch.inference_mode()
def _measured() -> bool:
    random = torch.Generator().manual_seed(0)
    matrix, other = (torch.randn(384, 384, generator=random) for _ in range(2))
    images, kernel = torch.randn(8, 32, 24, 24, generator=random), torch.randn(32, 32, 3, 3, generator=random)

    def product(dtype: torch.dtype) -> Tensor:
        return matrix.to(dtype) @ other.to(dtype)

    def convolution(dtype: torch.dtype) -> Tensor:
        return torch.nn.functional.conv2d(images.to(dtype), kernel.to(dtype), padding=1)

    return all(_agree(work) and _gain(work) >= GAIN for work in (product, convolution))


def _agree(work: Callable[[torch.dtype], Tensor]) -> bool:
    """Whether both precisions give the same but for rounding: of two inputs and a result, errors add up like noise."""
    exact, half = work(torch.float32), work(torch.bfloat16).float()
    return bool(half.isfinite().all()) and float((half - exact).std() / exact.std()) <= 3 * ROUNDING


def _gain(work: Callable[[torch.dtype], Tensor]) -> float:
    """How many times faster bfloat16 is; below 1 it is slower."""
    quickest = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(ROUNDS):
        for dtype in quickest:
            start = time.perf_counter()
            work(dtype)
            quickest[dtype] = min(quickest[dtype], time.perf_counter() - start)
    return quickest[torch.float32] / quickest[torch.bfloat16]
