"""Rows from compiled code: those of the eager network, under their own fingerprint, or a line that says why not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import contralens
from contralens.errors import InputError
from contralens.models import compiled as compiling
from contralens.run_data.reopened import Reopened

NET = """
import torch
from torch import nn

class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else 2 * x

def build(middle=nn.Identity):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(8, 12, 3), nn.ReLU(inplace=True)), middle(), nn.Conv2d(12, 4, 3), nn.Flatten(),
    ).eval()

def branching():
    return build(Branching)
"""
PREPARED = {"preprocess": "resize=24x24,mean=half"}


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"module:{tmp_path / 'net.py'}"


def test_compiled_rows_are_the_eager_ones_for_any_batch(net: str) -> None:
    for layer in ("3", "2", "."):  # a container, a layer that the next one overwrites, the output
        eager, fast = (contralens.target(f"{net}:build", layer, compile=on, **PREPARED) for on in (False, True))
        assert fast.notes[-1].startswith("compiled by torch")
        assert fast.compiled is not None
        assert fast.fingerprint != eager.fingerprint
        for size in (8, 5, 1):
            batch = torch.randn(size, 3, 24, 24, generator=torch.Generator().manual_seed(size))
            apart = (fast(batch) - eager(batch)).norm(dim=1) / eager(batch).norm(dim=1)
            assert apart.max() <= compiling.CLOSE
    assert not any(module._forward_hooks for module in fast.module.modules())
    half, plain = fast.with_dtype("bf16"), eager.with_dtype("bf16")
    assert half.compiled is None
    assert half.fingerprint == plain.fingerprint
    assert half.origin == plain.origin
    assert half.notes == plain.notes


def test_a_compiled_run_says_so_and_does_not_mix_its_rows_with_eager_ones(
    net: str, discs: Path, tmp_path: Path
) -> None:
    def labeled(**more: object) -> contralens.Run:
        return contralens.label(
            f"{net}:build", discs, "world", ["red", "green"], layer="3", k=5, scorers="csp",
            cache=tmp_path / "cache", **PREPARED, **more,
        )  # fmt: skip

    eager = labeled()
    fast = labeled(compile=True, out=tmp_path / "run")
    one, other = eager.manifest["target"], fast.manifest["target"]
    assert one["fingerprint"] != other["fingerprint"], "rows of the eager network are not taken for compiled ones"
    assert other["options"]["compile"] is True
    assert any("compiled by torch" in note for note in other["notes"])
    assert "compile" not in one["options"]
    assert fast.exemplars["positive"].equals(eager.exemplars["positive"])
    again = labeled(compile=True)
    assert again.labels.equals(fast.labels)
    assert again.manifest["target"]["fingerprint"] == other["fingerprint"], "a repeated run finds its own rows"
    assert Reopened(fast, cache=tmp_path / "cache").target.fingerprint == other["fingerprint"]


def test_what_cannot_be_compiled_runs_as_it_is(net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    eager = contralens.target(f"{net}:branching", "5", **PREPARED)
    made = contralens.target(f"{net}:branching", "5", compile=True, **PREPARED)
    assert made.compiled is None
    assert made.fingerprint == eager.fingerprint
    assert made.notes[-1].startswith("not compiled: ")
    assert "\n" not in made.notes[-1]
    monkeypatch.setattr(compiling, "CLOSE", -1.0)
    other = contralens.target(f"{net}:build", "5", compile=True, **PREPARED)
    assert other.compiled is None
    assert "not compiled: rows would differ by" in other.notes[-1]


def test_without_a_compiler_a_note_says_what_to_install(net: str, tmp_path: Path) -> None:
    code = (
        "import contralens;"
        f"made = contralens.target('{net}:build', '3', compile=True, preprocess='{PREPARED['preprocess']}');"
        "print(made.compiled, made.notes[-1])"
    )
    environment = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert told.stdout.strip() == "None not compiled: no C++ compiler was found (install g++ or clang++)"


def test_it_is_for_one_layer_of_the_network_itself() -> None:
    with pytest.raises(InputError, match="`compile` is for one layer"):
        contralens.targets(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), ["0", "1"], compile=True, **PREPARED)
