"""Activation maps, fed classes and the layout of a run, against slow copies of one image and neuron at a time."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pyarrow.parquet as pq
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from PIL import Image
from torch import Tensor, nn

import contralens
from contralens.data.images import images as image_set
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.maps import LARGEST, _coarse
from contralens.models.activation_maps import maps, seen
from contralens.models.heads import linear_head
from contralens.models.sae_target import sae
from contralens.models.targets import target

CLASSES = ["ant", "bee", "cow", "dog"]


def rows(run: Run, name: str) -> list[dict[str, Any]]:
    assert run.path
    return list(pq.read_table(run.path / f"{name}.parquet").to_pylist())


def labeled(discs: Path, net: nn.Module, out: Path, layer: str = "relu", **options: Any) -> Run:
    given = {"vocabulary": list(COLOURS), "preprocess": to_pixels, "k": 4, "scorers": ["csp"], **options}
    return contralens.label(net, discs, ColourEncoder(), layer=layer, out=out, **given)


def test_maps_are_the_layers_own_on_one_scale_a_neuron(discs: Path, colour_net: ColourNet, tmp_path: Path) -> None:
    run = labeled(discs, colour_net, tmp_path / "run")
    contralens.add_maps(run, target=contralens.target(colour_net, "relu", preprocess=to_pixels), pairs=3, batch_size=5)
    found = rows(run, "maps")
    pictures = image_set(discs)
    place = {f: i for i, f in enumerate(pictures.fingerprints())}
    exemplars = [e for e in run.exemplars.to_pylist() if e["rank"] < 3]
    expected = {(e["neuron"], e[side]) for e in exemplars for side in ("positive", "contrast") if e[side] >= 0}
    assert {(r["neuron"], r["image"]) for r in found} == expected
    assert len(found) == len(expected)

    def own_map(neuron: int, image: int) -> Tensor:
        pixels = to_pixels(pictures.load(place[run.images["fingerprint"][image].as_py()]))
        return colour_net.relu(colour_net.conv(pixels[None]))[0, neuron].detach()

    for neuron in {r["neuron"] for r in found}:
        own = [r for r in found if r["neuron"] == neuron]
        most = max(float(own_map(neuron, r["image"]).max()) for r in own)
        for r in own:
            got = np.frombuffer(r["map"], np.uint8).reshape(r["height"], r["width"])
            slow = (own_map(neuron, r["image"]) / most * 255).round().numpy()
            assert np.abs(got - slow).max() <= 1
            assert (r["box"], r["aspect"]) == ([0, 0, 1, 1], 1)
        assert max(max(r["map"]) for r in own) == 255


def test_a_class_fed_through_a_linear_head_is_found_by_trying_it(
    discs: Path, colour_net: ColourNet, tmp_path: Path
) -> None:
    run = labeled(discs, colour_net, tmp_path / "run")
    layer = contralens.target(colour_net, "relu", preprocess=to_pixels)
    told = contralens.add_maps(run, target=layer, classes=CLASSES)
    assert "classes that neurons feed" in told[1]
    found = rows(run, "classes")
    weight = colour_net.head.weight.detach()
    assert {r["neuron"] for r in found} == set(run.exemplars["neuron"].to_pylist())
    for r in found:
        assert r["weight"] == pytest.approx(float(weight[CLASSES.index(r["class"]), r["neuron"]]))
        mean = np.mean([e["activation"] for e in run.exemplars.to_pylist() if e["neuron"] == r["neuron"]])
        assert r["adds"] == pytest.approx(r["weight"] * mean, rel=1e-5)
    assert contralens.add_maps(run, target=layer)[1] == told[1]
    assert {r["class"] for r in rows(run, "classes")} == {f"class {i}" for i in range(4)}


def test_a_head_that_is_not_linear_in_the_layer_is_none() -> None:
    batch = torch.rand(4, 3, 32, 32)

    class Squared(ColourNet):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.relu(self.conv(x)).mean((2, 3)) ** 2)

    for net, layer in ((Squared(), "relu"), (ColourNet(), "conv")):
        assert linear_head(target(net, layer, preprocess=to_pixels), batch) is None
    assert linear_head(target(ColourNet(), "relu", preprocess=to_pixels, pooling="max"), batch) is None
    found = linear_head(target(ColourNet(), "relu", preprocess=to_pixels), batch)
    assert found is not None
    assert found.shape == (4, 6)


class Patches(nn.Module):
    """Tokens of 8 x 8 px patches after a class token."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.patch = nn.Conv2d(3, 5, 8, 8)
        self.norm = nn.Identity()
        with torch.no_grad():
            self.patch.weight.copy_(torch.randn(5, 3, 8, 8, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).mT
        return self.norm(torch.cat([torch.full_like(tokens[:, :1], 9.0), tokens], 1))[:, 0]


def test_patch_tokens_and_latents_are_placed_as_the_patches_lie() -> None:
    net = Patches()
    pictures = [Image.effect_noise((32, 32), 80).convert("RGB") for _ in range(3)]
    wanted = [[4, 0], [], [2]]
    layer = target(net, "norm", preprocess=to_pixels, pooling="mean_patches", prefix_tokens=1)
    found = maps(layer, pictures, wanted)
    assert found is not None
    slow = [net.patch(to_pixels(p)[None])[0].detach() for p in pictures]
    assert [f.shape for f in found] == [(2, 4, 4), (0, 4, 4), (1, 4, 4)]
    assert np.allclose(found[0], slow[0][[4, 0]].numpy(), atol=1e-5)
    assert np.allclose(found[2], slow[2][[2]].numpy(), atol=1e-5)
    assert maps(target(net, "norm", preprocess=to_pixels, pooling="cls", prefix_tokens=1), pictures, wanted) is None

    encoder = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    latents = sae(layer, {"W_enc": encoder, "b_enc": torch.zeros(7)})
    found = maps(latents, pictures, wanted)
    assert found is not None
    expected = (slow[0].flatten(1).mT @ encoder[:, [4, 0]]).relu().mT.reshape(2, 4, 4)
    assert np.allclose(found[0], expected.numpy(), atol=1e-5)


def test_the_box_is_what_preprocessing_keeps() -> None:
    cropped = target(ColourNet(), "relu", preprocess="resize=64,crop=48,mean=none")
    left, top, right, bottom = seen(cropped.preprocess, (256, 128))
    assert np.allclose((left, top, right, bottom), (80, 16, 176, 112), atol=3)


def test_fine_maps_are_averaged() -> None:
    values = np.arange(100 * 70, dtype=np.float32).reshape(100, 70)
    got = _coarse(values)
    assert max(got.shape) <= LARGEST
    assert got[0, 0] == pytest.approx(values[:4, :4].mean())
    assert _coarse(values[:LARGEST, :LARGEST]) is not None


@pytest.mark.slow
@pytest.mark.skipif(find_spec("umap") is None, reason="umap-learn is not installed: pip install 'contralens[umap]'")
def test_the_layout_keeps_neighbours_together_and_is_deterministic(discs: Path, tmp_path: Path) -> None:
    class Wide(nn.Module):
        """36 neurons: twelve that like each of three colours, a little differently."""

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 36, 1)
            self.relu = nn.ReLU()
            with torch.no_grad():
                noise = 0.02 * torch.randn(36, 3, generator=torch.Generator().manual_seed(0))
                self.conv.weight.copy_((torch.eye(3).repeat_interleave(12, 0) + noise - 0.4)[:, :, None, None])

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(x)).mean((2, 3))

    net = Wide()
    run = labeled(discs, net, tmp_path / "run")
    layer = contralens.target(net, "relu", preprocess=to_pixels)
    told = contralens.add_maps(run, target=layer)
    assert len(told) == 2, "no layout unless asked for"
    told = contralens.add_maps(run, target=layer, layout=True)
    first = rows(run, "layout")
    assert f"{len(first)} neurons laid out by UMAP" in told[2]
    points = np.array([(r["x"], r["y"]) for r in first])
    far = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(len(first)) * 1e9
    group = np.array([r["neuron"] for r in first]) // 12
    assert (group[far.argmin(1)] == group).mean() > 0.9
    contralens.add_maps(run, target=layer, layout=True)
    assert rows(run, "layout") == first


def test_what_cannot_be_mapped_is_told(discs: Path, colour_net: ColourNet, tmp_path: Path) -> None:
    run = labeled(discs, colour_net, tmp_path / "run", layer="head")
    layer = contralens.target(colour_net, "head", preprocess=to_pixels)
    told = contralens.add_maps(run, target=layer, layout=True)
    assert "has no spatial positions" in told[0]
    assert "no classes" in told[1]
    assert "no layout" in told[2]
    assert not (tmp_path / "run/maps.parquet").exists()
    with pytest.raises(InputError, match="never saved"):
        contralens.add_maps(contralens.label(
            colour_net, discs, ColourEncoder(), list(COLOURS), layer="relu", preprocess=to_pixels, k=2
        ))  # fmt: skip
    with pytest.raises(InputError, match="is not the one of the run"):
        contralens.add_maps(run, target=contralens.target(ColourNet(), "relu", preprocess=to_pixels))
    other = tmp_path / "others"
    other.mkdir()
    Image.new("RGB", (9, 9)).save(other / "a.png")
    with pytest.raises(InputError, match="none of the run's exemplars"):
        contralens.add_maps(run, source=other, target=contralens.target(colour_net, "head", preprocess=to_pixels))


def test_the_command(discs: Path, tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text("import coloured\ndef make():\n    return coloured.ColourNet().eval(), coloured.to_pixels\n")
    pictures = shutil.copytree(discs, tmp_path / "pictures")
    network = f"module:{code}:make"
    contralens.label(
        network, pictures, ColourEncoder(), list(COLOURS), layer="relu", k=3, scorers=["csp"], out=tmp_path / "run"
    )
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\ncow\ndog\n")
    words = ["maps", tmp_path / "run", "--classes", names]
    done = processes.run(processes.command, *words)
    assert done.returncode == 0, done.stderr
    assert "activation maps in" in done.stdout
    assert "no longer" not in done.stdout
    first = next(row["positive_id"] for row in contralens.load(tmp_path / "run").neuron(0)["exemplars"])
    (pictures / first).unlink()
    done = processes.run(processes.command, *words)
    assert re.match(rf"1 of \d+ pictures are no longer in {re.escape(str(pictures))}: they have no maps\n", done.stdout)
    assert {r["class"] for r in pq.read_table(tmp_path / "run/classes.parquet").to_pylist()} <= {
        "ant",
        "bee",
        "cow",
        "dog",
    }
