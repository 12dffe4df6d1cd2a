"""float32 by oneDNN: used where it is faster and right, by a trial on this machine, never mixed with other rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from coloured import COLOURS
from test_layers import InPlace
from test_precision import PREPROCESS, Linear, says
from torch import Tensor, nn

import contralens
from contralens.collecting import precision
from contralens.collecting.precision import if_safe
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.math import fast_kernels
from contralens.math.tensors import products
from contralens.models import hooks
from contralens.models.compiled import CLOSE
from contralens.run_data.reopened import Reopened


class Dense(nn.Module):
    """One matrix product on pixels; `lost` is added to it and taken away again, with the digits that it takes along."""

    def __init__(self, lost: float = 0.0) -> None:
        super().__init__()
        self.lost, self.inner = lost, nn.Linear(3 * 32 * 32, 64, bias=False)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.inner.weight.copy_(torch.randn(64, 3 * 32 * 32, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1)) + self.lost - self.lost


def dense(lost: float = 0.0, **options: str) -> contralens.models.hooked_layer.HookedTarget:
    return contralens.target(Dense(lost), ".", preprocess=PREPROCESS, **options)


def by_hand(images: Path) -> float:
    """How far rows are apart that torch makes of the first images with both settings."""
    target, made = dense(), contralens.images(images)
    batch = torch.stack([target.preprocess(made.load(i)) for i in range(32)])
    rows = []
    for by in ("highest", "medium"):
        with products(by), torch.no_grad():
            rows.append(target.module(batch))
    return precision.apart(*rows)


def used(found: precision.Checked) -> list[str]:
    return [one["used"] for one in found.report["networks"].values()]


def why(found: precision.Checked) -> Sequence[str]:
    return [one.get("why", "") for one in found.report["networks"].values()]


def test_a_network_takes_it_only_where_its_rows_are_those_of_float32(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, right=True, fast=True)
    probe, moved = contralens.images(discs), by_hand(discs)
    plain, lossy, convolution = dense(), dense(3e4), contralens.target(InPlace(), "mixed", preprocess=PREPROCESS)
    found = if_safe("onednn", [plain, lossy, convolution], probe, Store(tmp_path / "a"))
    # what is expected depends on this processor: oneDNN's own float32, the same bits (AVX2), or bfloat16 (AMX)
    expected = "onednn" if 0 < moved <= CLOSE else "float32"
    assert used(if_safe("onednn", [plain], probe, Store(tmp_path / "b"))) == [expected]
    assert "changes no bit" in why(if_safe("onednn", [convolution], probe, Store(tmp_path / "c")))[0]
    assert used(if_safe("onednn", [lossy], probe, Store(tmp_path / "d"))) == ["float32"]
    if expected == "onednn":
        assert "differ too much (apart" in why(if_safe("onednn", [lossy], probe, Store(tmp_path / "d")))[0]
        assert found.extractors[0].fingerprint != plain.fingerprint
        batch = torch.stack([plain.preprocess(probe.load(i)) for i in range(32)])
        assert 0 < precision.apart(plain(batch), found.extractors[0](batch)) <= CLOSE


def test_the_first_decision_of_a_cache_holds(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not 0 < by_hand(discs) <= CLOSE:
        pytest.skip("oneDNN is not another float32 on this processor")
    probe, target = contralens.images(discs), dense()
    says(monkeypatch, right=True, fast=True)
    assert used(if_safe("onednn", [target], probe, Store(tmp_path / "quick"))) == ["onednn"]
    says(monkeypatch, right=True, fast=False)
    assert used(if_safe("onednn", [target], probe, Store(tmp_path / "quick"))) == ["onednn"], "a busy second worker"
    refused = if_safe("onednn", [target], probe, Store(tmp_path / "slow"))
    assert "not faster than float32" in why(refused)[0]
    says(monkeypatch, right=True, fast=True)
    assert if_safe("onednn", [target], probe, Store(tmp_path / "slow")).report == refused.report
    says(monkeypatch, right=False, fast=False)
    other = if_safe("onednn", [target], probe, Store(tmp_path / "quick"))
    assert other.extractors == [target], "another machine, where oneDNN rounds, keeps its own rows apart"
    assert "not right, or not there, on this machine's cpu" in why(other)[0]


def test_a_run_says_which_kernel_ran_and_reopens_with_it(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not 0 < by_hand(discs) <= CLOSE:
        pytest.skip("oneDNN is not another float32 on this processor")
    options = {"layer": ".", "preprocess": PREPROCESS, "k": 5}
    says(monkeypatch, right=True, fast=True)
    run = contralens.label(Dense(), discs, Linear(), list(COLOURS), cache=tmp_path / "a", precision="onednn", **options)
    assert run.manifest["precision"]["asked"] == "onednn"
    assert [one["used"] for one in run.manifest["precision"]["networks"].values()] == ["onednn", "onednn"]
    again = Reopened(run, target=Dense(), encoder=Linear(), source=discs, cache=tmp_path / "b")
    assert (again.target.dtype, again.target.fingerprint) == ("onednn", run.manifest["target"]["fingerprint"])
    assert again.encoder.fingerprint == run.manifest["encoder"]["fingerprint"]
    says(monkeypatch, right=True, fast=False)
    plain = contralens.label(
        Dense(), discs, Linear(), list(COLOURS), cache=tmp_path / "c", precision="onednn", **options
    )
    notes = [note for note in plain.manifest["notes"] if "float32, not onednn" in note]
    assert [note.split(":")[0] for note in notes] == ["Dense .", "linear"]
    assert all("not faster than float32" in note for note in notes)
    float32 = contralens.label(Dense(), discs, Linear(), list(COLOURS), cache=tmp_path / "d", **options)
    assert plain.labels.equals(float32.labels)
    assert plain.manifest["target"]["fingerprint"] == float32.manifest["target"]["fingerprint"]


def test_shards_that_decide_otherwise_are_not_mixed(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = sorted(path for path in discs.rglob("*") if path.is_file())
    shards = []
    for at in range(2):
        (tmp_path / f"part-{at}").mkdir()
        for file in files[at::2]:
            os.link(file, tmp_path / f"part-{at}" / file.name)
        shards.append((tmp_path / f"part-{at}", tmp_path / f"cache-{at}"))
    says(monkeypatch, right=True, fast=False)
    for precisions in ("onednn", "bf16"):
        whose = {"precision": precisions, "layer": ".", "preprocess": PREPROCESS, "k": 4}
        run = contralens.label_shards(shards, Dense(), Linear(), list(COLOURS), **whose)
        assert any(f"float32, not {precisions}" in note for note in run.manifest["notes"])
    own = precision.if_safe
    monkeypatch.setattr(precision, "if_safe", lambda *asked: (
        says(monkeypatch, right=True, fast="part-1" in asked[2].name), own(*asked)
    )[1])  # fmt: skip
    fresh = [(images, tmp_path / f"fresh-{at}") for at, (images, _) in enumerate(shards)]
    with pytest.raises(InputError, match=r"another precision on shard 1 than on shard 0.*omit `precision`"):
        contralens.label_shards(
            fresh, Dense(), Linear(), list(COLOURS), layer=".", preprocess=PREPROCESS, k=4, precision="bf16"
        )


CHILD = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_onednn import Dense
from test_precision import PREPROCESS, Linear
from contralens.math.fast_kernels import tried
import contralens
run = contralens.label(
    Dense(), sys.argv[2], Linear(), ["red", "green", "blue"], layer=".", preprocess=PREPROCESS, k=5,
    cache=sys.argv[3], precision="onednn",
)
found = run.manifest["precision"]["networks"]["Dense ."]
print(*tried("onednn"), found["used"], found.get("apart"), "|", found.get("why", ""))
"""


def in_a_fresh_process(discs: Path, cache: Path, **environment: str) -> list[str]:
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(discs), str(cache)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    return found.stdout.strip().splitlines()[-1].split(maxsplit=4)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch's default products are not MKL's here")
def test_where_the_default_is_slow_a_run_chooses_onednn_by_itself(discs: Path, tmp_path: Path) -> None:
    """MKL_CBWR=COMPATIBLE, for the same bits on all processors, makes MKL slow; no part of the trial is replaced."""
    right, fast, ran, moved, why_not = in_a_fresh_process(discs, tmp_path / "slow", MKL_CBWR="COMPATIBLE")
    if (right, fast) == ("True", "True") and ran == "onednn":
        assert 0 < float(moved) <= CLOSE
        assert why_not == "|"
        again = in_a_fresh_process(discs, tmp_path / "slow")
        assert again[2] == "onednn", "what the cache's first process chose, though MKL is fast now"
        plain = in_a_fresh_process(discs, tmp_path / "usual")
        assert (plain[2] == "onednn") is (plain[1] == "True"), plain
    else:  # oneDNN rounds here (AMX), or gains nothing
        assert ran == "float32"
        assert len(why_not) > 20


def test_rows_do_not_depend_on_the_user_s_setting() -> None:
    target, batch = dense(), torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    exact = target(batch)
    for by in ("medium", "high"):
        torch.set_float32_matmul_precision(by)
        try:
            assert torch.equal(target(batch), exact)
            assert torch.get_float32_matmul_precision() == by
        finally:
            torch.set_float32_matmul_precision("highest")


@pytest.mark.skipif(not hasattr(torch.backends.mkldnn, "matmul"), reason="torch has no setting by library yet")
def test_settings_that_contradict_each_other_are_refused_in_one_line() -> None:
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        with pytest.raises(InputError, match="set by two of torch's interfaces"):
            dense()
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")


def test_it_is_no_choice_where_it_rounds_to_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "tried", lambda dtype: fast_kernels.Tried(right=False, fast=False))
    with pytest.raises(InputError, match="oneDNN rounds float32 to bfloat16; use float32 or bf16"):
        dense(dtype="onednn")
    with pytest.raises(InputError, match="oneDNN rounds float32 to bfloat16"):
        Linear().adapted(dtype="onednn")
