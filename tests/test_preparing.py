"""Images decoded by processes: the same rows as by threads, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coloured import ColourEncoder, ColourNet, draw_hard, to_pixels
from patience import HUNG
from PIL import Image

import contralens
from contralens.collecting import preparing
from contralens.collecting.collect import Collected, collect
from contralens.collecting.distributed import collect_ray
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.settings.label import Collect

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a system that can fork")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_hard(tmp_path_factory.mktemp("pictures"))


def collected(pictures: Path, cache: Path, processes: int, preprocess: Any = to_pixels) -> Collected:
    target = contralens.target(ColourNet(), "relu", preprocess=preprocess)
    images, store = contralens.images(pictures), Store(cache)
    return collect(images, [target, ColourEncoder()], store, batch_size=8, processes=processes)


def same(one: Collected, other: Collected) -> None:
    assert (one.usable, one.skipped, one.fingerprints) == (other.usable, other.skipped, other.fingerprints)
    for at in (0, 1):
        assert np.array_equal(one.rows(at), other.rows(at))
    assert one.thumbnails.blobs(one.fingerprints) == other.thumbnails.blobs(one.fingerprints)


@pytest.fixture(scope="module")
def by_threads(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Collected:
    return collected(pictures, tmp_path_factory.mktemp("cache"), 0)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "pickled"])
def test_processes_give_the_rows_of_threads(
    pictures: Path, by_threads: Collected, shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shared:
        monkeypatch.setattr(preparing, "_plain", lambda x: False)
    done = collected(pictures, tmp_path / "cache", 3, lambda image: to_pixels(image))  # no pickle is needed
    assert len(done.skipped) == 1
    same(done, by_threads)


def test_a_killed_process_is_replaced(pictures: Path, by_threads: Collected, tmp_path: Path) -> None:
    parent, met = os.getpid(), tmp_path / "met"

    def once(image: Image.Image) -> torch.Tensor:
        if not met.exists() and image.getpixel((16, 16)) == (255, 0, 0):
            met.touch()
            assert os.getpid() != parent
            os.kill(os.getpid(), signal.SIGKILL)
        return to_pixels(image)

    done = collected(pictures, tmp_path / "cache", 2, once)
    assert met.exists()
    same(done, by_threads)


def test_an_image_that_ends_each_process_is_skipped_with_a_reason(pictures: Path, tmp_path: Path) -> None:
    def deadly(image: Image.Image) -> torch.Tensor:
        if image.info.get("deadly"):
            os.kill(os.getpid(), signal.SIGKILL)
        return to_pixels(image)

    class Some(type(contralens.images(pictures))):  # type: ignore[misc]
        def load(self, index: int) -> Image.Image:
            image = super().load(index)
            image.info["deadly"] = index == 5
            return image

    images = contralens.images(pictures)
    images.__class__ = Some
    target = contralens.target(ColourNet(), "relu", preprocess=deadly)
    done = collect(images, [target], Store(tmp_path / "cache"), batch_size=8, processes=2)
    reasons = {row["id"]: row["reason"] for row in done.skipped}
    assert "crashed the decoding process" in reasons[images.ids[5]]
    assert len(reasons) == 2, "that one, and the file that is no picture"


def test_processes_do_not_outlive_the_one_that_started_them(pictures: Path, tmp_path: Path) -> None:
    script = f"""
import os, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_preparing import collected, to_pixels
from pathlib import Path
parent = os.getpid()
def slow(image):
    if os.getpid() == parent:  # tries the preprocessing out
        return to_pixels(image)
    if not os.path.exists({str(tmp_path / "first")!r}):  # is prepared alone
        open({str(tmp_path / "first")!r}, "w").close()
        return to_pixels(image)
    with open({str(tmp_path / "pids")!r}, "a") as f:
        f.write(f"{{os.getpid()}}\\n")
    time.sleep(1000)
collected(Path({str(pictures)!r}), Path({str(tmp_path / "cache")!r}), 2, slow)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    pids = tmp_path / "pids"
    try:
        started = wait_for(lambda: pids.exists() and len(set(pids.read_text().split())) == 2)
    finally:
        parent.kill()
        parent.wait()
    assert started
    assert wait_for(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def wait_for(what: Any) -> bool:
    end = time.monotonic() + HUNG
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_the_option_reaches_label_and_not_ray(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    true = preparing.Processes.__init__
    monkeypatch.setattr(
        preparing.Processes,
        "__init__",
        lambda self, work, count, most: (started.append(count), true(self, work, count, most))[1],
    )
    for processes in (2, 0):
        run = contralens.label(
            ColourNet(), pictures, ColourEncoder(), ["red", "blue"], layer="relu", preprocess=to_pixels, k=3,
            processes=processes, cache=tmp_path / str(processes),
        )  # fmt: skip
        assert started == [2]
        if processes:
            labels = run.labels
    assert run.labels.equals(labels)
    with pytest.raises(InputError, match="Ray starts its own processes"):
        collect_ray(Collect(ColourNet(), pictures, ColourEncoder(), layer="relu", processes=2))
