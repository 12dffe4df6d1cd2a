"""The command line as a user meets it: a real process, its output and its exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import processes
import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, to_pixels

import contralens
from contralens.cli import main
from contralens.config import SETTINGS, merge, read_config
from contralens.errors import InputError
from contralens.settings.label import LabelCommand
from contralens.settings.record import flag_of, settings_of


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, since a new one takes seconds to load torch."""

    def called(*args: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["contralens", *map(str, args)])
        with warnings.catch_warnings(), pytest.raises(SystemExit) as stopped:
            main()
        code = stopped.value.code
        out, err = capsys.readouterr()
        return Done(code if isinstance(code, int) else 0, out, err)

    return called


def test_a_real_process_ends_with_one_line_and_code_2() -> None:
    command = [sys.executable, "-m", "contralens", "show", "nowhere", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "contralens: nowhere is not a whole run folder: manifest.json is missing\n"


def test_a_reader_that_ends_early_is_no_error() -> None:
    """`contralens vocab | head -1`: nothing on stderr."""
    command = [sys.executable, "-m", "contralens", "vocab"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


@pytest.mark.parametrize("args", [[], ["bench"]])
def test_a_bare_command_shows_its_help_in_lines(args: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "contralens", *args], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")
    assert "\nCommands:\n" in done.stderr


def test_what_ctrl_c_ended_says_so_and_can_be_run_again(tmp_path: Path) -> None:
    code = "import signal, contralens.cli as c; signal.signal(signal.SIGINT, signal.default_int_handler); c.main()"
    command = ["world", "1", "--out", str(tmp_path / "world"), "--images"]
    process = processes.Started(processes.code, code, *command, "600")
    while not (tmp_path / "world/images/00000.png").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err == "contralens: interrupted; run the same command again to resume\n"
    again = processes.run(processes.command, *command, "30")
    assert again.returncode == 0, again.stderr
    assert len(list((tmp_path / "world/images").iterdir())) == 30


def test_a_pipe_is_as_wide_as_its_tables(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    command = ("layers", "torchvision:resnet18", "--weights", "random")
    assert re.search("layer4.1.relu .*runs 2 times: ambiguous", run(*command).stdout)
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, run(*command).stdout.splitlines())) <= 40


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_what_the_disk_refuses_is_one_line() -> None:
    onto_full = "import os; os.dup2(os.open('/dev/full', os.O_WRONLY), 1); import contralens.cli; contralens.cli.main()"
    done = processes.run(processes.code, onto_full, "vocab", "imagenet", "--json")
    assert (done.returncode, done.stderr) == (2, "contralens: No space left on device\n")


def test_a_terminal_of_another_encoding_shows_escapes(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("größe\n猫\n", encoding="utf-8")
    command = [sys.executable, "-m", "contralens", "vocab", str(tmp_path / "words.txt")]
    env = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "größe, \\u732b" in done.stdout.decode("latin-1")
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, env=env, check=True).stdout)
    assert told["concepts"] == ["größe", "猫"]


@pytest.mark.parametrize(("own", "found"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_leave_the_cores_to_others(own: dict[str, str], found: str) -> None:
    """Set before torch is loaded, since it asks only then; decoding shares the cores with the networks."""
    code = (
        "import os, sys, contralens.cli\nsys.argv = ['contralens', '--version']\n"
        "try:\n    contralens.cli.main()\nfinally:\n    assert 'torch' not in sys.modules\n"
        "    print(os.environ['OMP_WAIT_POLICY'])"
    )
    kept = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**kept, **own})
    assert done.stdout.splitlines()[-1] == found


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["lable"], "Did you mean 'label'"),
        (["label"], "--target is missing"),
        (["label", "--targt", "x"], "--target"),
        (["label", "--target", "x", "--encoder", "world", "--images", "."], "--vocabulary is missing"),
        (["label", "--config", "nowhere.yaml"], "no config file nowhere.yaml"),
        (["show", "tests", "1"], "not a whole run folder"),
        (["layers", "torchvision:resnet5"], "resnet50"),
        (["layers", "torchvison:resnet50"], "torchvision"),
        (["vocab", "couleurs"], "couleurs"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(run: Run, args: list[str], says: str) -> None:
    done = run(*args)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def bad(folder: Path, **changed: object) -> dict[str, object]:
    given: dict[str, object] = {
        "target": "torchvision:resnet18",
        "weights": "random",
        "layer": "layer4",
        "encoder": "world",
        "images": folder,
        "vocabulary": "colours",
        "out": folder.parent / "run",
    }
    return {**given, **changed}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": "nowhere"}, "nowhere"),
        ({"target": "torchvision:resnet19"}, "resnet18"),
        ({"layer": "layer5"}, "did you mean layer"),
        ({"encoder": "wrld"}, "world"),
        ({"vocabulary": "nowhere.txt"}, "nowhere.txt"),
        ({"scorer": "cps"}, "did you mean csp"),
        ({"out": "/proc/nowhere/run"}, "cannot write"),
        ({"cache": "/proc/nowhere"}, "cannot write"),
        ({"out": "/dev/null"}, "is a file"),
        ({"neurons": "a"}, "indices such as"),
        ({"device": "cuda:7"}, "cuda:7"),
        ({"exclude": -3}, "a cosine between 0 and 1"),
        ({"exclude": 0}, "a cosine between 0 and 1"),
        ({"out": os.fsdecode(b"r\xfcn")}, "no UTF-8 text"),
    ],
)
def test_label_says_what_is_wrong(run: Run, changed: dict[str, object], says: str, discs: Path) -> None:
    flags = [str(x) for k, v in bad(discs, **changed).items() for x in (f"--{k}", v)]
    done = run("label", *flags)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("text", "says"), [("", "empty|at least|no concept"), ("red\n", "at least two")])
def test_a_vocabulary_needs_two_words(text: str, says: str, discs: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(InputError, match=says):
        contralens.label(
            ColourNet(), discs, ColourEncoder(), tmp_path / "words.txt", layer="relu", preprocess=to_pixels
        )


def test_show_and_json(run: Run, discs: Path, tmp_path: Path) -> None:
    options = {"layer": "relu", "preprocess": to_pixels, "k": 3, "out": tmp_path / "run"}
    contralens.label(ColourNet(), discs, ColourEncoder(), list(COLOURS), **options)  # type: ignore[arg-type]
    shown = run("show", tmp_path / "run", "relu/1")
    assert shown.returncode == 0, shown.stderr
    assert "green" in shown.stdout
    found = json.loads(run("show", tmp_path / "run", "1", "--json").stdout)
    assert found["labels"]["csp"]["label"] == "green"
    assert len(found["exemplars"]) == 3
    assert run("show", tmp_path / "run", "99").returncode == 2


def test_a_folder_of_runs_is_told_with_the_runs_in_it(run: Run, discs: Path, tmp_path: Path) -> None:
    options = {"layer": "relu", "preprocess": to_pixels, "k": 3, "out": tmp_path / "demo" / "world" / "first"}
    contralens.label(ColourNet(), discs, ColourEncoder(), list(COLOURS), **options)  # type: ignore[arg-type]
    for command in (("show", tmp_path / "demo", "1"), ("report", tmp_path / "demo")):
        done = run(*command)
        assert done.returncode == 2
        assert done.stderr.endswith(f"; runs in it: {tmp_path / 'demo' / 'world' / 'first'}\n")
    assert "runs in it" not in run("show", discs, "1").stderr


def test_config_files_and_flags(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "run.yaml").write_text("target: torchvision:resnet18\nbatch-size: 8\nimages: images\nk: 5\n")
    settings = merge(read_config(tmp_path / "run.yaml"), {"k": 7, "layer": None, "scorers": []})
    assert settings == {
        "target": "torchvision:resnet18",
        "batch_size": 8,
        "images": str(tmp_path / "images"),
        "k": 7,
    }
    (tmp_path / "bad.yaml").write_text("targt: x\n")
    with pytest.raises(InputError, match="did you mean target"):
        read_config(tmp_path / "bad.yaml")
    (tmp_path / "worse.yaml").write_text("a: [1,\n")
    with pytest.raises(InputError, match="cannot read"):
        read_config(tmp_path / "worse.yaml")


def test_values_of_a_config_file_are_what_they_must_be(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("layer: 1\nfdr: 5e-2\nk: '7'\nholdout: 0.2\nseed:\nreuse: no\nneurons: [1, 2]\n")
    found = read_config(file)
    assert found == {"layer": "1", "fdr": 0.05, "k": 7, "holdout": 0.2, "reuse": False, "neurons": [1, 2]}
    file.write_text("layer: [1, features]\n")
    assert read_config(file) == {"layer": ["1", "features"]}
    for line, says in (
        ("k: many", "`k` must be a whole number; got 'many'"),
        ("k: 2.5", "`k` must be a whole number; got 2.5"),
        ("limit: true", "`limit` must be a whole number"),
        ("holdout: [1]", "`holdout` must be a number"),
        ("reuse: maybe", "`reuse` must be true or false; got 'maybe'"),
        ("device: 0", "`device` must be a text; got 0"),
    ):
        file.write_text(line)
        with pytest.raises(InputError, match=re.escape(says)):
            read_config(file)


def test_every_setting_is_a_flag_of_label(run: Run) -> None:
    shown = run("label", "--help").stdout
    for name in SETTINGS:
        assert f"--{flag_of(name, settings_of(LabelCommand)[name])}" in shown


def test_lists_are_printed(run: Run) -> None:
    for command in ("vocab", "encoders", "targets"):
        assert json.loads(run(command, "--json").stdout)
        assert run(command).stdout
    assert "layer4" in run("layers", "torchvision:resnet18", "--weights", "random").stdout


def test_a_part_of_a_checkpoint_beside_a_config_file(tmp_path: Path) -> None:
    (tmp_path / "dino.pth").write_bytes(b"")
    (tmp_path / "run.yaml").write_text("checkpoint: dino.pth::teacher\nprefix_tokens: 5\n")
    found = read_config(tmp_path / "run.yaml")
    assert found == {"checkpoint": f"{tmp_path / 'dino.pth'}::teacher", "prefix_tokens": 5}
