"""Where tables are printed."""

from __future__ import annotations

import os
from collections.abc import Sequence

from rich.console import Console
from rich.table import Column, Table

WIDE = 160
"""Columns of a file or a pipe, which have no width of their own; 80 would cut names that the next program needs."""
LONGEST = 60
"""Characters up to which a name is never cut."""


def console() -> Console:
    """The terminal at its width, or $COLUMNS."""
    made = Console()
    if made.is_terminal or made.is_jupyter or "COLUMNS" in os.environ:
        return made
    return Console(width=WIDE)


def show(table: Table, rows: int, most: int, more: str = "") -> None:
    """Print a table of the first `most` of so many rows, if there are any, and how many it leaves out."""
    if rows and most > 0:
        console().print(table)
    if rows > most > 0:
        print(f"... and {rows - most:,} more{more}")


def name_column(title: str, names: Sequence[str]) -> Column:
    """A column of names that one copies into the next command: others give way, it does not."""
    longest = max((len(name) for name in (title, *names)), default=1)
    return Column(title, no_wrap=True, overflow="fold", min_width=min(longest, LONGEST))
