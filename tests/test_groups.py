"""Pictures that belong together (a lesion photographed many times) and copies: no side of a split shares them."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import COLOURS, ColourEncoder, to_pixels
from PIL import Image
from test_streaming import Net, alike, small_tiles  # noqa: F401

import contralens
from contralens.cli import main
from contralens.collecting.collect import collect
from contralens.collecting.streaming import collect_streamed
from contralens.data.groups import image_groups
from contralens.data.runs import Run
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.math.grouping import Groups
from contralens.math.statistics import select_neurons, survey
from contralens.settings.label import DEFAULT_SCORERS

SIZES = [40, *[3] * 14]
"""Pictures of each lesion: one was photographed far more often than the others."""


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images/, with a table metadata.csv of 15 lesions of 8 patients."""
    home = tmp_path_factory.mktemp("lesions")
    (home / "images").mkdir()
    random = np.random.default_rng(0)
    lines = ["photo,lesion_id,patient_id"]
    for lesion, size in enumerate(SIZES):
        looks = random.normal(128, 60, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
        for _ in range(size):
            pixels = np.clip(looks + random.normal(0, 25, 3) + random.normal(0, 10, looks.shape), 0, 255)
            name = f"{random.integers(10**9):09d}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(home / "images" / name)
            lines.append(f"{name},L{lesion:02d},P{lesion // 2}")
    (home / "metadata.csv").write_text("\n".join(lines) + "\n")
    return home


def label(images: Path, cache: Path, **options: Any) -> Run:
    given = {
        "scorers": DEFAULT_SCORERS,
        "vocabulary": list(COLOURS),
        "layer": "relu",
        "preprocess": to_pixels,
        "k": 8,
        "batch_size": 7,
        **options,
    }
    return contralens.label(Net().eval(), images, ColourEncoder(), cache=cache, **given)


def column(lesions: Path, name: str) -> dict[str, str]:
    """Image -> its lesion or patient."""
    head, *rows = [line.split(",") for line in (lesions / "metadata.csv").read_text().split()]
    return {row[0]: row[head.index(name)] for row in rows}


def held_out(run: Run, images: Path) -> list[str]:
    probe = contralens.images(images)
    name = dict(zip(probe.fingerprints(), probe.ids, strict=True))
    return [name[f] for f in run.manifest["images"]["holdout"]["fingerprints"]]


def most_of_one(run: Run, of: dict[str, str]) -> int:
    """Exemplars of one neuron from one group, at most; and no contrast is of its exemplar's group."""
    most = 0
    for neuron in (row["neuron"] for row in run.rows() if row["label"] is not None):
        pairs = run.neuron(neuron)["exemplars"]
        counts = Counter(of[pair["positive_id"]] for pair in pairs if pair["positive"] >= 0)
        most = max(most, *counts.values())
        paired = [pair for pair in pairs if pair["positive"] >= 0 and pair["contrast"] >= 0]
        assert all(of[pair["positive_id"]] != of[pair["contrast_id"]] for pair in paired)
    return most


OPTIONS: list[dict[str, Any]] = [
    {}, {"per_group": 3}, {"neurons": [2, 5]}, {"groups": "patient_id", "k": 2, "holdout": 0.2},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_groups_are_held_out_whole_and_give_few_exemplars(
    lesions: Path,
    tmp_path: Path,
    small_tiles: None,  # noqa: F811
    options: dict[str, Any],
) -> None:
    name = options.get("groups", "lesion_id")
    of, images = column(lesions, name), lesions / "images"
    given = {"holdout": 0.4, **options, "groups": f"{lesions / 'metadata.csv'}:{name}"}
    run = label(images, tmp_path / "stored", **given)
    held = {of[image] for image in held_out(run, images)}
    kept = {of[image] for image in run.images["id"].to_pylist()}
    assert held
    assert not held & kept
    assert most_of_one(run, of) == options.get("per_group", 1)
    assert run.images["group"].to_pylist() == [of[image] for image in run.images["id"].to_pylist()]
    assert run.manifest["groups"] == {
        "source": given["groups"], "count": len(set(of.values())), "alone": 0, "joined": 0,
        "per_group": options.get("per_group", 1),
    }  # fmt: skip
    assert run.manifest["images"]["holdout"]["groups"] == [of[image] for image in held_out(run, images)]
    alike(run, label(images, tmp_path / "streamed", store_activations=False, **given))


def test_streamed_activations_know_what_they_were_surveyed_by(
    lesions: Path,
    tmp_path: Path,
    small_tiles: None,  # noqa: F811
) -> None:
    """The paper's choice of neurons goes by all images, also where the first pass went by groups."""
    probe, layer = contralens.images(lesions / "images"), contralens.target(Net().eval(), "relu", preprocess=to_pixels)
    of = column(lesions, "lesion_id")
    groups = Groups.of([of[name] for name in probe.ids], len(probe))
    stored = collect(probe, [layer], Store(tmp_path / "stored"), batch_size=7).activations(0)
    _, streamed = collect_streamed(probe, layer, [], Store(tmp_path / "streamed"), k=6, groups=groups, batch_size=7)
    assert streamed.surveyed(6) is None
    for mine, other in zip(streamed.surveyed(6, groups)[1:], survey(stored, 6, groups=groups)[1:], strict=True):
        assert torch.equal(mine.nan_to_num(), other.nan_to_num())
    options: dict[str, Any] = {"most": 5, "least_firing": 1, "top": 6}
    assert torch.equal(select_neurons(streamed, **options), select_neurons(stored, **options))


def test_without_groups_they_share(lesions: Path, tmp_path: Path) -> None:
    """What the groups are for; and runs without them are what they were."""
    of, images = column(lesions, "lesion_id"), lesions / "images"
    run = label(images, tmp_path / "cache", holdout=0.4)
    assert {of[image] for image in held_out(run, images)} & {of[image] for image in run.images["id"].to_pylist()}
    assert run.manifest["groups"] is None
    assert "group" not in run.images.column_names
    alone = label(images, tmp_path / "cache", holdout=0.4, groups={next(iter(of)): "x"})
    own = [a == b for a, b in zip(run.exemplars["positive"], run.exemplars["contrast"], strict=True)]
    assert not any(own)
    assert alone.exemplars.equals(run.exemplars)
    assert alone.labels.equals(run.labels)


def test_a_mapping_and_a_table_are_the_same(lesions: Path, tmp_path: Path) -> None:
    of, images = column(lesions, "lesion_id"), lesions / "images"
    table = label(images, tmp_path / "cache", groups=f"{lesions / 'metadata.csv'}:LESION_ID")
    mapping = label(images, tmp_path / "cache", groups={Path(image).stem: group for image, group in of.items()})
    assert table.exemplars.equals(mapping.exemplars)
    assert mapping.manifest["groups"]["source"] == "the given groups"
    rest = {image: group for image, group in of.items() if group != "L03"}
    few = label(images, tmp_path / "cache", groups=rest, k=20)
    assert few.manifest["groups"]["alone"] == 3
    assert "3 images without a group in the given groups: each counts as its own group" in few.manifest["notes"]
    assert any("fewer than 20 exemplars: there are 14 groups and 3 images in none" in n for n in few.manifest["notes"])


def test_copies_count_once_and_join_groups(lesions: Path, tmp_path: Path, small_tiles: None) -> None:  # noqa: F811
    of, images = column(lesions, "lesion_id"), tmp_path / "images"
    shutil.copytree(lesions / "images", images)
    names = sorted(of)
    for i, name in enumerate(names[:30]):
        shutil.copy(images / name, images / f"{'a' if i % 2 else 'zz'}-copy-{name}")
    plain = label(lesions / "images", tmp_path / "plain")
    run = label(images, tmp_path / "copies")
    assert run.manifest["images"]["copies"] == 30
    assert run.manifest["notes"][0] == (
        "30 images of 112 excluded: exact copies of others (same content under another name)"
    )
    assert plain.manifest["images"]["copies"] == 0
    contents = [set(r.images["fingerprint"].to_pylist()) for r in (run, plain)]
    assert contents[0] == contents[1]
    assert len(set(run.images["fingerprint"].to_pylist())) == run.images.num_rows
    for one, other in zip(run.labels.to_pylist(), plain.labels.to_pylist(), strict=True):
        assert (one["label"], one["status"]) == (other["label"], other["status"])
        assert one["score"] == pytest.approx(other["score"], nan_ok=True)
    alike(run, label(images, tmp_path / "streamed", store_activations=False))
    first, second = (next(name for name, lesion in of.items() if lesion == wanted) for wanted in ("L05", "L07"))
    shutil.copy(images / first, images / "twin.png")
    groups = {**of, "twin.png": of[second]}
    joined = label(images, tmp_path / "copies", groups=groups, holdout=0.4)
    assert joined.manifest["groups"]["joined"] == 1
    assert joined.manifest["groups"]["alone"] == 0, "a copy is of its picture's group"
    of = {name: "L05" if group == "L07" else group for name, group in of.items()}
    probe = contralens.images(lesions / "images")
    back = {f: of[i] for i, f in zip(probe.ids, probe.fingerprints(), strict=True)}
    held = {back[f] for f in joined.manifest["images"]["holdout"]["fingerprints"]}
    assert not held & {back[f] for f in joined.images["fingerprint"].to_pylist()}


def test_near_copies_are_counted_and_told(lesions: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(lesions / "images", images)
    for file in sorted(images.iterdir()):
        Image.open(file).save(file.with_suffix(".bmp"))  # the same pixels in another file
    run = label(images, tmp_path / "cache")
    near = run.manifest["near_copies"]
    assert near["cosine"] == 0.98
    assert near["exemplars"] >= near["of"] / 2
    (note,) = [note for note in run.manifest["notes"] if "near-copies" in note]
    assert note.startswith(f"{near['exemplars']:,} of {near['of']:,} exemplars, of {near['neurons']} of ")


def test_alike_to_the_encoder_alone_is_no_near_copy(tmp_path: Path) -> None:
    """An encoder that sees the mean colour takes pictures for the same that no eye would."""
    (tmp_path / "images").mkdir()
    for i in range(16):
        pixels = np.full((32, 32, 3), 40, np.uint8)
        pixels[8 * (i // 4) : 8 * (i // 4) + 8, 8 * (i % 4) : 8 * (i % 4) + 8] = (220, 40, 40)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i:02d}.png")
    run = label(tmp_path / "images", tmp_path / "cache", k=4)
    assert run.manifest["near_copies"]["exemplars"] == 0
    assert run.manifest["near_copies"]["of"] > 0
    assert not [note for note in run.manifest["notes"] if "near-copies" in note]


def test_evaluation_goes_by_groups(lesions: Path, tmp_path: Path) -> None:
    images, table = lesions / "images", f"{lesions / 'metadata.csv'}:lesion_id"
    of = column(lesions, "lesion_id")
    probe = contralens.images(images)
    lesion = {f: of[i] for i, f in zip(probe.ids, probe.fingerprints(), strict=True)}
    again: dict[str, Any] = {
        "metrics": "audit", "stability": 3, "encoder": ColourEncoder(), "source": images, "cache": tmp_path / "cache",
        "check_metrics": False, "scorers": ["csp"],
    }  # fmt: skip
    run = label(images, tmp_path / "cache", holdout=0.4, groups=table)
    found = contralens.evaluate(run, **again)
    assert found.manifest["groups"] == {"source": table, "count": 15}
    assert found.manifest["stability"]["groups"] is True
    from contralens.run_data.reopened import Reopened

    opened = Reopened(run, cache=tmp_path / "cache", source=images)
    assert not {lesion[f] for f in opened.validation} & {lesion[f] for f in opened.test}
    assert set(opened.validation) | set(opened.test) == set(opened.held_out)
    without = label(images, tmp_path / "cache", holdout=0.4)
    opened = Reopened(without, cache=tmp_path / "cache", source=images, groups=table)
    with pytest.raises(InputError, match="every held-out image is in a group with probe images: label again"):
        assert opened.held_out
    some = label(images, tmp_path / "cache", neurons=[0, 1], limit=40)
    other = Reopened(some, cache=tmp_path / "cache", heldout=images, groups=table)
    other.run.manifest["images"].update(source=str(images))
    assert not {lesion[f] for f in other.held_out} & {lesion[f] for f in some.images["fingerprint"].to_pylist()}
    assert any("excluded: their groups contain probe images" in note for note in other.notes)


def test_what_is_wrong_with_groups_is_said(lesions: Path, tmp_path: Path) -> None:
    table, ids = lesions / "metadata.csv", sorted(column(lesions, "lesion_id"))
    (tmp_path / "twice.csv").write_text(f"image,who\n{ids[0]},a\n{ids[0]},b\n")
    for given, words in (
        (str(table), "name the column of .*metadata.csv with the groups"),
        (f"{table}:lesion", "has no column 'lesion'; did you mean lesion_id"),
        (f"{tmp_path / 'none.csv'}:x", "there is no table '.*none.csv'"),
        ("x", "there is no table 'x'"),
        ({"elsewhere": "a"}, "names none of the images of photos: it says 'elsewhere'"),
        (f"{tmp_path / 'twice.csv'}:who", "has two values of who: 'a' and 'b'"),
        (3, "must be \"TABLE:COLUMN\" or a mapping"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            image_groups(given, ids, "photos")
    with pytest.raises(InputError, match=r"`holdout`=0\.999 leaves no image to label with; there are 82 in 15 groups"):
        label(lesions / "images", tmp_path / "cache", groups=f"{table}:lesion_id", holdout=0.999)
    with pytest.raises(InputError, match="`per_group` must be at least 1"):
        label(lesions / "images", tmp_path / "cache", groups=f"{table}:lesion_id", per_group=0)


def test_two_pictures_of_a_case_are_one_group(tmp_path: Path) -> None:
    """derm7pt: a line names a clinical and a dermoscopic picture."""
    (tmp_path / "meta.csv").write_text("case_num,clinic,derm\n1,a/1.jpg,b/1.jpg\n2,a/2.jpg,b/2.jpg\n")
    found = image_groups(f"{tmp_path / 'meta.csv'}:case_num", ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"], "photos")
    assert found is not None
    assert found.names == ("1", "2", "1", "2")


def test_the_command(lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["contralens", *arguments, "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return json.loads(capsys.readouterr().out)

    (tmp_path / "run.yaml").write_text(
        f"target: world:1\nlayer: block1\nencoder: world\nvocabulary: world\nscorers: csp\nk: 5\nper_group: 2\n"
        f"images: {lesions / 'images'}\ngroups: meta/metadata.csv:patient_id\n"
    )
    (tmp_path / "meta").mkdir()
    shutil.copy(lesions / "metadata.csv", tmp_path / "meta")
    told = run("label", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "one"))
    assert told["manifest"]["groups"]["per_group"] == 2
    assert most_of_one(contralens.load(tmp_path / "one"), column(lesions, "patient_id")) == 2
    told = run(
        "label", "--config", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "two"), "--per-group", "1",
        "--groups", f"{lesions / 'metadata.csv'}:lesion_id", "--holdout", "0.4",
    )  # fmt: skip
    assert told["manifest"]["groups"]["count"] == 15
    assert most_of_one(contralens.load(tmp_path / "two"), column(lesions, "lesion_id")) == 1
    patients = f"{lesions / 'metadata.csv'}:patient_id"
    told = run("evaluate", str(tmp_path / "two"), "--metrics", "audit", "--groups", patients)
    assert told["manifest"]["groups"]["count"] == 8
