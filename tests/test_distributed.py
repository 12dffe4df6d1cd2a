"""Shards and Ray: real processes, some of them killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from coloured import ColourEncoder, ColourNet, draw_discs, to_pixels
from PIL import Image
from ray_driver import job

import contralens
from contralens.checks import InputError
from contralens.collecting import collect as collecting
from contralens.collecting.collect import lacking_tiles, read_collected
from contralens.collecting.distributed import collect_shard
from contralens.data.store import Store


def rows_of(images: Path, cache: Path) -> list[np.ndarray]:
    probe, extractors = job(str(images), str(cache), slow=False).images_and_extractors()
    assert lacking_tiles(probe, extractors, Store(cache)) == []
    collected = read_collected(probe, extractors, Store(cache))
    return [collected.rows(0), collected.rows(1)]


def test_shards_together_are_the_whole_and_any_n_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "TILE", 8)
    images = draw_discs(tmp_path / "discs", count=60)
    (images / "again.png").write_bytes((images / "red" / "000.png").read_bytes())  # the same content in two tiles
    collect_shard(job(str(images), str(tmp_path / "whole"), slow=False), 0, 1)
    sharded = job(str(images), str(tmp_path / "sharded"), slow=False)
    assert collect_shard(sharded, 1, 3) == (3, 8)
    files = set((tmp_path / "sharded").rglob("*.safetensors"))
    assert len(files) == 9
    stamps = {f: f.stat().st_mtime_ns for f in files}
    assert collect_shard(sharded, 0, 2) == collect_shard(sharded, 1, 2) == (4, 8)
    assert {f: f.stat().st_mtime_ns for f in files} == stamps, "what was finished is not computed again"
    for ours, theirs in zip(rows_of(images, tmp_path / "sharded"), rows_of(images, tmp_path / "whole"), strict=True):
        assert np.array_equal(ours, theirs)
    with pytest.raises(InputError, match="0 <= i < n"):
        collect_shard(sharded, 3, 3)


def descendants(pid: int, word: str) -> list[int]:
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    parents, names = {}, {}
    for line in found.splitlines()[1:]:
        own, parent, args = line.split(None, 2)
        parents[int(own)], names[int(own)] = int(parent), args
    out = []
    for own in parents:
        up = own
        while up in parents and up != pid:
            up = parents[up]
        if up == pid and word in names[own]:
            out.append(own)
    return out


@pytest.mark.slow
def test_ray_survives_a_killed_worker_and_a_killed_driver(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for i in range(6 * 512):
        Image.fromarray(random.integers(0, 255, (4, 4, 3), np.uint8)).save(images / f"{i:05d}.bmp")
    collect_shard(job(str(images), str(tmp_path / "whole"), slow=False), 0, 1)
    expected = rows_of(images, tmp_path / "whole")

    cache = tmp_path / "ray"
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here}:{here.parent / 'src'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here / "ray_driver.py"), str(images), str(cache)]

    def encoder_tiles() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in cache.rglob("rows/*/*.safetensors") if not p.name.startswith(".")}

    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while len(encoder_tiles()) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        workers = descendants(driver.pid, "_Worker") or descendants(driver.pid, "MapWorker")
        assert workers, "no Ray worker found to kill"
        os.kill(workers[0], signal.SIGKILL)
        while len(encoder_tiles()) < 6 and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    finished = encoder_tiles()
    assert 6 <= len(finished) < 12, "the driver should die in the middle"

    again = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, timeout=180, check=True)
    computed, total = map(int, again.stdout.split()[-2:])
    assert total == 6
    assert computed == 6 - min(
        sum(1 for p in finished if p.parent == folder) for folder in {p.parent for p in finished}
    )
    now = encoder_tiles()
    assert {p: now[p] for p in finished} == finished, "finished tiles are not computed again"
    for ours, theirs in zip(rows_of(images, cache), expected, strict=True):
        assert np.array_equal(ours, theirs)


def test_label_reads_what_shards_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "TILE", 8)
    images = draw_discs(tmp_path / "discs")
    net = contralens.target(ColourNet(), "relu", preprocess=to_pixels)
    words = ["red", "green", "blue"]
    alone = contralens.label(net, images, ColourEncoder(), words, k=5, cache=tmp_path / "alone")
    for shard in range(3):
        collect_shard(job(str(images), str(tmp_path / "shards"), slow=False), shard, 3)
    assert contralens.label(net, images, ColourEncoder(), words, k=5, cache=tmp_path / "shards") == alone
