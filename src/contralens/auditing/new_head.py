"""A new linear head on the neurons that are not spurious, fitted on labeled images and measured on others.

Labeled images are split by their content and the seed (`contralens.holdout.drawn`): `HELD_OUT` of them only measure.
The head is a logistic regression on the pooled activations, standardised over the images that fit it, with a ridge: of
`PENALTIES` the one with the least cross-entropy on `TUNING` of the fitting images is taken, then all of them are
fitted. The weights are folded back, so that the head takes activations as they come. A second head on all neurons says
how much of the change comes from fitting again and how much from leaving the spurious neurons out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from contralens.auditing.pruning import groups_of, readable, right_under
from contralens.data.labeled_images import LabeledImages
from contralens.data.new_heads import NewHead
from contralens.errors import InputError
from contralens.holdout import drawn, split_keys
from contralens.math.intervals import paired_interval
from contralens.models.hooked_layer import HookedTarget
from contralens.types import Progress, silent

HELD_OUT = 0.3
"""Share of the labeled images that the head is measured on."""
TUNING = 0.2
"""Share of the others that chooses the penalty."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridges tried: penalty times the sum of squared weights, beside the mean cross-entropy."""
LEAST = 10
"""Labeled images that every class needs."""


def check_enough(labeled: LabeledImages) -> None:
    """Refuse a labeled set that no head can be fitted to and measured on.

    Raises:
        InputError: one class only, or a class with fewer than `LEAST` images.
    """
    present, counts = np.unique(labeled.targets, return_counts=True)
    if len(present) < 2:
        raise InputError(
            f"a new head needs labeled images of two classes or more; {labeled.images.name} has {len(present)}"
        )
    if counts.min() < LEAST:
        name = labeled.classes[int(present[counts.argmin()])]
        raise InputError(
            f"a new head needs at least {LEAST} labeled images of every class; {labeled.images.name} has "
            f"{counts.min()} of {name!r}: give more, or remove that class"
        )


@dataclass(frozen=True)
class _Split:
    """Labeled images that could be read."""

    rows: Tensor
    """(I,N) pooled activations."""
    targets: Tensor
    """(I) classes, numbered as the network's outputs."""
    held_out: Tensor
    """(I) bool."""
    tuning: Tensor
    """(I) bool, among those that are not held out."""


def fit_new_head(
    target: HookedTarget,
    labeled: LabeledImages,
    keep: Tensor,
    spurious: Tensor,
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress = silent,
) -> tuple[NewHead, dict[str, Any]]:
    """Fit it and measure it beside the network as it is and as the mask prunes it, all on the held-out images.

    Args:
        target: the layer of the network.
        labeled: images with classes numbered as the network's outputs.
        keep: (N) the mask of pruning.
        spurious: (M) neurons that the head leaves out.
        clusters: (I) names of what images belong together; no group is on both sides of the split, and the intervals
            draw whole groups.
        seed: of the split and of the intervals.
        batch_size: images decoded and run at once.
        progress: called with stage, done and total.

    Returns:
        The head, for the classes that have images to fit; and how it was fitted, with a row per group: group, images,
        accuracy "before", "pruned", "after" and with "all_neurons"; the 95 % paired bootstrap interval of after -
        before (difference, low, high), of pruned - before and of after - all_neurons.

    Raises:
        InputError: too few images (`check_enough`), or none of a class on one side of the split.
    """
    check_enough(labeled)
    data, there = _read(target, labeled, clusters, seed, batch_size, progress)
    fitting = ~data.held_out
    present = torch.unique(data.targets[fitting])
    lost = set(data.targets.tolist()) - set(present.tolist())
    if lost or not bool(data.held_out.any()):
        raise InputError(
            f"the split of {labeled.images.name} by seed {seed} leaves a class without images to fit or to "
            "measure on: give more images or another seed"
        )
    left = torch.ones(target.width, dtype=torch.bool)
    left[spurious] = False
    weight, bias, penalty = _fitted(data, present, left)
    everything = torch.ones_like(left)
    full_weight, full_bias, _ = _fitted(data, present, everything)
    rows, truth = data.rows[data.held_out], data.targets[data.held_out]
    scored = {
        name: (present[(rows @ w.T + b).argmax(1)] == truth).double().numpy()
        for name, w, b in (("after", weight, bias), ("all_neurons", full_weight, full_bias))
    }
    at = np.flatnonzero(there)[data.held_out.numpy()]
    measured = labeled.take(at)
    together = None if clusters is None else np.array(clusters)[at]
    right, read = right_under(target, measured, torch.stack([torch.ones_like(keep), keep]), batch_size, progress)
    scored |= {"before": right[0], "pruned": right[1]}
    told = {
        "images": len(data.targets), "fitted_on": int(fitting.sum()), "held_out": int(data.held_out.sum()),
        "penalty": penalty, "neurons": int(left.sum()), "left_out": int((~left).sum()),
        "classes": [labeled.classes[c] for c in present.tolist()],
        "interval": f"95 %, paired bootstrap over {'groups of ' if clusters else ''}the held-out images",
        "rows": [_row(group, member & read, scored, seed, together) for group, member in groups_of(measured).items()],
    }  # fmt: skip
    about = {name: str(getattr(target, name)) for name in ("layer", "pooling", "fingerprint")}
    head = NewHead(
        weight.float().numpy(), bias.float().numpy(), left.numpy().astype(np.uint8),
        tuple(labeled.classes[c] for c in present.tolist()), {"target": target.name, **about},
    )  # fmt: skip
    return head, told


def _read(
    target: HookedTarget,
    labeled: LabeledImages,
    clusters: Sequence[str] | None,
    seed: int,
    batch_size: int,
    progress: Progress,
) -> tuple[_Split, NDArray[np.bool_]]:
    """Pooled activations and split of the images that can be read (with which those are, (I))."""
    total = len(labeled)
    there, parts = np.zeros(total, bool), []
    for at, shown in readable(target, labeled, batch_size, "new head", progress):
        rows = target(default_collate(shown)).detach().float().cpu()
        finite = rows.isfinite().all(1)
        there[np.array(at)[finite.numpy()]] = True
        parts.append(rows[finite])
    if not there.any():
        raise InputError(f"none of the labeled images in {labeled.images.name} can be read")
    prints = labeled.images.fingerprints()
    keys = [key for key, ok in zip(split_keys(prints, clusters or [None] * total), there, strict=True) if ok]
    held_out, tuning = (
        torch.tensor(drawn(keys, share, seed, purpose))
        for share, purpose in ((HELD_OUT, "new head"), (TUNING, "new head penalty"))
    )
    return _Split(torch.cat(parts), torch.from_numpy(labeled.targets[there]), held_out, tuning & ~held_out), there


def _fitted(data: _Split, present: Tensor, left: Tensor) -> tuple[Tensor, Tensor, float]:
    """Weight (C,N), bias (C) and penalty of the head on the neurons `left` (N, bool)."""
    place = torch.full((int(data.targets.max()) + 1,), -1)
    place[present] = torch.arange(len(present))
    fitting = ~data.held_out
    x = data.rows.double()[:, left]
    mean, scale = x[fitting].mean(0), x[fitting].std(0)
    scale = torch.where(scale > 1e-6, scale, torch.inf)  # a constant neuron says nothing
    x, y = (x - mean) / scale, place[data.targets]
    penalty = PENALTIES[len(PENALTIES) // 2]
    fit, tune = fitting & ~data.tuning, data.tuning
    if bool(tune.any()) and len(torch.unique(y[fit])) == len(present):
        solved = (_solved(x[fit], y[fit], len(present), p) for p in PENALTIES)
        losses = [float(nn.functional.cross_entropy(x[tune] @ w.T + b, y[tune])) for w, b in solved]
        penalty = PENALTIES[int(np.argmin(losses))]
    w, b = _solved(x[fitting], y[fitting], len(present), penalty)
    w = w / scale
    weight = torch.zeros(len(present), len(left), dtype=torch.float64)
    weight[:, left] = w
    return weight.float(), (b - w @ mean).float(), penalty


def _solved(x: Tensor, y: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Logistic regression: weight (C,N) and bias (C), by L-BFGS from zero."""
    w = torch.zeros(classes, x.shape[1], dtype=torch.float64, requires_grad=True)
    b = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(x @ w.T + b, y) + penalty * w.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimiser.step(loss)  # type: ignore[no-untyped-call]
    return w.detach(), b.detach()


def _row(
    group: str, member: NDArray[np.bool_], scored: dict[str, NDArray[Any]], seed: int, clusters: NDArray[Any] | None
) -> dict[str, Any]:
    own = {name: values[member] for name, values in scored.items()}
    row: dict[str, Any] = {"group": group, "images": int(member.sum())}
    row |= {name: float(values.mean()) if len(values) else None for name, values in own.items()}
    for prefix, one, other in (
        ("", "before", "after"),
        ("pruned_", "before", "pruned"),
        ("gain_", "all_neurons", "after"),
    ):
        found = paired_interval(
            own[one], own[other], seed=seed, clusters=None if clusters is None else clusters[member]
        )
        row |= {f"{prefix}difference": found.mean, f"{prefix}low": found.low, f"{prefix}high": found.high}
    return row
