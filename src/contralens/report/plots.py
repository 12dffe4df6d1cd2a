"""Plots of a comparison, where matplotlib is installed: every neuron's value, not bars of means alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contralens.checks import InputError, require
from contralens.math.intervals import mean_interval


def plot_values(metric: str, values: Mapping[str, Sequence[float]], folder: Path) -> Path | None:
    """A violin with a strip of points and the mean with its interval per method; None without matplotlib."""
    try:
        require("matplotlib", "plots")
    except InputError:
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
