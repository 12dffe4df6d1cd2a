"""Runs whose exemplars are ranked by relevance, or cropped: against slow copies, and in everything that reads a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize
from typer.testing import CliRunner

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import app
from contralens.collecting.distributed import collect_shard
from contralens.data.pictures import Heat, crop_to
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.evaluation.granularity import granularity
from contralens.labeling.layers import label_layers
from contralens.math.scoring import run_scorer
from contralens.models.activation_maps import maps, seen
from contralens.models.pixel_attribution import pixel_heat
from contralens.report.html import write_report
from contralens.run_data.reopened import Reopened
from contralens.settings.label import Collect
from contralens.types import Exemplars


def label(images: Any, net: Any, **options: Any) -> Run:
    given = {"vocabulary": list(COLOURS), "layer": "relu", "preprocess": to_pixels, "k": 5, **options}
    return contralens.label(net, images, ColourEncoder(), **given)


def by_hand(net: ColourNet, pixels: Tensor) -> Tensor:
    """Shares of what each neuron adds to the highest score: activation times weight, as the head is linear."""
    with torch.no_grad():
        a = net.relu(net.conv(pixels)).mean((2, 3))
        r = a * net.head.weight[net.head(a).argmax(1)]
    return r / r.abs().sum(1, keepdim=True)


@pytest.mark.parametrize("method", ["lrp", "gradient"])
def test_exemplars_are_those_of_the_relevance_by_hand(discs: Path, colour_net: ColourNet, method: str) -> None:
    run = label(discs, colour_net, rank_by=f"relevance:method={method}")
    images = contralens.images(discs)
    pixels = torch.stack([to_pixels(images.load(i)) for i in range(len(images))])
    rows = by_hand(colour_net, pixels)
    own = run.exemplars["neuron"].to_pylist()[::5]
    expected = contralens.find_exemplars(rows, ColourEncoder()(pixels), k=5, neurons=own)
    np.testing.assert_allclose(run.exemplars["activation"], expected.activations.reshape(-1), atol=1e-5)
    assert run.exemplars["positive"].to_pylist() == expected.positives.reshape(-1).tolist()
    assert run.exemplars["contrast"].to_pylist() == expected.contrasts.reshape(-1).tolist()
    assert run.manifest["ranking"]["method"] == method
    assert run.manifest["ranking"]["by"] == "relevance"
    plain = label(discs, colour_net)
    assert plain.manifest["ranking"] is None
    assert plain.manifest["target"]["fingerprint"] != run.manifest["target"]["fingerprint"]


def test_every_way_to_the_same_run(discs: Path, colour_net: ColourNet, tmp_path: Path) -> None:
    run = label(discs, colour_net, rank_by="relevance", confidence=False)
    streamed = label(discs, colour_net, rank_by="relevance", store_activations=False, cache=tmp_path / "a")
    layered = label_layers(
        colour_net, discs, ColourEncoder(), list(COLOURS), layers=["relu", "conv"], preprocess=to_pixels, k=5,
        rank_by="relevance", confidence=False, cache=tmp_path / "b",
    )  # fmt: skip
    ready = contralens.models.relevance.ranked(contralens.target(colour_net, "relu", preprocess=to_pixels), "relevance")
    with pytest.raises(InputError, match='"auto" goes by confidence'):
        contralens.label(ready, discs, ColourEncoder(), list(COLOURS), scorers="auto")
    given = contralens.label(ready, discs, ColourEncoder(), list(COLOURS), k=5, confidence=False, cache=tmp_path / "c")
    for other in (streamed, layered["relu"], given):
        assert other.exemplars == run.exemplars
        assert other.labels == run.labels
        assert other.manifest["target"]["fingerprint"] == run.manifest["target"]["fingerprint"]


def test_collected_rows_are_found(discs: Path, colour_net: ColourNet, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    job = Collect(
        colour_net, discs, ColourEncoder(), layer="relu", preprocess=to_pixels, cache=cache, rank_by="relevance"
    )  # fmt: skip
    assert collect_shard(job, 0, 1).speed.images == 42
    seen_images = []
    label(discs, colour_net, rank_by="relevance", cache=cache, progress=lambda *told: seen_images.append(told))
    assert not [told for told in seen_images if told[0] == "collecting" and 0 < told[1] < told[2]]
    assert collect_shard(job, 0, 1).speed.images == 0


def test_a_run_by_relevance_is_read_by_all_others(discs: Path, colour_net: ColourNet, tmp_path: Path) -> None:
    run = label(discs, colour_net, rank_by="relevance", holdout=0.3, out=tmp_path / "run")
    reopened = Reopened(
        run, target=contralens.target(colour_net, "relu", preprocess=to_pixels), encoder=ColourEncoder()
    )
    images = contralens.images(discs)
    place = {f: i for i, f in enumerate(images.fingerprints())}
    pixels = torch.stack([to_pixels(images.load(place[f])) for f in reopened.held_out])
    found = torch.cat([rows for _, rows in reopened.activations(reopened.held_out).blocks()])
    assert torch.allclose(found, by_hand(colour_net, pixels), atol=1e-5)
    made = reopened.target
    assert made.fingerprint == run.manifest["target"]["fingerprint"]
    told = contralens.add_maps(run, target=contralens.target(colour_net, "relu", preprocess=to_pixels), pairs=2)
    assert "maps.parquet" in told[0]
    assert any("no classes: the exemplars were ranked by relevance" in line for line in told)
    told = contralens.audit(
        run, {"expected": ["red", "green"], "spurious": ["blue"]}, fakes=20, sample=2, save=False,
        target=contralens.target(colour_net, "relu", preprocess=to_pixels), encoder=ColourEncoder(),
        classes=["a", "b", "c", "d"],
    )  # fmt: skip
    assert told.influence.num_rows
    page = write_report(run).read_text(encoding="utf-8")
    assert "images in which each neuron is most relevant to the predicted class (lrp)" in page


def cut(net: ColourNet, kind: str, images: Any, run: Run) -> tuple[Exemplars, Tensor]:
    """The exemplars as crops, each pair by itself: embeddings (N*K*2, 3), and their indices."""
    target = contralens.target(net, "relu", preprocess=to_pixels)
    heat = pixel_heat(target, "lrp") if kind == "relevance" else None
    place = {f: i for i, f in enumerate(images.fingerprints())}

    def heat_of(image: Image.Image, neuron: int) -> np.ndarray:
        if heat is None:
            found = maps(target, [image], [[neuron]])
            assert found is not None
            return found[0][0]
        pixels = heat(to_pixels(image)[None], [[neuron]])[0]
        return torch.nn.functional.adaptive_avg_pool2d(pixels[None], 14)[0, 0].numpy()

    def embed(image: Image.Image) -> Tensor:
        return ColourEncoder()(to_pixels(image)[None])[0]

    fields: dict[str, list[float]] = {"positive": [], "contrast": [], "similarity": []}
    embeddings: list[Tensor] = []
    for row in run.exemplars.to_pylist():
        pictures = {s: images.load(place[run.images["fingerprint"][row[s]].as_py()]) for s in ("positive", "contrast")
                    if row[s] >= 0}  # fmt: skip
        size = pictures["positive"].size
        values = heat_of(pictures["positive"], row["neuron"])
        box = [0, 0, *size]
        cropped = crop_to(pictures["positive"], Heat(values, seen(to_pixels, size)))
        for x, y in ((x, y) for x in range(size[0]) for y in range(size[1])):  # where the crop was taken from
            if pictures["positive"].crop((x, y, x + cropped.width, y + cropped.height)).tobytes() == cropped.tobytes():
                box = [x, y, x + cropped.width, y + cropped.height]
                break
        np.testing.assert_allclose(row["positive_box"], np.array(box) / size[0], atol=1e-3)
        fields["positive"].append(len(embeddings))
        embeddings.append(embed(cropped))
        if row["contrast"] < 0:
            fields["contrast"].append(-1)
            fields["similarity"].append(np.nan)
            assert row["contrast_box"] is None
            continue
        values = heat_of(pictures["contrast"], row["neuron"])
        wide, high = cropped.size
        centre = (box[0] + wide / 2, box[1] + high / 2)
        if values.max() > values.min():
            down, across = np.unravel_index(values.argmax(), values.shape)
            cells = values.shape[0]
            centre = ((across + 0.5) * size[0] / cells, (down + 0.5) * size[1] / cells)
        left = min(max(centre[0] - wide / 2, 0), size[0] - wide)
        top = min(max(centre[1] - high / 2, 0), size[1] - high)
        wanted = np.array([left, top, left + wide, top + high])
        np.testing.assert_allclose(row["contrast_box"], wanted / size[0], atol=2e-3)
        shown = np.round(np.array(row["contrast_box"]) * size[0]).astype(int)  # halves are rounded one way or the other
        fields["contrast"].append(len(embeddings))
        embeddings.append(embed(pictures["contrast"].crop(tuple(shown.tolist()))))
        fields["similarity"].append(float(embeddings[-1] @ embeddings[-2]))
    n = len(run.exemplars) // 5
    grid = {name: torch.tensor(values).reshape(n, 5) for name, values in fields.items()}
    activations = torch.tensor(run.exemplars["activation"].to_pylist()).reshape(n, 5)
    neurons = torch.tensor(run.exemplars["neuron"].to_pylist()).reshape(n, 5)[:, 0]
    exemplars = Exemplars(neurons, grid["positive"], activations, grid["contrast"], grid["similarity"].float())
    return exemplars, torch.stack(embeddings)


@pytest.mark.parametrize("kind", ["map", "relevance"])
def test_scorers_compare_crops(discs: Path, colour_net: ColourNet, kind: str) -> None:
    """Of a neuron's own colours, not of the grey around them: against crops that are cut and embedded one by one."""
    scorers = ["semanticlens", "clip_dissect", "csp"]
    run = label(discs, colour_net, crop=kind, scorers=scorers)
    whole = label(discs, colour_net, scorers=scorers)
    assert run.exemplars.select(whole.exemplars.column_names) == whole.exemplars  # chosen on whole pictures
    exemplars, embeddings = cut(colour_net, kind, contralens.images(discs), run)
    texts = torch.from_numpy(run.vectors["texts"])
    for scorer in scorers:
        scores = run_scorer(scorer, exemplars, embeddings, texts)
        for at, neuron in enumerate(exemplars.neurons.tolist()):
            row = run.neuron(neuron)["labels"][scorer]
            wanted = {COLOURS[c]: float(scores[at, c]) for c in range(len(COLOURS))}
            np.testing.assert_allclose(row["scores"], [wanted[c] for c in row["concepts"]], atol=2e-3)
    first = run.vectors["positive_mean"]
    assert not np.allclose(first, whole.vectors["positive_mean"])
    red = normalize(torch.tensor([[255.0, 1e-3, 1e-3]]), dim=1)[0].numpy()
    assert first[0] @ red > whole.vectors["positive_mean"][0] @ red  # less grey in it
    assert run.manifest["crop"]["crops"] > 10
    assert run.manifest["crop"]["by"].startswith(kind)


def test_what_scores_whole_pictures_refuses_a_run_of_crops(discs: Path, colour_net: ColourNet) -> None:
    with pytest.raises(InputError, match="labeled from crops"):
        granularity(label(discs, colour_net, crop="map"))


def test_crops_are_kept(discs: Path, colour_net: ColourNet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = label(discs, colour_net, crop="map")
    calls: list[int] = []
    own = ColourEncoder.__call__
    monkeypatch.setattr(ColourEncoder, "__call__", lambda self, batch: calls.append(len(batch)) or own(self, batch))
    again = label(discs, colour_net, crop="map", batch_size=3)
    assert again.labels == run.labels
    assert sum(calls) < 12  # probe images and images of the set; no crop
    assert not any("could not be opened" in note for note in again.manifest["notes"])


def test_what_looks_at_all_images_looks_at_whole_ones(discs: Path, colour_net: ColourNet) -> None:
    both = [label(discs, colour_net, crop=crop, scorers="lookalike") for crop in (None, "map")]
    assert [row["scores"] for row in both[0].rows()] == [row["scores"] for row in both[1].rows()]


def test_confidence_is_left_out_and_said(discs: Path, colour_net: ColourNet) -> None:
    for how, says in (({"crop": "map"}, "for crops"), ({"rank_by": "relevance"}, "for exemplars ranked by relevance")):
        run = label(discs, colour_net, **how)
        assert run.manifest["confidence"] is None
        assert {row["confidence"] for row in run.rows()} == {None}
        assert any("no confidence" in note and says in note for note in run.manifest["notes"])
        assert not any(
            "no confidence" in n for n in label(discs, colour_net, **how, confidence=False).manifest["notes"]
        )
        with pytest.raises(InputError, match='"auto" goes by confidence'):
            label(discs, colour_net, **how, scorers="auto")
        with pytest.raises(InputError, match="`calibrate` sets the level of confidence"):
            label(discs, colour_net, **how, calibrate="outputs")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"crop": "mask"}, r'`crop` must be "map", "relevance"'),
        ({"crop": 3}, "`crop` must be"),
        ({"crop": "relevance:class=1"}, "`crop` must be"),
        ({"crop": "relevance:method=x"}, "method=auto"),
        ({"crop": "map", "fdr": 0.05}, "cannot be cropped"),
        ({"crop": "map", "layer": "head"}, "has no map of where its neurons fire.*use crop=relevance"),
        ({"rank_by": "relevance", "layer": "head"}, "gives the class scores themselves"),
        ({"rank_by": "magic"}, "`rank_by` must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    discs: Path, colour_net: ColourNet, how: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as e:
        label(discs, colour_net, **how)
    assert "\n" not in str(e.value)


def test_a_layer_without_places_is_cropped_by_relevance(discs: Path, colour_net: ColourNet) -> None:
    run = label(discs, colour_net, layer="head", crop="relevance:method=gradient")
    assert run.manifest["crop"]["by"] == "relevance, gradient"


def test_on_the_command_line(tmp_path: Path) -> None:
    write_world(tmp_path / "w", 1, 60)

    def run(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--json"])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    given = ["--target", "world:1", "--layer", "block3", "--encoder", "world", "--images", str(tmp_path / "w/images")]
    run("collect", *given, "--rank-by", "relevance:class=1")
    made = run("label", *given, "--rank-by", "relevance:class=1", "--crop", "map", "--vocabulary", "world", "-k", "4",
               "--scorer", "csp", "--out", str(tmp_path / "run"))  # fmt: skip
    rules = made["manifest"]["ranking"].pop("rules")
    assert "zennit" in rules
    assert made["manifest"]["ranking"] == {"by": "relevance", "method": "lrp", "class": 1, "classes": 6}
    assert made["manifest"]["crop"]["by"] == "map"
    config = tmp_path / "run.yaml"
    config.write_text("rank_by: relevance:method=gradient\ncrop: map\nk: 3\n", encoding="utf-8")
    again = run("label", *given, "--config", str(config), "--vocabulary", "world", "--out", str(tmp_path / "b"))
    assert again["manifest"]["ranking"]["method"] == "gradient"
