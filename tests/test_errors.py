"""Each class of error from a real situation, and that no catch of one class swallows another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import processes
import pytest
from coloured import ColourEncoder, ColourNet, to_pixels
from kept import small_run
from PIL import Image

import contralens
from contralens import checks, errors
from contralens.checks import blaming
from contralens.data.locks import locked
from contralens.data.replace_folder import lock_beside
from contralens.data.runs import load
from contralens.data.store import Table
from contralens.errors import (
    ContralensError,
    ImageError,
    InputError,
    MissingPackage,
    ModelUnavailable,
    RunError,
    StoreError,
)

OTHERS = (StoreError, RunError, MissingPackage, ModelUnavailable)
"""What a catch of a wrong argument or of a bad image must let through."""
BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
assert not {blocked!r} & sys.modules.keys(), "imported before"
"""


def without(packages: list[str], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which some packages cannot be imported."""
    return processes.run(processes.code, BLOCK.format(blocked=set(packages)) + code, cwd=folder)


def flipped(path: Path) -> None:
    """Flip the last bit of a file: of a tile's data, which only a look at its checksum shows."""
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def labeled(images: Path, cache: Path, **options: Any) -> contralens.Run:
    given: dict[str, Any] = {"layer": "relu", "preprocess": to_pixels, "k": 4, "cache": cache, **options}
    return contralens.label(ColourNet(), images, ColourEncoder(), ["red", "green", "blue"], **given)


# --- the tree ---


def test_the_tree_at_the_top_of_the_file_is_the_tree() -> None:
    from contralens.data.sealed_tensors import Damaged
    from contralens.proposing.proposers import ProposerError

    parents = {InputError: ContralensError, errors.KindError: InputError, ImageError: ContralensError,
               StoreError: ContralensError, RunError: StoreError, Damaged: StoreError, MissingPackage: ContralensError,
               ModelUnavailable: ContralensError, ProposerError: ContralensError}  # fmt: skip
    assert {kind: kind.__bases__[0] for kind in parents} == parents
    drawn = [line.split()[-1] if "──" not in line else line.split("── ")[1].split()[0]
             for line in (errors.__doc__ or "").splitlines() if "── " in line]  # fmt: skip
    assert sorted(drawn) == sorted(kind.__name__ for kind in parents)
    assert [kind for kind in parents if issubclass(kind, ValueError)] == [InputError, errors.KindError]


def test_older_imports_are_the_same_classes() -> None:
    assert (checks.InputError, checks.KindError, checks.ImageError) == (InputError, errors.KindError, ImageError)
    assert contralens.InputError is InputError
    assert {"ContralensError", "StoreError", "MissingPackage"} <= set(dir(contralens))


# --- each class from a real situation ---


def test_a_damaged_tile_is_a_store_error(discs: Path, tmp_path: Path) -> None:
    labeled(discs, tmp_path / "cache")
    tiles = sorted((tmp_path / "cache" / "rows").rglob("*.safetensors"))
    assert tiles
    for tile in tiles:
        table = Table(tile.parent)
        names = [name for name in table._place if table.has_row(name)]
        flipped(tile)
        says = "was damaged on disk and is moved aside; run the command again"
        with pytest.warns(UserWarning, match="set aside"), pytest.raises(StoreError, match=says):
            Table(tile.parent).rows(names[:1])


def test_what_another_process_holds_is_a_store_error(tmp_path: Path) -> None:
    code = "from pathlib import Path\nfrom contralens.data.locks import locked\nwith locked(Path('l'), ''): pass"
    with locked(tmp_path / "l", "mine"):
        done = without([], code, tmp_path)
    assert done.stderr.splitlines()[-1].startswith("contralens.errors.StoreError")


def test_a_broken_jpeg_is_an_image_error(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:900])
    with pytest.raises(ImageError, match=r"half\.jpg: .*truncated"):
        contralens.images(tmp_path).load(0)


def test_a_run_without_a_table_is_a_run_error_and_no_run_is_a_wrong_argument(tmp_path: Path) -> None:
    run = small_run().save(tmp_path / "run").path
    assert run is not None
    with pytest.raises(InputError, match="is not a whole run folder"):
        load(tmp_path)
    flipped(run / "vectors.safetensors")
    with pytest.raises(RunError, match="is damaged or was edited"):
        load(run)
    (run / "vectors.safetensors").unlink()
    with pytest.raises(RunError, match=r"vectors\.safetensors is missing"):
        load(run)
    (run / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        load(run)


def test_a_model_without_weights_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2).save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelUnavailable, match="the network could not be loaded"):
        contralens.target(f"hf:{tmp_path / 'vit'}", "encoder")
    with pytest.raises(ModelUnavailable, match="could not be loaded"):
        contralens.encoder(f"hf:{tmp_path / 'vit'}")
    with pytest.raises(InputError, match="there is no such folder"):
        contralens.target("hf:./nowhere", "encoder")


PACKAGES = {
    "encoder": (["open_clip"], "contralens.encoder('open_clip:ViT-B-32/openai')", "open-clip"),
    "target": (["timm"], "contralens.target('timm:resnet18', 'layer1')", "timm"),
    "plots": (
        ["matplotlib"],
        "__import__('contralens.evaluation.plots').evaluation.plots.plot_pairs(None, 0)",
        "plots",
    ),
    "images": (["datasets"], "contralens.images('hf-dataset:a/b:train')", "datasets"),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_not_installed_is_missing(name: str, tmp_path: Path) -> None:
    blocked, use, extra = PACKAGES[name]
    code = f"""
import contralens
try:
    {use}
except contralens.MissingPackage as e:
    assert not isinstance(e, ValueError)
    print(e)
"""
    done = without(blocked, code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        f"this needs the package {blocked[0]}, which is not installed: pip install 'contralens[{extra}]'" in done.stdout
    )


@pytest.mark.parametrize(
    ("command", "blocked", "says"),
    [
        (["show", "nowhere", "0"], [], "nowhere is not a whole run folder"),
        (["show", "run", "0"], [], "run/labels.parquet is damaged or was edited"),
        (["layers", "timm:resnet18"], ["timm"], "pip install 'contralens[timm]'"),
        (["layers", "hf:my-lab/not-cached"], [], "the network could not be loaded"),
    ],
    ids=["input", "run", "package", "model"],
)
def test_the_command_line_prints_each_in_one_line(
    command: list[str], blocked: list[str], says: str, tmp_path: Path
) -> None:
    small_run().save(tmp_path / "run")
    flipped(tmp_path / "run" / "labels.parquet")
    done = without(
        blocked, f"sys.argv = {['contralens', *command]!r}\nfrom contralens.cli import main\nmain()", tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr.splitlines()[-1].replace("\\", "/")


# --- no catch of one class swallows another ---


def raising(error: Exception) -> Any:
    def use(*_: Any, **__: Any) -> Any:
        raise error

    return use


@pytest.mark.parametrize("kind", [*OTHERS, InputError, ImageError])
def test_code_that_is_blamed_may_raise_ours(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^mine$"), blaming("the network failed"):
        raise kind("mine")


@pytest.mark.parametrize("kind", OTHERS)
def test_a_missing_package_in_preprocessing_is_no_bad_image(kind: type[Exception], discs: Path, tmp_path: Path) -> None:
    seen = []

    def preprocess(image: Any) -> Any:
        seen.append(image)
        if len(seen) > 30:
            raise kind("mine")
        return to_pixels(image)

    with pytest.raises(kind, match="mine"):
        labeled(discs, tmp_path / "cache", preprocess=preprocess)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_refused_text_is_told_from_all_else(kind: type[Exception]) -> None:
    from contralens.auditing.alignment import _in_templates
    from contralens.encoders.registry import read_texts

    encoder = ColourEncoder()
    encoder.texts = raising(kind("mine"))  # type: ignore[method-assign]
    with pytest.raises(kind, match="mine"):
        read_texts(encoder, ["red"])
    with pytest.raises(kind, match="mine"):
        _in_templates(encoder, ["red"], ("{}",))


class Lazy:
    """A run got back whose network and encoder cannot be had."""

    def __init__(self, error: Exception) -> None:
        self.error, self.notes = error, list[str]()

    def __getattr__(self, name: str) -> Any:
        raise self.error


def test_a_judge_is_compared_with_what_can_be_loaded(colour_encoder: ColourEncoder) -> None:
    from contralens.evaluation.judge_independence import _encoder, is_target

    for error in (InputError("x"), MissingPackage("x"), ModelUnavailable("x")):
        assert not is_target(Lazy(error), colour_encoder)  # type: ignore[arg-type]
        assert _encoder(Lazy(error)) is None  # type: ignore[arg-type]
    for damage in (StoreError("x"), RunError("x")):
        with pytest.raises(StoreError):
            is_target(Lazy(damage), colour_encoder)  # type: ignore[arg-type]
        with pytest.raises(StoreError):
            _encoder(Lazy(damage))  # type: ignore[arg-type]


def test_a_damaged_wordnet_is_not_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contralens.data.synonyms import synonyms
    from contralens.data.vocabulary import read_vocabulary

    words = read_vocabulary(["car", "automobile"])
    monkeypatch.setattr("contralens.data.wordnet._places", lambda: iter(()))
    assert words.synonyms() == []
    assert synonyms() is None
    monkeypatch.setattr("contralens.data.wordnet._places", lambda: iter((tmp_path,)))
    (tmp_path / "index.noun").write_text("")
    with pytest.raises(InputError, match=r"holds no index\.noun"):
        words.synonyms()


def test_images_of_a_run_whose_reader_is_missing(tmp_path: Path, discs: Path) -> None:
    """The run's images cannot be found is another thing than a package that reads them."""
    labeled(discs, tmp_path / "cache", out=tmp_path / "run")
    code = """
import contralens
from contralens.run_data.reopened import Reopened
run = contralens.load("run")
for source in ("hf-dataset:a/b:train", "nowhere"):
    try:
        Reopened(run, source=source).images
    except contralens.ContralensError as e:
        print(type(e).__name__)
"""
    done = without(["datasets"], code, tmp_path)
    assert done.stdout.split() == ["MissingPackage", "InputError"], done.stderr


def test_the_explorer_says_why_its_search_is_off(tmp_path: Path) -> None:
    from contralens.explorer.search import Finder, Unavailable

    run: Any = SimpleNamespace(vectors=1, manifest={"encoder": {"name": "world"}}, missing=[], trusted=True, path=None)
    for error in (InputError("x"), MissingPackage("x"), ModelUnavailable("x")):
        with pytest.raises(Unavailable, match="cannot be loaded: x"):
            Finder(load=raising(error))._encoder(run)
    with pytest.raises(StoreError, match=r"^x$"):
        Finder(load=raising(StoreError("x")))._encoder(run)


def test_a_plug_in_whose_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contralens.plugs import Scheme

    (tmp_path / "lichen_plug.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackage, match="the plug-in lichen_plug:f cannot be imported"):
        Scheme("lichen_plug:f", "", "").loader()
    with pytest.raises(InputError, match="the plug-in json:nothing cannot be imported"):
        Scheme("json:nothing", "", "").loader()


def test_figures_go_without_matplotlib_and_without_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from contralens.evaluation import plots
    from contralens.report import world_bench

    for kind in (StoreError, InputError):
        monkeypatch.setattr(plots, "require", raising(kind("x")))
        monkeypatch.setattr(world_bench, "require", raising(kind("x")))
        with pytest.raises(kind):
            plots.plot_values("auc", {}, tmp_path)
        with pytest.raises(kind):
            world_bench.plot({}, tmp_path / "x.png")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plots.plot_values("auc", {}, tmp_path) is None
    assert world_bench.plot({}, tmp_path / "x.png") is None


def test_reading_waits_for_no_lock(tmp_path: Path) -> None:
    """An older run that a killed process left aside is put back, unless another process holds the lock."""
    small_run().save(tmp_path / ".partial-old-abcd1234" / "run")
    code = """
import contralens
try:
    contralens.load("run")
except contralens.InputError as e:
    print(e)
"""
    with locked(lock_beside(tmp_path / "run"), ""):
        assert "run is not a whole run folder" in without([], code, tmp_path).stdout
    assert without([], code, tmp_path).stdout == ""
    assert (tmp_path / "run" / "manifest.json").is_file()
