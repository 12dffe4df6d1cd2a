"""For tests of what is on the disk: a small run without any network, and a child process that may be killed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from contralens.data.runs import Run

sys.path.append(str(Path(__file__).parent / "report"))
from drawn import drawn_run


@functools.cache
def small_run(seed: int = 0) -> Run:
    """A run of eight neurons over forty pictures that was never written."""
    return drawn_run(neurons=8, images=40, k=4, seed=seed, holdout=None)


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Path -> content of every file below a folder; of a link, where it leads."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def killed(job: Callable[[], object], after: float) -> bool:
    """Run `job` in a child that is killed after so many seconds; whether it still ran then."""
    child = multiprocessing.get_context("fork").Process(target=job)
    child.start()
    child.join(after)
    assert child.pid is not None
    alive = child.is_alive()
    if alive:
        os.kill(child.pid, signal.SIGKILL)
    child.join()
    return alive
