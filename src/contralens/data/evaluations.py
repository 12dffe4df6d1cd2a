"""A finished evaluation, kept inside the run folder that it judges. Needs no torch.

RUN/evaluation/ holds manifest.json (how the numbers were got) and three parquet tables:

- values: neuron, name, scorer, label, metric, value; NaN where the metric cannot be determined
- summary: scorer, metric, mean, low, high (95 % bootstrap over neurons), neurons, undefined, sane
- verdicts: one row per neuron and scorer: neuron, name, scorer, label, and where asked for: p, fdr, beats_chance (False
  means: no label beats chance); agreement, label_set, set_shares (bootstrap over probe images); of each meaning, by
  falling share: meanings (labels), meaning_shares, meaning_confidences, meaning_positives and meaning_contrasts
  (places in the run's images)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from contralens.checks import nearest
from contralens.data.checked_reading import Checked
from contralens.data.folder_kinds import EVALUATION
from contralens.data.seals import seal
from contralens.data.showing import Tabled
from contralens.data.table_folders import part_of_run, plain, reading, with_newer_columns, write_tables
from contralens.errors import InputError

FORMAT = 2
READABLE = (1, FORMAT)
"""Formats that can be read; format 1 has no digests."""
TABLES = ("values", "summary", "verdicts")

VALUES = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("scorer", pa.string()), ("label", pa.string()),
    ("metric", pa.string()), ("value", pa.float64()),
])  # fmt: skip
SUMMARY = pa.schema([
    ("scorer", pa.string()), ("metric", pa.string()), ("mean", pa.float64()), ("low", pa.float64()),
    ("high", pa.float64()), ("neurons", pa.int64()), ("undefined", pa.int64()), ("sane", pa.bool_()),
])  # fmt: skip
VERDICTS = pa.schema([
    ("neuron", pa.int32()), ("name", pa.string()), ("scorer", pa.string()), ("label", pa.string()),
    ("p", pa.float64()), ("fdr", pa.float64()), ("beats_chance", pa.bool_()),
    ("agreement", pa.float64()), ("label_set", pa.list_(pa.string())), ("set_shares", pa.list_(pa.float64())),
    ("meanings", pa.list_(pa.string())), ("meaning_shares", pa.list_(pa.float64())),
    ("meaning_confidences", pa.list_(pa.float64())), ("meaning_positives", pa.list_(pa.list_(pa.int32()))),
    ("meaning_contrasts", pa.list_(pa.list_(pa.int32()))),
])  # fmt: skip
NEW = ("meaning_confidences", "meaning_positives", "meaning_contrasts")
"""Columns of the verdicts that an older contralens did not write."""
SCHEMAS = dict(zip(TABLES, (VALUES, SUMMARY, VERDICTS), strict=True))


@dataclass(frozen=True, repr=False)
class Evaluation(Tabled):
    """How faithful, specific, stable and above chance the labels of a run are.

    >>> import contralens
    >>> found = contralens.evaluate("run", metrics="pearson", judge="world", same_judge=True, scorers=["csp"])
    >>> found.scorers, found.metrics, found.path.name
    (['csp'], ['right', 'pearson'], 'evaluation')
    >>> row = found.summary.to_pylist()[0]
    >>> row["low"] <= row["mean"] <= row["high"], len(found.value("pearson", "csp"))
    (True, 64)
    """

    manifest: dict[str, Any]
    values: pa.Table
    summary: pa.Table
    verdicts: pa.Table
    path: Path | None = field(default=None, compare=False)

    @property
    def scorers(self) -> list[str]:
        """Scorers in the order of the run."""
        return list(self.manifest["scorers"])

    @property
    def metrics(self) -> list[str]:
        """Metrics that were measured."""
        return list(dict.fromkeys(self.summary["metric"].to_pylist()))

    def value(self, metric: str, scorer: str) -> dict[int, float]:
        """Neuron -> value of one metric for the labels of one scorer, NaN where it cannot be determined.

        Raises:
            InputError: the metric was not measured.
        """
        if metric not in self.metrics:
            raise InputError(
                f"the evaluation has no metric {metric!r}{nearest(metric, self.metrics)} "
                f"(it has: {', '.join(self.metrics)})"
            )
        rows = self.values.filter((pc.field("metric") == metric) & (pc.field("scorer") == scorer))
        return dict(zip(rows["neuron"].to_pylist(), rows["value"].to_pylist(), strict=True))

    def __repr__(self) -> str:
        count = len(set(self.verdicts["neuron"].to_pylist()) or set(self.values["neuron"].to_pylist()))
        return f"Evaluation({', '.join(self.scorers)}: {count:,} neurons by {', '.join(self.metrics)})"

    def _repr_html_(self) -> str:
        from contralens.data.views import evaluation_view

        return evaluation_view(self)._repr_html_()

    def save(self, run: str | Path) -> Evaluation:
        """Write it into a run folder, atomically; an older evaluation there is replaced.

        Raises:
            InputError: the folder is no run.

        >>> import contralens
        >>> found = contralens.evaluate("run", metrics="pearson", judge="world", same_judge=True, save=False)
        >>> found.save("run").path.as_posix()
        'run/evaluation'
        """
        with part_of_run(run := Path(run), EVALUATION) as folder:
            write_tables(folder, {name: getattr(self, name) for name in TABLES})
            manifest = seal(folder, "manifest.json", plain({**self.manifest, "format": FORMAT}))
        return replace(self, manifest=manifest, path=run / "evaluation")


def load_evaluation(run: str | Path) -> Evaluation:
    """The evaluation inside a run folder."""
    folder = Path(run) / "evaluation"
    with reading(folder, f"{run} holds no evaluation; make one with: contralens evaluate {run}"):
        held = Checked.of(folder, "manifest.json", "Evaluation", READABLE)
        tables = held.tables({name: [c for c in schema.names if c not in NEW] for name, schema in SCHEMAS.items()})
    tables["verdicts"] = with_newer_columns(tables["verdicts"], VERDICTS, NEW)
    return Evaluation(held.manifest, **tables, path=folder)


def evaluation_of(run: Path | None) -> Evaluation | None:
    """The evaluation inside a run folder; None where there is none, or the run was never saved.

    Raises:
        RunError: there is one, and it is damaged.
    """
    there = run is not None and (run / "evaluation" / "manifest.json").is_file()
    return load_evaluation(run) if there and run is not None else None


def values_table(
    labels: Sequence[Mapping[str, Any]], scorer: str, metrics: Mapping[str, NDArray[np.float64]]
) -> pa.Table:
    """Rows of `values` for one scorer: `labels` hold neuron, name and label, `metrics` one number for each of them."""
    n = len(labels)
    columns = {key: [row[key] for row in labels] for key in ("neuron", "name", "label")}
    tables = [
        pa.table(
            {**columns, "scorer": [scorer] * n, "metric": [metric] * n, "value": np.asarray(value, np.float64)}
        ).select(VALUES.names)
        for metric, value in metrics.items()
    ]
    return pa.concat_tables([t.cast(VALUES) for t in tables]) if tables else VALUES.empty_table()
