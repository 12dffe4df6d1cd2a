"""Progress where nobody watches: plain lines in a log, none if they are not wanted."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import processes
import pytest

from contralens.report import progress
from contralens.report.progress import QUIET, Lines, bar
from contralens.types import silent


def command(*arguments: str, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != QUIET}
    return processes.run(processes.command, *(["--quiet"] if quiet else []), *arguments, env=environment)


def test_a_log_tells_each_stage_and_quiet_silences_it(discs: Path, tmp_path: Path) -> None:
    asked = ["label", "--target", "world:1", "--layer", "block3", "--images", str(discs), "--encoder", "world",
             "--vocabulary", "world", "--k", "4", "--cache", str(tmp_path / "cache")]  # fmt: skip
    done = command(*asked, "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "contralens: collecting: 0 of 42" in lines
    assert any(line.startswith("contralens: collecting: 42 of 42, took ") for line in lines)
    stages = list(dict.fromkeys(line.split(": ")[1] for line in lines if line.startswith("contralens: ")))
    assert stages[0] == "collecting"
    assert {"mining", "scoring"} <= set(stages)
    assert "collecting" not in done.stdout
    for quiet, also in ((True, []), (False, ["--json"])):
        silenced = command(*asked, "--out", str(tmp_path / f"run {quiet}"), *also, quiet=quiet)
        assert (silenced.returncode, silenced.stderr) == (0, "")


def test_work_that_tells_nothing_is_heard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.05)
    with Lines() as lines:
        lines("mining", 0, 10)
        heard = ""
        while heard.count("mining: 0 of 10") < 3:
            time.sleep(0.01)
            heard += capsys.readouterr().err
        lines("mining", 4, 10)
        lines.note("mining", "networks busy 90% of the time")
        monkeypatch.setattr(lines, "_began", time.monotonic() - 2)
        while "/s, 3 s left, networks busy 90% of the time" not in heard:
            time.sleep(0.01)
            heard += capsys.readouterr().err
        lines("mining", 10, 10)
        lines("mining", 10, 10)
    assert capsys.readouterr().err.count("mining: 10 of 10, took ") == 1


def test_the_environment_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(QUIET, "1")
    with bar() as heard:
        assert heard is silent
    monkeypatch.delenv(QUIET)
    with bar(quiet=True) as heard:
        assert heard is silent
    with bar() as heard:
        assert isinstance(heard, Lines)
