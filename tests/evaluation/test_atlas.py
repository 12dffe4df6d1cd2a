"""An atlas of layers: counts that a reader can check, edges of known weights, a model card that says what is so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import main
from contralens.data.atlases import opened
from contralens.data.notes import Notebook
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.math.layer_edges import feeding
from contralens.models.layer_edges import ablated, linear_weights
from contralens.report.model_card import write_model_card
from contralens.run_data.reopened import Reopened

LAYERS = ["block2", "block3", "."]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of three layers of world 1, and the cache beside them."""
    folder = tmp_path_factory.mktemp("atlas")
    write_world(folder / "w", 1, 90)
    contralens.label_layers(
        "world:1", folder / "w/images", "world", "world", layers=LAYERS, k=5, fdr=0.2, fakes=100,
        out=folder / "runs", cache=folder / "cache",
    )  # fmt: skip
    return folder


def test_counts_and_first_layers_are_those_of_the_runs(runs: Path) -> None:
    atlas = contralens.atlas(runs / "runs")
    assert atlas.layers["layer"].to_pylist() == LAYERS, "in the order in which they run, whatever folders are called"
    depths = atlas.layers["depth"].to_pylist()
    assert depths == sorted(depths)
    assert depths[-1] == 1.0
    seen: set[str] = set()
    for row in atlas.layers.to_pylist():
        own = contralens.final(runs / "runs" / row["run"]).rows()
        labels = {r["label"] for r in own if r["label"] is not None}
        assert row["labeled"] == row["supported"] == sum(r["label"] is not None for r in own)
        assert row["chance"] == sum(r["status"] == "chance" for r in own)
        assert row["neurons"] == row["labeled"] + row["unlabeled"] + row["silent"]
        assert row["sure"] == sum((r["confidence"] or 0) >= 0.5 for r in own if r["label"] is not None)
        assert (row["concepts"], row["new"]) == (len(labels), len(labels - seen))
        assert row["verified"] is None, "nothing was tested, so the count is unknown and not 0"
        seen |= labels
    assert {c["concept"] for c in atlas.concepts.to_pylist()} == seen
    for c in atlas.concepts.to_pylist():
        assert c["first"] == next(layer for layer, n in zip(LAYERS, c["counts"], strict=True) if n)
        assert sum(c["counts"]) == c["neurons"] == len([r for r in atlas.rows() if r["label"] == c["concept"]])


def test_search_and_sort_go_over_all_layers(runs: Path) -> None:
    atlas = contralens.atlas([runs / "runs" / name for name in ("output", "block3", "block2")])
    some = atlas.concepts["concept"][0].as_py()
    found = atlas.search(some.upper(), limit=500)
    assert {r["label"] for r in found} >= {some}
    assert len({r["layer"] for r in found}) > 1
    sure = [r["confidence"] for r in found]
    assert sure == sorted(sure, reverse=True)
    assert all(r["layer"] == "block3" for r in atlas.rows(layer="block3"))
    assert len(atlas.rows(status="labeled", limit=7)) == 7
    with pytest.raises(InputError, match="cannot sort by 'confidense'"):
        atlas.rows(sort="confidense")
    with pytest.raises(InputError, match="no layer 'block9'"):
        atlas.rows(layer="block9")
    assert json.loads(json.dumps(atlas.to_dict(), default=str))["layers"][0]["layer"] == "block2"


def test_what_is_no_atlas_is_one_line(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two runs are of the layer block3"):
        contralens.atlas([runs / "runs/block3", runs / "runs/block3"])
    with pytest.raises(InputError, match="needs at least one run"):
        contralens.atlas(tmp_path)
    one = contralens.load(runs / "runs/block3")
    other = replace(one, manifest={**one.manifest, "target": {**one.manifest["target"], "name": "net", "layer": "x"}})
    assert "several networks" in contralens.atlas([one, other]).manifest["notes"][0]
    with pytest.raises(InputError, match="edges need layers of one network"):
        contralens.atlas([one, other], edges="weights", cache=runs / "cache")


def test_an_audit_and_experiments_count(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "runs/block3", tmp_path / "block3")
    contralens.audit(
        tmp_path / "block3", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0, cache=runs / "cache"
    )
    row = contralens.atlas(tmp_path / "block3").layers.to_pylist()[0]
    assert row["confounded"] == contralens.load_audit(tmp_path / "block3").counts["spurious"]


def test_links_are_those_of_match(runs: Path) -> None:
    two = [runs / "runs" / name for name in ("block2", "block3")]
    atlas = contralens.atlas(two, links=True, fakes=100, cache=runs / "cache")
    found = contralens.match(*two, fakes=100, cache=runs / "cache")
    ours = {(r["run"], r["neuron"]): (r["other"], r["matches"]) for r in atlas.links.to_pylist()}
    names = {"one": "block2", "other": "block3"}
    assert ours == {(names[r["run"]], r["neuron"]): (r["best"], r["matches"]) for r in found.best.to_pylist()}


def test_links_give_labels_as_finally_judged(runs: Path, tmp_path: Path) -> None:
    two = [Path(shutil.copytree(runs / "runs" / name, tmp_path / name)) for name in ("block2", "block3")]
    Notebook(two[0], writable=True).add(3, "block2/3", "label", "a person's word")
    atlas = contralens.atlas(two, links=True, fakes=100, cache=runs / "cache")
    judged = {(r["run"], r["neuron"]): r["label"] for r in atlas.neurons.to_pylist()}
    assert judged["block2", 3] == "a person's word"
    for row in atlas.links.to_pylist():
        assert row["label"] == judged[row["run"], row["neuron"]]
        assert row["other_label"] == judged[row["other_run"], row["other"]]


def test_edges_by_weights_are_those_of_the_head(runs: Path) -> None:
    two = [runs / "runs" / name for name in ("block3", "output")]
    atlas = contralens.atlas(two, edges="weights", fakes=100, cache=runs / "cache")
    weight = contralens.target("world:1", "block3").module.get_parameter("head.weight").detach()
    run = contralens.load(two[1])
    for row in atlas.edges.to_pylist():
        w = float(weight[row["other"], row["neuron"]])
        assert w != 0
        assert 0 < row["p"] <= 1
        assert row["other_label"] == {r["neuron"]: r["label"] for r in run.rows()}[row["other"]]
    nonlinear = contralens.atlas(
        [runs / "runs" / n for n in ("block2", "block3")], edges="weights", cache=runs / "cache"
    )
    assert len(nonlinear.edges) == 0
    assert "not linear" in nonlinear.manifest["notes"][0]


def test_edges_by_weights_leave_out_images_that_cannot_be_read(runs: Path, tmp_path: Path) -> None:
    two = [runs / "runs" / name for name in ("block3", "output")]
    moved = Path(shutil.copytree(runs / "w/images", tmp_path / "images"))
    whole = contralens.atlas(two, edges="weights", save=False, cache=runs / "cache")
    for at in (0, 1):
        sorted(moved.iterdir())[at].write_text("no picture")
    left = contralens.atlas(two, edges="weights", source=moved, save=False, cache=runs / "cache")
    assert left.edges["neuron"] == whole.edges["neuron"]
    for file in moved.iterdir():
        file.write_text("no picture")
    with pytest.raises(InputError, match="holds none of the run's"):
        contralens.atlas(two, edges="weights", source=moved, save=False, cache=runs / "cache")


def test_a_planted_edge_stands_out_of_permuted_weights_and_noise_does_not() -> None:
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(40, 60, generator=random)
    differences = torch.randn(40, 60, generator=random)
    noise = feeding(weights, differences, count=1, nulls=400)
    assert float((noise.p <= 0.05).double().mean()) < 0.15
    weights[:, 7], differences[:, 7] = 6.0, 6.0
    planted = feeding(weights, differences, count=1, nulls=400)
    assert planted.sources.flatten().tolist() == [7] * 40
    assert float((planted.p <= 0.05).double().mean()) > 0.95


def test_weights_and_ablation_agree_where_a_layer_is_linear() -> None:
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 3),
    )
    one, other = contralens.targets(net, ["1", "4"], preprocess="resize=12x12,mean=half")
    batch = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    weights = linear_weights(one, other, batch)
    assert weights is not None
    assert torch.allclose(weights, net[4].weight, atol=1e-5)
    lost = ablated(one, other, batch, 2, range(6))
    assert torch.allclose(lost, one(batch).mean(0) * net[4].weight[2], atol=1e-5)
    assert not any(m._forward_hooks for m in net.modules())


def test_edges_by_ablation_on_the_command_line(runs: Path, capsys, monkeypatch) -> None:
    words = ["contralens", "atlas", *(str(runs / "runs" / n) for n in ("block2", "block3")), "--edges", "ablation",
             "--most", "2", "--cache", str(runs / "cache"), "--json"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit, match="0"):
        main()
    edges = json.loads(capsys.readouterr().out)["edges"]
    assert len(edges) == 6
    assert {e["by"] for e in edges} == {"ablation"}
    assert all(0 < e["p"] <= 1 for e in edges)


def test_sort_without_search_is_refused_and_runs_of_before_have_no_options(runs: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["contralens", "atlas", str(runs / "runs/block2"), "--sort", "depth"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--sort goes with --search" in capsys.readouterr().err
    for ignored in ({"most": 3}, {"fakes": 10}, {"edges_per_neuron": 1}, {"edges": "weights", "most": 3},
                    {"edges": "ablation", "fakes": 10}):  # fmt: skip
        with pytest.raises(InputError, match="which are not asked for"):
            contralens.atlas(runs / "runs/block2", **ignored)
    both = [contralens.load(runs / "runs" / name) for name in ("block2", "block3")]
    older = []
    for run in both:
        kept = {key: run.manifest["target"][key] for key in run.manifest["target"].keys() - {"options", "sae", "spec"}}
        older.append(replace(run, manifest={**run.manifest, "target": kept}))
    with pytest.raises(InputError, match="edges need layers of one network"):
        contralens.atlas(older, edges="weights", cache=runs / "cache")


def test_edges_by_ablation_leave_out_neurons_whose_pictures_are_gone(runs: Path, monkeypatch) -> None:
    two = [runs / "runs" / name for name in ("block2", "block3")]

    def fed() -> set[int]:
        atlas = contralens.atlas(two, edges="ablation", most=2, cache=runs / "cache")
        return {row["other"] for row in atlas.edges.to_pylist()}

    first, second = sorted(fed())
    positives = contralens.load(two[1]).exemplars.filter(pc.field("neuron") == first)["positive"].to_pylist()
    held = Reopened.pictures

    def without(self: Reopened, wanted: Iterable[int]) -> Callable[[int], Any]:
        there = held(self, wanted)
        return lambda image: None if image in positives else there(image)

    monkeypatch.setattr(Reopened, "pictures", without)
    assert fed() <= {second}
    monkeypatch.setattr(Reopened, "pictures", lambda self, wanted: lambda image: None)
    with pytest.raises(InputError, match="none of the exemplars can be read"):
        fed()


def test_the_terminal_shows_layers_and_concepts(runs: Path, capsys, monkeypatch) -> None:
    for more, says in (([], "first sure in"), (["--search", "e"], "shown")):
        monkeypatch.setattr(sys, "argv", ["contralens", "atlas", str(runs / "runs"), "--top", "3", *more])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert says in capsys.readouterr().out


def test_a_model_card_says_what_is_so_and_escapes_the_rest(runs: Path, tmp_path: Path) -> None:
    found = opened(runs / "runs")
    evil = "a|b <img src=x> *c*"
    names = pa.array([evil] * len(found[0].labels))
    labels = found[0].labels.set_column(found[0].labels.column_names.index("label"), "label", names)
    found[0] = replace(found[0], labels=labels)
    written = write_model_card([*found], tmp_path / "card", examples=4)
    assert [p.name for p in written] == ["neurons.md", "neurons.html", *(f"neuron-{i}.jpg" for i in (1, 2, 3, 4))]
    text, page = (path.read_text() for path in written[:2])
    assert "of 134 neurons in 3 layers have a label" in text
    assert "passed the null test" in text.lower()
    assert "No label was tested by changing images" in text
    assert "<img src=x>" not in text
    assert "<img src=x>" not in page
    assert r"a\|b &lt;img src=x&gt; \*c\*" in text
    again = write_model_card([*found], tmp_path / "card", examples=1)
    assert len(again) == 3
    (tmp_path / "card/neurons.md").write_text("mine")
    with pytest.raises(InputError, match="was not written by contralens"):
        write_model_card([*found], tmp_path / "card")


def test_card_of_several_runs_and_of_one_neuron(runs: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = str(runs / "runs/block3")
    for words, files in (
        ([str(runs / "runs"), "--examples", "1"], ["model-card/neurons.md"]),
        ([one, str(runs / "runs/output"), "--out", "two", "--examples", "0"], ["two/neurons.html"]),
        ([one, "--model", "--out", "one", "--examples", "0"], ["one/neurons.html"]),
        ([one, "5"], ["block3-block3-5.png"]),
        ([one], []),
    ):
        monkeypatch.setattr(sys, "argv", ["contralens", "card", *words])
        with pytest.raises(SystemExit, match="0"):
            main()
        assert all((tmp_path / name).is_file() for name in files), capsys.readouterr()
    assert isinstance(opened(one)[0], Run)
