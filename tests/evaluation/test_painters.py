"""A tiny Stable Diffusion, made here, runs CoSy end to end: deterministic, counted, and resumed after a kill."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from colour_case import colour_target, paint_folder
from PIL import Image
from tiny_diffusion import tiny_stable_diffusion, tiny_stable_diffusion_xl

from contralens.encoders.diffusion import is_blank
from contralens.errors import InputError, ModelUnavailable
from contralens.evaluation.cosy import from_folder, paint
from contralens.evaluation.evaluate import evaluate
from contralens.evaluation.painters import PRESETS, DiffusersPainter, painter
from contralens.run_data.reopened import Reopened

pytest.importorskip("diffusers")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="session")
def brush(model):
    return painter(f"diffusers:{model}@steps=2,guidance=2")


@pytest.mark.slow
def test_an_image_depends_on_prompt_and_seed_alone(brush, model):
    together = brush.paint("red", [0, 1, 2, 3, 4])
    alone = brush.paint("red", [3])
    assert all(isinstance(image, Image.Image) for image in together)
    np.testing.assert_allclose(np.asarray(together[3], int), np.asarray(alone[0], int), atol=1)
    assert np.asarray(together[0]).tolist() != np.asarray(together[1]).tolist()
    again = DiffusersPainter(str(model), steps=2, guidance=2.0)
    assert again.fingerprint == brush.fingerprint
    assert np.array_equal(np.asarray(again.paint("red", [3])[0]), np.asarray(alone[0]))
    assert DiffusersPainter(str(model), steps=3, guidance=2.0).fingerprint != brush.fingerprint


@pytest.mark.slow
def test_a_pipeline_of_another_kind_is_picked_by_its_folder(tmp_path):
    brush = painter(f"diffusers:{tiny_stable_diffusion_xl(tmp_path)}@steps=2,guidance=0,size=16")
    assert type(brush._pipeline).__name__ == "StableDiffusionXLPipeline"
    first, second = brush.paint("red", [7, 8])
    assert first.size == (16, 16)
    assert np.asarray(first).tolist() != np.asarray(second).tolist()
    np.testing.assert_allclose(np.asarray(brush.paint("red", [8])[0], int), np.asarray(second, int), atol=1)


@pytest.mark.slow
def test_cosy_end_to_end_and_again_from_the_cache(run, settings, brush, monkeypatch):
    first = evaluate(
        run, metrics="cosy,clarity", painter=brush, count=5, prompt="a {label}", check_metrics=False, **settings
    )
    made = first.manifest["label_images"]
    assert made["images"]["scored"] == 8 * 5
    assert made["painter"] == brush.fingerprint
    assert set(first.metrics) == {"auc", "mad", "dma", "max_ratio", "clarity"}
    auc = np.array(list(first.value("auc", "semanticlens").values()))
    assert ((auc >= 0) & (auc <= 1)).all()

    monkeypatch.setattr(type(brush), "paint", lambda *a: pytest.fail("painted again"))
    again = evaluate(
        run, metrics="cosy,clarity", painter=brush, count=5, prompt="a {label}", check_metrics=False, **settings
    )
    assert again.values.equals(first.values)


KILLED = """
import sys, os, signal
sys.path.insert(0, sys.argv[1])
from colour_case import ColourEncoder, colour_target
from contralens.data.runs import load
from contralens.encoders.diffusion import is_blank
from contralens.evaluation.painters import painter
from contralens.evaluation.cosy import paint
from contralens.run_data.reopened import Reopened
brush = painter(f"diffusers:{sys.argv[2]}@steps=2,guidance=2")
original, calls = brush.paint, []
def paint_and_tell(*a):
    calls.append(a)
    made = original(*a)
    print("batch", len(calls), flush=True)
    if len(calls) == 3 and sys.argv[5] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return made
brush.paint = paint_and_tell
reopened = Reopened(load(sys.argv[3]), target=colour_target(), cache=sys.argv[4])
made = paint(reopened, ["red", "lime"], brush, count=8)
print("sum", float(sum(made.of([label] * 9, range(9)).double().sum() for label in made.rows)), flush=True)
"""


@pytest.mark.slow
def test_resumes_after_a_kill_with_the_same_numbers(run, brush, model, tmp_path):
    here = str(Path(__file__).parent)

    def go(cache, how):
        return processes.run(processes.code, KILLED, here, model, run.path, tmp_path / cache, how)

    died = go("one", "die")
    assert died.returncode == -signal.SIGKILL, died.stderr
    resumed = go("one", "live")
    assert resumed.stdout.count("batch") == 2, "two batches of four were kept"
    reopened = Reopened(run, target=colour_target(), cache=tmp_path / "two")
    whole = paint(reopened, ["red", "lime"], brush, count=8)
    total = float(sum(whole.of([label] * 9, range(9)).double().sum() for label in whole.rows))
    assert float(resumed.stdout.split()[-1]) == pytest.approx(total, rel=1e-4)


class Failing:
    """A painter whose every second image is blank or filtered."""

    name, fingerprint = "failing", "f" * 32

    def paint(self, prompt, seeds):
        red = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8))
        return [red if s % 2 == 0 else "blank" if s % 4 == 1 else "filtered" for s in seeds]


def every(activations):
    return torch.cat([rows for _, rows in activations.blocks()])


def test_blank_and_filtered_images_are_counted_not_scored(run, settings):
    reopened = Reopened(run, target=settings["target"], cache=settings["cache"])
    made = paint(reopened, ["red", "lime"], Failing(), count=8, seed=0)
    assert made.counts == {"blank": 4, "filtered": 4, "scored": 8}
    assert len(made.rows["red"]) == 4
    columns = made.of(["lime", None, "blue"], [1, 2, 3])
    assert torch.equal(columns[:, 0], every(made.activations)[made.rows["lime"], 1])
    assert columns[:, 1:].isnan().all()


def test_nothing_but_failures_is_undefined_not_an_error(run, settings):
    class Blank(Failing):
        fingerprint = "e" * 32

        def paint(self, prompt, seeds):
            return ["blank"] * len(seeds)

    found = evaluate(run, metrics="cosy", painter=Blank(), count=3, check_metrics=False, **settings)
    assert found.manifest["label_images"]["images"] == {"blank": 24, "labels without images": 8}
    assert all(row["neurons"] == 0 and row["undefined"] == 8 for row in found.summary.to_pylist())


def test_a_folder_per_label(run, settings, tmp_path):
    paint_folder(tmp_path, 24, 5, nested=True)
    (tmp_path / "lime").rename(tmp_path / "Lime_")
    Image.new("RGB", (12, 12), "red").save(tmp_path / "red" / "blank.png")
    (tmp_path / "red" / "broken.png").write_bytes(b"nothing")
    found = evaluate(run, metrics="cosy", images=tmp_path, scorers=["semanticlens"], **settings)
    assert found.manifest["label_images"]["images"] == {"unreadable": 1, "blank": 1, "scored": 24}
    assert min(found.value("auc", "semanticlens").values()) > 0.9
    with pytest.raises(InputError, match="named like a label"):
        from_folder(Reopened(run, cache=settings["cache"]), ["zebra"], tmp_path)
    with pytest.raises(InputError, match="no label that images"):
        from_folder(Reopened(run, cache=settings["cache"]), [], tmp_path)


def test_what_a_user_gets_wrong_is_told(run, settings):
    for spec, words in (
        ("difusers:x", "did you mean diffusers"), ("diffusers:", "ID_OR_FOLDER"),
        ("diffusers:/no/where", "cannot load"),
        ("diffusers:a@stps=4", "did you mean steps"),
    ):  # fmt: skip
        with pytest.raises(ModelUnavailable if words == "cannot load" else InputError, match=words):
            painter(spec)
    with pytest.raises(InputError, match="must be a name"):
        painter(3)
    with pytest.raises(InputError, match="must contain"):
        paint(Reopened(run), ["red"], Failing(), prompt="a dog")
    with pytest.raises(InputError, match="did you mean cosy"):
        evaluate(run, preset="cozy", **settings)


def test_presets_are_the_published_ones():
    assert (PRESETS["cosy"].count, PRESETS["cosy"].prompt) == (50, "realistic photo of a close up of {label}")
    assert (PRESETS["csp"].count, PRESETS["csp"].prompt, PRESETS["csp"].control) == (20, "{label}", 500)
    assert is_blank(Image.new("RGB", (4, 4), "red"))
    assert not is_blank(Image.fromarray(np.eye(4, dtype=np.uint8)))
