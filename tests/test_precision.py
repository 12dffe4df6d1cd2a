"""Half precision only where the first images say that it is safe, and the same decision every time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from coloured import COLOURS, ColourEncoder, draw_discs
from test_layers import InPlace
from torch import Tensor, nn
from torch.nn.functional import normalize

import contralens
from contralens.collecting import precision
from contralens.collecting.collect import collect
from contralens.collecting.distributed import collect_shard
from contralens.collecting.precision import LIMITS, if_safe, same_best
from contralens.data.store import Store
from contralens.encoders.base import BaseEncoder, digest
from contralens.errors import InputError
from contralens.math.fast_kernels import Tried
from contralens.run_data.reopened import Reopened
from contralens.settings.label import Collect

PREPROCESS = "resize=32x32,mean=half"


def says(monkeypatch: pytest.MonkeyPatch, *, right: bool, fast: bool) -> None:
    """A machine of which its own trial finds this."""
    monkeypatch.setattr(precision, "tried", lambda *asked: Tried(right, fast))


@pytest.fixture(autouse=True)
def _a_machine_fast_at_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, right=True, fast=True)


class Linear(BaseEncoder):
    """A built-in kind of encoder with small random weights; its texts are known by their letters."""

    context_length = 77

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__("linear")
        random = torch.Generator().manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 24, bias=False))
        with torch.no_grad():
            self.net[1].weight.copy_(torch.randn(24, 3 * 32 * 32, generator=random) * scale)
        self.width, self.fingerprint = 24, digest("linear", scale)
        self._transform = contralens.loading.preprocessing.preprocessing(PREPROCESS)
        self.calls = 0

    def preprocess(self, image: Any) -> Tensor:
        return self._transform(image)

    def _image_rows(self, batch: Tensor) -> Tensor:
        self.calls += 1
        return self.net(batch)

    def _text_rows(self, texts: list[str]) -> Tensor:
        made = [torch.randn(24, generator=torch.Generator().manual_seed(sum(map(ord, t)))) for t in texts]
        return normalize(torch.stack(made), dim=1)

    def _too_long(self, texts: list[str]) -> list[str]:
        return []


class Cancelling(nn.Module):
    """What a half-precision forward gets wrong: a small difference of large numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        large = self.conv(x) + 300.0
        return torch.relu(large - 300.0)


def test_a_safe_network_runs_in_half_precision_and_its_rows_are_apart(discs: Path, tmp_path: Path) -> None:
    store, probe = Store(tmp_path), contralens.images(discs)
    target = contralens.target(InPlace(), "mixed", preprocess=PREPROCESS)
    checked = if_safe("bf16", [target, Linear()], probe, store)
    assert [told["used"] for told in checked.report["networks"].values()] == ["bf16", "bf16"]
    half = checked.extractors[0]
    assert half.fingerprint == contralens.target(InPlace(), "mixed", preprocess=PREPROCESS, dtype="bf16").fingerprint
    assert half.fingerprint != target.fingerprint
    one, other = (collect(probe, [x], store).rows(0) for x in (target, half))
    assert 0 < abs(one - other).max() < 0.1
    assert store.table("rows", target.fingerprint).rows(probe.fingerprints()).tolist() == one.tolist()


def test_an_unsafe_network_stays_in_float32(discs: Path, tmp_path: Path) -> None:
    target = contralens.target(Cancelling(), ".", preprocess=PREPROCESS)
    checked = if_safe("bf16", [target, Linear()], contralens.images(discs), Store(tmp_path))
    told = checked.report["networks"]["Cancelling ."]
    assert told["used"] == "float32"
    assert told["apart"] > LIMITS["bf16"]["apart"]
    assert checked.extractors[0] is target


def test_float32_stays_where_bfloat16_is_slow(discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, right=True, fast=False)
    target, eyes = contralens.target(InPlace(), "mixed", preprocess=PREPROCESS), Linear()
    checked = if_safe("bf16", [target, eyes], contralens.images(discs), Store(tmp_path))
    assert checked.extractors == [target, eyes]
    assert eyes.calls == 0, "nothing is measured that would not be used"
    assert all("not faster than float32" in told["why"] for told in checked.report["networks"].values())


def test_what_knows_one_precision_only_is_told(discs: Path, tmp_path: Path) -> None:
    own = ColourEncoder()
    checked = if_safe("bf16", [own], contralens.images(discs), Store(tmp_path))
    assert checked.extractors == [own]
    assert "targets and built-in encoders only" in checked.report["networks"]["colours"]["why"]


def test_the_decision_is_kept_for_whoever_comes_later(discs: Path, tmp_path: Path) -> None:
    probe = contralens.images(discs)
    eyes = Linear()
    target = contralens.target(InPlace(), "mixed", preprocess=PREPROCESS)
    first = if_safe("bf16", [target, eyes], probe, Store(tmp_path)).report
    eyes.calls = 0
    assert if_safe("bf16", [target, eyes], probe, Store(tmp_path)).report == first
    assert eyes.calls == 0
    with pytest.raises(InputError, match="must be one of float32, onednn, bf16"):
        contralens.label(InPlace(), discs, eyes, COLOURS, layer="mixed", preprocess=PREPROCESS, precision="half")


def test_same_best_counts_the_neurons_that_fire() -> None:
    texts = torch.eye(3)
    embeddings = torch.eye(3)
    exact = torch.tensor([[3.0, 0.0, -1.0], [1.0, 2.0, -1.0], [0.0, 1.0, -1.0]])
    half = exact.clone()
    half[:, 1] = torch.tensor([0.0, 1.0, 2.0])
    assert same_best((exact, exact), (embeddings, embeddings), texts) == 1.0
    assert same_best((exact, half), (embeddings, embeddings), texts) == 0.5


def test_label_shards_and_reopening_agree_on_fast_and_half(discs: Path, tmp_path: Path) -> None:
    options = {"layer": "mixed", "preprocess": PREPROCESS, "decode": "fast", "precision": "bf16", "k": 5}
    alone = contralens.label(InPlace(), discs, Linear(), list(COLOURS), cache=tmp_path / "a", **options)
    assert {n["used"] for n in alone.manifest["precision"]["networks"].values()} == {"bf16"}
    assert alone.manifest["encoder"]["options"] == {"decode": "fast", "dtype": "bf16"}
    work = Collect(
        InPlace(), str(discs), Linear(), layer="mixed", preprocess=PREPROCESS,
        decode="fast", precision="bf16", cache=str(tmp_path / "b"),
    )  # fmt: skip
    collect_shard(work, 0, 1)
    eyes = Linear()
    eyes.calls = 0
    sharded = contralens.label(InPlace(), discs, eyes, list(COLOURS), cache=tmp_path / "b", **options)
    assert eyes.calls == 0
    assert sharded == alone
    layers = contralens.label_layers(
        InPlace(), discs, Linear(), list(COLOURS), cache=tmp_path / "c", layers=["mixed", "head"],
        **{key: value for key, value in options.items() if key != "layer"},
    )  # fmt: skip
    assert layers["mixed"] == alone
    again = Reopened(alone, target=InPlace(), encoder=Linear(), source=discs, cache=tmp_path / "d")
    given = alone.manifest["target"]["options"]
    assert (given["dtype"], given["decode"]) == ("bf16", "fast")
    assert again.target.fingerprint == alone.manifest["target"]["fingerprint"]
    assert again.encoder.fingerprint == alone.manifest["encoder"]["fingerprint"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_gives_the_labels_of_the_cpu(tmp_path: Path) -> None:
    images = draw_discs(tmp_path / "discs", count=84)
    runs = [
        contralens.label(
            InPlace(), images, ColourEncoder(), list(COLOURS), layer="mixed", preprocess=PREPROCESS, k=5,
            device=device, cache=tmp_path / device,
        )
        for device in ("cpu", "cuda")
    ]  # fmt: skip
    assert [r["label"] for r in runs[0].rows("csp")] == [r["label"] for r in runs[1].rows("csp")]
