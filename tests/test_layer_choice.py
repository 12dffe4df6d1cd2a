"""Layers chosen by name, pattern and kind: the same choice for CNNs and transformers of all sources."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from test_crash import bytes_of
from torch import nn

import contralens
from contralens.cli import main
from contralens.errors import InputError
from contralens.models.layer_choice import chosen_layers
from contralens.models.layers import LayerInfo, layers


def kinds(rows: list[LayerInfo]) -> dict[str, list[str]]:
    out: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.depth or 0.0):
        for kind in row.kinds:
            out.setdefault(kind, []).append(row.name)
    return out


def chosen(rows: list[LayerInfo], *asked: str, **more: object) -> list[str]:
    return [row.name for row in chosen_layers(rows, asked, **more)[0]]  # type: ignore[arg-type]


def test_a_timm_vit() -> None:
    rows = layers("timm:test_vit")
    found = kinds(rows)
    blocks = [f"blocks.{i}" for i in range(6)]
    assert found["block"] == blocks
    assert found["attention"] == [f"{b}.attn" for b in blocks]
    assert found["mlp"] == [f"{b}.mlp.act" for b in blocks]
    assert chosen(rows, "all") == ["patch_embed", *blocks, "norm", "."], "the head gives the output, which is there"
    assert chosen(rows, "blocks.*") == blocks
    assert chosen(rows, "blocks.[01].**.act") == ["blocks.0.mlp.act", "blocks.1.mlp.act"]
    assert chosen(rows, "all", kinds=["mlp"]) == found["mlp"]
    assert chosen(rows, "blocks.0.**", kinds=["attention", "mlp"]) == ["blocks.0.attn", "blocks.0.mlp.act"]


def test_an_efficientnet_and_resnets() -> None:
    rows = layers("timm:test_efficientnet")
    assert chosen(rows, "all") == [
        "bn1",
        "blocks.0",
        "blocks.1.0",
        "blocks.2.0",
        "blocks.3.0",
        "blocks.4.0",
        "bn2",
        ".",
    ]
    assert "blocks.3.0.bn2" in kinds(rows)["conv"], "a convolution stands behind its norm and activation"
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        rows = layers(spec)
        stem = "act1" if "timm" in spec else "relu"
        assert chosen(rows, "all") == [stem, *(f"layer{i}.{j}" for i in (1, 2, 3, 4) for j in (0, 1)), "."], spec
        assert len(kinds(rows)["conv"]) == 20
        assert "layer1.0" not in kinds(rows)["conv"], "what is added to something else is no convolution any more"


def test_transformers_of_the_hub() -> None:
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(**size, intermediate_size=48)).eval()
    found = kinds(layers(vit, preprocess="resize=32x32,mean=half"))
    assert [len(found[kind]) for kind in ("stem", "block", "attention", "mlp", "head", "output")] == [1, 2, 2, 2, 1, 1]
    gated = transformers.Dinov2Model(transformers.Dinov2Config(**size, use_swiglu_ffn=True)).eval()
    assert "mlp" not in kinds(layers(gated, preprocess="resize=32x32,mean=half")), "a product that no module gives"


def test_networks_without_blocks() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(100, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5),
    )  # fmt: skip
    rows = layers(net, preprocess="resize=16x16,mean=half")
    assert chosen(rows, "all") == ["2", "5", "8", "."]
    assert kinds(rows) == {"conv": ["2", "5"], "linear": ["8"], "output": ["."]}
    depths = [row.depth for row in rows if row.name != "."]
    assert depths == sorted(depths)
    assert rows[-1].depth == 1.0


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x))
        y += x
        return self.act(y)


def test_an_addition_in_place_ends_a_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(Residual(), Residual()))
    found = kinds(layers(net, preprocess="resize=8x8,mean=half"))
    assert found["conv"] == ["0", "1.0.norm", "1.1.norm"]
    assert found["block"][0] == "1.0"


@pytest.mark.parametrize(
    ("asked", "more", "says"),
    [
        (["blok*"], {}, "no layer fits the pattern 'blok"),
        (["blocks.9"], {}, "no layer 'blocks.9'; did you mean"),
        (["all"], {"kinds": ["attn"]}, "no kind 'attn'"),
        (["all"], {"kinds": ["linear"]}, "no layer of the kind linear; it has stem"),
        (["blocks.*.attn.q_norm"], {}, "no layer can be used"),
        (["norm"], {"kinds": ["mlp"]}, "no layer can be used"),
    ],
)
def test_what_means_no_layer_is_one_line(asked: list[str], more: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        chosen_layers(layers("timm:test_vit"), asked, **more)


def test_layers_that_a_pooling_does_not_fit_are_left_out_with_the_reason() -> None:
    found, out = chosen_layers(layers("timm:test_vit"), ["all"], pooling="max_patches")
    assert [row.name for row in found][:2] == ["blocks.0", "blocks.1"]
    assert "max_patches" in out["."]
    assert "max_patches" in out["patch_embed"]


def test_label_layer_all_gives_the_runs_of_single_commands(discs: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("CONTRALENS_QUIET", raising=False)
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen\nblue\nyellow\nwhite")
    given = ["contralens", "label", "--target", "world:1", "--encoder", "world", "--images", str(discs),
             "--vocabulary", str(words), "--k", "5"]  # fmt: skip

    def run(*more: str) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", [*given, *more])
        with pytest.raises(SystemExit, match="0"):
            main()
        return capsys.readouterr()

    told = run("--layer", "all", "--cache", str(tmp_path / "a"), "--out", str(tmp_path / "all"))
    assert "5 layers, 214 neurons, 42 images, one forward an image; at most 36.0 kB" in told[1]
    names = sorted(p.name for p in (tmp_path / "all").iterdir())
    assert names == ["block1", "block2", "block3", "output", "stem"]
    for layer, folder in (("block2", "block2"), (".", "output")):
        out = tmp_path / "single" / folder
        run("--layer", layer, "--cache", str(tmp_path / "b"), "--out", str(out))
        assert bytes_of(out) == bytes_of(tmp_path / "all" / folder)
    monkeypatch.setattr(sys, "argv", ["contralens", "layers", "world:1", "--layer", "block*", "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["block1", "block2", "block3"]
    again = contralens.label_layers(
        "world:1", str(discs), "world", str(words), layers="block*", layer_kinds="conv", k=5, cache=tmp_path / "b"
    )
    assert list(again) == ["block1", "block2", "block3"]
    assert again["block2"].labels.equals(contralens.load(tmp_path / "all" / "block2").labels)


NETWORK = """
from pathlib import Path
from torch import nn

def build():
    with (Path(__file__).parent / "opened.txt").open("a") as log:
        log.write("opened\\n")
    return Counting()

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.calls = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.second(self.first(x))
"""


@pytest.mark.parametrize("command", ["label", "collect"])
def test_a_pattern_opens_the_network_once(command: str, discs: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv("CONTRALENS_QUIET", raising=False)
    (tmp_path / "net.py").write_text(NETWORK)
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen")
    spec = f"module:{tmp_path / 'net.py'}:build"
    given = {"layer": "[fs]*", "encoder": "world", "images": str(discs), "preprocess": "resize=24x24,mean=half"}
    flags = [part for name, value in given.items() for part in (f"--{name}", value)]
    more = ["--vocabulary", str(words), "--k", "5", "--out", str(tmp_path / "runs")] if command == "label" else []
    monkeypatch.setattr(sys, "argv", [
        "contralens", command, "--target", spec, *flags, *more, "--cache", str(tmp_path / "cache"),
    ])  # fmt: skip
    with pytest.raises(SystemExit, match="0"):
        main()
    assert (tmp_path / "opened.txt").read_text() == "opened\n"
    assert "2 layers, 10 neurons, 42 images" in capsys.readouterr().err
    if command == "label":  # a network that changes as it runs is the same network, by a pattern and by name
        run = contralens.load(tmp_path / "runs" / "second")
        assert run.manifest["target"]["spec"] == spec
        named = contralens.target(spec, layer="second", preprocess=given["preprocess"])
        assert run.manifest["target"]["fingerprint"] == named.fingerprint


def test_one_plan_is_told_before_the_work(discs: Path, tmp_path: Path) -> None:
    plans: list = []
    options = {"k": 5, "cache": tmp_path, "scorers": "csp", "limit": 20, "on_plan": plans.append}
    runs = contralens.label_layers("world:1", str(discs), "world", ["red", "green"], layers="block[12]", **options)
    assert [plan.names for plan in plans] == [["block1", "block2"]] == [list(runs)]
    contralens.label_layers("world:1", str(discs), "world", ["red", "green"], layers=["block1"], **options)
    assert len(plans) == 1, "layers by name need no plan"
