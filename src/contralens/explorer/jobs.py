"""Work that a page asks for: a label tested, in a thread of its own, one at a time."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contralens.checks import first_line, shown
from contralens.errors import ContralensError, InputError
from contralens.explorer import shapes
from contralens.explorer.overview import named
from contralens.explorer.runs import OpenRun
from contralens.explorer.search import Unavailable
from contralens.explorer.values import NotThere
from contralens.types import Progress

Tester = Callable[[Path, int, str, bool, Progress], object]
"""Tests a label: run folder, neuron, label, whether the run may name code, and what hears how far it is."""


class Jobs:
    """The last experiment of each run, and how far it is."""

    def __init__(self, test: Tester | None, read_only: bool = False, trust_code: bool = False) -> None:
        self._test, self._read_only, self._trust_code = test, read_only, trust_code
        self._jobs: dict[str, shapes.Job] = {}
        self._lock = threading.Lock()

    def of(self, run: str) -> shapes.Job | None:
        """The run's last one; None before the first."""
        with self._lock:
            job = self._jobs.get(run)
            return None if job is None else {**job}

    def start(self, run: OpenRun, neuron: int, label: str) -> shapes.Job:
        """Begin to test a label of a neuron.

        Raises:
            Unavailable: the explorer only reads, or has no torch.
            NotThere: no such neuron.
            InputError: no label, or another experiment is running.
        """
        if self._read_only:
            raise Unavailable("started with --read-only: labels are not tested")
        if self._test is None:
            raise Unavailable("this server does not test labels; `contralens explore` does")
        if importlib.util.find_spec("torch") is None:
            raise Unavailable("torch is not installed here, which experiments need (pip install contralens)")
        if not named(run, [neuron]):
            raise NotThere(f"run {run.key} has no neuron {neuron}")
        label = " ".join(label.split())
        if not label:
            raise InputError("the label is empty")
        with self._lock:
            for key, other in self._jobs.items():
                if other["state"] == "running":
                    raise InputError(
                        f"{shown(other['label'])} on neuron {other['neuron']} of {key} is being tested: wait for it"
                    )
            job: shapes.Job = {
                "neuron": neuron, "label": label, "state": "running", "stage": "loading", "done": 0, "total": 0,
            }  # fmt: skip
            self._jobs[run.key] = job
            threading.Thread(target=self._work, args=(run, job), daemon=True).start()
            return {**job}

    def _work(self, run: OpenRun, job: shapes.Job) -> None:
        def progress(stage: str, done: int, total: int) -> None:
            self._set(job, stage=stage, done=done, total=total)

        assert self._test is not None
        try:
            self._test(run.path, job["neuron"], job["label"], self._trust_code, progress)
            self._set(job, state="done", stage="done")
        except ContralensError as e:
            self._set(job, state="failed", stage=str(e))
        except BaseException as e:  # whatever a network or an encoder raises: the page says it
            self._set(job, state="failed", stage=f"{type(e).__name__}: {first_line(e)}")

    def _set(self, job: shapes.Job, **changes: Any) -> None:
        with self._lock:
            job.update(changes)  # type: ignore[typeddict-item]
