"""Progress of long work on the terminal: how far, how fast, how long still."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from contralens.types import Progress, silent


@contextlib.contextmanager
def bar(quiet: bool = False) -> Iterator[Progress]:
    """A `Progress` that draws bars with rate and remaining time on stderr; silent where nobody watches."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    class Rate(TextColumn):
        def __init__(self) -> None:
            super().__init__("")

        def render(self, task: Task):  # type: ignore[no-untyped-def]
            from rich.text import Text

            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.1f}/s" if speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as drawn:
        tasks = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = drawn.add_task(stage, total=total)
            drawn.update(tasks[stage], completed=done, total=total)

        yield report
