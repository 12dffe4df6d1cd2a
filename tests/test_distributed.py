"""Shards and Ray: real processes, some of them killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from coloured import ColourEncoder, ColourNet, draw_discs, to_pixels
from patience import HUNG
from PIL import Image
from ray_driver import job
from safetensors.numpy import load_file

import contralens
from contralens.collecting import collect as collecting
from contralens.collecting import distributed
from contralens.collecting.collect import lacking_tiles, read_collected
from contralens.collecting.distributed import collect_shard
from contralens.data import fingerprint_cache, image_sets
from contralens.data.store import Store
from contralens.errors import InputError


def rows_of(images: Path, cache: Path) -> list[np.ndarray]:
    probe, extractors = distributed._opened(job(str(images), str(cache), slow=False))
    assert lacking_tiles(probe, extractors, Store(cache)) == []
    collected = read_collected(probe, extractors, Store(cache))
    return [collected.rows(0), collected.rows(1)]


def test_shards_together_are_the_whole_and_any_n_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "TILE", 8)
    images = draw_discs(tmp_path / "discs", count=60)
    (images / "again.png").write_bytes((images / "red" / "000.png").read_bytes())  # the same content in two tiles
    collect_shard(job(str(images), str(tmp_path / "whole"), slow=False), 0, 1)
    sharded = job(str(images), str(tmp_path / "sharded"), slow=False)
    first = collect_shard(sharded, 1, 3)
    assert (first.tiles, first.total, first.speed.images) == (3, 8, 20)
    files = {f for f in (tmp_path / "sharded").rglob("*.safetensors") if f.parts[-3] != "probes"}
    assert len(files) == 9
    stamps = {f: f.stat().st_mtime_ns for f in files}
    both = [collect_shard(sharded, shard, 2) for shard in (0, 1)]
    assert [(done.tiles, done.total) for done in both] == [(4, 8), (4, 8)]
    assert sum(done.speed.images for done in both) == 60 - 20
    assert {f: f.stat().st_mtime_ns for f in files} == stamps, "what was finished is not computed again"
    for ours, theirs in zip(rows_of(images, tmp_path / "sharded"), rows_of(images, tmp_path / "whole"), strict=True):
        assert np.array_equal(ours, theirs)
    with pytest.raises(InputError, match="0 <= i < n"):
        collect_shard(sharded, 3, 3)


def test_shards_hash_each_image_once_between_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "TILE", 8)
    monkeypatch.setattr(distributed, "TILE", 8)
    monkeypatch.setattr(fingerprint_cache, "KEPT_TOGETHER", 8)
    images = draw_discs(tmp_path / "discs", count=60)
    hashed: list[str] = []
    true_hash = image_sets.content_hash
    monkeypatch.setattr(image_sets, "content_hash", lambda source: (hashed.append(source.name), true_hash(source))[1])
    work = job(str(images), str(tmp_path / "cache"), slow=False)

    collect_shard(work, 1, 3)
    assert len(hashed) == 60, "files that have just been written are not taken for settled"
    monkeypatch.setattr(fingerprint_cache, "SETTLED_SECONDS", 0.0)
    probe = contralens.images(images)
    store = Store(tmp_path / "cache")
    for at in (0, 8):  # another shard has come this far
        part = probe.take(range(at, at + 8))
        fingerprint_cache.known_fingerprints(part, store)
    hashed.clear()
    collect_shard(work, 2, 3)
    assert sorted(hashed) == sorted(Path(i).name for i in probe.ids[16:]), "the parts that are there are not hashed"
    assert hashed[0] == Path(probe.ids[16]).name, "a shard begins with its own part"
    hashed.clear()
    collect_shard(work, 0, 3)
    assert hashed == []
    expected = list(contralens.images(images).fingerprints())
    assert fingerprint_cache.known_fingerprints(contralens.images(images), store) == expected

    changed = images / probe.ids[20]
    stamp = changed.stat()
    changed.write_bytes(changed.read_bytes()[::-1])  # as long as before
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # and with the time of before
    hashed.clear()
    fresh = fingerprint_cache.known_fingerprints(contralens.images(images), store)
    assert [i for i, (a, b) in enumerate(zip(fresh, expected, strict=True)) if a != b] == [20]
    assert len(hashed) == 8, "only the part with the changed file is hashed again"


def test_what_cannot_be_read_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_cache, "SETTLED_SECONDS", 0.0)
    images = draw_discs(tmp_path / "discs", count=7)
    (images / "gone.png").symlink_to(tmp_path / "nowhere.png")
    before = fingerprint_cache.known_fingerprints(contralens.images(images), Store(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    (tmp_path / "nowhere.png").write_bytes((images / "red" / "000.png").read_bytes())
    after = fingerprint_cache.known_fingerprints(contralens.images(images), Store(tmp_path / "cache"))
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert after == contralens.images(images).fingerprints()


def descendants(pid: int, word: str = "") -> list[int]:
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
        if up == pid and own != pid and word in names[own]:
            out.append(own)
    return out


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


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

    def command(actors: int) -> list[str]:
        return [sys.executable, str(here / "ray_driver.py"), str(images), str(cache), str(actors)]

    def tiles() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in cache.rglob("rows/*/*.safetensors") if not p.name.startswith(".")}

    driver = subprocess.Popen(command(2), env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    everyone: list[int] = []
    try:
        until = time.monotonic() + HUNG
        while len(tiles()) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        workers = descendants(driver.pid, "MapWorker")
        assert len(workers) == 2, "two Ray workers should be at work"
        os.kill(workers[0], signal.SIGKILL)
        while len(tiles()) < 6 and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        everyone = descendants(driver.pid)
        os.kill(driver.pid, signal.SIGKILL)
        for pid in everyone:  # Ray's own processes are in sessions of theirs, and may still finish a tile
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        driver.wait()
    while any(map(alive, everyone)) and time.monotonic() < until:
        time.sleep(0.1)
    finished = tiles()
    assert 6 <= len(finished) < 12, "the driver should die in the middle"

    again = subprocess.run(command(1), env=environment, stdout=subprocess.PIPE, text=True, timeout=HUNG, check=True)
    computed, total = map(int, again.stdout.split()[-2:])
    assert total == 6
    whole = min(sum(1 for p in finished if p.parent == folder) for folder in {p.parent for p in finished})
    assert computed == 6 - whole, "another number of workers goes on where these stopped"
    now = tiles()
    assert len(now) == 12
    assert {p: now[p] for p in finished} == finished, "finished tiles are not computed again"
    for ours, theirs in zip(rows_of(images, cache), expected, strict=True):
        assert np.array_equal(ours, theirs)
    for tile in now:  # tile by tile the bits of a single process
        one, other = load_file(tile), load_file(tmp_path / "whole" / tile.relative_to(cache))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_label_reads_what_shards_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "TILE", 8)
    images = draw_discs(tmp_path / "discs")
    net = contralens.target(ColourNet(), "relu", preprocess=to_pixels)
    words = ["red", "green", "blue"]
    alone = contralens.label(net, images, ColourEncoder(), words, k=5, cache=tmp_path / "alone")
    for shard in range(3):
        collect_shard(job(str(images), str(tmp_path / "shards"), slow=False), shard, 3)
    assert contralens.label(net, images, ColourEncoder(), words, k=5, cache=tmp_path / "shards") == alone
