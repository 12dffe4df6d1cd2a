"""`contralens.match`: which neuron of one run is which of another, and how their labels differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from contralens import __version__
from contralens.checks import counted
from contralens.data.final_labels import final
from contralens.data.matchings import BEST, PAIRS, STATUSES, Matching
from contralens.data.runs import Run, load
from contralens.data.store import Store
from contralens.errors import InputError, StoreError
from contralens.math.activation_sources import ActivationSource
from contralens.math.concept_vectors import weights
from contralens.math.neuron_matching import Matches, match_neurons, match_vectors
from contralens.math.null_neurons import fake_activations
from contralens.math.scorers import average_row
from contralens.math.statistics import neuron_statistics
from contralens.math.tensors import blocks, combine
from contralens.run_data.reopened import Reopened
from contralens.settings.finished_run import Match
from contralens.settings.record import job
from contralens.types import Exemplars

ENOUGH = 50
"""Shared images from which on activations are compared, unless that is asked for."""
FEW = 200
"""Shared images below which a note warns."""


@job(Match)
def match(settings: Match) -> Matching:
    """Match the neurons of two runs: checkpoints, seeds, layers or architectures.

    Neurons are compared by the correlation of their activations on the images that both runs share (by content), or, if
    the runs have different images, by the cosine of their exemplars in the encoder's space. The threshold comes from
    null neurons (`contralens.math.neuron_matching`). Each match has a status: kept, renamed, split, merged, new, gone.

    Returns:
        One-to-one pairs, and the best match of every neuron.

    Raises:
        InputError: too few shared images for this comparison, or exemplars of runs with different encoders.

    >>> found = match("run", "run", null="permuted", fakes=100)
    >>> found.counts["kept"], found.counts["new"]
    (64, 0)
    """
    sides = [_side(settings, at) for at in (0, 1)]
    shared = _shared(sides)
    by = settings.by if settings.by != "auto" else "activations" if len(shared) >= ENOUGH else "exemplars"
    notes: list[str] = []
    if by == "activations":
        if len(shared) < 3:
            raise InputError(
                f"the runs share {counted(len(shared), 'image')}; activations are compared on shared images: label "
                "both with the same images, or compare by exemplars (--by exemplars)"
            )
        found, alive, images = _by_activations(settings, sides, shared)
        if images < FEW:
            notes.append(f"the runs share only {images} images; expect chance correlations")
    else:
        if settings.by == "auto":
            notes.append(
                f"the runs share {counted(len(shared), 'image')}, so neurons are compared by the embeddings of their "
                "exemplars: neurons with the same meaning can be confused"
            )
        found, alive = _by_exemplars(settings, sides)
        images = 0
    notes += [note for side in sides for note in side.notes()]
    labels = [side.labels(settings.scorer) for side in sides]
    pairs = _pairs(found, alive, labels)
    words = [{row[1] for row in own.values() if row[1]} for own in labels]
    manifest = {
        **settings.written(), "contralens": __version__, "by": by, "null": _null(settings, by),
        "images": images, "threshold": found.threshold,
        "null quantiles": found.nulls, "one": sides[0].about(len(alive[0])), "other": sides[1].about(len(alive[1])),
        "labels_new": sorted(words[1] - words[0]), "labels_gone": sorted(words[0] - words[1]),
        "notes": list(dict.fromkeys(notes)),
    }  # fmt: skip
    return Matching(
        manifest, pa.Table.from_pylist(pairs, schema=PAIRS),
        pa.Table.from_pylist(_best(found, alive, labels), schema=BEST),
    )  # fmt: skip


def cached_match(one: Run, other: Run, cache: str | Path | None = None) -> Matching:
    """`match` of two runs, if the cache holds what it reads: nothing is computed that networks are needed for.

    Raises:
        StoreError: it does not.
    """
    store = Store(cache)
    settings = Match(one, other, cache=cache)
    sides = [_side(settings, at) for at in (0, 1)]
    shared = _shared(sides)
    for side in sides:
        needed = [("target", shared if len(shared) >= ENOUGH else side.reopened.probe)]
        if len(shared) < ENOUGH:
            needed.append(("encoder", side.reopened.probe))
        for kind, images in needed:
            table = store.table("rows", side.run.manifest[kind]["fingerprint"])
            if not all(f in table for f in images):
                name = side.run.path or side.run.manifest["target"]["name"]
                raise StoreError(f"the cache is missing numbers of {name}; contralens match computes them again")
    return match(one, other, cache=cache)


@dataclass(frozen=True)
class _Side:
    """One of the two runs."""

    run: Run
    reopened: Reopened

    def about(self, compared: int) -> dict[str, Any]:
        target = self.run.manifest["target"]
        name = self.run.path.name if self.run.path is not None else target["name"]
        path = None if self.run.path is None else str(self.run.path)
        return {
            "name": name, "path": path, "target": target["name"], "layer": target["layer"],
            "fingerprint": target["fingerprint"], "neurons": len(self.run), "compared": compared,
        }  # fmt: skip

    def labels(self, scorer: str | None) -> dict[int, tuple[str, str | None]]:
        """Neuron -> name and label as finally judged."""
        names = dict(zip(self.run.neurons["neuron"].to_pylist(), self.run.neurons["name"].to_pylist(), strict=True))
        said = {row["neuron"]: row["label"] for row in final(self.run).rows(scorer)}
        return {n: (name, said.get(n)) for n, name in names.items()}

    def notes(self) -> list[str]:
        return list(self.reopened.notes)


def _null(settings: Match, by: str) -> Literal["mixture", "permuted"]:
    """The kind of null neurons. Exemplars of random mixtures lie as near to those of real neurons as these do to each
    other on other images: nothing would match."""
    if settings.null == "auto":
        return "mixture" if by == "activations" else "permuted"
    return settings.null


def _side(settings: Match, at: int) -> _Side:
    given = (settings.one, settings.other)[at]
    run = given if isinstance(given, Run) else load(given)
    target = None if settings.targets is None else settings.targets[at]
    reopened = Reopened.of(run, settings, target=target, encoder=settings.encoder)
    return _Side(run, reopened)


def _shared(sides: Sequence[_Side]) -> list[str]:
    """Fingerprints of the images of both runs, in the order of the first."""
    other = set(sides[1].reopened.probe)
    return [f for f in dict.fromkeys(sides[0].reopened.probe) if f in other]


Alive = tuple[Tensor, Tensor]
"""Neurons of both runs that are compared: neither dead nor constant nor NaN."""


def _by_activations(settings: Match, sides: Sequence[_Side], shared: list[str]) -> tuple[Matches, Alive, int]:
    sources = [side.reopened.activations(shared) for side in sides]
    alive = tuple(
        torch.tensor([n for n, word in enumerate(neuron_statistics(a).status()) if word == "ok"], dtype=torch.int64)
        for a in sources
    )
    if not all(map(len, alive)):
        raise InputError("one of the runs has no neuron that varies on the shared images")
    found = match_neurons(
        *(_Chosen(a, n) for a, n in zip(sources, alive, strict=True)), fakes=settings.fakes,
        null=_null(settings, "activations"),
        level=settings.level, least=settings.least, seed=settings.seed,
    )  # fmt: skip
    return found, (alive[0], alive[1]), len(shared)


class _Chosen:
    """Some neurons of an `ActivationSource`, as one of its own."""

    def __init__(self, of: ActivationSource, neurons: Tensor) -> None:
        self._of, self._neurons = of, neurons
        self.shape = (of.shape[0], len(neurons))

    def blocks(self, neurons: Tensor | None = None, budget: int = 2**25) -> Any:
        """As `ActivationSource.blocks`."""
        return self._of.blocks(self._neurons if neurons is None else self._neurons[neurons], budget)

    def lookup(self, images: Tensor, neurons: Tensor) -> Tensor:
        """As `ActivationSource.lookup`."""
        return self._of.lookup(images, self._neurons[neurons])


def _by_exemplars(settings: Match, sides: Sequence[_Side]) -> tuple[Matches, Alive]:
    """By the mean embeddings of exemplars, less that of all images of the run; both runs need one encoder."""
    encoders = [side.run.manifest["encoder"] for side in sides]
    if encoders[0]["fingerprint"] != encoders[1]["fingerprint"]:
        raise InputError(
            f"exemplars are compared in one encoder's space, and the runs have two ({encoders[0]['name']} and "
            f"{encoders[1]['name']}): label both with the same encoder, or with the same images"
        )
    vectors, nulls, alive = [], [], []
    for side in sides:
        reopened = side.reopened
        e, exemplars = reopened.embeddings(reopened.probe), reopened.exemplars
        middle = average_row(e)
        vectors.append(_unit(combine(e, exemplars.positives, weights(exemplars)), middle))
        alive.append(exemplars.neurons)
        nulls.append(_null_vectors(settings, reopened, e, exemplars, middle))
    found = match_vectors(*vectors, *nulls, level=settings.level, least=settings.least)
    return found, (alive[0], alive[1])


def _null_vectors(settings: Match, reopened: Reopened, e: Tensor, exemplars: Exemplars, middle: Tensor) -> Tensor:
    """(M,D): null neurons by their exemplars; these are made of the run's labeled neurons."""
    activations, kind, out = reopened.activations(reopened.probe), _null(settings, "exemplars"), []
    k = exemplars.positives.shape[1]
    for part in blocks(settings.fakes, 1, 256):
        own = exemplars.neurons.roll(-part.start % max(1, len(exemplars)))
        made = fake_activations(activations, part.stop - part.start, settings.seed + part.start, kind, own)
        top = made.nan_to_num(-torch.inf).topk(min(k, len(made)), dim=0)
        some = top.values.T.clamp_min(0.0)
        shares = torch.where(some.sum(1, keepdim=True) > 0, some, torch.ones_like(some))
        out.append(_unit(combine(e, top.indices.T, shares / shares.sum(1, keepdim=True)), middle))
    return torch.cat(out)


def _unit(means: Tensor, middle: Tensor) -> Tensor:
    gap = means - middle
    unit: Tensor = gap / gap.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit


Labels = Sequence[Mapping[int, tuple[str, str | None]]]


def _pairs(found: Matches, alive: Alive, labels: Labels) -> list[dict[str, Any]]:
    """Rows of `PAIRS`, by status, and within one by falling correlation."""
    taken: set[int] = set()
    rows = []
    for i, (j, r) in enumerate(zip(found.one_to_one.tolist(), found.one_to_one_r.tolist(), strict=True)):
        if j >= 0:
            taken.add(j)
            rows.append(_row(None, int(alive[0][i]), int(alive[1][j]), r, labels))
        else:
            j, r = int(found.best_of_one[i]), float(found.best_of_one_r[i])
            has = r >= found.threshold - 1e-9
            rows.append(
                _row("merged" if has else "gone", int(alive[0][i]), int(alive[1][j]) if has else None, r, labels)
            )
    for j in range(len(alive[1])):
        if j not in taken:
            i, r = int(found.best_of_other[j]), float(found.best_of_other_r[j])
            near = int(alive[0][i]) if r >= found.threshold - 1e-9 else None
            rows.append(_row("new" if near is None else "split", near, int(alive[1][j]), r, labels))
    return sorted(rows, key=lambda row: (STATUSES.index(row["status"]), -row["correlation"]))


def _row(status: str | None, one: int | None, other: int | None, r: float, labels: Labels) -> dict[str, Any]:
    (one_name, one_label), (other_name, other_label) = (
        (None, None) if n is None else own[n] for n, own in zip((one, other), labels, strict=True)
    )
    if status is None:
        same = one_label is not None and other_label is not None and one_label.casefold() == other_label.casefold()
        status = "kept" if same else "unlabeled" if None in (one_label, other_label) else "renamed"
    return {
        "status": status, "one": one, "one_name": one_name, "one_label": one_label, "other": other,
        "other_name": other_name, "other_label": other_label, "correlation": r,
    }  # fmt: skip


def _best(found: Matches, alive: Alive, labels: Labels) -> list[dict[str, Any]]:
    rows = []
    for run, (own, theirs), (place, r) in (
        ("one", (0, 1), (found.best_of_one, found.best_of_one_r)),
        ("other", (1, 0), (found.best_of_other, found.best_of_other_r)),
    ):
        for i, (j, value) in enumerate(zip(place.tolist(), r.tolist(), strict=True)):
            n, best = int(alive[own][i]), int(alive[theirs][j])
            rows.append({
                "run": run, "neuron": n, "name": labels[own][n][0], "best": best, "best_name": labels[theirs][best][0],
                "correlation": value, "matches": value >= found.threshold - 1e-9,
            })  # fmt: skip
    return rows
