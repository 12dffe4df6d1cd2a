"""For tests of what is on the disk: a small run without any network, and a child process that may be killed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from patience import HUNG

from contralens.data.runs import LABELS, Run

sys.path.append(str(Path(__file__).parent / "report"))
from drawn import drawn_run


@functools.cache
def small_run(seed: int = 0) -> Run:
    """A run of eight neurons over forty pictures that was never written."""
    run = drawn_run(neurons=8, images=40, k=4, seed=seed, holdout=None)
    rows = [{"p": None, "fdr": None, **row} for row in run.labels.to_pylist()]
    return dataclasses.replace(run, labels=pa.Table.from_pylist(rows, schema=LABELS))


def bytes_in(folder: Path) -> dict[str, bytes]:
    """Path -> content of every file below a folder; of a link, where it leads."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


STEPS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.scandir", "os.link", "shutil.rmtree")
"""What a process does on the disk, as Python's audit events name it."""


def killed(job: Callable[[], object], step: int) -> bool:
    """Do the job in a child that is killed before its `step`-th step on the disk; False if it ended before that."""

    def counting() -> None:
        left = itertools.count(1)

        def hook(event: str, _: object) -> None:
            if event in STEPS and next(left) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        job()

    child = multiprocessing.get_context("fork").Process(target=counting)
    child.start()
    child.join(HUNG)
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode != 0


def steps_of(job: Callable[[], object]) -> int:
    """How many steps on the disk a job takes, counted in a child."""
    ours, childs = multiprocessing.get_context("fork").Pipe()

    def counting() -> None:
        counted = itertools.count()
        sys.addaudithook(lambda event, _: next(counted) and None if event in STEPS else None)
        with contextlib.suppress(SystemExit):  # of a command
            job()
        childs.send(next(counted))

    child = multiprocessing.get_context("fork").Process(target=counting)
    child.start()
    child.join(HUNG)
    return int(ours.recv())
