"""Several layers from one forward: the same bits as each alone, and one forward an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from test_crash import bytes_of
from torch import Tensor, nn

import contralens
from contralens.collecting.collect import collect
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.models.shared_forward import forward_key, rows_together
from contralens.types import Extractor


class InPlace(nn.Module):
    """A small convolutional network whose ReLU overwrites what came before, with weights that take rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 5, 2)
        self.relu = nn.ReLU(inplace=True)
        self.mixed = nn.Conv2d(16, 24, 3)
        self.head = nn.Linear(24, 10)
        self._forwards = 0
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) / parameter[0].numel() ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        self._forwards += len(x)
        return self.head(self.mixed(self.relu(self.conv(x))).mean((2, 3)))


LAYERS = ["conv", "relu", "mixed", "head", "."]


def test_layers_of_one_forward_have_the_bits_of_each_alone(discs: Path, tmp_path: Path) -> None:
    net = InPlace()
    together = contralens.targets(net, LAYERS, preprocess=to_pixels)
    dictionary = {"W_enc": torch.randn(24, 64, generator=torch.Generator().manual_seed(1)), "b_enc": torch.zeros(64)}
    latents = [contralens.sae(together[2], dictionary, pooling=p) for p in ("max", "pooled")]
    extractors: list[Extractor] = [*together, *latents, ColourEncoder()]
    probe = contralens.images(discs)
    assert len({forward_key(x) for x in extractors}) == 2
    net._forwards = 0
    all_at_once = collect(probe, extractors, Store(tmp_path / "together"), batch_size=16)
    assert net._forwards == 42, "one forward an image"
    assert all_at_once.speed is not None
    assert all_at_once.speed.images == 42
    assert 0 < all_at_once.speed.forward_share < 1

    for at, layer in enumerate(LAYERS):
        alone = contralens.target(net, layer, preprocess=to_pixels)
        assert alone.fingerprint == together[at].fingerprint
        rows = collect(probe, [alone], Store(tmp_path / layer), batch_size=16).rows(0)
        assert np.array_equal(rows, all_at_once.rows(at)), layer
    for at, latent in enumerate(latents, start=len(LAYERS)):
        rows = collect(probe, [latent], Store(tmp_path / latent.pooling), batch_size=16).rows(0)
        assert np.array_equal(rows, all_at_once.rows(at))
    assert (all_at_once.rows(0) < 0).any(), "the layer before an in-place ReLU is seen before it"


def test_a_layer_that_is_there_already_is_left_alone(discs: Path, tmp_path: Path) -> None:
    net, store = InPlace(), Store(tmp_path)
    conv, mixed = contralens.targets(net, ["conv", "mixed"], preprocess=to_pixels)
    collect(contralens.images(discs), [conv], store)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("rows/*/*.safetensors")}
    net._forwards = 0
    collect(contralens.images(discs), [conv, mixed], store)
    assert net._forwards == 42
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    collect(contralens.images(discs), [conv, mixed], store)
    assert net._forwards == 42


def test_a_layer_that_does_not_run_is_named(discs: Path) -> None:
    net = InPlace()
    conv, mixed = contralens.targets(net, ["conv", "mixed"], preprocess=to_pixels)
    net.forward = lambda x: net.conv(x)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="did not run its layer mixed"):
        rows_together([conv, mixed], torch.zeros(2, 3, 32, 32))
    assert not any(m._forward_hooks for m in net.modules())


def test_label_layers_writes_the_run_that_label_writes_of_each(discs: Path, tmp_path: Path) -> None:
    options = {"preprocess": to_pixels, "k": 5, "limit": 40, "seed": 3, "holdout": 0.2}
    runs = contralens.label_layers(
        ColourNet(), discs, ColourEncoder(), list(COLOURS), layers=["relu", "."], out=tmp_path / "runs",
        cache=tmp_path / "a", **options,
    )  # fmt: skip
    assert list(runs) == ["relu", "."]
    for layer, folder in (("relu", "relu"), (".", "output")):
        alone = contralens.label(
            ColourNet(), str(discs), ColourEncoder(), list(COLOURS), layer=layer, out=tmp_path / "alone" / folder,
            cache=tmp_path / "b", **options,
        )  # fmt: skip
        assert runs[layer] == alone
        assert bytes_of(tmp_path / "runs" / folder) == bytes_of(tmp_path / "alone" / folder)


def test_several_layers_on_the_command_line_and_in_evaluation(tmp_path: Path, discs: Path, capsys, monkeypatch) -> None:
    import json
    import sys

    from contralens.cli import main

    given = ["--target", "world:1", "--encoder", "world", "--images", str(discs), "--cache", str(tmp_path / "cache")]
    collecting = ["contralens", "collect", *given, "--layer", "block2", "--layer", "block3", "--json"]

    def run(words: list[str]) -> dict:
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit, match="0"):
            main()
        return json.loads(capsys.readouterr().out)

    first = run(collecting)
    assert (first["tiles"], first["of"], first["images"]) == (1, 1, 42)
    assert 0 < first["forward_share"] < 1
    assert first["images_per_second"] > 0
    assert run(collecting)["images"] == 0
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen\nblue\nyellow\nwhite")
    labeling = ["contralens", "label", *given, "--vocabulary", str(words), "--k", "5", "--layer", "block2",
                "--layer", "block3", "--holdout", "0.2", "--out", str(tmp_path / "runs"), "--json"]  # fmt: skip
    runs = run(labeling)["runs"]
    assert [r["manifest"]["target"]["layer"] for r in runs] == ["block2", "block3"]
    assert [Path(r["report"]).is_file() for r in runs] == [True, True]
    assert {r["manifest"]["target"]["spec"] for r in runs} == {"world:1"}
    from contralens.run_data.reopened import Reopened

    again = Reopened(contralens.load(tmp_path / "runs" / "block2"), cache=tmp_path / "elsewhere")
    assert again.target.fingerprint == runs[0]["manifest"]["target"]["fingerprint"]
    assert again.activations(again.test[:3]).shape[0] == 3


@pytest.mark.parametrize(
    ("layers", "says"), [([], "must be a list"), ("relu", "must be a list"), (["relu", "relu"], "twice"),
                         (["relu", "rel"], "did you mean relu")],
)  # fmt: skip
def test_bad_layers_are_one_line(layers: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        contralens.targets(ColourNet(), layers, preprocess=to_pixels)
