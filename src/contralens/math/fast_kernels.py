"""What this machine multiplies fast, found by trying once a process: speed and agreement, no list of processors.

bfloat16 is several times faster than float32 on hardware that multiplies it (Intel AMX, NVIDIA since Ampere) and
several times slower where it is emulated (processors with AVX2 alone). oneDNN multiplies float32 up to twice as fast as
torch's default library on some CPUs, as fast on others, and rounds it to bfloat16 on some. Training, `--precision` and
mining all ask `tried` and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from contralens.math.tensors import products

GAIN = 1.25
"""How many times faster than torch's default float32 a kernel must be to count as fast."""
ROUNDS = 5
"""Both kernels take turns this often and the quickest turn of each counts, so other work on the machine cannot
decide."""
ROUNDING = 2.0**-8
"""Half a unit in the last place of bfloat16, relative."""
FLOAT32 = 2e-6
"""How far float32 results of two libraries may be apart, relative; bfloat16 is a thousand times as far."""
Kind = TypeVar("Kind")


class Tried(NamedTuple):
    """What was found of a precision on a device."""

    right: bool
    """Whether it gives what float32 gives, but for its own rounding."""
    fast: bool
    """Whether it is right, and faster than float32 by torch's default."""


def tried(precision: str, device: torch.device | str = "cpu") -> Tried:
    """What this device makes of "bf16", in matrix products and convolutions, or of "onednn", float32 by oneDNN.

    On a GPU the driver knows; on a CPU it is measured, in about a tenth of a second, once a process.

    >>> tried("bf16", "meta")
    Tried(right=False, fast=False)
    """
    device = torch.device(device)
    if device.type == "cuda":
        there = precision == "bf16" and bool(torch.cuda.is_bf16_supported(including_emulation=False))
        return Tried(there, there)
    return _measured(precision) if device.type == "cpu" else Tried(False, False)


def bfloat16_is_fast(device: torch.device | str = "cpu") -> bool:
    """Whether bfloat16 is right on this device and runs faster than float32."""
    return tried("bf16", device).fast


@cache
@torch.inference_mode()
def _measured(precision: str) -> Tried:
    random = torch.Generator().manual_seed(0)
    matrix, other, wide = (torch.randn(384, size, generator=random) for size in (384, 384, 3072))
    images, kernel = torch.randn(8, 32, 24, 24, generator=random), torch.randn(32, 32, 3, 3, generator=random)

    def product(dtype: torch.dtype) -> Tensor:
        return matrix.to(dtype) @ other.to(dtype)

    def convolution(dtype: torch.dtype) -> Tensor:
        return torch.nn.functional.conv2d(images.to(dtype), kernel.to(dtype), padding=1)

    def float32_product(by: str) -> Tensor:
        with products(by):
            return matrix @ wide

    if precision == "onednn":
        right = _agree(float32_product, "highest", "medium", FLOAT32)
        return Tried(right, right and _gain(float32_product, "highest", "medium") >= GAIN)
    half = torch.float32, torch.bfloat16
    right = all(_agree(work, *half, 3 * ROUNDING) for work in (product, convolution))
    return Tried(right, right and all(_gain(work, *half) >= GAIN for work in (product, convolution)))


def _agree(work: Callable[[Kind], Tensor], usual: Kind, other: Kind, limit: float) -> bool:
    """Whether both kinds give the same but for rounding: of two inputs and a result, errors add up like noise."""
    exact, fast = work(usual), work(other).float()
    return bool(fast.isfinite().all()) and float((fast - exact).std() / exact.std()) <= limit


def _gain(work: Callable[[Kind], Tensor], usual: Kind, other: Kind) -> float:
    """How many times faster the other kind is; below 1 it is slower."""
    quickest = dict.fromkeys((usual, other), float("inf"))
    for _ in range(ROUNDS):
        for kind in quickest:
            start = time.perf_counter()
            work(kind)
            quickest[kind] = min(quickest[kind], time.perf_counter() - start)
    return quickest[usual] / quickest[other]
