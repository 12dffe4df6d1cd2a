"""Experiments inside the network: the concept's direction, the layer before, the class that a neuron moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import contralens
from contralens.bench.world_images import score_labels, write_world
from contralens.cli import app
from contralens.data.experiment_evidence import after_experiments
from contralens.data.final_labels import Judgements, final_labels
from contralens.data.seals import seal
from contralens.data.table_folders import plain
from contralens.data.verifications import INSIDE
from contralens.errors import InputError
from contralens.explorer.runs import OpenRun
from contralens.math.concept_directions import RIDGE, Patterns
from contralens.models.interventions import class_scores, scaled, shifted
from contralens.models.layers import layer_before
from contralens.report.verify_page import verify_page
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Verify
from contralens.verifying.class_path import class_path
from contralens.verifying.laboratory import Laboratory
from contralens.world.truth import known, load_truth

NEURONS = list(range(32))


@pytest.fixture(scope="module")
def world(tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("steering")
    write_world(folder / "w", 1, 400)
    run = contralens.label(
        "world:1", folder / "w" / "images", "world", folder / "w" / "vocabulary.txt", layer="block3", k=12,
        scorers=["csp", "semanticlens"], out=folder / "run", cache=folder / "cache", confidence=False,
    )  # fmt: skip
    return run, folder


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(40, 5), (8, 20)]))
def test_patterns_are_the_ridge_regression_on_all_concepts(seed, sizes) -> None:
    images, concepts = sizes
    draw = np.random.default_rng(seed)
    a, e, texts = draw.normal(size=(images, 6)), draw.normal(size=(images, 7)), draw.normal(size=(concepts, 7))
    found = Patterns(*(torch.from_numpy(x) for x in (a, e, texts)))
    s = e @ texts.T
    z = (s - s.mean(0)) / s.std(0, ddof=1)
    wanted = np.linalg.solve(z.T @ z + RIDGE * images * np.eye(concepts), z.T @ (a - a.mean(0)))
    assert np.allclose((found.texts @ found.solved).numpy(), wanted, atol=1e-8)
    assert abs(found[0].correlation) <= 1 + 1e-9


def test_what_goes_with_a_concept_stays_out_of_its_direction() -> None:
    draw = np.random.default_rng(0)
    concept = draw.normal(size=2000)
    partner = 0.9 * concept + 0.44 * draw.normal(size=2000)
    rows = np.stack([concept, partner, draw.normal(size=2000)], 1)
    found = Patterns(torch.from_numpy(rows), torch.from_numpy(np.stack([concept, partner], 1)), torch.eye(2))[0]
    assert found.vector[0] > 1
    assert abs(float(found.vector[1])) < 0.4 * float(found.vector[0]), "a difference of means would contain 0.9"
    with pytest.raises(InputError, match="2 rows of activations, 3 of embeddings"):
        Patterns(torch.zeros(2, 3), torch.zeros(3, 3), torch.zeros(1, 3))
    with pytest.raises(InputError, match="are of two widths"):
        Patterns(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, 4))


def test_the_layer_before_and_a_shift_of_it() -> None:
    net = contralens.target("world:1", layer="block3")
    assert layer_before(net) == "block2"
    output = contralens.target("world:1", layer=".")
    assert layer_before(output) == "block3"
    with pytest.raises(InputError, match="runs before stem"):
        layer_before(contralens.target("world:1", layer="stem"))
    earlier = contralens.target(net.module, layer="block2", preprocess=net.preprocess)
    batch = torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    by = torch.stack([torch.zeros(64), torch.ones(64), -torch.ones(64)])
    plain_rows, shifted_rows = earlier(batch), None
    with shifted(earlier, by):
        shifted_rows = earlier(batch)
        moved = net(batch)
    assert torch.allclose(shifted_rows - plain_rows, by, atol=1e-5)
    assert torch.equal(moved[0], net(batch)[0])
    assert not torch.allclose(moved[1], net(batch)[1])
    with pytest.raises(InputError, match="not one part for each of 2 images"), shifted(earlier, by[:2]):
        net(batch)


def test_a_transformers_layers_are_steered_too() -> None:
    vit = contralens.target("timm:test_vit", layer="blocks.2", weights="random")
    assert layer_before(vit).startswith("blocks.1")
    earlier = contralens.target(vit.module, layer="blocks.1", preprocess=vit.preprocess)
    batch = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    before = vit(batch)
    with shifted(earlier, torch.stack([torch.zeros(earlier.width), torch.ones(earlier.width) * 3])):
        after = vit(batch)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_labels_that_steering_verifies_are_right_more_often(world) -> None:
    run, folder = world
    truth = load_truth(1, "block3")
    words, right = [], []
    for scorer in ("csp", "semanticlens"):
        found = contralens.verify(
            run, editor="inside", scorer=scorer, cache=folder / "cache", neurons=NEURONS, save=False
        )
        rows = [row for row in found.rows() if known(truth)[row["neuron"]]]
        words += [row["outcome"] for row in rows]
        right += list(score_labels([row["label"] for row in rows], [truth[row["neuron"]] for row in rows]))
        assert {row["editor"] for row in rows} == {"inside:block2"}
        assert not len(found.pictures)
        used = [edit for edit in found.edits.to_pylist() if edit["used"]]
        assert used
        assert all((edit["moved"] > 0) == (edit["kind"] == "insert") for edit in used)
    words, right = np.array(words), np.array(right)
    assert right[words == "verified"].mean() > right[words == "refuted"].mean() + 0.2


def test_the_class_that_a_neuron_moves(world) -> None:
    run, folder = world
    net = contralens.target("world:1", layer="block3")
    from PIL import Image

    images = [Image.open(folder / "w" / "images" / name).convert("RGB") for name in run.images["id"].to_pylist()[:5]]
    found = class_path(net, images, 3, [4, 5, 6], [f"class {i}" for i in range(6)])
    batch = torch.stack([net.preprocess(image) for image in images])
    with scaled(net, 3, 0.0):
        off = class_scores(net, batch)
    change = (class_scores(net, batch) - off).mean(0)
    assert found.name == f"class {int(change.abs().argmax())}"
    assert found.change == pytest.approx(float(change[change.abs().argmax()]))
    assert found.beyond in (0, 1 / 3, 2 / 3, 1)
    assert class_path(contralens.target("world:1", layer="."), images, 0, []) is None
    with pytest.raises(InputError, match="2 names of classes"):
        class_path(net, images, 3, [], ["a", "b"])


def test_steering_stands_beside_the_pictures(world) -> None:
    run, folder = world
    done = CliRunner().invoke(app, [
        "verify", str(run.path), "0", "1", "2", "--images", "4", "--inside", "auto", "--cache", str(folder / "cache"),
    ])  # fmt: skip
    assert done.exit_code == 0, done.output
    found = contralens.load_verification(run.path)
    rows = found.inside.to_pylist()
    assert [row["neuron"] for row in rows] == [0, 1, 2]
    assert {row["layer"] for row in rows} == {"block2"}
    assert all(row["class"] in contralens.target("world:1", layer=".").neurons for row in rows)
    assert "Inside the network" in verify_page(found)
    said = contralens.final(run.path).rows("semanticlens")[0]["experiment"]
    assert "inside the network" in said
    assert "at block2" in said
    again = contralens.verify(run, neurons=[1], images=4, cache=folder / "cache")
    assert [row["neuron"] for row in again.inside.to_pylist()] == [0, 2], "what was tested again without it is gone"
    hurried = Laboratory(Reopened(run, cache=folder / "cache"), Verify(run, seconds=1e-9))
    assert hurried.kept(0, "plain") is None
    assert hurried.inside("auto").kept(0, "plain") is not None, "the budget is one of pictures"
    with pytest.raises(InputError, match="nowhere"):
        contralens.verify(run, neurons=[0], inside="nowhere", cache=folder / "cache", save=False)


def test_folders_of_before_steering_are_read(world) -> None:
    run, folder = world
    made = contralens.verify(run, neurons=[0], images=3, cache=folder / "cache")
    place = Path(run.path) / "verification"
    (place / "inside.parquet").unlink()
    older = {key: value for key, value in made.manifest.items() if key not in ("digest", "files")}
    seal(place, "verification.json", plain({**older, "format": 3}))
    found = contralens.load_verification(run.path)
    assert found.rows() == made.rows()
    assert found.inside.schema.equals(INSIDE)
    opened = OpenRun("run", Path(run.path))
    assert "experiments" in opened.tables, "the explorer reads them, too"
    assert opened.records("SELECT outcome FROM experiments") == [{"outcome": row["outcome"]} for row in made.rows()]
    assert replace(found, manifest=made.manifest).counts == made.counts


def test_an_experiment_moves_the_confidence_of_the_label_it_tested(world) -> None:
    labels = contralens.final(world[0].path, experiments=False).labels
    confidence = pa.array([0.9, 0.2] * (len(labels) // 2), pa.float64())
    labels = labels.set_column(labels.schema.get_field_index("confidence"), "confidence", confidence)
    keys = list(zip(labels["neuron"].to_pylist(), labels["label"].to_pylist(), strict=True))
    before = dict(zip(keys[:80], confidence.to_pylist()[:80], strict=True))
    outcomes = {key: ("verified" if c > 0.5 else "refuted", "said") for key, c in before.items()}
    odd = next(key for key, c in before.items() if c < 0.5)
    outcomes[odd] = ("verified", "said")
    bare = labels.drop_columns(["best", "why", "verified", "experiment"])
    found = final_labels(bare, "csp", Judgements(experiments=outcomes, editors=dict.fromkeys(outcomes, "world")))
    after = dict(zip(keys, found["confidence"].to_pylist(), strict=True))
    assert after[odd] > 0.5
    assert all(after[key] >= c if outcomes[key][0] == "verified" else after[key] <= c for key, c in before.items())
    reasons = dict(zip(keys, found["reasons"].to_pylist(), strict=True))
    assert reasons[odd][-1] == "an experiment came out as verified (0.20 before it)"
    judged = Judgements(experiments=outcomes, editors=dict.fromkeys(outcomes, "retrieve"))
    assert final_labels(bare, "csp", judged)["confidence"].equals(labels["confidence"]), "the encoder's own pairs"
    untouched = [key for key in keys if key not in outcomes]
    assert all(after[key] == dict(zip(keys, confidence.to_pylist(), strict=True))[key] for key in untouched)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["verified", "refuted", "untested"])), max_size=60))
def test_evidence_never_points_the_wrong_way(labels) -> None:
    before = np.clip([c for c, _ in labels], 0.001, 0.999)
    after = after_experiments([c for c, _ in labels], [word for _, word in labels])
    for (_, word), b, a in zip(labels, before, after, strict=True):
        assert 0 < a < 1
        assert word != "verified" or a >= b - 1e-12
        assert word != "refuted" or a <= b + 1e-12


def test_an_editor_that_tells_nothing_changes_nothing() -> None:
    draw = np.random.default_rng(0)
    confidence = draw.random(400)
    words = draw.choice(["verified", "refuted", "untested"], 400)
    assert np.abs(after_experiments(confidence, words) - confidence).max() < 0.15
    told = np.where(draw.random(400) < confidence, "verified", "untested")
    after = after_experiments(confidence, told)
    assert after[told == "verified"].mean() > confidence[told == "verified"].mean() + 0.1
