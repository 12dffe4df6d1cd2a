"""A property of every command that writes a folder: no file that it did not write is gone after it, killed or not."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kept import bytes_in, killed, small_run

import contralens
from contralens.bench import world_images
from contralens.data.added_files import add_to_run
from contralens.data.evaluations import SUMMARY, VALUES, VERDICTS, Evaluation
from contralens.errors import ContralensError
from contralens.explorer.export import export
from contralens.proposing.candidates import Candidates, claimed
from contralens.sharing.push_pull import pull, push

CASES = 520
NAMES = (
    "manifest.json", "share.json", "contralens-export.json", "comparison.json", "world.json", "audit.json",
    "added.json",
    "candidates.json", "ledger.jsonl", "labels.json", "labels.parquet", "report.html", "maps.parquet", "README.md",
    "index.html", "scenes.parquet", "vocabulary.txt", "thesis.tex", ".hidden", ".partial-notes", "Grüße.txt",
)  # fmt: skip
FOLDERS = ("", "", "", "evaluation/", "audit/", "images/", "run/", "data/", "photos/2024/")
CONTENTS = (
    b"", b"mine", b"{}", b"[]", b'{"format": 1, "scorers": ["csp"], "primary": "csp", "mode": "hard"}',
    b'{"format": "contralens-share", "version": 1, "files": {}}', b'{"contralens": "0.1.0", "runs": []}',
    b'{"format": 2, "scorers": [], "primary": "csp", "files": {"thesis.tex": "0"}, "digest": "0"}',
)  # fmt: skip


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and what was pushed of it, to be read only."""
    home = tmp_path_factory.mktemp("sources")
    run = small_run().save(home / "run")
    push(run, home / "shared", thumbnails=True)
    return home


def evaluate(run: Path) -> None:
    Evaluation({"scorers": ["csp"]}, *(kind.empty_table() for kind in (VALUES, SUMMARY, VERDICTS))).save(run)


def propose(folder: Path) -> None:
    with claimed(folder):
        Candidates(["red"], [], [], {}).save(folder)


WRITERS: dict[str, Callable[[Path, Path], object]] = {
    "label": lambda out, home: small_run().save(out),
    "label another": lambda out, home: small_run(1).save(out),
    "pull": lambda out, home: pull(home / "shared", out),
    "push": lambda out, home: push(home / "run", out),
    "export": lambda out, home: export([home / "run"], out),
    "compare": lambda out, home: contralens.compare([small_run()], ["semanticlens", "csp"]).save(out),
    "world": lambda out, home: world_images.write_world(out, 1, 2),
    "propose": lambda out, home: propose(out),
    "evaluate": lambda out, home: evaluate(out),
    "report": lambda out, home: add_to_run(out, {"report.html": b"page", "maps.parquet": b"maps"}),
}


@st.composite
def situations(draw: Callable[..., Any]) -> tuple[list[str], list[tuple[str, bytes]], int | None, bool, int | None]:
    """What was written before, files of the user's, one of ours that was edited, a link?, the command and its death."""
    before = draw(st.lists(st.sampled_from(sorted(WRITERS)), max_size=2))
    places = st.tuples(st.sampled_from(FOLDERS), st.sampled_from(NAMES)).map("".join)
    own = draw(st.lists(st.tuples(places, st.sampled_from(CONTENTS)), max_size=3))
    command = draw(st.sampled_from(sorted(WRITERS)))
    edited = draw(st.none() | st.integers(0, 99))
    death = draw(st.none() | st.integers(1, 150))
    return [*before, command], own, edited, draw(st.booleans()), death


def call(name: str, out: Path, home: Path) -> None:
    with contextlib.suppress(ContralensError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        WRITERS[name](out, home)


def put(out: Path, own: list[tuple[str, bytes]], edited: int | None) -> dict[str, bytes]:
    """Write the user's files, edit one of ours; the files that are the user's from now on."""
    mine = {}
    for name, content in own:
        with contextlib.suppress(OSError):  # a file where the folder would be
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(content)
            mine[name] = content
    there = sorted(bytes_in(out)) if out.is_dir() else []
    if edited is not None and there:
        name = there[edited % len(there)]
        if not any(part.startswith(".partial-") for part in name.split("/")):
            (out / name).write_bytes(b"edited")
            mine[name] = b"edited"
    return mine


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_each_of_them_writes(sources: Path, tmp_path: Path, name: str) -> None:
    if name in ("evaluate", "report"):
        small_run().save(tmp_path / "out")
    before = bytes_in(tmp_path)
    WRITERS[name](tmp_path / "out", sources)
    assert bytes_in(tmp_path).keys() > before.keys()


@pytest.mark.slow
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(situations())
def test_no_file_of_the_users_is_gone(sources: Path, case: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # this is about kills, not about power cuts
        _check(sources, *case)


def _check(
    sources: Path,
    commands: list[str],
    own: list[tuple[str, bytes]],
    edited: int | None,
    linked: bool,
    death: int | None,
) -> None:
    *before, command = commands
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        if linked:
            (Path(folder) / "disk").mkdir()
            out.symlink_to(Path(folder) / "disk")
        for name in before:
            call(name, out, sources)
        mine = put(out, own, edited)
        if death is None:
            call(command, out, sources)
        else:
            killed(lambda: call(command, out, sources), death)
            call(command, out, sources)  # what it left is swept, nothing else
        assert out.is_symlink() == linked
        now = bytes_in(out) if out.exists() else {}
        lost = {name for name, content in mine.items() if now.get(name) != content}
        assert not lost, lost
        left = [path.name for path in out.resolve().parent.iterdir() if path.name.startswith(".partial")]
        assert not left, left
