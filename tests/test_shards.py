"""Images in shards, each with its own cache, labeled as one set: the labels and confidence of all images at once."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import contralens
from contralens.bench.world_images import write_world
from contralens.collecting import collect as collecting
from contralens.collecting.distributed import collect_shard
from contralens.data.store import TILE
from contralens.errors import InputError
from contralens.labeling import shards as sharding
from contralens.report.html import write_report
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
    monkeypatch.setattr(collecting, "rows_together", lambda *_: computed.append(1))
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
    with pytest.raises(InputError, match="labeled on images in shards"):
        contralens.evaluate(again)
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
