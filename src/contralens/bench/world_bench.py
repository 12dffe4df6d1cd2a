"""The world benchmark: every scorer's labels against the truth, as an incidental concept is tied to it ever more.

What is reported of each neuron with a known truth, for each scorer:

- right: its label, out of the 38 single levels, names a true level.
- misled: it names a level that is tied to the true one instead.
- exact: its label out of 330 concepts, pairs such as "red striped" among them, names true levels and nothing else.
- specific: the same, among the labels that name a true level at all.
- complete: its label out of the 330 names all true levels and nothing else.
- answered: the label beats chance at the false-discovery rate asked for; to the others the answer is "no label".
- right_answered: right, among the answered.
- false_discovery: with one meaningless neuron (real activations in a random order) beside each real one, the share of
  the meaningless among the answered.

The row "chance" is the first scorer's answer to those meaningless neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from contralens.bench.cases import Case, cases, spoken
from contralens.bench.versions import version
from contralens.data.table_folders import plain
from contralens.errors import InputError
from contralens.math.combinations import allowed_combinations, parts_of
from contralens.math.exemplars import find_exemplars
from contralens.math.intervals import clustered_interval
from contralens.math.null_neurons import fake_activations, together
from contralens.math.null_test import best_labels, chance_of
from contralens.math.scoring import parse_scorer, run_scorer
from contralens.settings.bench import WorldBenchmark
from contralens.settings.record import job
from contralens.world.captions import concepts
from contralens.world.truth import LEVELS, Truth

BENCHED = (
    "csp",
    "csp+simple",
    "csp:gamma=0.5",
    "csp:gamma=0",
    "semanticlens",
    "clip_dissect",
    "clip_dissect_csp",
    "centred",
    "centred:gamma=1",
    "mean_difference",
    "lookalike",
    "linear",
    "invert",
    "describe_and_dissect",
)
REFERENCE = "csp"
"""What the others are compared with, neuron by neuron."""
CHANCE = "chance"
MEASURES = ("right", "misled", "exact", "specific", "complete", "answered", "right_answered", "false_discovery")
PAIRED = ("right", "exact")
"""Measures whose difference to `REFERENCE` is reported."""

Method = Callable[[Case, Tensor], Tensor]
"""A case and text embeddings (C,D) to scores (N,C): a scorer that may look at the activations, too."""


@dataclass(frozen=True)
class WorldBench:
    """Outcomes of all neurons with a known truth, and what follows from them."""

    settings: dict[str, Any]
    neurons: dict[str, NDArray[Any]]
    """world, kind, dial, seed, name, cluster: (R) each, a row per neuron, probe set and dial."""
    outcomes: dict[str, dict[str, NDArray[np.float64]]]
    """Scorer -> measure -> (R): 0 or 1, NaN where the question does not arise. "real" and "fake" say whether the
    neuron, and the meaningless one beside it, were answered when both was in one set."""

    def rows(self) -> list[dict[str, Any]]:
        """Kind, dial, scorer, measure: mean, low, high, count; of "right" and "exact" also the difference to CSP.

        Intervals: 95 %, bootstrap over clusters (the neurons of a world that stand for one level); those of the
        difference paired by neuron.
        """
        out = []
        for kind, dial in [(kind, dial) for kind in self.settings["kinds"] for dial in self.settings["dials"]]:
            here = (self.neurons["kind"] == kind) & (self.neurons["dial"] == dial)
            groups = self.neurons["cluster"][here]
            for scorer, own in self.outcomes.items():
                for measure in MEASURES:
                    if measure != "false_discovery":
                        values, of = own[measure][here], groups
                    else:  # every answer counts once: 1 where a meaningless neuron got it
                        told = [np.where(own[who][here] == 1, v, np.nan) for who, v in (("fake", 1.0), ("real", 0.0))]
                        values, of = np.concatenate(told), np.concatenate([groups, groups])
                    found = clustered_interval(values, of)
                    row = {"kind": kind, "dial": dial, "scorer": scorer, "measure": measure, **asdict(found)}
                    row |= {"low": float(np.maximum(found.low, 0)), "high": float(np.minimum(found.high, 1))}
                    if measure in PAIRED and scorer != REFERENCE and REFERENCE in self.outcomes:
                        d = values - self.outcomes[REFERENCE][measure][here]
                        row["difference"] = asdict(clustered_interval(d, groups))
                    out.append(row)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Settings and rows as plain values, for JSON."""
        found: dict[str, Any] = plain({"settings": self.settings, "rows": self.rows()})
        return found

    def table(self) -> pa.Table:
        """One row per scorer, neuron, probe set and dial with its outcomes."""
        parts = []
        for scorer, own in self.outcomes.items():
            columns = {**self.neurons, "scorer": np.full(len(self.neurons["kind"]), scorer), **own}
            parts.append(pa.table({name: pa.array(v.tolist()) for name, v in columns.items()}))
        return pa.concat_tables(parts)


@job(WorldBenchmark)
def world_bench(settings: WorldBenchmark) -> WorldBench:
    """Judge scorers in the rendered worlds.

    >>> bench = world_bench(["csp"], worlds=[5], dials=[0.5], seeds=[5], images=150, fakes=40)
    >>> [row["count"] for row in bench.rows() if row["measure"] == "right"]  # CSP and chance
    [24, 24]
    """
    judged = {spec: from_exemplars(spec) for spec in settings.scorers or BENCHED} | dict(settings.methods or {})
    frozen, kinds, k, fakes, fdr = version(settings.edition), settings.kinds, settings.k, settings.fakes, settings.fdr
    worlds = [frozen.world(w) for w in settings.worlds or frozen.worlds]
    dials, seeds, edition = settings.dials or frozen.dials, settings.seeds or frozen.seeds, settings.edition
    named, texts = spoken(edition)
    neurons: list[dict[str, NDArray[Any]]] = []
    outcomes: dict[str, list[dict[str, NDArray[np.float64]]]] = {}
    drawn: dict[str, Any] = {"images": settings.images, "k": k, "edition": edition, "nuisances": settings.nuisances}
    for case in cases(worlds, dials, kinds, seeds, **drawn, progress=settings.progress):
        n, known = len(case.truth), case.known
        everyone = _with_fakes(case, fakes, k)
        neurons.append({
            "world": np.full(n, case.world.index)[known], "kind": np.full(n, case.kind)[known],
            "dial": np.full(n, case.dial)[known], "seed": np.full(n, case.seed)[known],
            "name": np.array(case.names)[known], "cluster": case.clusters[known],
        })  # fmt: skip
        for at, (name, method) in enumerate(judged.items()):
            labels = {which: best_labels(method(case, t)) for which, t in texts.items()}
            scores = method(everyone, texts["single"])
            alone = chance_of(torch.cat([scores[:n], scores[2 * n :]]), n, labels=labels["single"]).beats(fdr)
            mixed = chance_of(
                scores, 2 * n, labels=torch.cat([labels["single"], best_labels(scores[n : 2 * n])])
            ).beats(fdr)
            own = _outcomes(case, labels, named, alone)
            own |= {"real": mixed[:n].double().numpy()[known], "fake": mixed[n:].double().numpy()[known]}
            outcomes.setdefault(name, []).append(own)
            if at == 0:
                idle = {"single": scores, "pairs": method(everyone, texts["pairs"])}
                labels = {which: best_labels(s[n : 2 * n]) for which, s in idle.items()}
                own = _outcomes(case, labels, named, mixed[n:])
                outcomes.setdefault(CHANCE, []).append(
                    own | {who: np.full(known.sum(), np.nan) for who in ("real", "fake")}
                )
    if not neurons:
        raise InputError("nothing to judge: these worlds have no neurons of the kinds asked for")
    outcomes[CHANCE] = outcomes.pop(CHANCE)  # last
    told = {
        "worlds": [w.index for w in worlds], "dials": list(dials),
        "kinds": [kind for kind in kinds if any(kind in part["kind"] for part in neurons)],
        "seeds": list(seeds), **drawn, "fakes": fakes, "fdr": fdr,
        "concepts": {which: len(rows) for which, rows in named.items()}, "scorers": list(judged),
    }  # fmt: skip
    return WorldBench(told, _joined(neurons), {name: _joined(parts) for name, parts in outcomes.items()})


SIMPLE = "+simple"


def from_exemplars(spec: str) -> Method:
    """A scorer as a function of a case and texts; with "+simple", combinations that explain no more are left out."""
    name = spec.removesuffix(SIMPLE)
    parse_scorer(name)

    def scores(case: Case, texts: Tensor) -> Tensor:
        return run_scorer(name, case.exemplars, case.embeddings, texts, case.activations)

    def of_simple(case: Case, texts: Tensor) -> Tensor:
        parts = parts_of([c.text for c in (concepts() if len(texts) == len(LEVELS) else concepts(2))])
        allowed = allowed_combinations(case.activations, case.embeddings, texts, parts, case.exemplars.neurons)
        return scores(case, texts).masked_fill(~allowed, torch.nan)

    return of_simple if name != spec else scores


def _with_fakes(case: Case, fakes: int, k: int) -> Case:
    """The N neurons, a meaningless one beside each, and the null neurons that measure chance."""
    n = len(case.truth)
    made = [fake_activations(case.activations, c, seed) for c, seed in ((n, case.seed + 10_000), (fakes, case.seed))]
    exemplars = together(case.exemplars, *(find_exemplars(a, case.embeddings, k) for a in made))
    return replace(
        case, activations=torch.cat([case.activations, *made], dim=1),
        exemplars=replace(exemplars, neurons=torch.arange(2 * n + fakes)),
        truth=(*case.truth, *[Truth((), "dead", 0.0)] * (n + fakes)), names=(*case.names, *["fake"] * (n + fakes)),
    )  # fmt: skip


def _outcomes(
    case: Case, labels: Mapping[str, Tensor], named: Mapping[str, NDArray[np.bool_]], answered: Tensor
) -> dict[str, NDArray[np.float64]]:
    """Measures of the neurons with a known truth; `labels` (N) out of both vocabularies, -1 for none."""
    known = case.known
    true, tied = case.true_levels[known], case.tied_levels[known]
    said = {which: _said(labels[which], rows)[known] for which, rows in named.items()}
    right = (said["single"] & true).any(1)
    misled = (said["single"] & tied).any(1) & ~right
    names_it, more = (said["pairs"] & true).any(1), (said["pairs"] & ~true).any(1)
    exact, told = names_it & ~more, answered.numpy()[known]
    complete = (said["pairs"] == true).all(1)
    found = {"right": right, "misled": misled, "exact": exact, "complete": complete, "answered": told}
    return {
        **{measure: np.asarray(value, np.float64) for measure, value in found.items()},
        "specific": np.where(names_it, exact.astype(np.float64), np.nan),
        "right_answered": np.where(told, right.astype(np.float64), np.nan),
    }


def _said(labels: Tensor, named: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,38): the levels that labels name; none where there is no label."""
    at = labels.numpy()
    return np.asarray(named[at] & (at >= 0)[:, None])


def _joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
