"""Is a label true? What a neuron does when the labeled concept is taken out of images, or put into them.

An edit changes one image. Removal takes the concept out of images that activate the neuron, insertion puts it into
their contrasts, which do not. With b the neuron's mean activation over all images and p its mean over the images that
are edited for removal, an edit that changes the activation from a to a' has the effect

    removal:    (a - a') / (a - b)      share of the excess that is lost
    insertion:  (a' - a) / (p - a)      share of the gap that is closed

On each image it is compared with controls: the same editor changing another concept, by as many pixels. d is the
effect less the mean effect of the image's controls, averaged over an image's edits; images are the sample, and the
interval of the mean of d is Student's.

A label is "verified" if removal and insertion both pass: the interval of d is above 0, and the mean effect is at
least `STRONG`. It is "refuted" if either fails: the interval of the effect itself is below `WEAK`. Anything else, and
fewer than `LEAST_IMAGES` images on either side, leaves it "untested": few edits never refute. Labels that name a
confounder pass removal where the editor removes the true concept with it, and fail insertion, if it is put into images
without the true concept. Insertion is asked for less than removal, since p is a mean of the strongest images of all.

The controls also stand for null labels: each neuron's control concept is judged in the label's place, against the
other controls. How often that verifies gives the false-discovery rate of "verified".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contralens.errors import InputError

Kind = Literal["remove", "insert"]
KINDS: tuple[Kind, Kind] = ("remove", "insert")
STRONG: dict[Kind, float] = {"remove": 0.5, "insert": 0.35}
"""Share of the excess lost, or of the gap closed, at which an effect is that of a true concept."""
WEAK: dict[Kind, float] = {"remove": 0.4, "insert": 0.2}
"""Share below which it is that of a wrong one."""
LEAST_IMAGES = 3
"""Images on either side below which nothing is concluded."""
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom."""
EXCESS = 0.1
"""Images whose excess (or gap) is below this share of p - b are left out: a ratio to nothing says nothing."""


@dataclass(frozen=True)
class Trial:
    """One edit of one image, measured on one neuron.

    >>> Trial("remove", image=3, concept=0, before=1.2, after=0.1).kind
    'remove'
    """

    kind: Kind
    image: int
    concept: int
    """0 for the label, else the number of a control concept."""
    before: float
    after: float


@dataclass(frozen=True)
class Side:
    """What removal or insertion came to for one concept.

    >>> interval = {"effect": 0.9, "low": 0.8, "high": 1.0, "above": 0.85, "above_low": 0.7, "above_high": 1.0}
    >>> side = Side("remove", images=6, **interval, weak=0.4, strong=0.5)
    >>> side.passes, side.fails
    (True, False)
    """

    kind: Kind
    images: int
    effect: float
    """Mean over images; NaN without any."""
    low: float
    """Of the effect, 95 % interval; -inf for a single image."""
    high: float
    above: float
    """Mean of d: the effect less that of the controls."""
    above_low: float
    above_high: float
    weak: float
    """What the effect has to be surely below to fail."""
    strong: float
    """What it has to reach to pass."""

    @property
    def passes(self) -> bool:
        return self.images >= LEAST_IMAGES and self.above_low > 0 and self.effect >= self.strong

    @property
    def fails(self) -> bool:
        return self.images >= LEAST_IMAGES and self.high < self.weak


@dataclass(frozen=True)
class Outcome:
    """What the experiment says of one label.

    >>> outcome([], floor=0.0).word, outcome([], floor=0.0).remove.images
    ('untested', 0)
    """

    word: Literal["verified", "refuted", "untested"]
    reason: str
    remove: Side
    insert: Side


def outcome(
    trials: Sequence[Trial], floor: float, top: float | None = None, concept: int = 0, *,
    strong: Mapping[Kind, float] = STRONG, weak: Mapping[Kind, float] = WEAK,
) -> Outcome:  # fmt: skip
    """Judge one neuron's label by its trials.

    Args:
        trials: of this neuron.
        floor: b, its mean activation over all images.
        top: p; by default the mean of `before` over the images edited for removal.
        concept: which concept is judged against all others; 0 is the label.
        strong: effects that verify.
        weak: effects that refute.

    Raises:
        InputError: a floor that is not finite.

    >>> trials = [Trial("remove", i, c, 1.0, 0.1 if c == 0 else 0.9) for i in range(6) for c in (0, 1)]
    >>> trials += [Trial("insert", i, c, 0.1, 0.9 if c == 0 else 0.1) for i in range(6, 12) for c in (0, 1)]
    >>> outcome(trials, floor=0.2).word, outcome(trials, floor=0.2, concept=1).word
    ('verified', 'refuted')
    """
    if not np.isfinite(floor):
        raise InputError(f"`floor` must be a number; got {floor!r}")
    if top is None:
        own = {t.image: t.before for t in trials if t.kind == "remove"}
        top = float(np.mean(list(own.values()))) if own else float("nan")
    remove, insert = (
        _side([t for t in trials if t.kind == kind], kind, floor, top, concept, (weak[kind], strong[kind]))
        for kind in KINDS
    )
    sides = {"removing it": remove, "inserting it": insert}
    if refuted := [name for name, side in sides.items() if side.fails]:
        side = sides[refuted[0]]
        what = "loses" if side is remove else "gains"
        return Outcome("refuted", f"{refuted[0]}, the neuron {what} only {side.effect:.0%}", remove, insert)
    if few := [name for name, side in sides.items() if side.images < LEAST_IMAGES]:
        images = sides[few[0]].images
        return Outcome("untested", f"{images} of at least {LEAST_IMAGES} images for {few[0]}", remove, insert)
    if unclear := [name for name, side in sides.items() if not side.passes]:
        side = sides[unclear[0]]
        between = f"between {side.weak:.0%} and {side.strong:.0%}, or not surely outside"
        why = "no more than other edits do" if side.above_low <= 0 else between
        return Outcome("untested", f"{unclear[0]} has an effect of {side.effect:.0%}, {why}", remove, insert)
    said = f"removing it costs {remove.effect:.0%} of the activation, inserting it gives {insert.effect:.0%}"
    return Outcome("verified", said, remove, insert)


def _side(
    trials: Sequence[Trial], kind: Kind, floor: float, top: float, concept: int, levels: tuple[float, float]
) -> Side:
    effects: dict[int, list[float]] = {}
    others: dict[int, list[float]] = {}
    for t in trials:
        scale = t.before - floor if kind == "remove" else top - t.before
        if not scale > EXCESS * abs(top - floor) or not np.isfinite(t.after):
            continue
        change = t.before - t.after if kind == "remove" else t.after - t.before
        (effects if t.concept == concept else others).setdefault(t.image, []).append(change / scale)
    both = [image for image in effects if image in others]
    own = np.array([np.mean(effects[image]) for image in both])
    control = np.array([np.mean(others[image]) for image in both])
    return Side(kind, len(both), *interval(own), *interval(own - control), *levels)


def interval(values: ArrayLike) -> tuple[float, float, float]:
    """Mean of independent values with Student's 95 % interval; infinite for a single one.

    >>> [round(v, 3) for v in interval([1.0, 2.0, 3.0])]
    [2.0, -0.484, 4.484]
    """
    x: NDArray[np.float64] = np.asarray(values, np.float64)
    if not len(x):
        return float("nan"), -np.inf, np.inf
    mean = float(x.mean())
    if len(x) == 1:
        return mean, -np.inf, np.inf
    freedom = len(x) - 1
    quantile = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96 + 2.373 / freedom + 2.8 / freedom**2
    half = float(quantile * x.std(ddof=1) / np.sqrt(len(x)))
    return mean, mean - half, mean + half


def false_discovery_rate(labels: Sequence[str], nulls: Sequence[str]) -> float:
    """Share of "verified" labels that are expected to be false: how often null labels are verified, times all labels.

    One null label more than there is counts as verified, so that few of them never promise a rate of 0.

    >>> false_discovery_rate(["verified"] * 50 + ["refuted"] * 50, ["refuted"] * 99)
    0.02
    """
    verified = sum(word == "verified" for word in labels)
    if not verified:
        return float("nan")
    rate = (1 + sum(word == "verified" for word in nulls)) / (1 + len(nulls))
    return min(1.0, rate * len(labels) / verified)
