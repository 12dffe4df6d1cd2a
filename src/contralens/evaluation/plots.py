"""Plots, where matplotlib is installed: a neuron's pairs of pictures; every neuron's value, not bars of means alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contralens.checks import require
from contralens.data.final_labels import final
from contralens.data.runs import Run
from contralens.errors import MissingPackage
from contralens.math.intervals import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_values(metric: str, values: Mapping[str, Sequence[float]], folder: Path) -> Path | None:
    """A violin with a strip of points and the mean with its interval per method; None without matplotlib."""
    try:
        require("matplotlib", "plots")
    except MissingPackage:
        return None
    from matplotlib.figure import Figure

    told = {name: np.array([v for v in some if v is not None and np.isfinite(v)]) for name, some in values.items()}
    told = {name: some for name, some in told.items() if len(some)}
    if not told:
        return None
    figure = Figure(figsize=(1.5 + 1.4 * len(told), 4), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for at, some in enumerate(told.values()):
        if len(some) > 2 and np.ptp(some) > 0:
            parts = axes.violinplot([some], [at], showextrema=False, widths=0.8)
            for body in parts["bodies"]:  # type: ignore[attr-defined]
                body.set(facecolor="#9ecae1", edgecolor="none", alpha=0.7)
        shown = some if len(some) <= 2000 else rng.choice(some, 2000, replace=False)
        axes.scatter(at + rng.uniform(-0.16, 0.16, len(shown)), shown, s=4, color="#08519c", alpha=0.35, linewidths=0)
        i = mean_interval(some)
        if np.isfinite(i.low):
            axes.errorbar(at, i.mean, [[i.mean - i.low], [i.high - i.mean]], fmt="o", color="#a50f15", capsize=4)
    axes.set_xticks(range(len(told)), list(told), rotation=20, ha="right")
    axes.set_ylabel(metric)
    path = folder / f"{metric}.png"
    figure.savefig(path, dpi=150)
    return path


def plot_pairs(run: Run, neuron: int | str, pairs: int = 8) -> Figure:
    """A neuron's exemplars above their contrasts, with activations and cosines: a matplotlib figure.

    Args:
        run: a finished run.
        neuron: its index or name.
        pairs: how many, strongest first.

    Raises:
        InputError: the run has no such neuron.
        MissingPackage: no matplotlib (`pip install 'contralens[plots]'`).

    >>> from contralens.data.runs import load
    >>> figure = plot_pairs(load("run"), 5)
    >>> len(figure.axes) > 0
    True
    """
    require("matplotlib", "plots")
    from matplotlib.figure import Figure
    from PIL import Image

    run = final(run)
    found = run.neuron(neuron)
    shown = [row for row in found["exemplars"] if row["positive"] >= 0][: max(1, pairs)]
    figure = Figure(figsize=(1.25 * max(1, len(shown)) + 0.6, 3.3), layout="constrained")
    axes = figure.subplots(2, max(1, len(shown)), squeeze=False)
    for column, row in enumerate(shown):
        for at, side in enumerate(("positive", "contrast")):
            jpeg = run.thumbnail(row[side]) if row[side] >= 0 else None
            if jpeg is not None:
                axes[at, column].imshow(np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        axes[0, column].set_title(f"{row['activation']:.3g}", fontsize=8)
        if row["contrast"] >= 0:
            axes[1, column].set_title(f"{row['contrast_activation']:.3g}, cos {row['similarity']:.2f}", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("exemplars", fontsize=8)
    axes[1, 0].set_ylabel("contrasts", fontsize=8)
    label = found["labels"].get(run.manifest["primary"], {}).get("label")
    figure.suptitle(f"{found['name']}: {label or 'no label'}", fontsize=10)
    return figure
