"""The main job on an own network, an own encoder and real files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from PIL import Image

import contralens
from contralens.collecting import probe_check
from contralens.data.runs import Run, _json_lines
from contralens.errors import InputError


def label(images: Any, net: Any, encoder: Any, **options: Any) -> Run:
    given = {"vocabulary": list(COLOURS), "layer": "relu", "preprocess": to_pixels, "k": 5, **options}
    return contralens.label(net, images, encoder, **given)


def test_own_network_is_labeled_with_what_its_weights_say(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    run = label(discs, colour_net, colour_encoder, out=tmp_path / "run")
    assert [run.neuron(n)["labels"]["csp"]["label"] for n in range(3)] == ["red", "green", "blue"]
    assert [row["status"] for row in run.neurons.to_pylist()] == ["ok", "ok", "ok", "ok", "dead", "constant"]
    assert [row["label"] for row in run.rows("csp")[4:]] == [None, None]
    assert run.manifest["neurons"]["skipped"] == {"constant": 1, "dead": 1}
    again = contralens.load(tmp_path / "run")
    assert again == run
    assert again.neuron("relu/1") == run.neuron(1)


def test_exemplars_in_the_run_are_those_of_find_exemplars(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder
) -> None:
    run = label(discs, colour_net, colour_encoder)
    images = contralens.images(discs)
    pixels = torch.stack([to_pixels(images.load(i)) for i in range(len(images))])
    activations = colour_net.relu(colour_net.conv(pixels)).mean((2, 3)).detach()
    expected = contralens.find_exemplars(activations, colour_encoder(pixels), k=5, neurons=range(4))
    assert run.exemplars["positive"].to_pylist() == expected.positives.reshape(-1).tolist()
    assert run.exemplars["contrast"].to_pylist() == expected.contrasts.reshape(-1).tolist()
    assert run.images["id"].to_pylist() == list(images.ids)
    assert all(run.thumbnail(i) for i in expected.contrasts.reshape(-1).tolist())
    first, second, texts = (torch.from_numpy(run.vectors[n]) for n in ("positive_mean", "contrast_mean", "texts"))
    best = (torch.nn.functional.normalize(first - second, dim=1) @ texts.T).argmax(1)
    assert [COLOURS[c] for c in best] == [row["label"] for row in run.rows("csp")[:4]]


def test_histograms_count_every_image(discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder) -> None:
    run = label(discs, colour_net, colour_encoder)
    assert [sum(h) for h in run.neurons["histogram"].to_pylist()] == [42] * 6


def test_bad_images_are_counted_and_skipped(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    clean = label(discs, colour_net, colour_encoder)
    folder = shutil.copytree(discs, tmp_path / "images")
    (folder / "red" / "broken.png").write_bytes((folder / "red" / "000.png").read_bytes()[:60])
    (folder / "a.jpg").write_text("not a picture")
    run = label(folder, colour_net, colour_encoder)
    assert sorted(s["id"] for s in run.manifest["images"]["skipped"]) == ["a.jpg", "red/broken.png"]
    assert run.labels == clean.labels
    assert run.manifest["images"]["count"] == 42


def test_a_layer_that_only_gives_nan_is_reported_not_labeled(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder
) -> None:
    with torch.no_grad():
        colour_net.conv.bias[1] = torch.nan
    run = label(discs, colour_net, colour_encoder)
    assert run.neuron(1)["status"] == "nan"
    assert run.neuron(1)["labels"]["csp"]["label"] is None
    assert run.neuron(0)["labels"]["csp"]["label"] == "red"


class Counting(ColourEncoder):
    """Counts what is computed, so that a test sees what came out of the store."""

    def __init__(self) -> None:
        self.seen = 0
        self.read = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen += len(batch)
        return super().__call__(batch)

    def texts(self, texts: Any) -> torch.Tensor:
        self.read += len(texts)
        return super().texts(texts)


def test_only_what_depends_on_a_change_is_computed_again(discs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(discs, tmp_path / "images")
    forwards: list[int] = []

    def run(encoder: Counting, **options: Any) -> tuple[int, int, int]:
        net = options.pop("net", ColourNet())
        hook = net.conv.register_forward_hook(lambda m, x, y: forwards.append(len(x[0])))
        forwards.clear()
        label(folder, net, encoder, **options)
        hook.remove()
        images, texts = (
            len(probe_check.SIZES) + probe_check.OF_THE_SET,
            len(probe_check.TEXTS),
        )  # what every run looks at
        return sum(forwards) - images, encoder.seen - images, encoder.read - texts

    def seen(**options: Any) -> tuple[int, int, int]:
        return run(Counting(), **options)

    probes = run(Counting())[0] - 42  # those of `target`
    assert probes <= 8
    assert run(Counting()) == (probes, 0, 0)
    assert seen(templates="a {}") == (probes, 0, 7)
    assert seen(vocabulary=[*COLOURS, "orange"]) == (probes, 0, 1)
    assert seen(layer="conv") == (42 + probes, 0, 0)
    assert seen(pooling="max") == (42 + probes, 0, 0)
    changed = ColourNet()
    with torch.no_grad():
        changed.conv.weight[0, 0] = 0.9
    assert seen(net=changed) == (42 + probes, 0, 0)
    Image.open(folder / "red" / "000.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "red" / "000.png")
    assert seen() == (1 + probes, 1, 0)
    assert seen(k=3) == (probes, 0, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocabulary": ["red"]}, "at least two"),
        ({"vocabulary": []}, "vocabulary"),
        ({"layer": "rel"}, "did you mean relu"),
        ({"scorers": "csq"}, "did you mean csp"),
        ({"scorers": "csp:gama=1"}, "did you mean gamma"),
        ({"scorers": "csp:gamma=2"}, "between 0 and 1"),
        ({"k": 0}, "at least 1"),
        ({"neurons": [9]}, "0..5"),
        ({"pooling": "cls"}, "pooling"),
    ],
)
def test_bad_arguments_say_what_to_do(
    options: dict[str, Any], says: str, discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        label(discs, colour_net, colour_encoder, **options)
    assert "\n" not in str(caught.value)


def test_out_is_checked_before_the_work(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="your files are not overwritten"):
        label(discs, colour_net, colour_encoder, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").exists()
    label(discs, colour_net, colour_encoder, out=tmp_path / "run")
    label(discs, colour_net, colour_encoder, out=tmp_path / "run", k=3)  # an older run is replaced
    assert contralens.load(tmp_path / "run").manifest["k"] == 3
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".partial")] == []


def test_labels_json_is_written_in_pieces_as_in_one(
    discs: Path, colour_net: ColourNet, colour_encoder: ColourEncoder, tmp_path: Path
) -> None:
    run = label(discs, colour_net, colour_encoder, out=tmp_path / "run")
    whole = json.dumps(run.labels.to_pylist(), indent=1, ensure_ascii=False) + "\n"
    assert (tmp_path / "run" / "labels.json").read_text(encoding="utf-8") == whole
    for at_once in (1, 5, len(run.labels)):
        assert "".join(_json_lines(run.labels, at_once)) == whole
    assert "".join(_json_lines(run.labels.slice(0, 0))) == "[]\n"
