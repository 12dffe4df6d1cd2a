"""The editor that generates: tiny pipelines of each kind, end to end, killed and resumed, within a budget."""

from __future__ import annotations

import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from patience import HUNG
from PIL import Image
from tiny_diffusion import tiny_clipseg, tiny_instruct, tiny_stable_diffusion
from typer.testing import CliRunner

import contralens
from contralens.bench.world_images import write_world
from contralens.cli import app
from contralens.errors import InputError, MissingPackage, ModelUnavailable
from contralens.run_data.reopened import Reopened
from contralens.verifying.editors import Bench, Request, make_editor
from contralens.verifying.verify import verify

pytest.importorskip("diffusers")
TINY = "steps=2,size=16"


@pytest.fixture(scope="module")
def world(tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("verify")
    write_world(folder / "w", 1, 120)
    run = contralens.label(
        "world:1", folder / "w" / "images", "world", folder / "w" / "vocabulary.txt", layer="block3", k=6,
        scorers=["csp"], out=folder / "run", cache=folder / "cache", confidence=False,
    )  # fmt: skip
    return run, folder


@pytest.fixture(scope="module")
def bench(world):  # type: ignore[no-untyped-def]
    run, folder = world
    return Bench(Reopened(run, cache=folder / "cache"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("models")
    return {
        "instruct": tiny_instruct(folder / "pix2pix"),
        "inpaint": tiny_stable_diffusion(folder / "sd"),
        "clipseg": tiny_clipseg(folder / "clipseg"),
    }


def asked(bench: Bench, kind: str = "remove", control: bool = False, seed: int = 0) -> Request:
    pair = int(bench.reopened.exemplars.positives[0, 0]), int(bench.reopened.exemplars.contrasts[0, 0])
    return Request(kind, "striped", 0, *(pair if kind == "remove" else pair[::-1]), seed=seed, control=control)  # type: ignore[arg-type]


def changed(bench: Bench, request: Request, after: Image.Image) -> np.ndarray:
    return (np.asarray(after) != np.asarray(bench.picture(request.image))).any(2)


@pytest.mark.parametrize(
    ("kind", "more", "pipeline"),
    [
        ("instruct", "", "StableDiffusionInstructPix2PixPipeline"),
        ("inpaint", "", "StableDiffusionInpaintPipeline"),
        ("inpaint", ",mode=image,strength=1", "StableDiffusionImg2ImgPipeline"),
    ],
)
def test_a_pipeline_of_each_kind(bench, models, kind, more, pipeline) -> None:
    editor = make_editor(f"diffusers:{models[kind]}@{TINY}{more}", bench)
    assert type(editor._pipeline).__name__ == pipeline
    for request in (asked(bench), asked(bench, "insert"), asked(bench, control=True)):
        after = editor.edit(request)
        assert after.size == bench.picture(request.image).size
        assert after.tobytes() == editor.edit(request).tobytes(), "an edit is a function of its request"
        share = changed(bench, request, after).mean()
        assert (0 < share < 0.7) if editor.mode == "inpaint" else share > 0.9
    other = editor.edit(asked(bench, seed=1))
    assert other.tobytes() != editor.edit(asked(bench)).tobytes()
    again = make_editor(f"diffusers:{models[kind]}@{TINY}{more}", bench)
    assert again.fingerprint == editor.fingerprint
    assert make_editor(f"diffusers:{models[kind]}@steps=3,size=16{more}", bench).fingerprint != editor.fingerprint


def test_inpainting_changes_where_the_neuron_fires_and_its_control_elsewhere(bench, models) -> None:
    editor = make_editor(f"diffusers:{models['inpaint']}@{TINY}", bench)
    there, elsewhere = (
        changed(bench, request, editor.edit(request)) for request in (asked(bench), asked(bench, control=True))
    )
    assert (there & elsewhere).mean() < 0.5 * there.mean()
    segmented = make_editor(f"diffusers:{models['inpaint']}@{TINY},mask=clipseg:{models['clipseg']}", bench)
    assert segmented.fingerprint != editor.fingerprint
    place = segmented._segmenter.where(bench.picture(0), "striped")
    assert place[0].shape == (32, 32)
    assert ((place[0] > 0) & (place[0] < 1)).all()
    assert changed(bench, asked(bench), segmented.edit(asked(bench))).any()


def test_the_command_is_killed_and_goes_on_to_the_same_bits(world, models, tmp_path) -> None:
    run, _ = world
    spec = f"diffusers:{models['inpaint']}@{TINY}"

    def command(cache: str) -> list[str]:
        return ["verify", str(run.path), "0", "1", "--editor", spec, "--images", "2", "--cache", str(tmp_path / cache)]

    assert CliRunner().invoke(app, command("whole")).exit_code == 0
    whole = contralens.load_verification(run.path)
    process = multiprocessing.get_context("fork").Process(target=lambda: CliRunner().invoke(app, command("cut")))
    process.start()
    made, begun = tmp_path / "cut" / "edited", time.monotonic()
    while len(list(made.glob("*"))) < 3 and process.is_alive() and time.monotonic() - begun < HUNG:
        time.sleep(0.005)
    process.kill()
    process.join()
    before = len(list(made.glob("*")))
    done = CliRunner().invoke(app, command("cut"))
    assert done.exit_code == 0, done.output
    assert "tested with the editor diffusers:" in done.stdout
    again = contralens.load_verification(run.path)
    assert 0 < before < len(list(made.glob("*")))
    assert again.edits.equals(whole.edits)
    assert again.pictures.equals(whole.pictures)
    for edit in again.edits.to_pylist():
        assert edit["pixels"] is None or edit["pixels"] > 0
        assert edit["used"] or edit["why"]


def test_a_budget_of_pictures_is_kept_and_the_next_call_goes_on(world, models, tmp_path) -> None:
    run, _ = world
    options = {
        "editor": f"diffusers:{models['instruct']}@{TINY}", "neurons": [0, 1], "images": 2, "controls": 1,
        "cache": tmp_path, "save": False,
    }  # fmt: skip
    first = verify(run, **options, edits=3)
    assert first.rows() == []
    assert first.manifest["notes"][-1] == "2 labels left out: the budget of 3 edits was used up"
    assert len(list((tmp_path / "edited").glob("*"))) == 3
    for _ in range(20):
        found = verify(run, **options, edits=6)
        if len(found.rows()) == 2:
            break
    whole = verify(run, **{**options, "cache": tmp_path / "other"})
    assert found.edits.equals(whole.edits)


class Redrawn:
    """A model, as it were: draws the scene again as it should be, or another picture of the run with the concept."""

    name, by_region, exact, generative = "redrawn", False, False, True

    def __init__(self, bench: Bench, well: bool) -> None:
        self.bench, self.well, self.fingerprint = bench, well, ("a" if well else "b") * 32
        self.exact_one = make_editor("world", bench)
        self.calls = 0

    def edit(self, request: Request) -> Image.Image | str:
        self.calls += 1
        if self.well:
            return self.exact_one.edit(request)
        _, along, _ = self.bench.along(request.concept)
        return self.bench.picture(int(along.argmin() if request.kind == "remove" else along.argmax())) or ""


def test_an_edit_that_changes_the_rest_as_well_does_not_count(world, bench, tmp_path) -> None:
    run, _ = world
    options = {"neurons": list(range(8)), "images": 4, "save": False, "cache": tmp_path}
    well, badly = Redrawn(bench, True), Redrawn(bench, False)
    good = verify(run, editor=well, **options)
    bad = verify(run, editor=badly, **options)
    used = [[edit["used"] for edit in found.edits.to_pylist() if edit["pixels"] is not None] for found in (good, bad)]
    assert np.mean(used[0]) > 2 * np.mean(used[1])
    assert any("rest of the picture changed" in edit["why"] for edit in bad.edits.to_pylist())
    calls = well.calls
    again = verify(run, editor=well, **options)
    assert again.edits.equals(good.edits)
    assert again.pictures.equals(good.pictures)
    assert well.calls == calls, "pictures that a model made are kept"


def test_what_is_refused(bench, models, tmp_path, monkeypatch) -> None:
    plain = models["inpaint"]
    for spec, error, said in (
        ("diffusers:", InputError, "diffusers:ID_OR_FOLDER"),
        (f"diffusers:{tmp_path}", ModelUnavailable, "cannot load"),
        (f"diffusers:{plain}@stps=2", InputError, "did you mean steps"),
        (f"diffusers:{plain}@mode=paint", InputError, "mode must be instruct or inpaint or image"),
        (f"diffusers:{models['instruct']}@strength=0.5", InputError, "no option strength; it takes steps, guidance"),
        (f"diffusers:{plain}@remove=nothing", InputError, "say where the concept goes"),
        (f"diffusers:{plain}@mask=sam", InputError, "mask"),
        (f"diffusers:{plain}@mask=clipseg:{tmp_path}", ModelUnavailable, "cannot load the segmenter"),
    ):
        with pytest.raises(error, match=said):
            make_editor(spec, bench)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackage, match=r"pip install 'contralens\[generate\]'"):
        make_editor(f"diffusers:{plain}", bench)


def test_weights_are_read_from_safetensors_alone(bench, models, tmp_path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file

    folder = Path(shutil.copytree(models["inpaint"], tmp_path / "pickled"))
    for file in folder.rglob("*.safetensors"):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    with pytest.raises(ModelUnavailable, match="cannot load"):
        make_editor(f"diffusers:{folder}", bench)
