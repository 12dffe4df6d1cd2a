"""Verdicts on each label that need no judge: does it beat chance, is it stable, how many meanings has the neuron?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from contralens.checks import FAKES
from contralens.collecting.streaming import RecomputedActivations
from contralens.data.evaluations import VERDICTS
from contralens.data.trust import check_named
from contralens.errors import InputError
from contralens.math.meaning_labels import Meaning, label_meanings
from contralens.math.meanings import Meanings, meanings
from contralens.math.null_neurons import fake_exemplars, with_fakes
from contralens.math.null_test import Chance, chance
from contralens.math.scoring import wants_activations
from contralens.math.stability import Stability, bootstrap_labels
from contralens.run_data.reopened import Reopened
from contralens.types import Progress, silent

SAMPLES = 50


def label_indices(reopened: Reopened, scorer: str) -> Tensor:
    """Concept index of every exemplar row's label under a scorer of the run, (N), -1 where there is none."""
    at = {concept: i for i, concept in enumerate(reopened.concepts)}
    labels = {row["neuron"]: row["label"] for row in reopened.run.rows(scorer)}
    found = [labels.get(n) for n in reopened.exemplars.neurons.tolist()]
    unknown = [label for label in found if label is not None and label not in at]
    if unknown:
        raise InputError(
            f"the label {unknown[0]!r} is not among the run's concepts, so the null test cannot run for it"
        )
    return torch.tensor([-1 if label is None else at[label] for label in found], dtype=torch.int64)


class Probed:
    """What the verdicts look at: the probe images' rows, and what was found over them."""

    def __init__(self, reopened: Reopened, scorers: Sequence[str], seed: int = 0, progress: Progress = silent) -> None:
        self.reopened, self.seed, self.progress = reopened, seed, progress
        for scorer in scorers:
            check_named(reopened.run, "scorer", scorer, "choose others with scorers= (--scorer)")
        self.scorers = list(scorers)
        self.labels = {scorer: label_indices(reopened, scorer) for scorer in scorers}
        self.activations = reopened.activations(reopened.probe)
        self.embeddings = reopened.embeddings(reopened.probe)
        self.neurons = reopened.exemplars.neurons

    def chance(self, fakes: int = FAKES, kind: Literal["permuted", "mixture"] = "permuted") -> dict[str, Chance]:
        """False-discovery rates of the labels of every scorer, all against the same null neurons."""
        self.progress("null neurons", 0, fakes)
        made = fake_exemplars(
            self.activations, self.embeddings, fakes, self.seed, kind, self.neurons, **self.reopened.mining
        )
        every = None
        if any(map(wants_activations, self.scorers)):
            every = with_fakes(self.activations, fakes, self.seed, kind, self.neurons)
        self.progress("null neurons", fakes, fakes)
        return {
            name: chance(
                name, self.reopened.exemplars, made, self.embeddings, self.reopened.texts, every,
                labels=self.labels[name],
            )
            for name in self.scorers
        }  # fmt: skip

    def stability(self, samples: int = SAMPLES) -> dict[str, Stability]:
        """Labels of bootstrap samples of the probe images."""
        self.progress("bootstrap", 0, samples)
        found = bootstrap_labels(
            {name: name for name in self.scorers}, self.activations, self.embeddings, self.reopened.texts, self.neurons,
            samples=samples, seed=self.seed, clusters=self.reopened.clusters, **self.reopened.mining,
        )  # fmt: skip
        self.progress("bootstrap", samples, samples)
        return found

    def meanings(self) -> tuple[Meanings, dict[str, dict[int, list[Meaning]]]]:
        """How many meanings each neuron has, and by scorer the labeled meanings of neurons with several, by row.

        Confidence is NaN where activations are not stored.
        """
        whole, mining = self.reopened.exemplars, self.reopened.mining
        self.progress("meanings", 0, len(whole))
        found = meanings(self.activations, self.embeddings, whole.neurons, seed=self.seed, **mining)
        named = label_meanings(
            found, whole, self.activations, self.embeddings, self.reopened.texts, self.scorers,
            confidence=not isinstance(self.activations, RecomputedActivations), **mining,
        )  # fmt: skip
        self.progress("meanings", len(whole), len(whole))
        return found, named


def verdict_table(
    reopened: Reopened,
    scorers: Sequence[str],
    *,
    chances: Mapping[str, Chance] | None = None,
    fdr: float = 0.05,
    stabilities: Mapping[str, Stability] | None = None,
    coverage: float = 0.9,
    meaning: Mapping[str, Mapping[int, list[Meaning]]] | None = None,
) -> pa.Table:
    """The verdicts as a table (see `contralens.data.evaluations`); null where a question was not asked."""
    rows = []
    places = {n: row for row, n in enumerate(reopened.exemplars.neurons.tolist())}
    names = [*reopened.concepts, None]  # index -1: no label
    for scorer in scorers:
        kept = stabilities[scorer].sets(coverage) if stabilities else None
        agreement = stabilities[scorer].agreement(label_indices(reopened, scorer)) if stabilities else None
        beats = chances[scorer].beats(fdr) if chances else None
        for row in reopened.run.rows(scorer):
            at = places.get(row["neuron"])
            if at is None or row["label"] is None:
                continue
            out: dict[str, Any] = {key: row[key] for key in ("neuron", "name", "scorer", "label")}
            if chances and beats is not None:
                out |= {"p": float(chances[scorer].p[at]), "fdr": float(chances[scorer].q[at])}
                out["beats_chance"] = bool(beats[at])
            if kept and agreement is not None:
                out["agreement"] = float(agreement[at])
                out["label_set"] = [names[c] or "(no label)" for c, _ in kept[at]]
                out["set_shares"] = [share for _, share in kept[at]]
            if meaning is not None:
                out |= _several(meaning[scorer].get(at, ()), names, row)
            rows.append(out)
    return pa.Table.from_pylist(rows, schema=VERDICTS)


def about_groups(given: Any, reopened: Reopened) -> dict[str, Any] | None:
    """What a manifest holds of the groups that were gone by; None without any."""
    if not (known := reopened.group_of):
        return None
    source = (reopened.run.manifest.get("groups") or {}).get("source") if given is None else given
    return {"source": source if isinstance(source, str) else "the given groups", "count": len(set(known.values()))}


def abstained(table: pa.Table) -> dict[str, int]:
    """Scorer -> labels that do not beat chance."""
    scorers = np.array(table["scorer"].to_pylist())
    beaten = np.array([beats is False for beats in table["beats_chance"].to_pylist()], bool)
    return {str(s): int(beaten[scorers == s].sum()) for s in dict.fromkeys(scorers.tolist())}


def _several(found: Sequence[Meaning], names: Sequence[str | None], row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a neuron's meanings; of one with a single meaning, its label with the run's confidence."""
    if len(found) < 2:
        return {"meanings": [row["label"]], "meaning_shares": [1.0], "meaning_confidences": [row.get("confidence")]}
    sure = [None if math.isnan(m.confidence) else m.confidence for m in found]
    return {
        "meanings": [names[m.concept] or "(no label)" for m in found],
        "meaning_shares": [m.share for m in found],
        "meaning_confidences": sure,
        "meaning_positives": [m.positives for m in found],
        "meaning_contrasts": [m.contrasts for m in found],
    }
