"""Where tables are printed."""

from __future__ import annotations

import os

from rich.console import Console

WIDE = 160
"""Columns of a file or a pipe, which have no width of their own; 80 would cut names that the next program needs."""


def console() -> Console:
    """The terminal at its width, or $COLUMNS."""
    made = Console()
    if made.is_terminal or made.is_jupyter or "COLUMNS" in os.environ:
        return made
    return Console(width=WIDE)
