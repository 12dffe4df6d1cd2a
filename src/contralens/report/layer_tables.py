"""Tables of layers that patterns and kinds chose."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from contralens.checks import counted
from contralens.report.console import WIDE, name_column
from contralens.report.progress import QUIET


def plan_table(plan: Any) -> None:
    """What was chosen (`contralens.collecting.layer_plan.LayerPlan`), on stderr, before anything is computed."""
    if os.environ.get(QUIET):
        return
    out = Console(stderr=True)
    out = out if out.is_terminal else Console(stderr=True, width=WIDE)
    table = Table(
        name_column("layer", [layer.name for layer in plan.layers]), "kind", "output", "neurons", "pooling",
        box=None, pad_edge=False,
    )  # fmt: skip
    for layer in plan.layers:
        shape = "x".join(map(str, layer.shape or ()))
        kinds = ", ".join(layer.kinds) or "-"
        table.add_row(escape(layer.name), kinds, shape, f"{layer.neurons:,}", layer.pooling)
    out.print(table)
    out.print(
        f"{counted(len(plan.layers), 'layer')}, {plan.neurons:,} neurons, {plan.images:,} images, one forward an "
        f"image; at most {size(plan.bytes)} of activations in the cache",
        highlight=False,
    )
    for name, why in plan.left_out.items():
        out.print(f"left out: {escape(name)}: {escape(why)}", highlight=False)


def size(count: int) -> str:
    """Bytes in words.

    >>> size(900), size(32_000_000)
    ('0.9 kB', '32.0 MB')
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:,.1f} {unit}"
    return f"{count / 1e3:,.1f} kB"
