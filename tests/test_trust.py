"""A run, a configuration or a recipe from elsewhere is data: nothing is imported or opened because it says so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plugged
import processes
import pytest
import yaml
from coloured import COLOURS, ColourEncoder, draw_discs

import contralens
from contralens.cli import main
from contralens.data import trust
from contralens.data.seals import manifest_digest
from contralens.errors import InputError
from contralens.evaluation.recipes import read_recipe
from contralens.run_data.reopened import Reopened
from contralens.run_data.stored import encoder_of

NET = """
import pathlib, coloured
pathlib.Path({mark!r}).touch()
def make():
    return coloured.ColourNet().eval(), coloured.to_pixels
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, own code that leaves a mark when it runs, a key, and a run of that code."""
    home = tmp_path_factory.mktemp("home")
    draw_discs(home / "pictures")
    (home / "net.py").write_text(NET.format(mark=str(home / "ran")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(home / "state"))
        contralens.label(
            f"module:{home / 'net.py'}:make", home / "pictures", ColourEncoder(), list(COLOURS), layer="relu", k=3,
            holdout=0.3, scorers=["csp"], out=home / "run", cache=home / "cache",
        )  # fmt: skip
    return home


@pytest.fixture(autouse=True)
def _own_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    (home / "ran").unlink(missing_ok=True)


@pytest.fixture
def edited(home: Path, tmp_path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """A copy of the run whose manifest somebody changed."""

    def make(change: Callable[[dict[str, Any]], Any]) -> Path:
        run = tmp_path / "edited"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(home / "run", run)
        manifest = json.loads((run / "manifest.json").read_text())
        change(manifest)
        manifest["digest"] = manifest_digest(manifest)
        (run / "manifest.json").write_text(json.dumps(manifest))
        return run

    return make


ASKED: dict[str, Callable[[Any, Path], Any]] = {
    "maps": lambda run, cache: contralens.add_maps(run, cache=cache),
    "audit": lambda run, cache: contralens.audit(
        run, {"expected": ["red"], "spurious": ["blue"]}, encoder=ColourEncoder(), fakes=20, cache=cache
    ),
    "evaluate": lambda run, cache: contralens.evaluate(
        run, metrics="simulation", judge=ColourEncoder(), same_judge=True, encoder=ColourEncoder(), cache=cache
    ),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_run_that_was_made_here_has_its_code_back(asked: str, home: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(home / "run", tmp_path / "elsewhere")
    ASKED[asked](copied, tmp_path / "cache")
    assert (home / "ran").exists()


@pytest.mark.parametrize("asked", ASKED)
def test_a_run_from_elsewhere_runs_nothing(asked: str, home: Path, tmp_path: Path, edited: Any) -> None:
    run = edited(lambda m: m.pop("made_here"))
    with pytest.raises(InputError, match=r"not made here.*--trust-code") as told:
        ASKED[asked](contralens.load(run), tmp_path / "cache")
    assert "\n" not in str(told.value)
    for change in (lambda m: m["target"].update(spec=f"module:{home}/net.py:make ", name="torchvision:resnet18"),
                   lambda m: m.update(made_here="0" * 64), lambda m: m.update(made_here=7)):  # fmt: skip
        with pytest.raises(InputError, match="not made here"):
            ASKED[asked](edited(change), tmp_path / "cache")
    assert not (home / "ran").exists()


@pytest.mark.parametrize("asked", ASKED)
def test_the_user_may_allow_it(asked: str, home: Path, tmp_path: Path, edited: Any) -> None:
    run = contralens.load(edited(lambda m: m.pop("made_here")), trust_code=True)
    ASKED[asked](run, tmp_path / "cache")
    assert (home / "ran").exists()


def test_the_line_names_the_code(home: Path, tmp_path: Path, edited: Any) -> None:
    run = edited(lambda m: m["target"].update(spec="module:os:abort"))
    with pytest.raises(InputError, match=r"edited was not made here, .* would run the code module:os:abort"):
        _ = Reopened(contralens.load(run), cache=tmp_path).target


def test_the_command_does_not_run_what_a_run_names(edited: Any, tmp_path: Path) -> None:
    """In a process of its own, which `os.abort` would end by a signal."""
    run = edited(lambda m: m["target"].update(spec="module:os:abort"))
    source = ["--source", str(Path(json.loads((run / "manifest.json").read_text())["images"]["source"]))]
    done = processes.run(processes.command, "maps", run, *source, "--cache", tmp_path / "cache")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "module:os:abort" in done.stderr
    assert "--trust-code" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["target"]["options"].update(checkpoint="/etc/passwd"),
        lambda m: m["target"].update(sae="/etc/passwd"),
        lambda m: m["target"].update(sae="own.safetensors:kind=relu,center=/etc/passwd"),
        lambda m: m["target"].update(spec="timm:local-dir:weights"),
        lambda m: m["target"].update(spec="hf:../../weights"),
        lambda m: m["target"].update(spec="hf:~/weights"),
    ],
)
def test_files_of_the_network_are_not_opened(change: Any, edited: Any, tmp_path: Path) -> None:
    def without_code(manifest: dict[str, Any]) -> None:
        manifest["target"]["spec"] = "torchvision:resnet18"
        change(manifest)

    with pytest.raises(InputError, match=r"not made here, and contralens would open "):
        _ = Reopened(contralens.load(edited(without_code)), cache=tmp_path).target


@pytest.mark.parametrize("source", ["/etc", "../pictures", "~/pictures", "@/etc/hosts", "pictures/../../x"])
def test_images_are_not_looked_for_where_a_run_from_elsewhere_says(source: str, edited: Any, tmp_path: Path) -> None:
    run = contralens.load(edited(lambda m: m["images"].update(source=source)))
    with pytest.raises(InputError, match=r"would open .*--source"):
        _ = Reopened(run, cache=tmp_path).images


@pytest.mark.parametrize("name", ["hf:/home/x", "open_clip:local-dir:x", "open_clip:ViT-B-32/x@/etc/passwd", "hf:../x"])
def test_the_encoder_is_not_opened(name: str, edited: Any) -> None:
    with pytest.raises(InputError, match="would open"):
        encoder_of(contralens.load(edited(lambda m: m["encoder"].update(name=name))))


def test_the_plug_in_of_a_package_is_code(edited: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = {"contralens.encoders": {"mine": "my_plug:load"}}
    plugged.install(tmp_path, monkeypatch, "my_plug", "raise SystemExit('it was imported')", points)
    with pytest.raises(InputError, match="would run the code mine:x"):
        encoder_of(contralens.load(edited(lambda m: m["encoder"].update(name="mine:x"))))


def test_what_is_pulled_is_not_trusted(home: Path, tmp_path: Path) -> None:
    contralens.push(home / "run", tmp_path / "share")
    assert "made_here" not in (tmp_path / "share/run/manifest.json").read_text()
    pulled = contralens.pull(tmp_path / "share", tmp_path / "pulled")
    assert not pulled.trusted
    assert not contralens.load(tmp_path / "pulled").trusted
    assert contralens.load(home / "run").trusted


def test_the_same_words_in_another_folder_are_other_code(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`module:net.py:make` means the net.py of the folder that one is in: somebody could send both."""
    monkeypatch.chdir(home)
    for spec in ("module:net.py:make", "module:net:make"):
        manifest = {"target": {"spec": spec, "name": spec}, "encoder": {"name": "world"}, "images": {"name": "x"}}
        manifest["made_here"] = trust.sign(manifest)  # type: ignore[assignment]
        assert trust.made_here(manifest)
        shutil.copy(home / "net.py", tmp_path / "net.py")
        monkeypatch.chdir(tmp_path)
        assert not trust.made_here(manifest)
        monkeypatch.chdir(home)


def test_the_key_is_private_or_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    manifest: dict[str, Any] = {"target": {"spec": "world:1"}}
    signature = trust.sign(manifest)
    key = tmp_path / "contralens" / "made-here.key"
    assert signature is not None
    assert key.stat().st_mode & 0o777 == 0o600
    assert trust.sign(manifest) == signature
    assert trust.made_here({**manifest, "made_here": signature})
    key.chmod(0o644)
    assert trust.sign(manifest) is None, "others could have read it"
    assert not trust.made_here({**manifest, "made_here": signature})
    key.chmod(0o600)
    key.write_bytes(b"short")
    assert trust.sign(manifest) is None
    key.unlink()
    key.symlink_to(tmp_path / "other")
    assert trust.sign(manifest) is None


def test_without_a_place_for_the_key_a_run_is_not_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert trust.sign({"target": {}}) is None


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["contralens", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("command", ["label", "collect"])
def test_a_configuration_names_no_code(
    command: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"module:{home / 'net.py'}:make"
    settings = {"target": target, "layer": "relu", "encoder": "world", "images": str(home / "pictures")}
    given = {**settings, "k": 3, "scorers": ["csp"], **({"vocabulary": "world"} if command == "label" else {})}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    out = ["--out", str(tmp_path / "run")] if command == "label" else []
    assert run_cli(monkeypatch, command, "--config", str(tmp_path / "c.yaml"), *out) == 2
    said = capsys.readouterr().err
    assert (said.count("\n"), "--trust-code" in said, target in said) == (1, True, True)
    assert not (home / "ran").exists()
    for allowed in (["--trust-code"], ["--target", target]):
        (home / "ran").unlink(missing_ok=True)
        assert run_cli(monkeypatch, command, "--config", str(tmp_path / "c.yaml"), *out, *allowed) == 0
        assert (home / "ran").exists()


@pytest.mark.parametrize("settings", ["propose: [key_env=AWS_SECRET]", "propose: {key_env: AWS_SECRET}"])
def test_a_configuration_sends_no_secret(
    settings: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(f"proposer: openai:x@http://127.0.0.1:9\n{settings}\n")
    assert run_cli(monkeypatch, "label", "--config", str(tmp_path / "c.yaml")) == 2
    assert "AWS_SECRET" in capsys.readouterr().err


def test_a_recipe_names_no_code(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    needed = dict.fromkeys(("target", "images", "encoder", "vocabulary"), "world:1")
    for step, settings in (
        ("label", needed | {"target": "module:os:abort"}),
        ("evaluate", {"judge": "module:os:abort"}),
        ("candidates", {"proposer": "hf:x", "proposer_options": {"trust_remote_code": True}}),
    ):
        file.write_text(yaml.safe_dump({"runs": {"a": {"label": needed, step: settings}}}))
        with pytest.raises(InputError, match=rf"a\.{step}\..*--trust-code"):
            read_recipe(file)
        assert read_recipe(file, trust_code=True)["runs"]
    file.write_text(yaml.safe_dump({"runs": {"a": {"label": needed | {"target": "$NETWORK"}}}}))
    assert read_recipe(file)["runs"], "the environment is the user's"
