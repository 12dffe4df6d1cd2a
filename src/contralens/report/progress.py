"""Progress of long work: bars on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from contralens.types import Progress, silent

EVERY = 30.0
"""Seconds between two lines of one stage in a log."""
QUIET = "CONTRALENS_QUIET"
"""Variable of the environment that silences progress, as `--quiet` does."""


@contextlib.contextmanager
def bar(quiet: bool = False) -> Iterator[Progress]:
    """A `Progress` on stderr: bars with rate and remaining time on a terminal; plain lines elsewhere (SLURM, CI).

    Lines come at the start and the end of each stage, and every half minute.
    """
    if quiet or os.environ.get(QUIET):
        yield silent
    elif not sys.stderr.isatty():
        with Lines() as lines:
            yield lines
    else:
        with _bars() as bars:
            yield bars


class Lines:
    """Progress as lines. Within one stage a thread speaks, so that work which shows nothing in between is heard, too.

    >>> import sys
    >>> with contextlib.redirect_stderr(sys.stdout), Lines() as lines:
    ...     lines("mining", 0, 64)
    ...     lines("mining", 64, 64)
    contralens: mining: 0 of 64
    contralens: mining: 64 of 64, took 0 s
    """

    def __init__(self) -> None:
        self._stage: str | None = None
        self._done = self._total = 0
        self._began = self._first = 0.0
        self._note = ""
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Lines:
        threading.Thread(target=self._speak, daemon=True).start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._ended.set()

    def __call__(self, stage: str, done: int, total: int) -> None:
        with self._lock:
            before = (self._stage, self._done, self._total)
            if stage != self._stage:
                self._stage, self._began, self._first, self._note = stage, time.monotonic(), done, ""
            self._done, self._total = done, total
            if stage != before[0] or (done == total and before != (stage, done, total)):
                self._say()

    def note(self, stage: str, text: str) -> None:
        """A few words beside the rate of a stage that is in progress."""
        if stage == self._stage:
            self._note = text

    def _speak(self) -> None:
        while not self._ended.wait(EVERY):
            with self._lock:
                if self._stage is not None and self._done < self._total:
                    self._say()

    def _say(self) -> None:
        seconds, made = time.monotonic() - self._began, self._done - self._first
        parts = [f"{self._stage}: {self._done:,} of {self._total:,}"]
        if self._done >= self._total:
            parts.append(f"took {_long(seconds)}")
        elif made and seconds >= 1:
            parts += [
                f"{made / seconds:,.1f}/s",
                f"{_long((self._total - self._done) * seconds / made)} left",
                self._note,
            ]
        elif seconds >= 1:
            parts.append(f"{_long(seconds)} so far")
        print(f"contralens: {', '.join(part for part in parts if part)}", file=sys.stderr, flush=True)


def _long(seconds: float) -> str:
    """A duration in the unit that suits it.

    >>> _long(12), _long(119), _long(3 * 3600 + 240)
    ('12 s', '1 min 59 s', '3 h 4 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def _bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    class Rate(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task):  # type: ignore[no-untyped-def]
            from rich.text import Text

            speed = task.finished_speed or task.speed
            parts = [f"{speed:,.1f}/s" if speed else "", task.fields.get("note", "")]
            return Text(", ".join(part for part in parts if part))

    class Bars:
        def __init__(self, drawn: RichProgress) -> None:
            self.drawn = drawn
            self.tasks: dict[str, Any] = {}

        def __call__(self, stage: str, done: int, total: int) -> None:
            if stage not in self.tasks:
                self.tasks[stage] = self.drawn.add_task(stage, total=total)
            self.drawn.update(self.tasks[stage], completed=done, total=total)

        def note(self, stage: str, text: str) -> None:
            """A few words beside the rate of a stage that is in progress."""
            if stage in self.tasks:
                self.drawn.update(self.tasks[stage], note=text)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as drawn:
        yield Bars(drawn)
