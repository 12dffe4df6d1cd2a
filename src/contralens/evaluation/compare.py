"""Methods, checkpoints, layers or models side by side: differences with intervals, and which neurons changed meaning.

Needs no torch: it reads finished runs and their evaluations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from contralens.data.evaluations import Evaluation, evaluation_of
from contralens.data.final_labels import final, is_down, tests_of
from contralens.data.folder_kinds import COMPARISON
from contralens.data.matchings import Matching
from contralens.data.places import same_place
from contralens.data.replace_folder import reserved
from contralens.data.runs import Run
from contralens.data.seals import seal
from contralens.data.table_folders import plain
from contralens.data.verifications import OUTCOMES
from contralens.errors import ContralensError, InputError
from contralens.math.intervals import difference_interval, mean_interval
from contralens.settings.finished_run import Compare
from contralens.settings.record import job
from contralens.types import Brief

TIE = 1e-6
"""Values closer than this are a tie: the last bits of float32 embeddings depend on the batch and the machine."""

DIFFERENCES = pa.schema([
    ("metric", pa.string()), ("one", pa.string()), ("other", pa.string()), ("paired", pa.bool_()),
    ("one_mean", pa.float64()), ("other_mean", pa.float64()),
    ("difference", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("neurons", pa.int64()),
    ("win", pa.int64()), ("tie", pa.int64()), ("loss", pa.int64()), ("undefined", pa.int64()),
])  # fmt: skip
CHANGES = pa.schema([
    ("one", pa.string()), ("other", pa.string()), ("neuron", pa.int32()), ("name", pa.string()),
    ("one_label", pa.string()), ("other_label", pa.string()), ("changed", pa.bool_()),
    ("one_verified", pa.string()), ("other_verified", pa.string()), ("other_neuron", pa.int32()),
    ("other_name", pa.string()), ("correlation", pa.float64()),
])  # fmt: skip


@dataclass(frozen=True, repr=False)
class Method(Brief):
    """One column of the comparison: the labels of one scorer of one run.

    >>> one, other = compare(["run"], scorers=["semanticlens", "csp"]).methods
    >>> one.pairs_with(other), one.labels()[5][0]
    (True, 'block3/5')
    >>> Method("csp", one.run, "csp", evaluation=None).values("pearson")  # nothing, before `contralens.evaluate`
    {}
    >>> set(one.verified().values()) <= {"verified", "refuted", "untested"}
    True
    """

    name: str
    run: Run
    scorer: str
    evaluation: Evaluation | None

    def pairs_with(self, other: Method) -> bool:
        """Whether neuron n means the same place in both: same layer of the same network, whatever its weights."""
        return same_place(self.run.manifest["target"], other.run.manifest["target"])

    def labels(self) -> dict[int, tuple[str, str | None]]:
        """Neuron -> (name, label as finally judged), also of a scorer that only the evaluation knows."""
        if self.scorer in self.run.scorers:
            return {row["neuron"]: (row["name"], row["label"]) for row in self.run.rows(self.scorer)}
        assert self.evaluation is not None
        tests = tests_of(self.evaluation.verdicts)
        rows = self.evaluation.values.select(["neuron", "name", "scorer", "label"]).to_pylist()
        return {
            row["neuron"]: (row["name"], None if is_down(tests, row["neuron"], self.scorer) else row["label"])
            for row in rows
            if row["scorer"] == self.scorer
        }

    def verified(self) -> dict[int, str]:
        """Neuron -> outcome of the experiment on its label (`contralens verify`), of neurons whose label was tested."""
        if self.scorer not in self.run.scorers:
            return {}
        return {row["neuron"]: row["verified"] for row in self.run.rows(self.scorer) if row["verified"] is not None}

    def values(self, metric: str) -> dict[int, float]:
        """Neuron -> value of a metric; nothing where the run was not evaluated."""
        return {} if self.evaluation is None else self.evaluation.value(metric, self.scorer)


@dataclass(frozen=True, repr=False)
class Comparison(Brief):
    """What differs between methods.

    >>> found = compare(["run"], scorers=["semanticlens", "csp"])
    >>> told = found.to_dict()
    >>> told["methods"], told["labels"]["semanticlens | csp"]["neurons"], found.changes.num_rows
    (['semanticlens', 'csp'], 64, 64)
    >>> found.save("comparison")[0].as_posix()
    'comparison/comparison.json'
    """

    methods: list[Method]
    differences: pa.Table
    """Per metric and pair: means, mean difference with its 95 % bootstrap interval over neurons, win/tie/loss."""
    changes: pa.Table
    """Per pair and neuron: the two labels, whether they differ, and what experiments on them came to. Of runs of other
    layers or networks, neurons are paired by `contralens.match`: other_neuron, other_name and their correlation."""
    notes: list[str]
    matchings: dict[str, Matching] = field(default_factory=dict)
    """"ONE | OTHER" -> how their neurons were paired, where these are of other layers or networks."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        changed: dict[str, list[int]] = {}
        for row in self.changes.to_pylist():
            counted = changed.setdefault(f"{row['one']} | {row['other']}", [0, 0])
            counted[0] += bool(row["changed"])
            counted[1] += 1
        return {
            "methods": [m.name for m in self.methods],
            "differences": self.differences.to_pylist(),
            "labels": {pair: {"changed": n, "neurons": of} for pair, (n, of) in changed.items()},
            "experiments": {
                m.name: {word: found.count(word) for word in OUTCOMES}
                for m in self.methods
                if (found := list(m.verified().values()))
            },
            "matchings": {
                pair: {"counts": m.counts, **{k: m.manifest[k] for k in ("by", "images", "threshold")}}
                for pair, m in self.matchings.items()
            },
            "changes": [row for row in self.changes.to_pylist() if row["changed"]],
            "notes": self.notes,
        }

    def save(self, folder: str | Path) -> list[Path]:
        """differences.parquet, changes.parquet, comparison.json, and a plot per metric if matplotlib is installed.

        Written atomically; an older comparison there is replaced.

        Raises:
            InputError: the folder holds something else, is one of the runs compared.
            StoreError: it cannot be written.
        """
        from contralens.evaluation.plots import plot_values

        folder, runs = Path(folder), [m.run.path for m in self.methods if m.run.path is not None]
        with reserved(folder, COMPARISON, inputs=runs) as place, place.filled() as made:
            for name in ("differences", "changes"):
                pq.write_table(getattr(self, name), made / f"{name}.parquet")
            metrics = list(dict.fromkeys(self.differences["metric"].to_pylist()))
            plots = [
                plot_values(metric, {m.name: list(m.values(metric).values()) for m in self.methods}, made)
                for metric in metrics
            ]
            seal(made, "comparison.json", plain(self.to_dict()))
        return [folder / "comparison.json", *(folder / p.name for p in plots if p is not None)]


@job(Compare)
def compare(settings: Compare) -> Comparison:
    """Compare the labels of several runs, or of several scorers of one run.

    Neurons are paired if both methods have the same layer of the same network (or of its checkpoints); intervals are
    then over the neurons' differences. Otherwise they are over two unrelated sets of neurons.

    Raises:
        InputError: fewer than two to compare, an unknown scorer, or a metric that was not measured.

    >>> found = compare(["run"], scorers=["semanticlens", "csp"])
    >>> [method.name for method in found.methods]
    ['semanticlens', 'csp']
    """
    methods, notes = _methods([final(run) for run in settings.runs], settings.scorers)
    if len(methods) < 2:
        raise InputError(
            f"there is only {methods[0].name if methods else 'nothing'} to compare; give another run or scorer"
        )
    if any(m.evaluation is None for m in methods):
        without = ", ".join(dict.fromkeys(str(m.run.path) for m in methods if m.evaluation is None))
        if settings.metrics is not None:
            raise InputError(f"no evaluation in {without}, so no metric to compare; contralens evaluate makes one")
        notes.append(f"no evaluation in {without}: only labels are compared; contralens evaluate makes one")
    rows: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    matchings: dict[str, Matching] = {}
    known = [set(m.evaluation.metrics) for m in methods if m.evaluation is not None]
    first = next((m.evaluation.metrics for m in methods if m.evaluation is not None), [])
    wanted = [m for m in first if all(m in k for k in known)] if settings.metrics is None else settings.metrics
    for one, other in combinations(methods, 2):
        paired = one.pairs_with(other)
        if one.evaluation is not None and other.evaluation is not None:
            if _judge(one) != _judge(other):
                notes.append(f"{one.name} and {other.name} were judged by different encoders")
            for metric in wanted:
                row = _difference(metric, one, other, paired)
                rows += [row] if row else []
        if paired:
            changes += _changes(one, other)
        elif settings.match and one.run is not other.run:
            found = _matching(one, other, settings.cache)
            if isinstance(found, str):
                notes.append(found)
            else:
                matchings[f"{one.name} | {other.name}"] = found
                changes += _changes(one, other, found)
    return Comparison(
        methods, pa.Table.from_pylist(rows, schema=DIFFERENCES), pa.Table.from_pylist(changes, schema=CHANGES),
        list(dict.fromkeys(notes)), matchings,
    )  # fmt: skip


def _changes(one: Method, other: Method, found: Matching | None = None) -> list[dict[str, Any]]:
    """The labels of paired neurons: of one number, or as they were matched."""
    a, b, tested = one.labels(), other.labels(), (one.verified(), other.verified())
    places = {n: n for n in a} if found is None else found.partners
    r = {} if found is None else {row["one"]: row["correlation"] for row in found.rows() if row["one"] in places}
    out = []
    for n in sorted(n for n, m in places.items() if n in a and m in b):
        m = places[n]
        pair: dict[str, Any] = {"one": one.name, "other": other.name, "neuron": n, "name": a[n][0]}
        pair |= {"one_verified": tested[0].get(n), "other_verified": tested[1].get(m)}
        pair |= {"other_neuron": m, "other_name": b[m][0], "correlation": r.get(n)}
        out.append({**pair, "one_label": a[n][1], "other_label": b[m][1], "changed": a[n][1] != b[m][1]})
    return out


def _matching(one: Method, other: Method, cache: str | Path | None) -> Matching | str:
    """How the neurons of other layers or networks pair, or why that is not known."""
    from contralens.evaluation.matching import cached_match

    try:
        return cached_match(one.run, other.run, cache)
    except ContralensError as e:
        return f"{one.name} and {other.name} are of other layers or networks, and their labels are not compared: {e}"


def _difference(metric: str, one: Method, other: Method, paired: bool) -> dict[str, Any] | None:
    a, b = one.values(metric), other.values(metric)
    if not a or not b:  # an audit metric, say, belongs to no scorer
        return None
    row: dict[str, Any] = {"metric": metric, "one": one.name, "other": other.name, "paired": paired}
    if paired:
        both = sorted(a.keys() & b.keys())
        x, y = _array([a[n] for n in both]), _array([b[n] for n in both])
        told = np.isfinite(x) & np.isfinite(y)
        x, y = x[told], y[told]
        i = mean_interval(x - y)
        row |= {"win": int((x - y > TIE).sum()), "loss": int((y - x > TIE).sum())}
        row |= {"tie": len(x) - row["win"] - row["loss"], "undefined": int((~told).sum())}
    else:
        x, y = _array(list(a.values())), _array(list(b.values()))
        i = difference_interval(x, y)
        row |= {"undefined": int((~np.isfinite(x)).sum() + (~np.isfinite(y)).sum())}
    means = {"one_mean": mean_interval(x).mean, "other_mean": mean_interval(y).mean}
    return {**row, **means, "difference": i.mean, "low": i.low, "high": i.high, "neurons": i.count}


def _methods(runs: Sequence[Run], scorers: Sequence[str] | None) -> tuple[list[Method], list[str]]:
    found: list[tuple[Run, str, Evaluation | None]] = []
    notes: list[str] = []
    for run in runs:
        evaluation = evaluation_of(run.path)
        known = list(dict.fromkeys([*run.scorers, *(evaluation.scorers if evaluation else [])]))
        if scorers is not None:
            chosen = [s for s in scorers if s in known]
            lacking = [s for s in scorers if s not in known]
            if lacking:
                notes.append(f"{run.path or 'a run'} has no scorer {', '.join(lacking)} (it has: {', '.join(known)})")
        else:
            chosen = known if len(runs) == 1 else [run.manifest["primary"]]
        found += [(run, s, evaluation) for s in chosen]
    names = [run.path.name if run.path is not None else "run" for run, _, _ in found]
    if len(runs) == 1:
        titles = [s for _, s, _ in found]
    else:
        several = {n for n, count in Counter(names).items() if count > 1}
        titles = [f"{n} {s}" if n in several else n for n, (_, s, _) in zip(names, found, strict=True)]
    seen: Counter[str] = Counter()
    methods = []
    for title, (run, scorer, evaluation) in zip(titles, found, strict=True):
        seen[title] += 1
        methods.append(Method(title if seen[title] == 1 else f"{title} ({seen[title]})", run, scorer, evaluation))
    return methods, notes


def _judge(method: Method) -> Any:
    judge = method.evaluation.manifest.get("judge") if method.evaluation else None
    return judge["fingerprint"] if judge else None


def _array(values: list[float]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else v for v in values], np.float64)
