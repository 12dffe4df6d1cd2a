"""Faithfulness in the network itself: change a neuron and see whether the class that its label names follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from contralens.encoders.registry import embed_texts
from contralens.errors import InputError
from contralens.math.metric_registry import metric
from contralens.math.metrics import gained_share
from contralens.math.statistics import survey
from contralens.models.interventions import scalable, shares

if TYPE_CHECKING:
    from contralens.evaluation.measuring import Session

FACTORS = (1.0, 0.0, 2.0, 5.0, 10.0)
"""As it is, switched off, and amplified."""
IMAGES = 32
"""Images per neuron: half those that activate it most, half at random, all from the test part."""


@metric(
    "faithfulness", "class_shares",
    about="normalised increase in the labelled class's probability when the neuron is amplified",
)  # fmt: skip
def faithfulness(class_shares: Tensor) -> Tensor:
    """FADE's faithfulness, ported to vision: max(0, max over f > 1 of (share(f) - share(1)) / (1 - share(1))).

    share(f), a row of `class_shares`, is the mean probability of the label's class over all images with the neuron
    scaled by f.
    """
    return gained_share(class_shares[0], class_shares[2:])


@metric(
    "faithfulness", "strongest_class_shares",
    about="relative decrease of the labelled class's probability when the neuron is ablated",
)  # fmt: skip
def ablation(strongest_class_shares: Tensor) -> Tensor:
    """(share(1) - share(0)) / share(1), over the images that activate the neuron most: positive where the class needs
    the neuron, negative where the neuron speaks against it.
    """
    there, without = strongest_class_shares[0], strongest_class_shares[1]
    return ((there - without) / there).masked_fill(there <= 0, torch.nan)


def class_shares(session: Session, scorer: str, classes: Sequence[str] | None, seed: int = 0) -> dict[str, Tensor]:
    """The inputs "class_shares" and "strongest_class_shares" (F,n) for the labels of a scorer, a row per `FACTORS`.

    The label's class is the one of that name, else the nearest in the judge's text space (counted in the notes).
    """
    reopened = session.reopened
    target = scalable(reopened.target)
    names = list(classes) if classes is not None else reopened.classes
    rows = session.rows(scorer)
    of = _class_of([row["label"] for row in rows], names, session)
    pool = _Pixels(session, [row["neuron"] for row in rows], seed)
    found: dict[str, list[Tensor]] = {"class_shares": [], "strongest_class_shares": []}
    for row, index in zip(rows, of, strict=True):
        if row["neuron"] not in session.effects:
            strong, other = pool.of(row["neuron"])
            after = shares(target, default_collate([*strong, *other]), row["neuron"], FACTORS).double()
            session.effects[row["neuron"]] = after.mean(1), after[:, : len(strong)].mean(1)
        mean, strongest = session.effects[row["neuron"]]
        if mean.shape[1] != len(names):
            raise InputError(f"{len(names)} class names do not fit the network's {mean.shape[1]} class scores")
        found["class_shares"].append(mean[:, index])
        found["strongest_class_shares"].append(strongest[:, index])
    empty = torch.empty(len(FACTORS), 0, dtype=torch.float64)
    return {name: torch.stack(columns, 1) if columns else empty for name, columns in found.items()}


def _class_of(labels: list[str], names: list[str], session: Session) -> list[int]:
    exact: dict[str, int] = {}
    for i, name in enumerate(names):
        for part in (name, *name.split(",")):
            exact.setdefault(part.strip().casefold(), i)
    missing = [label for label in dict.fromkeys(labels) if label.casefold() not in exact]
    if missing:
        assert session.judge is not None
        rows = embed_texts(session.judge, missing) @ embed_texts(session.judge, names).T
        exact |= dict(zip((label.casefold() for label in missing), rows.argmax(1).tolist(), strict=True))
        session.reopened.notes.append(
            f"faithfulness: {len(missing)} of {len(set(labels))} labels name no class; the nearest class was used, "
            f"e.g. {names[exact[missing[0].casefold()]]!r} for {missing[0]!r}"
        )
    return [exact[label.casefold()] for label in labels]


class _Pixels:
    """Preprocessed test images, decoded once each as they are needed."""

    def __init__(self, session: Session, neurons: Sequence[int], seed: int) -> None:
        r = session.reopened
        images = r.heldout_images if r.on_other_images else r.images
        at = {f: i for i, f in enumerate(images.fingerprints())}
        self._load: Callable[[int], Any] = lambda row: r.target.preprocess(images.load(at[r.test[row]]))
        half = min(IMAGES // 2, len(r.test))
        generator = torch.Generator().manual_seed(seed)
        strongest = survey(r.activations(r.test), half, torch.tensor(sorted(set(neurons)), dtype=torch.int64))[2]
        self._strongest = dict(zip(sorted(set(neurons)), strongest.tolist(), strict=True))
        self._random = torch.randperm(len(r.test), generator=generator)[:half].tolist()
        self._kept: dict[int, Any] = {}

    def of(self, neuron: int) -> tuple[list[Any], list[Any]]:
        """The images that activate the neuron most, and the random ones."""
        strongest = [i for i in self._strongest[neuron] if i >= 0]
        return [self._one(i) for i in strongest], [self._one(i) for i in self._random]

    def _one(self, row: int) -> Any:
        if row not in self._kept:
            if len(self._kept) >= 2048:
                self._kept.clear()
            self._kept[row] = self._load(row)
        return self._kept[row]
