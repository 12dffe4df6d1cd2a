"""The overview of a run: what can be sorted and filtered, as a table, in columns and as rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from contralens.checks import nearest
from contralens.data.final_labels import OVERRULED
from contralens.errors import InputError
from contralens.explorer import shapes
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import number, quoted, short
from contralens.specs import gamma_of

SHOWN = 4
"""Pictures on a card of the overview."""
KNOWN = {"neuron", "name", "status", "selected", "histogram", "histogram_edges"}
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "UTINYINT", "USMALLINT", "UINTEGER")
EFFECTS = {"removal": "remove", "insertion": "insert"}
"""Figures of experiments on labels, and the columns that hold them."""
WORDS = ("name", "scorer", "status", "label", "verified")
"""Columns of the overview that hold words."""
SORTS = ("neuron", "name", "label", "score", "margin")
T = TypeVar("T")


def remembered(run: OpenRun, name: str, make: Callable[[], T]) -> T:
    """Something of a run that is computed once."""
    with run.lock:
        if name not in run.cache:
            run.cache[name] = make()
        value: T = run.cache[name]
        return value


def figures(run: OpenRun) -> list[str]:
    """The numeric columns of the run's neurons."""
    return [name for name, kind in run.columns("neurons").items() if name not in KNOWN and kind in NUMBERS]


def measured(run: OpenRun) -> dict[str, str]:
    """Figures of labels, by the run or an evaluation: name to the SQL that finds it for neuron n and scorer s."""
    out = {}
    for name in ("confidence", "fdr"):
        if run.columns("labels").get(name) in NUMBERS and run.query(f"SELECT count({name}) FROM labels")[0][0]:
            out[name] = f"l.{name}"
    if "verdicts" in run.tables and run.columns("verdicts").get("agreement") in NUMBERS:
        out["stability"] = "(SELECT first(agreement) FROM verdicts v WHERE v.neuron = n.neuron AND v.scorer = s.scorer)"
    if "experiments" in run.tables:
        for name, column in EFFECTS.items():
            out[name] = (
                f"(SELECT first({quoted(column)}) FROM experiments e WHERE e.neuron = n.neuron AND e.label = l.label)"
            )
    if "values" in run.tables:
        taken = {*SORTS, *figures(run), *out, "agreement", "status", "scorer"}
        for i, (metric,) in enumerate(run.query('SELECT DISTINCT metric FROM "values" ORDER BY metric LIMIT 24')):
            if metric not in taken:
                out[metric] = f"m{i}.value"
    return out


def overview(run: OpenRun) -> None:
    """Make the table `overview`: a row per neuron and scorer with all that can be filtered and sorted."""
    columns = "".join(f", n.{quoted(name)}" for name in figures(run))
    joins, values = "", []
    for name, found in measured(run).items():
        columns += f", {found} AS {quoted(name)}"
        if found.endswith(".value"):
            alias = found.removesuffix(".value")
            joins += (
                f' LEFT JOIN (SELECT neuron, scorer, first(value) AS value FROM "values" WHERE metric = ? GROUP BY ALL)'
                f" {alias} ON {alias}.neuron = n.neuron AND {alias}.scorer = s.scorer"
            )
            values.append(name)
    overruled = ", ".join(f"'{word}'" for word in OVERRULED)
    run.query(
        f"""
        CREATE OR REPLACE TABLE overview AS
        WITH votes AS (SELECT neuron, label, count(*) AS votes FROM labels WHERE label IS NOT NULL GROUP BY ALL),
             agree AS (SELECT neuron, max(votes) / sum(votes) AS agreement FROM votes GROUP BY neuron)
        SELECT n.neuron, n.name, s.scorer,
               CASE WHEN l.status IN ({overruled}) THEN l.status ELSE n.status END AS status, l.label, l.verified,
               l.score, l.scores[1] - l.scores[2] AS margin, a.agreement{columns}
        FROM neurons n CROSS JOIN (SELECT DISTINCT scorer FROM labels) s
        LEFT JOIN labels l ON l.neuron = n.neuron AND l.scorer = s.scorer
        LEFT JOIN agree a ON a.neuron = n.neuron{joins}
        ORDER BY s.scorer, n.neuron
        """,
        values,
    )


def ready(run: OpenRun) -> None:
    remembered(run, "overview", lambda: overview(run))


def index(run: OpenRun) -> shapes.Index:
    """All neurons of a run in columns."""
    ready(run)
    statuses = [s for (s,) in run.query("SELECT DISTINCT status FROM overview ORDER BY status = 'ok' DESC, status")]
    labels = [s for (s,) in run.query("SELECT DISTINCT label FROM overview WHERE label IS NOT NULL ORDER BY label")]
    place = {label: i for i, label in enumerate(labels)}
    names = ["agreement", *figures(run)]
    if len(run.scorers) < 2:
        names.remove("agreement")
    first = run.query(
        f"SELECT neuron, name, status{''.join(f', {quoted(n)}' for n in names)} FROM overview "
        "WHERE scorer = ? ORDER BY neuron",
        [run.primary],
    )
    columns = list(zip(*first, strict=True)) or [()] * (3 + len(names))
    scorers: list[shapes.ScorerColumns] = []
    given = list(measured(run))
    more = "".join(f", {quoted(n)}" for n in given)
    for scorer in run.scorers:
        found = run.query(
            f"SELECT label, score, margin, verified{more} FROM overview WHERE scorer = ? ORDER BY neuron", [scorer]
        )
        scorers.append(
            {
                "scorer": scorer,
                "label": [place.get(row[0], -1) for row in found],
                "score": [short(row[1]) for row in found],
                "margin": [short(row[2]) for row in found],
                "gamma": gamma_of(scorer),
                "verified": [row[3] for row in found] if "experiments" in run.tables else None,
                "columns": {name: [short(row[4 + i]) for row in found] for i, name in enumerate(given)},
            }
        )
    positives, contrasts = shown(run)
    return {
        "key": run.key,
        "stamp": run.stamp,
        "primary": run.primary,
        "neuron": list(columns[0]),
        "name": [str(n) for n in columns[1]],
        "statuses": statuses,
        "status": [statuses.index(s) for s in columns[2]],
        "labels": labels,
        "scorers": scorers,
        "columns": {name: [short(v) for v in columns[3 + i]] for i, name in enumerate(names)},
        "shown": SHOWN,
        "positives": positives.reshape(-1).tolist(),
        "contrasts": contrasts.reshape(-1).tolist(),
    }


def shown(run: OpenRun) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Image numbers (N,SHOWN) of each neuron's first positives and contrasts, -1 for none."""

    def make() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        found = run.arrays(
            "SELECT neuron, rank, positive, contrast FROM exemplars WHERE rank BETWEEN 0 AND ?", [SHOWN - 1]
        )
        out = np.full((2, len(run.neurons), SHOWN), -1, np.int32)
        at = np.searchsorted(run.neurons, found["neuron"])
        at[at == len(run.neurons)] = 0
        known = np.asarray(run.neurons)[at] == found["neuron"] if run.neurons else at.astype(bool)
        for side, images in zip(out, (found["positive"], found["contrast"]), strict=True):
            side[at[known], found["rank"][known]] = np.ma.filled(images, -1)[known].clip(-1, 2**31 - 1)
        return out[0], out[1]

    return remembered(run, "shown", make)


def rows(
    run: OpenRun,
    scorer: str | None = None,
    q: str = "",
    status: str | None = None,
    verified: str | None = None,
    ranges: dict[str, tuple[float | None, float | None]] | None = None,
    sort: str = "neuron",
    descending: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> shapes.Rows:
    """The overview as rows, filtered and sorted as the page does it: `q` is part of a label or a name."""
    ready(run)
    scorer = run.scorer(scorer)
    numbers = [n for n in run.columns("overview") if n not in (*WORDS, "neuron")]
    if sort not in (*SORTS, *numbers):
        raise InputError(f"cannot sort by {sort!r}{nearest(sort, numbers)} (known: {', '.join({*SORTS, *numbers})})")
    where, values = ["scorer = ?"], [scorer]
    if q.strip():
        where.append("(contains(lower(coalesce(label, '')), ?) OR contains(lower(name), ?))")
        values += [q.strip().lower()] * 2
    if status:
        where.append("status = ?")
        values.append(status)
    if verified:
        where.append("verified = ?")
        values.append(verified)
    for name, (low, high) in (ranges or {}).items():
        if name not in numbers:
            raise InputError(f"cannot filter by {name!r}{nearest(name, numbers)} (known: {', '.join(numbers)})")
        for bound, sign in ((low, ">="), (high, "<=")):
            if bound is not None:
                where.append(f"{quoted(name)} {sign} ?")
                values.append(bound)  # type: ignore[arg-type]
    condition = " AND ".join(where)
    total = run.query(f"SELECT count(*) FROM overview WHERE {condition}", values)[0][0]
    order = f"{quoted(sort)} {'DESC' if descending else 'ASC'} NULLS LAST, neuron"
    if sort in numbers:
        order = f"isnan({quoted(sort)}::DOUBLE), {order}"
    found = run.records(
        f"SELECT * EXCLUDE (scorer) FROM overview WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?",
        [*values, limit, offset],
    )
    return {"scorer": scorer, "total": total, "rows": [_row(r) for r in found]}


def named(run: OpenRun, neurons: list[int]) -> dict[int, tuple[str, str | None]]:
    """Name and primary label of some neurons."""

    def make() -> dict[int, tuple[str, str | None]]:
        ready(run)
        found = run.query("SELECT neuron, name, label FROM overview WHERE scorer = ?", [run.primary])
        return {n: (str(name), label) for n, name, label in found}

    known = remembered(run, "named", make)
    return {n: known[n] for n in neurons if n in known}


def _row(record: dict[str, Any]) -> shapes.Row:
    rest = {k: number(v) for k, v in record.items() if k not in (*WORDS, "neuron")}
    score, margin = rest.pop("score"), rest.pop("margin")
    return {
        "neuron": record["neuron"],
        "name": str(record["name"]),
        "status": str(record["status"]),
        "label": record["label"],
        "verified": record["verified"],
        "score": score,
        "margin": margin,
        "figures": rest,
    }
