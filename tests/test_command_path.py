"""Networks of every kind go through one and the same command."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import main

OWN = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 12, 3, 2), nn.ReLU())
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, 1, n=60)
    return folder


def tiny_dinov2(folder: Path) -> str:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    transformers.BitImageProcessor(size={"shortest_edge": 28}, crop_size=size).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "layer", "more", "neurons"),
    [
        ("torchvision:resnet50", "layer4", ["--weights", "random"], 2048),
        ("timm:test_vit", "blocks.5", ["--weights", "random"], 64),
        ("timm:test_convnext", "stages.3", ["--weights", "random"], 64),
        ("dinov2", None, [], 32),
        ("own", "3", ["--preprocess", "resize=64x64,mean=half"], 12),
        ("world:1", None, [], 64),
    ],
)
def test_label_takes_every_kind_of_network(
    target: str,
    layer: str | None,
    more: list[str],
    neurons: int,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if target.startswith("timm"):
        pytest.importorskip("timm")
    if target == "dinov2":
        target, layer = tiny_dinov2(tmp_path / "dinov2"), "layernorm"
    if target == "own":
        (tmp_path / "own.py").write_text(OWN)
        target = f"module:{tmp_path / 'own.py'}:make"
    given = ["--target", target, *(["--layer", layer] if layer else []), *more]
    rest = ["--encoder", "world", "--images", world / "images", "--vocabulary", "world", "--out", tmp_path / "run"]
    monkeypatch.setattr(sys, "argv", ["contralens", "label", *given, *map(str, rest), "--k", "5"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err
    run = contralens.load(tmp_path / "run")
    assert len(run) == neurons
    labeled = [row for row in run if row["status"] == "ok"]
    assert labeled
    assert all(row["label"] for row in labeled)
    assert len(run.exemplars) == 5 * len(labeled)
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert labeled[0]["name"] in capsys.readouterr().out
