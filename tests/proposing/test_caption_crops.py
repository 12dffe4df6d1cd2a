"""The caption bank on crops to where neurons fire: a corner and what is behind it, FALCON's groups, and refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import ColourEncoder, to_pixels
from PIL import Image, ImageColor

import contralens
from contralens.data.pictures import Heat, crop_to
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.models.activation_maps import maps
from contralens.proposing.propose import propose
from contralens.run_data.crop_rows import RunCrops, together
from contralens.run_data.stored import RunImages, cached_rows

GROUNDS = ("green", "cyan", "white", "black")


class CornerNet(torch.nn.Module):
    """Neurons 0 and 1 fire on red, 2 on blue, 3 faintly on yellow, 4 on everything; then a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = torch.nn.Conv2d(3, 5, 1), torch.nn.ReLU(), torch.nn.Linear(5, 2)
        with torch.no_grad():
            weights = [[10, -10, -10], [9, -9, -9], [-0.3, -0.3, 0.3], [0.1, 0.1, -0.2], [0, 0, 0.0]]
            self.conv.weight.copy_(torch.tensor(weights)[..., None, None])
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, 0.0, -0.15, 0.3]))
            self.head.weight.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


def draw(folder: Path, grounds: tuple[str, ...]) -> Path:
    """Eight pictures of a red square in the corner, on grounds in turn, and eight that are blue; each of its own."""
    folder.mkdir()
    for i in range(8):
        image = Image.new("RGB", (48, 48), ImageColor.getrgb(grounds[i % len(grounds)]))
        x, y = (i % 2) * 32, (i // 2 % 2) * 32
        image.paste((255 - i, 0, 0), (x, y, x + 16, y + 16))
        image.save(folder / f"corner{i}.png")
        Image.new("RGB", (48, 48), (0, 0, 255 - i)).save(folder / f"blue{i}.png")
    return folder


def made(tmp_path: Path, grounds: tuple[str, ...], layer: str = "relu") -> tuple[Run, dict[str, Any], str]:
    """A labeled run, what `propose` needs to read it, and captions."""
    torch.manual_seed(0)
    net = CornerNet()
    given = {"layer": layer, "preprocess": to_pixels}
    work = {"images": draw(tmp_path / "images", grounds), "encoder": ColourEncoder(), "cache": tmp_path / "cache"}
    run = contralens.label(
        net, work["images"], work["encoder"], ["red", "green"], **given, k=5, confidence=False, cache=work["cache"],
        out=tmp_path / "run",
    )  # fmt: skip
    (tmp_path / "captions.txt").write_text("red\ngreen\nblue\ncyan\nwhite\n")
    work |= {"target": contralens.target(net, **given), "merge": None}
    return run, work, f"captions:{tmp_path / 'captions.txt'}"


@pytest.mark.parametrize("prompt", ["contrastive", "positives"])
def test_the_corner_wins_over_the_ground_only_with_a_focus(tmp_path: Path, prompt: Any) -> None:
    run, work, bank = made(tmp_path, ("green",))
    options = {"top": 1, "longest": 1}
    given = {**work, "prompt": prompt, "neurons": [0], "caption_options": options}
    whole = propose(run, bank, folder=tmp_path / "a", **given)
    plain = propose(run, bank, folder=tmp_path / "b", **{**given, "target": None})
    focused = propose(run, bank, folder=tmp_path / "c", focus="crop", **given)
    assert whole.of(0) == ["green"]
    assert focused.of(0) == ["red"]
    assert (plain.of(0), plain.manifest) == (whole.of(0), whole.manifest)  # a network alone changes nothing
    assert "focus" not in whole.manifest
    assert focused.manifest["focus"]["by"] == "map"
    crops = focused.manifest["focus"]["crops"]
    assert 5 < crops <= 10 if prompt == "contrastive" else crops == 5  # a contrast may stand for two positives
    assert focused.manifest["focus"]["whole"] == 0.0


def test_groups_are_filtered_by_their_crops(tmp_path: Path) -> None:
    run, work, bank = made(tmp_path, GROUNDS)
    options = {"groups": "auto", "limit": 0.3, "least": 4, "coherent": 0.95, "top": 1, "longest": 1}
    given = {**work, "neurons": [0, 1], "caption_options": options}
    whole = propose(run, bank, folder=tmp_path / "a", **given)
    focused = propose(run, bank, folder=tmp_path / "b", focus="crop", **given)
    assert [0, 1] not in whole.manifest["groups"]  # red corners on grounds of four colours
    assert whole.of(0)[0] == "green"
    at = focused.manifest["groups"].index([0, 1])
    assert focused.manifest["discovered"][at]["images"] == 8
    assert focused.manifest["discovered"][at]["coherence"] > 0.99
    assert focused.of(0) == focused.of(1)
    assert focused.of(0) == ["red"]


def test_crops_of_a_group_are_those_cut_by_hand(tmp_path: Path) -> None:
    """Red at the top, faint yellow at the bottom: the group's crop holds both, each neuron's only its own."""
    run, work, _ = made(tmp_path, ("green",))
    mixed = Image.new("RGB", (48, 48))
    mixed.paste((255, 0, 0), (0, 0, 12, 12))
    mixed.paste((255, 255, 0), (0, 36, 12, 48))

    pictures = RunImages(run)
    pictures.load = lambda row: mixed  # type: ignore[method-assign]
    embeddings = torch.from_numpy(cached_rows(run, Store(work["cache"]), "encoder"))
    crops = RunCrops(work["target"], work["encoder"], pictures, embeddings, Store(tmp_path / "other"))
    asked = [(group, torch.tensor([3, -1]), torch.tensor([4])) for group in ([0], [3], [0, 3])]
    rows, sides = crops(asked)
    own = maps(work["target"], [mixed], [[0, 3]])[0]
    assert own[0].max() > 10 * own[1].max() > 0
    by_hand = [own[0], own[1], (own[0] / own[0].max() + own[1] / own[1].max()) / 2]
    for heat, (positives, contrasts) in zip(by_hand, sides, strict=True):
        expected = work["encoder"](to_pixels(crop_to(mixed, Heat(heat, (0, 0, 48, 48))))[None])[0]
        assert positives[1] == -1
        torch.testing.assert_close(rows[positives[0]], expected, atol=1e-3, rtol=0)
        assert len(contrasts) == 1
    assert rows[sides[0][0][0], 1] < 0.1 < rows[sides[2][0][0], 1]  # no yellow, and some
    assert np.array_equal(together(own[:1]), own[0])


def test_what_a_focus_of_captions_refuses(tmp_path: Path) -> None:
    run, work, bank = made(tmp_path, ("green",), layer="head")
    with pytest.raises(InputError, match=r"head has no map of where its neurons fire .*omit `focus`") as caught:
        propose(run, bank, folder=tmp_path / "a", focus="crop", **work)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match='knows the focus "crop" only'):
        propose(run, bank, folder=tmp_path / "b", focus="mask", **work)
    with pytest.raises(InputError, match="needs the images and the target"):
        propose(run, bank, folder=tmp_path / "c", focus="crop", **{**work, "target": None})
    manifest = {**run.manifest, "target": {**run.manifest["target"], "fingerprint": "other"}}
    with pytest.raises(InputError, match="is not the target of this run"):
        propose(replace(run, manifest=manifest), bank, folder=tmp_path / "d", focus="crop", **work)


def test_crops_are_those_of_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, work, bank = made(tmp_path, GROUNDS)
    contralens.label(
        CornerNet(), work["images"], work["encoder"], ["red", "green"], layer="relu",
        preprocess=to_pixels, k=5, confidence=False, cache=work["cache"], crop="map",
    )  # fmt: skip

    def never(self: ColourEncoder, batch: torch.Tensor) -> torch.Tensor:
        raise AssertionError("all crops were embedded by then")

    monkeypatch.setattr(ColourEncoder, "__call__", never)
    given = {**work, "neurons": [0, 1, 2], "caption_options": {"top": 1}}
    assert propose(run, bank, folder=tmp_path / "a", focus="crop", **given).manifest["focus"]["crops"] > 10
