"""Neurons whose truth is known set the level of a run's confidence: the network's outputs, and planted ones."""

from __future__ import annotations

import json

import pytest
import torch
from coloured import ColourNet
from typer.testing import CliRunner

import contralens
from contralens.cli import app
from contralens.errors import InputError
from contralens.models.shared_forward import forward_key
from contralens.models.targets import outputs_of

COLOURS = ("red", "green", "blue", "yellow", "white")
PATTERNS = ("plain", "striped", "dotted", "checkered", "zigzag", "split")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):  # type: ignore[no-untyped-def]
    """A checkpoint in the hub's layout of a network with 24 named outputs."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("classifier")
    names = [*COLOURS, *PATTERNS, *(f"class {i}" for i in range(24 - len(COLOURS) - len(PATTERNS)))]
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", id2label=dict(enumerate(names))
    )  # fmt: skip
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def options(tmp_path_factory):  # type: ignore[no-untyped-def]
    return {"layer": "block3", "k": 5, "scorers": ["csp", "auto"], "cache": tmp_path_factory.mktemp("cache")}


def labeled(discs, options, **more):  # type: ignore[no-untyped-def]
    return contralens.label("world:1", discs, "world", [*COLOURS, *PATTERNS], **{**options, **more})


def test_outputs_come_from_the_same_forward_and_have_their_classes_names() -> None:
    layer = contralens.target("world:1", layer="block3")
    outputs = outputs_of(layer)
    assert tuple(outputs.neurons) == PATTERNS
    assert forward_key(outputs) == forward_key(layer)
    batch = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.equal(outputs(batch), contralens.target("world:1", layer="head")(batch))
    with pytest.raises(InputError, match="does not know the names of its outputs"):
        outputs_of(contralens.target(ColourNet(), layer="conv", preprocess="resize=32x32,mean=half"))


def test_outputs_set_the_level_and_the_labels_of_scorers_stay(discs, options, classifier) -> None:
    own = {**options, "layer": "resnet.encoder"}
    plain, by_outputs = (
        contralens.label(classifier, discs, "world", [*COLOURS, *PATTERNS], calibrate=how, **own)
        for how in (None, "outputs")
    )
    (about,) = by_outputs.manifest["confidence"]["level set by"]
    assert plain.manifest["confidence"]["level set by"] == []
    assert about["from"] == "class names of the network's outputs"
    assert about["neurons"] == 24
    assert about["word missing"] == 24 - len(COLOURS) - len(PATTERNS)
    before, after = plain.rows("csp"), by_outputs.rows("csp")
    assert [row["label"] for row in before] == [row["label"] for row in after]
    assert [row["confidence"] for row in before] != [row["confidence"] for row in after]


def test_planted_neurons_follow_folders_tables_and_mappings_alike(discs, options, tmp_path) -> None:
    table = tmp_path / "shown.csv"
    files = sorted(path.relative_to(discs) for path in discs.rglob("*.png"))
    lines = [f"{file},{file.parent}{'|striped' if int(file.stem) % 2 else ''}" for file in files]
    table.write_text("\n".join(["image,shows", *lines]))
    by_class = labeled(discs, options, calibrate="classes")
    by_mapping = labeled(discs, options, calibrate={str(file): file.parent.name for file in files})
    by_table = labeled(discs, options, calibrate=[f"{table}:shows"])
    assert [row["confidence"] for row in by_class.rows()] == [row["confidence"] for row in by_mapping.rows()]
    assert [row["confidence"] for row in by_class.rows()] != [row["confidence"] for row in by_table.rows()]
    (about,) = by_table.manifest["confidence"]["level set by"]
    assert (about["from"], about["neurons"]) == (f"neurons planted on {table}:shows", 150)
    assert 0 < about["word missing"] < 75


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (3, "`calibrate` must be \"outputs\""),
        ("none.csv:shows", "there is no table 'none.csv'"),
        ({"blue/002.png": "no such word"}, "of 1 concept, none is in the vocabulary and shown by 3 of the images"),
    ],
)  # fmt: skip
def test_what_cannot_set_a_level_is_refused(discs, options, asked, said) -> None:
    with pytest.raises(InputError, match=said):
        labeled(discs, options, calibrate=asked)


def test_calibration_needs_confidence_and_another_layer_than_the_output(discs, options) -> None:
    with pytest.raises(InputError, match="needs stored activations"):
        labeled(discs, options, calibrate="outputs", store_activations=False, scorers="csp")
    with pytest.raises(InputError, match="the layer head is the output itself"):
        labeled(discs, options, calibrate="outputs", layer="head")
    with pytest.raises(InputError, match="world:1 has 6 outputs, and a level needs at least 20; plant"):
        labeled(discs, options, calibrate="outputs")


def test_outputs_that_never_differ_are_refused(discs, options, classifier, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    net = transformers.ResNetForImageClassification.from_pretrained(classifier.removeprefix("hf:"))
    torch.nn.init.zeros_(net.classifier[1].weight)
    net.save_pretrained(tmp_path)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(tmp_path)
    own = {**options, "layer": "resnet.encoder"}
    with pytest.raises(InputError, match=r"no output of .* differs between these images"):
        contralens.label(f"hf:{tmp_path}", discs, "world", [*COLOURS], calibrate="outputs", **own)


def test_the_command_takes_it(discs, tmp_path, classifier) -> None:
    words = tmp_path / "words.txt"
    words.write_text("\n".join(["red", "striped", "plain"]))
    config = tmp_path / "config.yaml"
    config.write_text("calibrate: [outputs, classes]\nconfidence: true\n")
    asked = [
        "label", "--target", classifier, "--layer", "resnet.encoder", "--encoder", "world", "--images", str(discs),
        "--vocabulary", str(words), "--out", str(tmp_path / "run"), "--k", "5", "--config", str(config),
        "--cache", str(tmp_path / "cache"), "--no-report", "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    known = json.loads(done.stdout)["manifest"]["confidence"]["level set by"]
    assert [one["from"] for one in known] == [
        "class names of the network's outputs", "neurons planted on the images' classes",
    ]  # fmt: skip
    assert known[0]["word missing"] == 21
