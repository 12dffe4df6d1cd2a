"""The labels of a run as finally judged: what its scorers said, the evaluation's null test, and people's corrections.

Whoever shows, compares or passes on labels reads them here, so that all give the same answer:

1. A person's corrected label (RUN.notes.jsonl) is the neuron's label: the primary scorer's row holds it, with the
   status "corrected".
2. Else a label that the null test of the run (`label --fdr`) or of its latest evaluation (`evaluate --fdr`) rejected
   is no label: it is null, with the status "chance". Its p and fdr are those of the latest test.
3. Else it is what the scorer said.

Beside the label stands what an experiment came to that tested it (`contralens verify`): `verified`, "verified",
"refuted" or "untested", and `experiment`, the same in words; null where this label of this neuron was not tested. It
changes no label, but its confidence (`contralens.data.experiment_evidence`), and a reason says what that was before.
Of a neuron with several meanings (`evaluate --meanings`), `meanings` holds a label for each, with its share and
confidence.

What the scorer said stays in `best`, and `why` says who overruled it. `evaluate` itself reads the run as it was
labeled, so that a second evaluation judges every label again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contralens.data.evaluations import Evaluation, evaluation_of
from contralens.data.experiment_evidence import NO_EVIDENCE, after_experiments
from contralens.data.notes import Note, Notebook
from contralens.data.runs import LABELS, Run, load, with_newer
from contralens.data.verifications import editors_of, outcomes_of, verification_of

CHANCE, CORRECTED = "chance", "corrected"
"""Statuses of a label that a null test rejected, and of one that a person gave."""
OVERRULED = (CHANCE, CORRECTED)
FINAL = pa.schema([
    *LABELS, ("best", pa.string()), ("why", pa.string()), ("verified", pa.string()), ("experiment", pa.string()),
    ("meanings", pa.list_(pa.string())), ("meaning_shares", pa.list_(pa.float64())),
    ("meaning_confidences", pa.list_(pa.float64())),
])  # fmt: skip
"""Columns of the labels as finally judged: `best` is what the scorer said, `why` what overruled it, null if nothing;
`verified` and `experiment` what an experiment on this label came to, null without one; `meanings` with shares and
confidences the labels of a neuron's meanings, null where `evaluate --meanings` was not asked."""
MEANINGS = ("meanings", "meaning_shares", "meaning_confidences")
Key = tuple[int, str]


@dataclass(frozen=True)
class Judgements:
    """What may overrule the labels of a run.

    >>> Judgements().is_empty, Judgements(tests={(3, "csp"): (0.2, 0.5, False)}).is_empty
    (True, False)
    """

    tests: Mapping[Key, tuple[float | None, float | None, bool | None]] = field(default_factory=dict)
    """Neuron and scorer -> p, fdr, and whether the label beats chance, by the latest evaluation."""
    level: Any = None
    """The false-discovery rate that `evaluate` was given."""
    corrections: Mapping[int, Note] = field(default_factory=dict)
    """Neuron -> a person's label."""
    experiments: Mapping[tuple[int, str], tuple[str, str]] = field(default_factory=dict)
    """Neuron and label -> outcome of the experiment that tested it, and what it came to, in words."""
    editors: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """Neuron and label -> the editor of that experiment."""
    meanings: Mapping[Key, tuple[Any, Any, Any]] = field(default_factory=dict)
    """Neuron and scorer -> labels, shares and confidences of its meanings."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing overrules a label."""
        return not self.tests and not self.corrections


def turned_down(command: str, level: Any, fdr: float | None) -> str:
    """Why a label is none, in words.

    >>> turned_down("evaluate", 0.001, 0.0812)
    'rejected by the null test of `evaluate --fdr 0.001`: false-discovery rate 0.081'
    """
    at = f" {level:g}" if isinstance(level, int | float) else ""
    rate = "" if fdr is None else f": false-discovery rate {fdr:.2g}"
    return f"rejected by the null test of `{command} --fdr{at}`{rate}"


def tests_of(verdicts: pa.Table | None) -> dict[Key, tuple[float | None, float | None, bool | None]]:
    """The null test in a table of verdicts (see `contralens.data.evaluations`), where it was made."""
    if verdicts is None:
        return {}
    columns = [
        verdicts[name].to_pylist() if name in verdicts.column_names else [None] * len(verdicts)
        for name in ("neuron", "scorer", "p", "fdr", "beats_chance")
    ]
    return {
        (neuron, scorer): (p, fdr, beats)
        for neuron, scorer, p, fdr, beats in zip(*columns, strict=True)
        if fdr is not None or beats is not None
    }


def meanings_of(verdicts: pa.Table | None) -> dict[Key, tuple[Any, Any, Any]]:
    """The meanings in a table of verdicts, where they were asked for."""
    if verdicts is None or "meanings" not in verdicts.column_names:
        return {}
    asked = verdicts.filter(pc.is_valid(pc.field("meanings")))
    columns = [
        asked[name].to_pylist() if name in asked.column_names else [None] * len(asked)
        for name in ("neuron", "scorer", *MEANINGS)
    ]
    return {(neuron, scorer): (said, shares, sure) for neuron, scorer, said, shares, sure in zip(*columns, strict=True)}


def is_down(tests: Mapping[Key, tuple[Any, Any, bool | None]], neuron: int, scorer: str) -> bool:
    """Whether the latest evaluation turned a label down.

    >>> is_down({(3, "csp"): (0.2, 0.5, False)}, 3, "csp"), is_down({}, 3, "csp")
    (True, False)
    """
    return tests.get((neuron, scorer), (None, None, None))[2] is False


def final(run: Run | str | Path, *, corrections: bool = True, experiments: bool = True) -> Run:
    """The run with its labels as finally judged, in the columns of `FINAL`; for display, not for `evaluate`.

    Args:
        run: a run or its folder. A final run is returned unchanged.
        corrections: False ignores corrections by people, e.g. before sharing.
        experiments: False ignores experiments, e.g. to repeat damaged ones.

    Raises:
        RunError: the evaluation or the verification in the run's folder is damaged.

    >>> row = final("run").rows("csp")[5]
    >>> row["label"] == row["best"], row["why"], row["status"]
    (True, None, 'ok')
    """
    run = run if isinstance(run, Run) else load(run)
    if "why" in run.labels.column_names:
        return run
    evaluation = evaluation_of(run.path)
    tested_by = verification_of(run.path, str(run.manifest["target"]["fingerprint"])) if experiments else None
    manifest, noted = _manifest(run, evaluation), {}
    if corrections and run.path is not None:
        book = Notebook(run.path, writable=False)
        noted = standing(book.corrections(), run.neurons)
        manifest["notes"] = [*manifest.get("notes", []), *book.read()["problems"]]
    tested = manifest.get("chance") or {}
    judged = Judgements(
        tests_of(evaluation.verdicts if evaluation else None),
        (evaluation.manifest.get("chance") or {}).get("fdr") if evaluation else None,
        noted,
        outcomes_of(tested_by.labels, tested_by.inside) if tested_by else {},
        editors_of(tested_by.labels if tested_by else None),
        meanings_of(evaluation.verdicts if evaluation else None),
    )
    own = (run.manifest.get("chance") or {}).get("fdr")
    labels = final_labels(run.labels, str(run.manifest["primary"]), judged, own)
    if tested:
        manifest["chance"] = {**tested, "no label beats chance": _counts(labels)}
    return replace(run, labels=labels, manifest=manifest)


def _manifest(run: Run, evaluation: Evaluation | None) -> dict[str, Any]:
    """The run's manifest, with the latest null test."""
    later = (evaluation.manifest.get("chance") or {}) if evaluation else {}
    both = {**(run.manifest.get("chance") or {}), **later}
    return {**run.manifest, "chance": both or None}


def _counts(labels: pa.Table) -> dict[str, int]:
    """Scorer -> labels rejected, of the scorers that were tested."""
    tested = labels.filter(pc.is_valid(pc.field("fdr")))
    counts = dict.fromkeys(tested["scorer"].unique().to_pylist(), 0)
    for scorer in labels.filter(pc.field("status") == CHANCE)["scorer"].to_pylist():
        counts[scorer] = counts.get(scorer, 0) + 1
    return counts


def standing(corrections: Mapping[int, Note], neurons: pa.Table) -> dict[int, Note]:
    """The corrections of neurons that the run has, by number and name: notes of an older run there are left alone."""
    if not corrections:
        return {}
    names = dict(zip(neurons["neuron"].to_pylist(), neurons["name"].to_pylist(), strict=True))
    return {n: c for n, c in corrections.items() if n in names and c["name"] in ("", names[n])}


def final_labels(labels: pa.Table, primary: str, judged: Judgements, level: Any = None) -> pa.Table:
    """A table of labels as finally judged, with the columns of `FINAL`; what else it has stays.

    Args:
        labels: of a run, as it was labeled.
        primary: the scorer whose row a person's label takes.
        judged: what overrules them.
        level: the false-discovery rate that `label` was given.
    """
    labels = _with_rows(with_newer(labels), primary, judged.corrections)
    status, label = labels["status"].to_pylist(), labels["label"].to_pylist()
    best = list(label)
    why: list[str | None] = [None] * len(label)
    overruled = np.zeros(len(status), bool)  # after labeling
    rates = {name: labels[name].to_pylist() for name in ("p", "fdr")}
    down = [word == CHANCE and said is None for word, said in zip(status, label, strict=True)]
    places = np.flatnonzero(np.array(down, bool))
    for at, concepts in zip(places.tolist(), labels["concepts"].take(pa.array(places)).to_pylist(), strict=True):
        best[at] = concepts[0] if concepts else None
        why[at] = turned_down("label", level, rates["fdr"][at])
    if not judged.is_empty:
        keys = zip(labels["neuron"].to_pylist(), labels["scorer"].to_pylist(), strict=True)
        for at, (neuron, scorer) in enumerate(keys):
            p, fdr, _ = judged.tests.get((neuron, scorer), (None, None, None))
            if fdr is not None:
                rates["p"][at], rates["fdr"][at] = p, fdr
            if is_down(judged.tests, neuron, scorer) and label[at] is not None:
                status[at], label[at], why[at] = CHANCE, None, turned_down("evaluate", judged.level, fdr)
                overruled[at] = True
            if scorer == primary and (note := judged.corrections.get(neuron)) is not None:
                status[at], label[at], why[at] = CORRECTED, note["text"], f"corrected by a person, {note['time']}"
                overruled[at] = label[at] != best[at] or overruled[at]
    found = [judged.experiments.get(key, (None, None)) for key in zip(labels["neuron"].to_pylist(), label, strict=True)]
    columns: dict[str, Sequence[Any]] = {
        "status": status, "label": label, **rates, "best": best, "why": why,
        "verified": [word for word, _ in found], "experiment": [said for _, said in found],
        **_several(labels, judged),
    }  # fmt: skip
    for name, values in columns.items():
        labels = _set(labels, name, pa.array(values, FINAL.field(name).type))
    stays = pa.array(~overruled)
    for name in ("score", "confidence", "reasons"):
        column = labels[name].combine_chunks()
        labels = _set(labels, name, pc.if_else(stays, column, pa.nulls(1, column.type)[0]))
    return _weighed(labels, judged) if judged.experiments else labels


def _several(labels: pa.Table, judged: Judgements) -> dict[str, list[Any]]:
    """The columns of the neurons' meanings."""
    keys = zip(labels["neuron"].to_pylist(), labels["scorer"].to_pylist(), strict=True)
    rows = [judged.meanings.get(key, (None, None, None)) for key in keys]
    return {name: [row[i] for row in rows] for i, name in enumerate(MEANINGS)}


def _weighed(labels: pa.Table, judged: Judgements) -> pa.Table:
    """With the confidence of labels after the experiments that tested them, and a reason that says so."""
    keys = list(zip(labels["neuron"].to_pylist(), labels["label"].to_pylist(), strict=True))
    confidence, reasons = labels["confidence"].to_pylist(), labels["reasons"].to_pylist()
    tested = {key for key in judged.experiments if judged.editors.get(key) not in NO_EVIDENCE}
    before = {key: c for key, c in zip(keys, confidence, strict=True) if c is not None and key in tested}
    after: dict[tuple[int, str], float] = {}
    for editor in dict.fromkeys(judged.editors.get(key, "") for key in before):
        own = [key for key in before if judged.editors.get(key, "") == editor]
        words = [judged.experiments[key][0] for key in own]
        after.update(zip(own, after_experiments([before[key] for key in own], words).tolist(), strict=True))
    for at, key in enumerate(keys):
        if confidence[at] is not None and key in after:
            said = f"an experiment came out as {judged.experiments[key][0]} ({confidence[at]:.2f} before it)"
            confidence[at], reasons[at] = after[key], [*(reasons[at] or ()), said]
    for name, values in (("confidence", confidence), ("reasons", reasons)):
        labels = _set(labels, name, pa.array(values, labels.schema.field(name).type))
    return labels


def _with_rows(labels: pa.Table, primary: str, corrections: Mapping[int, Note]) -> pa.Table:
    """With rows for corrected neurons that nobody labeled: a row for each scorer, so that all have the same neurons."""
    lacking = sorted(set(corrections) - set(labels["neuron"].unique().to_pylist())) if corrections else []
    if not lacking:
        return labels
    scorers = labels["scorer"].unique().to_pylist() or [primary]
    rows = [
        {"neuron": n, "name": corrections[n]["name"], "scorer": s, "status": "not selected", "concepts": [],
         "scores": []}
        for n in lacking for s in scorers
    ]  # fmt: skip
    schema = labels.schema
    return pa.concat_tables([labels, pa.Table.from_pylist(rows, schema=schema)])


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
