"""Which precision is fast is measured; a clock that lies for one turn, or a wrong result, does not decide."""

from __future__ import annotations

import time

import pytest
import torch

from contralens.math import fast_kernels

HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize(("half_takes", "fast"), [(0.1, True), (0.7, True), (0.9, False), (5.0, False)])
@pytest.mark.parametrize("disturbed", [False, True])
def test_the_faster_precision_wins_by_a_margin(
    half_takes: float, fast: bool, disturbed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, turns = [0.0], [0]

    def work(dtype: torch.dtype) -> torch.Tensor:
        turns[0] += 1
        now[0] += half_takes if dtype == torch.bfloat16 else 1.0
        now[0] += 50.0 if disturbed and turns[0] in (1, 2, 4) else 0.0
        return torch.ones(1)

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    assert (fast_kernels._gain(work, *HALF) >= fast_kernels.GAIN) is fast


def test_rounding_agrees_and_anything_else_does_not() -> None:
    x = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    half = *HALF, 3 * fast_kernels.ROUNDING
    assert fast_kernels._agree(lambda dtype: x.to(dtype) @ x.to(dtype), *half)
    assert not fast_kernels._agree(lambda dtype: x * (1.1 if dtype == torch.bfloat16 else 1.0), *half)
    assert not fast_kernels._agree(lambda dtype: x / (dtype == torch.float32), *half)
    rounded = *HALF, fast_kernels.FLOAT32
    assert not fast_kernels._agree(lambda dtype: x.to(dtype) @ x.to(dtype), *rounded), "bfloat16 is no float32"


def test_the_answer_is_measured_once_and_holds_for_the_cpu() -> None:
    fast_kernels._measured.cache_clear()
    first = fast_kernels.bfloat16_is_fast()
    assert fast_kernels.bfloat16_is_fast(torch.device("cpu")) is first
    assert fast_kernels.tried("onednn") is fast_kernels.tried("onednn")
    assert fast_kernels._measured.cache_info().misses == 2
    assert fast_kernels.tried("onednn", "meta") == (False, False)


def test_trying_leaves_the_user_s_setting() -> None:
    fast_kernels._measured.cache_clear()
    torch.set_float32_matmul_precision("high")
    try:
        fast_kernels.tried("onednn")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
