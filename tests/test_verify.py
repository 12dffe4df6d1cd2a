"""Verification: the rule of the experiment, the editors, and a whole run whose truth is known."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patience import HUNG
from PIL import Image
from scipy.stats import t as student
from typer.testing import CliRunner

import contralens
from contralens.bench.world_images import score_labels, write_world
from contralens.cli import app
from contralens.data.verifications import outcomes_of
from contralens.errors import InputError, RunError
from contralens.math.experiments import STUDENT, Trial, false_discovery_rate, interval, outcome
from contralens.report.verify_page import verify_page
from contralens.run_data.reopened import Reopened
from contralens.verifying.editors import Bench, Request, make_editor
from contralens.verifying.image_editors import region
from contralens.verifying.verify import verify
from contralens.world.truth import known, load_truth


def trials(remove: float, insert: float, control: float = 0.0, images: int = 6, spread: float = 0.0) -> list[Trial]:
    """A neuron at 1 on exemplars and 0 on contrasts, floor 0, whose label has these effects."""
    noise = np.random.default_rng(0).normal(0, spread, images) if spread else np.zeros(images)
    out = []
    for i in range(images):
        out += [Trial("remove", i, 0, 1.0, 1 - remove + noise[i]), Trial("remove", i, 1, 1.0, 1 - control)]
        out += [Trial("insert", 50 + i, 0, 0.0, insert + noise[i]), Trial("insert", 50 + i, 1, 0.0, control)]
    return out


@pytest.mark.parametrize(
    ("some", "word", "said"),
    [
        (trials(0.9, 0.8), "verified", "removing it costs 90% of the activation, inserting it gives 80%"),
        (trials(0.1, 0.8), "refuted", "removing it, the neuron loses only 10%"),
        (trials(0.9, 0.1), "refuted", "inserting it, the neuron gains only 10%"),
        (trials(0.9, 0.3), "untested", "inserting it has an effect of 30%, between"),
        (trials(0.9, 0.8, control=0.95), "untested", "no more than other edits do"),
        (trials(0.0, 0.0, images=2), "untested", "2 of at least 3 images for removing it"),
        (trials(0.9, 0.8, images=4, spread=3.0), "untested", "no more than other edits do"),
        ([], "untested", "0 of at least 3 images"),
    ],
)
def test_the_rule(some, word, said) -> None:
    found = outcome(some, floor=0.0)
    assert found.word == word
    assert said in found.reason


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=40))
def test_intervals_are_students(values) -> None:
    mean, low, high = interval(values)
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    assert mean == pytest.approx(np.mean(values), abs=1e-9)
    assert (high - low) / 2 == pytest.approx(half, rel=2e-3, abs=1e-9)
    assert STUDENT[4] == pytest.approx(student.ppf(0.975, 5), abs=1e-3)


@given(st.floats(0.1, 10), st.floats(-3, 3), st.floats(0, 1), st.floats(0, 1))
def test_units_of_the_activation_do_not_matter(scale, shift, remove, insert) -> None:
    plain = outcome(trials(remove, insert, control=0.05, spread=0.01), floor=0.0)
    moved = [
        Trial(t.kind, t.image, t.concept, shift + scale * t.before, shift + scale * t.after)
        for t in trials(remove, insert, control=0.05, spread=0.01)
    ]
    found = outcome(moved, floor=shift)
    assert found.remove.effect == pytest.approx(plain.remove.effect, abs=1e-6)
    assert found.insert.above_low == pytest.approx(plain.insert.above_low, abs=1e-6)


def test_the_rate_of_false_ones_never_is_zero_and_counts_all_labels() -> None:
    assert np.isnan(false_discovery_rate(["refuted"], ["refuted"]))
    assert false_discovery_rate(["verified"], []) == 1
    assert false_discovery_rate(["verified"] * 5 + ["untested"] * 5, ["verified"] * 4 + ["refuted"] * 95) == 0.1


@pytest.fixture(scope="module")
def world(tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("verify")
    write_world(folder / "w", 1, 400)
    run = contralens.label(
        "world:1", folder / "w" / "images", "world", folder / "w" / "vocabulary.txt", layer="block3", k=12,
        scorers=["csp"], out=folder / "run", cache=folder / "cache", confidence=False,
    )  # fmt: skip
    return run, folder


NEURONS = list(range(24))


@pytest.fixture(scope="module")
def tested(world):  # type: ignore[no-untyped-def]
    run, folder = world
    return verify(run, cache=folder / "cache", neurons=NEURONS)


def test_verified_labels_are_right_more_often_than_refuted_ones(world, tested) -> None:
    run, found = world[0], tested
    truth = load_truth(1, "block3")
    rows = [row for row in found.rows() if known(truth)[row["neuron"]]]
    right = score_labels([row["label"] for row in rows], [truth[row["neuron"]] for row in rows])
    words = np.array([row["outcome"] for row in rows])
    assert (words == "verified").any()
    assert right[words == "verified"].mean() > right.mean() + 0.2
    assert right[words == "refuted"].mean() < right.mean()
    assert found.manifest["editor"]["name"] == "world"
    assert sum(found.manifest["nulls"].values()) == sum(len(row["nulls"]) for row in found.rows()) > 0
    again = contralens.load_verification(run.path)
    assert again.rows() == found.rows()
    assert again.edits.equals(found.edits)
    edits = found.edits.to_pylist()
    assert all(edit["why"] for edit in edits if not edit["used"])
    assert {edit["kind"] for edit in edits} == {"remove", "insert"}
    for picture in found.pictures.to_pylist():
        assert picture["before"] != picture["after"]
        assert picture["after"][:2] == b"\xff\xd8"


def test_the_exact_editor_changes_one_factor(world) -> None:
    run, folder = world
    bench = Bench(Reopened(run, cache=folder / "cache"))
    brush = make_editor("world", bench)
    striped = [Request("remove", "striped", 0, image, 0, seed=1) for image in range(60)]
    changed = [(r, image) for r in striped if isinstance(image := brush.edit(r), Image.Image)]
    assert 3 < len(changed) < 40, "only pictures that show it"
    for request, image in changed[:3]:
        assert image.size == bench.picture(request.image).size
        assert np.asarray(image).tobytes() == np.asarray(brush.edit(request)).tobytes(), "an edit is a function"
        assert brush.edit(Request("insert", "striped", 0, request.image, 0, 1)) == "it shows the concept already"
    assert "no such single level" in str(brush.edit(Request("remove", "zebra", 0, 0, 0, 1)))
    for spec, said in (
        ("world?clumsy=2", "takes clumsy=SHARE, from 0 to 1"), ("world:/nowhere", "needs the folder of a rendered"),
        ("swap:x", "takes no options"), ("swap?fill=grey", "takes fill=contrast or inpaint"),
        ("wrld", "did you mean world"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            make_editor(spec, bench)


@pytest.mark.parametrize("editor", ["retrieve", "swap", "swap?fill=inpaint"])
def test_editors_without_a_generator(world, editor) -> None:
    run, folder = world
    found = verify(run, cache=folder / "cache", neurons=[0, 1, 2], images=4, editor=editor, save=False)
    edits = found.edits.to_pylist()
    used = [edit for edit in edits if edit["used"] and not edit["control"]]
    assert used
    for edit in used:
        assert edit["moved"] * (1 if edit["kind"] == "insert" else -1) >= 0.5, "by the encoder it did what it says"
        assert edit["pixels"] > 0


def test_a_region_is_where_the_map_is_high() -> None:
    values = np.zeros((6, 6), np.float32)
    values[1:3, 2:5] = 1.0
    assert region(values) == (2, 1, 5, 3)
    left, top, right, bottom = region(values, low=True)
    assert (right - left, bottom - top) == (3, 2)
    assert values[top:bottom, left:right].sum() == 0
    assert region(np.ones((4, 4), np.float32)) is None


def test_a_killed_run_goes_on_to_the_same_bits(world, tmp_path) -> None:
    run, _ = world
    whole = verify(run, cache=tmp_path / "one", neurons=NEURONS[:5], save=False)
    code = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()}); "  # sums depend on it
        "import contralens; from contralens.verifying.verify import verify; "
        f"verify(contralens.load({str(run.path)!r}), cache={str(tmp_path / 'two')!r}, neurons=list(range(5)), "
        "save=False)"
    )
    process = processes.Started(processes.code, code)
    kept = tmp_path / "two" / "experiments"
    begun = time.monotonic()
    while len(list(kept.glob("*"))) < 2 and process.poll() is None and time.monotonic() - begun < HUNG:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = verify(run, cache=tmp_path / "two", neurons=NEURONS[:5], save=False)
    assert again.edits.equals(whole.edits)
    assert again.labels.equals(whole.labels)


def test_one_phrase_a_budget_and_what_is_refused(world) -> None:
    run, folder = world
    options = {"cache": folder / "cache", "save": False}
    found = verify(run, neurons=[3], label="striped", images=3, **options)
    assert [row["label"] for row in found.rows()] == ["striped"]
    none = verify(run, neurons=[0, 1], seconds=0.0, **options)
    assert none.rows() == []
    assert any("2 labels left out" in note for note in none.manifest["notes"])
    for more, said in (
        ({"label": "red"}, "set `neurons`"), ({"neurons": [999]}, "has no neuron 999"),
        ({"images": 0}, "`images` must be at least 1"), ({"editor": "no"}, "unknown editor 'no'"),
        ({"scorer": "no"}, "no scorer 'no'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            verify(run, **options, **more)


def test_a_refuted_label_gives_way_to_a_verified_concept_step_by_step(world, tested) -> None:
    run, folder = world
    found = verify(run, refine=5, cache=folder / "cache", save=False, neurons=NEURONS)
    first = [row for row in found.rows() if row["instead_of"] is None]
    assert first == tested.rows(), "what was tested first stays as it is"
    refuted = {row["neuron"]: row["label"] for row in first if row["outcome"] == "refuted"}
    assert refuted
    steps = [row for row in found.rows() if row["instead_of"] is not None]
    assert {row["neuron"] for row in steps} <= set(refuted)
    for neuron, label in refuted.items():
        own = [row for row in steps if row["neuron"] == neuron]
        assert 0 < len(own) <= 5
        assert {row["instead_of"] for row in own} == {label}
        assert len({row["label"] for row in own} | {label}) == len(own) + 1, "no concept twice"
        assert all(row["outcome"] != "verified" for row in own[:-1]), "the first verified one ends the search"
    outcomes = outcomes_of(found.labels)
    for row in steps:
        if row["outcome"] == "verified":
            assert f"; {row['label']} is verified instead" in outcomes[row["neuron"], row["instead_of"]][1]
    assert f"Tested instead of {steps[0]['instead_of']}: " in verify_page(
        found, moved={steps[0]["neuron"]: "plain +0.50"}
    )
    assert "adds to class scores: plain +0.50" in verify_page(found, moved={steps[0]["neuron"]: "plain +0.50"})


def test_the_command(world) -> None:
    run, folder = world
    asked = ["verify", str(run.path), "0", "block3/1", "--images", "3", "--cache", str(folder / "cache")]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "labels of csp tested with the editor world" in done.stdout
    page = (Path(run.path) / "verification.html").read_text()
    assert page.count("<article ") == len(contralens.load_verification(run.path).rows()) >= 2
    assert "<h3>block3/0</h3>" in page
    assert "data:image/jpeg" in page
    assert "<script" not in page
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert [row["name"] for row in told["labels"]] == ["block3/0", "block3/1"]
    assert told["edits"]


def test_a_damaged_verification_is_told_in_one_line(world) -> None:
    run, folder = world
    verify(run, cache=folder / "cache", neurons=[0], images=3)
    file = Path(run.path) / "verification" / "labels.parquet"
    file.write_bytes(file.read_bytes()[:-9] + b"123456789")
    with pytest.raises(RunError, match="contralens verify"):
        contralens.load_verification(run.path)
