"""Images in shards, each with its own cache, labeled as one set: the labels and confidence of all images at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import contralens
from contralens.bench.world_images import write_world
from contralens.collecting import batches
from contralens.collecting.distributed import collect_shard
from contralens.data.store import TILE
from contralens.errors import InputError
from contralens.labeling import shards as sharding
from contralens.report.html import write_report
from contralens.run_data.reopened import Reopened
from contralens.settings.label import Collect

GIVEN = {"target": "world:1", "encoder": "world", "vocabulary": "world"}
HOW = {"layer": "block3", "k": 6}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 1,100 pictures, and three folders with consecutive parts of them."""
    home = tmp_path_factory.mktemp("shards")
    write_world(home / "world", 1, 1100)
    files = sorted((home / "world" / "images").iterdir())
    for kind, ends in (("even", (0, TILE, 2 * TILE, 1100)), ("odd", (0, 400, 700, 1100))):
        for at, (first, last) in enumerate(pairwise(ends)):
            (home / f"{kind}-{at}").mkdir()
            for file in files[first:last]:
                shutil.copy(file, home / f"{kind}-{at}")
    return home


@pytest.fixture(scope="module")
def at_once(whole: Path) -> contralens.Run:
    return contralens.label(images=whole / "world" / "images", cache=whole / "cache", **GIVEN, **HOW)


def shards_of(whole: Path, kind: str) -> list[tuple[Path, Path]]:
    return [(whole / f"{kind}-{at}", whole / f"cache-{kind}-{at}") for at in range(3)]


def test_shards_collected_apart_give_the_run_of_all_images_bit_for_bit(
    whole: Path, at_once: contralens.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for images, cache in shards_of(whole, "even"):
        collect_shard(Collect(GIVEN["target"], images, GIVEN["encoder"], layer="block3", cache=cache), 0, 1)
    computed = []
    monkeypatch.setattr(batches, "rows_together", lambda *_: computed.append(1))
    run = contralens.label_shards(shards_of(whole, "even"), **GIVEN, **HOW, out=tmp_path / "run")
    assert not computed, "all was collected before"
    assert run.labels.equals(at_once.labels), "labels, scores, confidence and reasons of all scorers"
    assert run.neurons.equals(at_once.neurons)
    for name, rows in at_once.vectors.items():
        assert np.array_equal(run.vectors[name], rows, equal_nan=True), name
    said, wanted = run.manifest, at_once.manifest
    assert said["confidence"] == wanted["confidence"]
    assert said["near_copies"] == wanted["near_copies"]
    assert said["target"] == wanted["target"]
    assert said["images"]["count"] == wanted["images"]["count"] == 1100
    assert said["images"]["shards"] == [512, 512, 76]


def test_the_run_names_its_images_by_shard_and_row(whole: Path, at_once: contralens.Run, tmp_path: Path) -> None:
    run = contralens.label_shards(shards_of(whole, "odd"), **GIVEN, **HOW, out=tmp_path / "run")
    again = contralens.load(tmp_path / "run")
    assert again.labels.equals(run.labels)
    assert write_report(again).is_file()
    rows = again.images.to_pylist()
    assert len(rows) < 1100, "only images that exemplars or contrasts name"
    names = {at: sorted(path.name for path in (whole / f"odd-{at}").iterdir()) for at in range(3)}
    assert all(names[row["shard"]][row["row"]] == row["id"] for row in rows)
    assert {row["shard"] for row in rows} == {0, 1, 2}
    for side in ("positive", "contrast"):  # the same pictures as all at once, in the same order
        ids = at_once.images["id"].take(at_once.exemplars[side].combine_chunks())
        assert again.images["id"].take(again.exemplars[side].combine_chunks()).equals(ids)
    for name in ("activation", "contrast_activation", "similarity"):
        assert again.exemplars[name].equals(at_once.exemplars[name])
    assert again.labels["label"].equals(at_once.labels["label"])
    for name in ("score", "confidence"):
        one, other = (pa.table(r.labels)[name].to_numpy() for r in (again, at_once))
        assert np.nanmax(np.abs(one - other)) < 1e-5, "where tiles of 512 begin elsewhere, sums are rounded otherwise"


@pytest.fixture(scope="module")
def in_shards(whole: Path) -> contralens.Run:
    return contralens.label_shards(shards_of(whole, "even"), **GIVEN, **HOW, out=whole / "run in shards")


@pytest.fixture(scope="module")
def others(whole: Path) -> Path:
    """40 pictures of another draw."""
    write_world(whole / "more", 1, 40, seed=7)
    return whole / "more" / "images"


def measured(run: contralens.Run, others: Path, cache: Path, **more: Any) -> pa.Table:
    found = contralens.evaluate(
        run, heldout=others, judge="world", same_judge=True, cache=cache, save=False, check_metrics=False, **more
    )
    assert {"auc", "clarity"} <= set(found.values["metric"].to_pylist())
    return found.values.sort_by([("scorer", "ascending"), ("metric", "ascending"), ("neuron", "ascending")])


def test_evaluation_of_a_run_in_shards_is_that_of_all_images_at_once(
    whole: Path, at_once: contralens.Run, in_shards: contralens.Run, others: Path, tmp_path: Path
) -> None:
    wanted = measured(at_once, others, whole / "cache")
    taken_over = measured(in_shards, others, tmp_path / "fresh")
    computed = measured(in_shards, others, tmp_path / "another", source=whole / "world" / "images")
    for found in (taken_over, computed):
        assert found.drop(["value"]).equals(wanted.drop(["value"]))
        assert np.array_equal(found["value"].to_numpy(), wanted["value"].to_numpy(), equal_nan=True)


def test_held_out_images_that_a_shard_holds_are_left_out_though_the_run_does_not_name_them(
    whole: Path, in_shards: contralens.Run, others: Path, tmp_path: Path
) -> None:
    shutil.copytree(others, tmp_path / "mixed")
    named = set(in_shards.images["id"].to_pylist())
    unnamed = next(f for f in sorted((whole / "even-1").iterdir()) if f.name not in named)
    shutil.copy(unnamed, tmp_path / "mixed" / "copy.png")
    again = Reopened(in_shards, heldout=tmp_path / "mixed", cache=tmp_path / "cache")
    assert len(again.heldout_images) == 41
    assert len(again.held_out) == 40
    assert any("1 held-out images excluded" in note for note in again.notes)


def test_maps_of_a_run_in_shards(whole: Path, in_shards: contralens.Run, tmp_path: Path) -> None:
    shutil.copytree(whole / "run in shards", tmp_path / "run")
    told = contralens.add_maps(tmp_path / "run", pairs=2, cache=tmp_path / "cache")
    assert any("activation maps in" in line for line in told)
    again = contralens.load(tmp_path / "run")
    pairs = again.exemplars.filter(pc.field("rank") < 2)
    named = {(n, i) for side in ("positive", "contrast") for n, i in zip(
        pairs["neuron"].to_pylist(), pairs[side].to_pylist(), strict=True
    ) if i >= 0}  # fmt: skip
    maps = pq.read_table(tmp_path / "run" / "maps.parquet")
    assert set(zip(maps["neuron"].to_pylist(), maps["image"].to_pylist(), strict=True)) == named


def test_what_needs_all_images_at_once_says_so(whole: Path, in_shards: contralens.Run, others: Path) -> None:
    cache = whole / "cache of refusals"
    for name, value in {"fdr": 0.05, "stability": 5, "meanings": True, "gamma": "layer"}.items():
        with pytest.raises(InputError, match=f"`{name}`: this needs all images at once.*or omit `{name}`"):
            measured(in_shards, others, cache, **{name: value})
    with pytest.raises(InputError, match=r"needs all images at once.*use a run of one shard"):
        contralens.audit(in_shards, "photographs", cache=cache)
    with pytest.raises(InputError, match=r"needs all images at once.*use a run of one shard"):
        contralens.verify(in_shards, neurons=[0], images=2, cache=cache, save=False)
    with pytest.raises(InputError, match="no held-out images"):
        contralens.evaluate(in_shards, judge="world", same_judge=True, cache=cache, save=False)


def test_matching_contrasts_and_edges_of_a_run_in_shards_are_one_line(
    whole: Path, in_shards: contralens.Run, at_once: contralens.Run
) -> None:
    cache, needs = whole / "cache of refusals", r"needs all images at once.*use a run of one shard"
    for by in ("auto", "activations", "exemplars"):
        with pytest.raises(InputError, match=needs):
            contralens.match(at_once, in_shards, by=by, cache=cache)
    with pytest.raises(InputError, match=needs):
        contralens.contrast_classes(
            in_shards, "striped", "dotted", labels=whole / "world" / "scenes.parquet", class_column="pattern",
            cache=cache,
        )  # fmt: skip
    for asked in ({"links": True}, {"edges": "weights"}, {"edges": "ablation"}):
        other = replace(in_shards, manifest={
            **in_shards.manifest, "target": {**in_shards.manifest["target"], "layer": "block2"}
        })  # fmt: skip
        with pytest.raises(InputError, match=needs):
            contralens.atlas([other, in_shards], cache=cache, **asked)


def test_an_atlas_of_runs_in_shards_is_that_of_all_images_at_once(
    whole: Path, at_once: contralens.Run, in_shards: contralens.Run
) -> None:
    found, wanted = (contralens.atlas([run]) for run in (in_shards, at_once))
    assert len(found.concepts) > 5
    for name in set(found.neurons.column_names) - {"run", "picture"}:  # a row in the table of images
        one, other = (table[name].to_pylist() for table in (found.neurons, wanted.neurons))
        assert one == other, name
    for name in ("concept", "neurons", "layers", "best_neuron"):
        assert found.concepts[name].equals(wanted.concepts[name]), name


def test_a_run_that_does_not_say_where_its_shards_are_asks(
    in_shards: contralens.Run, others: Path, tmp_path: Path
) -> None:
    images = {k: v for k, v in in_shards.manifest["images"].items() if k != "sources"}
    older = replace(in_shards, manifest={**in_shards.manifest, "images": images})
    with pytest.raises(InputError, match="does not say where its shards are; give a folder"):
        measured(older, others, tmp_path)


def test_one_shard_at_a_time_is_open(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    own = sharding.Shard.probe

    def probe(shard: sharding.Shard) -> object:
        found = own(shard)
        held.append(len(found.fingerprints))
        return found

    monkeypatch.setattr(sharding.Shard, "probe", probe)
    contralens.label_shards(shards_of(whole, "odd"), **GIVEN, **HOW, scorers="csp")
    assert len(held) > 6, "opened again for each pass"
    assert max(held) == 400, "what is open at a time is a shard"


def test_what_shards_do_not_have_is_one_line(whole: Path) -> None:
    with pytest.raises(InputError, match="it is empty"):
        contralens.label_shards([], **GIVEN, **HOW)
    with pytest.raises(InputError, match="shards have no `fdr`: omit it"):
        contralens.label_shards(shards_of(whole, "odd"), **GIVEN, **HOW, fdr=0.05)
    for wrong in (["w", "cache"], [("w",)], "w", iter([])):
        with pytest.raises(InputError, match="must be a list of"):
            contralens.label_shards(wrong, **GIVEN, **HOW)
    with pytest.raises(InputError, match="omit `cache`"):
        contralens.label_shards(shards_of(whole, "odd"), **GIVEN, **HOW, cache="cache")
    with pytest.raises(InputError, match="`label_shards` takes no `templats`; did you mean templates"):
        contralens.label_shards(shards_of(whole, "odd"), **GIVEN, **HOW, templats="a")
