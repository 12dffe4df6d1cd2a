"""Progress of long work on the terminal: how far, how fast, how long still."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

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
            """A few words beside the rate of a stage that is under way."""
            if stage in self.tasks:
                self.drawn.update(self.tasks[stage], note=text)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with RichProgress(*columns, console=Console(stderr=True)) as drawn:
        yield Bars(drawn)
