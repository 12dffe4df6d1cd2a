"""Killed runs: real processes, real SIGKILL, real files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coloured import COLOURS, ColourEncoder, ColourNet, draw_discs, to_pixels

import contralens
from contralens.checks import InputError
from contralens.collecting import collect as collecting
from contralens.data import files
from contralens.data.store import Store, Table

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
            files.shutil.rmtree(tmp_path / "run")
            files.shutil.rmtree(cache)
    assert len(tiles) > 2, "the kills should hit different states of the store"
    work(images, cache, tmp_path / "run")
    assert bytes_of(tmp_path / "run") == expected


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
    with pytest.raises(InputError, match="run the command again"):
        Table(tmp_path / "t").rows(["a"])
    assert "a" not in Table(tmp_path / "t")


def test_a_full_disk_is_one_line_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    images = draw_discs(tmp_path / "discs")
    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match="disk is full"):
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
