"""Two classes against each other: where classes come from, what the words say, pages and the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import contralens
from contralens.cli import app
from contralens.errors import InputError
from contralens.report.contrast_page import contrast_page, write_contrast_page
from contralens.world.scenes import FACTORS


@pytest.fixture(scope="module")
def patterns(world_run):
    """Image -> pattern, and the options of a contrast of this run."""
    scenes = pq.read_table(world_run.path.parent / "w" / "scenes.parquet")
    names = dict(zip(scenes["image"].to_pylist(), scenes["pattern"].to_pylist(), strict=True))
    return names, {"cache": world_run.path.parent / "cache"}


@pytest.fixture(scope="module")
def found(world_run, patterns):
    names, options = patterns
    return contralens.contrast_classes(world_run, "striped", "dotted", labels=names, k=10, **options)


def test_neurons_that_separate_are_told_with_side_and_words(found, world_run, patterns) -> None:
    names, _ = patterns
    rows, m = found.rows(), found.manifest
    ids = world_run.images["id"].to_pylist()
    assert (m["images_a"], m["images_b"]) == tuple(
        sum(names[f"images/{i}"] == one for i in ids) for one in ("striped", "dotted")
    )
    assert 20 < len(rows) <= m["tested"] == sum(row["status"] == "ok" for row in world_run.neurons.to_pylist())
    assert len(rows) == sum(m["separating"].values()) == len(found.rows("striped")) + len(found.rows("dotted"))
    distance = [abs(row["auc"] - 0.5) for row in rows]
    assert distance == sorted(distance, reverse=True)
    for row in rows:
        assert row["fires_for"] == ("striped" if row["auc"] > 0.5 else "dotted")
        assert row["low"] <= row["auc"] <= row["high"]
        assert row["q"] <= 0.05
    assert sum(row["concept"] is not None for row in rows) == m["describe"] == 20
    assert m["words"]["striped"][0] == "striped"
    assert set(m["words"]["dotted"][:3]) & {"dotted", "white", "night background"}, "or what goes with it in this world"
    assert "striped (" not in repr(found)
    assert repr(found).startswith("<ClassContrast 'striped' (")
    assert len(repr(found)) < 250
    with pytest.raises(InputError, match="the classes are 'striped' and 'dotted'"):
        found.rows("plain")


def test_pairs_cross_the_classes_and_films_run_from_low_to_high(found, patterns) -> None:
    names, _ = patterns
    for row in [row for row in found.rows() if row["concept"] is not None]:
        here, there = row["fires_for"], {"striped": "dotted", "dotted": "striped"}[row["fires_for"]]
        pairs = found.pairs_of(row["neuron"])
        assert len(pairs) == 10
        for pair in pairs:
            assert names[f"images/{found.ids[pair['positive']]}"] == here
            assert names[f"images/{found.ids[pair['contrast']]}"] == there
            assert pair["contrast_activation"] < (row["mean_a"] + row["mean_b"]) / 2
        film = found.film_of(row["neuron"])
        values = [frame["activation"] for frame in film]
        assert values == sorted(values)
        assert (film[0]["quantile"], film[-1]["quantile"], len(film)) == (0, 1, 9)
        assert film[-1]["activation"] == pytest.approx(row["maximum"]) == pairs[0]["activation"]
        assert all(frame["side"] == names[f"images/{found.ids[frame['image']]}"] for frame in film)
        assert sum(row["histogram_a"]) == found.manifest["images_a"]
    assert all(jpeg[:2] == b"\xff\xd8" for jpeg in found.pictures.values())


def test_classes_come_from_tables_captions_words_and_sequences(found, world_run, patterns, tmp_path) -> None:
    names, options = patterns
    ids = world_run.images["id"].to_pylist()
    table = world_run.path.parent / "w" / "scenes.parquet"
    (tmp_path / "said.tsv").write_text("".join(f"{i}\ta {names[f'images/{i}']} thing\n{i}\tnothing\n" for i in ids))
    rows = found.neurons.select(["neuron", "auc", "concept"])
    for way in (
        {"labels": table, "class_column": "pattern"},
        {"labels": [names[f"images/{i}"] for i in ids]},
        {"labels": np.array([names[f"images/{i}"].upper() for i in ids])},
        {"captions": tmp_path / "said.tsv"},
    ):
        again = contralens.contrast_classes(world_run, "striped", "dotted", k=10, **way, **options)
        assert again.neurons.select(["neuron", "auc", "concept"]) == rows, way
    labels = pa.array([f"n01234567_{names[f'images/{i}'].title()}" for i in ids])
    at = world_run.images.column_names.index("label")
    in_folders = replace(world_run, images=world_run.images.set_column(at, "label", labels))
    again = contralens.contrast_classes(in_folders, "striped", "dotted", k=10, **options)
    assert again.neurons.select(["neuron", "auc", "concept"]) == rows
    assert again.manifest["source"] == "folders of the images"
    rest = contralens.contrast_classes(world_run, "striped", "*", labels=names, **options)
    assert rest.manifest["images_a"] + rest.manifest["images_b"] == len(ids)
    searched = contralens.contrast_classes(world_run, "striped", "dotted", words=True, describe=0, **options)
    assert 10 < searched.manifest["images_a"] <= 20
    assert {"striped"} & set(searched.manifest["images_differ"]["striped"][:2])
    assert searched.pictures == {} == dict.fromkeys(searched.exemplars.to_pylist())
    assert "the encoder selected the images by these words" in " ".join(searched.manifest["notes"])


def test_groups_widen_what_copies_narrow(found, world_run, patterns) -> None:
    names, options = patterns
    ids = world_run.images["id"].to_pylist()
    groups = {i: f"scene {n // 5}" for n, i in enumerate(ids)}
    grouped = contralens.contrast_classes(world_run, "striped", "dotted", labels=names, groups=groups, **options)
    assert grouped.manifest["groups"]
    assert not found.manifest["groups"]
    assert grouped.neurons.sort_by("neuron")["auc"] == found.neurons.sort_by("neuron")["auc"]
    assert grouped.neurons.sort_by("neuron")["low"] != found.neurons.sort_by("neuron")["low"]


def test_classes_that_differ_in_nothing_are_not_separated(world_run, patterns) -> None:
    _, options = patterns
    drawn = np.random.default_rng(0).integers(2, size=world_run.images.num_rows)
    none = contralens.contrast_classes(world_run, "0", "1", labels=drawn.tolist(), **options)
    assert none.rows() == []
    assert none.manifest["words"] == {"0": [], "1": []}
    assert "No neuron separates the classes" in contrast_page(none)


def test_scorers_that_read_activations_describe_classes_whose_images_are_mixed(world_run, patterns) -> None:
    names, options = patterns
    for scorer in ("linear", "lookalike"):
        found = contralens.contrast_classes(
            world_run, "striped", "dotted", labels=names, scorer=scorer, describe=4, k=10, **options
        )
        assert sum(row["concept"] is not None for row in found.rows()) > 0


def test_what_is_wrong_is_said_in_one_line(world_run, patterns) -> None:
    names, options = patterns
    options = {"labels": names, **options}
    for classes, more, said in (
        (("striped", "Striped"), {}, "both classes are 'striped'"),
        (("*", "striped"), {}, "give it second"),
        (("stripd", "dotted"), {}, "no image of class 'stripd'; did you mean striped"),
        (("striped", "dotted"), {"words": True}, "one source; got words and labels"),
        (("striped", "dotted"), {"labels": None}, "have no classes"),
        (("striped", "dotted"), {"labels": {"no.png": "striped"}}, "names none of the run's images"),
        (("striped", "dotted"), {"labels": ["striped"]}, "must be a table, a mapping"),
        (("striped", "dotted"), {"labels": None, "words": True, "class_column": "dx"}, "name columns of a table"),
        (("striped", "dotted"), {"scorer": "cps"}, "unknown scorer"),
        (("striped", "dotted"), {"share": 0.2}, "`share` is about images that texts retrieve"),
        (("a", "b"), {"labels": {"00000.png": "a", "00001.png": "b"}}, "1 image of 'a'"),
    ):
        with pytest.raises(InputError, match=said) as error:
            contralens.contrast_classes(world_run, *classes, **{**options, **more})
        assert "\n" not in str(error.value)


def test_the_page_shows_both_classes_and_escapes_their_names(found, world_run, tmp_path) -> None:
    text = contrast_page(found)
    assert text.count('<section class="neuron"') == 20
    assert text.count("striped</li>") > 20 < text.count("dotted</li>")
    strange = contralens.ClassContrast(
        {**found.manifest, "a": "<b>", "separating": {"<b>": 0, "dotted": 0}, "words": {"<b>": [], "dotted": []},
         "images_differ": {"<b>": [], "dotted": []}},
        found.neurons.slice(0, 0), found.exemplars, found.film, found.ids,
    )  # fmt: skip
    assert "<b>against" not in contrast_page(strange)
    path = write_contrast_page(world_run, strange, tmp_path / "page.html")
    assert "&lt;b&gt;" in path.read_text()


def test_the_command(world_run) -> None:
    asked = [
        "contrast", str(world_run.path), "--classes", "striped", "dotted", "--table",
        str(world_run.path.parent / "w" / "scenes.parquet"), "--class-column", "pattern", "--cache",
        str(world_run.path.parent / "cache"), "--describe", "6", "-k", "5",
    ]  # fmt: skip
    shown = CliRunner().invoke(app, asked)
    assert shown.exit_code == 0, shown.output
    assert "fire for striped, because of: striped" in shown.output
    assert (world_run.path / "contrast-striped-dotted.html").is_file()
    contralens.load(world_run.path).save(world_run.path)  # the page is known as ours
    told = CliRunner().invoke(app, [*asked, "--json", "--no-report"])
    answer = json.loads(told.output)
    assert answer["page"] is None
    assert {"auc", "low", "fires_for", "concept", "q"} <= answer["neurons"][0].keys()
    assert answer["exemplars"][0]["positive_id"].endswith(".png")
    assert answer["manifest"]["words"]["striped"][0] in FACTORS["pattern"]
