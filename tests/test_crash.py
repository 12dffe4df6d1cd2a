"""Killed runs: real processes, real SIGKILL, real files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import COLOURS, ColourEncoder, ColourNet, draw_discs, to_pixels
from kept import bytes_in, killed, small_run, steps_of

import contralens
from contralens.cli import main
from contralens.collecting import batches
from contralens.collecting import collect as collecting
from contralens.data import atomic_files, replace_folder
from contralens.data.folder_kinds import EXPORT, RUN, SHARE, look
from contralens.data.replace_folder import reserved
from contralens.data.store import Store, Table
from contralens.errors import StoreError
from contralens.explorer.export import export
from contralens.sharing.push_pull import pull, push

KILLS = 20


def work(images: Path, cache: Path, out: Path) -> None:
    """One run with tiles of 8 images, so that it can die in many places."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "TILE", 8)
        contralens.label(
            ColourNet(),
            images,
            ColourEncoder(),
            list(COLOURS),
            layer="relu",
            preprocess=to_pixels,
            k=5,
            out=out,
            cache=cache,
        )


def bytes_of(run: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(run.iterdir())}


@pytest.mark.slow
def test_killed_at_twenty_moments_a_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    images = draw_discs(tmp_path / "discs", count=160)
    work(images, tmp_path / "cache", tmp_path / "expected")
    start = time.perf_counter()
    work(images, tmp_path / "cache-b", tmp_path / "expected")
    duration = time.perf_counter() - start
    expected = bytes_of(tmp_path / "expected")

    fork = multiprocessing.get_context("fork")
    seeded = random.Random(0)
    died, tiles = 0, set()
    cache = tmp_path / "killed"
    while died < KILLS:
        child = fork.Process(target=work, args=(images, cache, tmp_path / "run"))
        child.start()
        child.join(seeded.uniform(0.0, duration))
        if child.is_alive():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)
            died += 1
        child.join()
        tiles.add(len(list(cache.rglob("*.safetensors"))))
        if (tmp_path / "run").exists():  # whole, or not there at all
            assert bytes_of(tmp_path / "run") == expected
            atomic_files.shutil.rmtree(tmp_path / "run")
            atomic_files.shutil.rmtree(cache)
    assert len(tiles) > 2, "the kills should hit different states of the store"
    work(images, cache, tmp_path / "run")
    assert bytes_of(tmp_path / "run") == expected


WRITTEN = ("label", "export", "push", "pull")
EACH = 30
"""Kills of each of them, a fifth of them where the system cannot exchange two folders at once."""


@pytest.fixture(scope="module")
def before_and_after(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Job by command and state (0 or 1), the kind of folder, and the bytes that the folder holds in each state."""
    home = tmp_path_factory.mktemp("states")
    runs = [small_run(state).save(home / f"run{state}").path for state in (0, 1)]
    shared = [push(run or "", home / f"shared{state}") for state, run in enumerate(runs)]

    def label(state: int, out: Path) -> None:
        contralens.label(
            ColourNet(), discs, ColourEncoder(), list(COLOURS), layer="relu", preprocess=to_pixels, k=4 + state,
            out=out, cache=home / "cache",
        )  # fmt: skip

    jobs: dict[str, Any] = {
        "label": (label, RUN),
        "export": (lambda state, out: export([runs[state] or ""], out), EXPORT),
        "push": (lambda state, out: push(runs[state] or "", out), SHARE),
        "pull": (lambda state, out: pull(shared[state], out), RUN),
    }
    states = {}
    for name, (job, _) in jobs.items():
        for state in (0, 1):
            job(state, home / "made" / name)
            states[name, state] = bytes_in(home / "made" / name)
    return {"jobs": jobs, "states": states}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_killed_at_any_moment_the_older_or_the_new_one_is_whole_in_its_place(
    before_and_after: dict[str, Any], tmp_path: Path, name: str
) -> None:
    (job, kind), states = before_and_after["jobs"][name], before_and_after["states"]
    out, seeded = tmp_path / "out", random.Random(WRITTEN.index(name))
    job(0, out)
    job(1, out)
    steps = steps_of(lambda: job(0, out))
    seen, died, there = set(), 0, 0
    for attempt in range(4 * EACH):
        gap = attempt % 5 == 4

        def run(state: int = 1 - there, gap: bool = gap) -> None:
            if gap:
                replace_folder.exchange = lambda *_: False  # type: ignore[assignment]
            job(state, out)

        # Anywhere, and every other time among the last steps: there the folders change places.
        died += killed(run, seeded.randint(1, steps) if attempt % 2 else steps - seeded.randint(0, 40))
        if gap:  # what is left under a hidden name comes back with the next start
            with reserved(out, kind):
                pass
        found = bytes_in(out)
        there = next(state for state in (0, 1) if found == states[name, state])
        seen.add(there)
        if died == EACH:
            break
    assert died == EACH
    assert seen == {0, 1}, "the kills should come before and after the exchange"
    job(1 - there, out)
    assert bytes_in(out) == states[name, 1 - there]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_killed_command_leaves_the_older_run_or_the_new_one(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def label(k: int) -> None:
        words = f"--target world:1 --layer block3 --encoder world --vocabulary world --scorer csp --k {k} --json"
        paths = ["--images", str(discs), "--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
        monkeypatch.setattr(sys, "argv", ["contralens", "label", *words.split(), *paths])
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            main()

    for k in (4, 5, 4):
        killed(lambda k=k: label(k), 10**9)  # type: ignore[misc]
    steps = steps_of(lambda: label(5))
    killed(lambda: label(4), 10**9)
    last = 4
    for step in (steps // 4, steps // 2, steps - 90, steps - 60, steps - 40, steps - 20, steps - 5):
        killed(lambda k=9 - last: label(k), step)  # type: ignore[misc]
        held = look(tmp_path / "run", RUN)
        assert (held.foreign, held.changed) == ([], [])
        last = contralens.load(tmp_path / "run").manifest["k"]
        assert last in (4, 5)


def test_a_truncated_or_damaged_tile_is_never_read(tmp_path: Path) -> None:
    table = Table(tmp_path / "t")
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    table.append(["a", "b", "c"], {"rows": rows}, {"d": "filtered"})
    (tile,) = (tmp_path / "t").glob("*.safetensors")
    whole = tile.read_bytes()
    assert np.array_equal(Table(tmp_path / "t").rows(["c", "a"]), rows[[2, 0]])
    assert Table(tmp_path / "t").skipped == {"d": "filtered"}

    tile.write_bytes(whole[:-5])
    with pytest.warns(UserWarning, match="set aside"):
        assert "a" not in Table(tmp_path / "t")
    tile.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StoreError, match="run the command again"):
        Table(tmp_path / "t").rows(["a"])
    assert "a" not in Table(tmp_path / "t")


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    images = draw_discs(tmp_path / "discs")
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    with pytest.raises(StoreError, match="disk is full"):
        work(images, tmp_path / "cache", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert not list((tmp_path / "cache").rglob(".partial*"))
    work(images, tmp_path / "cache", tmp_path / "run")


def test_two_processes_may_share_a_cache(tmp_path: Path) -> None:
    images = draw_discs(tmp_path / "discs", count=80)
    fork = multiprocessing.get_context("fork")
    both: list[Any] = [
        fork.Process(target=work, args=(images, tmp_path / "cache", tmp_path / f"run{i}")) for i in range(2)
    ]
    for child in both:
        child.start()
    for child in both:
        child.join()
    assert [child.exitcode for child in both] == [0, 0]
    assert bytes_of(tmp_path / "run0") == bytes_of(tmp_path / "run1")


def test_remembered_results_come_back(tmp_path: Path) -> None:
    kept = Store(tmp_path).remember("exemplars", "x")
    assert kept.get() is None
    kept.put({"neurons": np.arange(3)})
    assert np.array_equal(Store(tmp_path).remember("exemplars", "x").get()["neurons"], np.arange(3))  # type: ignore[index]
    assert Store(tmp_path).remember("exemplars", "y").get() is None


class CountedNet(ColourNet):
    """It counts its images in the environment, and ends its process after so many."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        os.environ["SEEN"] = str(int(os.environ["SEEN"]) + len(x))
        if int(os.environ["SEEN"]) > int(os.environ["KILL_AFTER"]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)


def test_a_slow_network_loses_no_tile_when_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished batches are written before their tile of 512 images is done, and a resumed run gives the same bytes."""
    images = draw_discs(tmp_path / "discs", count=90)
    (images / "blue" / "broken.png").write_bytes(b"not a picture")

    def run(name: str, kill_after: int = 10**6) -> int:
        """How many images the network saw."""
        monkeypatch.setenv("SEEN", "0")
        monkeypatch.setenv("KILL_AFTER", str(kill_after))
        contralens.label(
            CountedNet(), images, ColourEncoder(), list(COLOURS), layer="relu", preprocess=to_pixels, k=5, batch_size=8,
            out=tmp_path / name, cache=tmp_path / f"cache-{name}",
        )  # fmt: skip
        return int(os.environ["SEEN"])

    seen = run("whole")
    monkeypatch.setattr(batches, "SAVE_EVERY", 0.0)
    child = multiprocessing.get_context("fork").Process(target=run, args=("killed", seen - 20))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert run("killed") <= seen - 40, "of 90 images, most were seen before the kill"
    assert bytes_of(tmp_path / "killed") == bytes_of(tmp_path / "whole")
