"""What each page shows, built from an open run: the index of all neurons, one neuron, the plane, a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from contralens.checks import InputError, nearest
from contralens.explorer import shapes
from contralens.explorer.runs import OpenRun

SHOWN = 4
"""Pictures on a card of the overview."""
KNOWN = {"neuron", "name", "status", "selected", "histogram", "histogram_edges"}
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "UTINYINT", "USMALLINT", "UINTEGER")
SORTS = ("neuron", "name", "label", "score", "margin")
T = TypeVar("T")


class NotThere(InputError):
    """What was asked for does not exist: 404."""


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


def overview(run: OpenRun) -> None:
    """Make the table `overview`: a row per neuron and scorer with all that can be filtered and sorted."""
    columns = "".join(f', n."{name}"' for name in figures(run))
    run.query(f"""
        CREATE TABLE IF NOT EXISTS overview AS
        WITH votes AS (SELECT neuron, label, count(*) AS votes FROM labels WHERE label IS NOT NULL GROUP BY ALL),
             agree AS (SELECT neuron, max(votes) / sum(votes) AS agreement FROM votes GROUP BY neuron)
        SELECT n.neuron, n.name, s.scorer, n.status, l.label, l.score,
               l.scores[1] - l.scores[2] AS margin, a.agreement{columns}
        FROM neurons n CROSS JOIN (SELECT DISTINCT scorer FROM labels) s
        LEFT JOIN labels l ON l.neuron = n.neuron AND l.scorer = s.scorer
        LEFT JOIN agree a ON a.neuron = n.neuron
        ORDER BY s.scorer, n.neuron
    """)


def ready(run: OpenRun) -> None:
    remembered(run, "overview", lambda: overview(run))


def index(run: OpenRun) -> shapes.Index:
    """All neurons of a run in columns."""
    ready(run)
    statuses = [s for (s,) in run.query("SELECT DISTINCT status FROM neurons ORDER BY status = 'ok' DESC, status")]
    labels = [s for (s,) in run.query("SELECT DISTINCT label FROM overview WHERE label IS NOT NULL ORDER BY label")]
    place = {label: i for i, label in enumerate(labels)}
    names = ["agreement", *figures(run)]
    if len(run.scorers) < 2:
        names.remove("agreement")
    first = run.query(
        f"SELECT neuron, name, status{''.join(f', {_quoted(n)}' for n in names)} FROM overview "
        "WHERE scorer = ? ORDER BY neuron",
        [run.primary],
    )
    columns = list(zip(*first, strict=True)) or [()] * (3 + len(names))
    scorers: list[shapes.ScorerColumns] = []
    for scorer in run.scorers:
        rows = run.query("SELECT label, score, margin FROM overview WHERE scorer = ? ORDER BY neuron", [scorer])
        scorers.append(
            {
                "scorer": scorer,
                "label": [place.get(label, -1) for label, _, _ in rows],
                "score": [_short(score) for _, score, _ in rows],
                "margin": [_short(margin) for _, _, margin in rows],
            }
        )
    at = {neuron: i for i, neuron in enumerate(columns[0])}
    pictures = {side: np.full((len(at), SHOWN), -1, np.int64) for side in ("positive", "contrast")}
    for neuron, rank, positive, contrast in run.query(
        "SELECT neuron, rank, positive, contrast FROM exemplars WHERE rank < ?", [SHOWN]
    ):
        if neuron in at and rank >= 0:
            pictures["positive"][at[neuron], rank] = _image(positive)
            pictures["contrast"][at[neuron], rank] = _image(contrast)
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
        "columns": {name: [_short(v) for v in columns[3 + i]] for i, name in enumerate(names)},
        "shown": SHOWN,
        "positives": pictures["positive"].reshape(-1).tolist(),
        "contrasts": pictures["contrast"].reshape(-1).tolist(),
    }


def rows(
    run: OpenRun,
    scorer: str | None = None,
    q: str = "",
    status: str | None = None,
    ranges: dict[str, tuple[float | None, float | None]] | None = None,
    sort: str = "neuron",
    descending: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> shapes.Rows:
    """The overview as rows, filtered and sorted as the page does it: `q` is part of a label or a name."""
    ready(run)
    scorer = run.scorer(scorer)
    numbers = [n for n in run.columns("overview") if n not in ("neuron", "name", "scorer", "status", "label")]
    if sort not in (*SORTS, *numbers):
        raise InputError(f"cannot sort by {sort!r}{nearest(sort, numbers)} (known: {', '.join({*SORTS, *numbers})})")
    where, values = ["scorer = ?"], [scorer]
    if q.strip():
        where.append("(contains(lower(coalesce(label, '')), ?) OR contains(lower(name), ?))")
        values += [q.strip().lower()] * 2
    if status:
        where.append("status = ?")
        values.append(status)
    for name, (low, high) in (ranges or {}).items():
        if name not in numbers:
            raise InputError(f"cannot filter by {name!r}{nearest(name, numbers)} (known: {', '.join(numbers)})")
        for bound, sign in ((low, ">="), (high, "<=")):
            if bound is not None:
                where.append(f"{_quoted(name)} {sign} ?")
                values.append(bound)  # type: ignore[arg-type]
    condition = " AND ".join(where)
    total = run.query(f"SELECT count(*) FROM overview WHERE {condition}", values)[0][0]
    order = f"{_quoted(sort)} {'DESC' if descending else 'ASC'} NULLS LAST, neuron"
    if sort in numbers:
        order = f"isnan({_quoted(sort)}::DOUBLE), {order}"
    found = run.records(
        f"SELECT * EXCLUDE (scorer) FROM overview WHERE {condition} ORDER BY {order} LIMIT ? OFFSET ?",
        [*values, limit, offset],
    )
    return {"scorer": scorer, "total": total, "rows": [_row(r) for r in found]}


def detail(run: OpenRun, neuron: int) -> shapes.Detail:
    """All about one neuron."""
    ready(run)
    found = run.records("SELECT * FROM neurons WHERE neuron = ?", [neuron])
    if not found:
        raise NotThere(f"run {run.key} has no neuron {neuron}; it has {len(run.neurons)}")
    own = found[0]
    at = run.neurons.index(neuron)
    missing: list[shapes.Missing] = [{"what": m["what"], "why": m["why"]} for m in run.missing]
    histogram = _histogram(own)
    if histogram is None:
        missing.append({"what": "the activation histogram", "why": "this run's neurons have no histogram"})
    by_scorer = {r["scorer"]: r for r in run.records("SELECT * FROM labels WHERE neuron = ?", [neuron])}
    pairs = _pairs(run, neuron)
    first = run.query("SELECT agreement FROM overview WHERE neuron = ? LIMIT 1", [neuron])
    agreement = {"agreement": _short(first[0][0])} if first and len(run.scorers) > 1 else {}
    labels = [by_scorer[s] for s in run.scorers if s in by_scorer]
    return {
        "run": run.key,
        "neuron": neuron,
        "name": str(own["name"]),
        "status": str(own["status"]),
        "previous": run.neurons[at - 1] if at else None,
        "next": run.neurons[at + 1] if at + 1 < len(run.neurons) else None,
        "figures": {**{n: _number(own[n]) for n in figures(run)}, **agreement},
        "labels": [_labels(run, row) for row in labels],
        "exemplars": pairs,
        "gamma": _gamma(run, neuron),
        "histogram": histogram,
        "neighbours": _neighbours(run, neuron),
        "evaluation": _optional(run, "evaluation", neuron),
        "candidates": _optional(run, "candidates", neuron),
        "classes": _optional(run, "classes", neuron),
        "maps": _maps(run, neuron, pairs),
        "missing": missing,
    }


def plane(run: OpenRun) -> shapes.Plane:
    """The neurons of a run as points, where similar concept vectors lie close."""

    def make() -> shapes.Plane:
        if run.vectors is None:
            raise NotThere(next(m["why"] for m in run.missing if "map" in m["what"]))
        points, explained = run.vectors.plane(run.gamma)
        x, y = points.T.round(5).tolist()
        return {
            "method": "PCA",
            "gamma": run.gamma,
            "explained": explained,
            "neuron": run.vectors.neurons.tolist(),
            "x": x,
            "y": y,
        }

    return remembered(run, "plane", make)


def compare(
    a: OpenRun, b: OpenRun, scorer_a: str | None = None, scorer_b: str | None = None, changed: bool = True
) -> shapes.Comparison:
    """Two runs, or two scorers of one, neuron by neuron: matched by name, or by number where the names differ."""
    first, second = (
        {r["name"]: r for r in rows(run, scorer, limit=10**9)["rows"]} for run, scorer in ((a, scorer_a), (b, scorer_b))
    )
    matched_by = "name"
    if len(first) != len(a.neurons) or len(second) != len(b.neurons) or not first.keys() & second.keys():
        matched_by = "number"
        first, second = (
            {str(r["neuron"]): r for r in rows(run, scorer, limit=10**9)["rows"]}
            for run, scorer in ((a, scorer_a), (b, scorer_b))
        )
    both = [name for name in first if name in second]
    same = sum(first[n]["label"] == second[n]["label"] for n in both)
    shown = [n for n in both if not changed or first[n]["label"] != second[n]["label"]]
    return {
        "a": f"{a.key} {a.scorer(scorer_a)}",
        "b": f"{b.key} {b.scorer(scorer_b)}",
        "matched_by": matched_by,
        "both": len(both),
        "same": same,
        "changes": [{"name": first[n]["name"], "a": first[n], "b": second[n]} for n in shown],
    }


def dumps(value: Any) -> bytes:
    """JSON without NaN, which no browser reads."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _row(record: dict[str, Any]) -> shapes.Row:
    rest = {k: _number(v) for k, v in record.items() if k not in ("neuron", "name", "status", "label")}
    score, margin = rest.pop("score"), rest.pop("margin")
    return {
        "neuron": record["neuron"],
        "name": str(record["name"]),
        "status": str(record["status"]),
        "label": record["label"],
        "score": score,
        "margin": margin,
        "figures": rest,
    }


def _labels(run: OpenRun, row: dict[str, Any]) -> shapes.ScorerLabels:
    concepts = row["concepts"] or []
    scores = row["scores"] or []
    sources = _sources(run)
    return {
        "scorer": row["scorer"],
        "status": row["status"],
        "label": row["label"],
        "score": _number(row["score"]),
        "concepts": [
            {"concept": c, "score": _number(s), "source": sources.get(c)}
            for c, s in zip(concepts, scores, strict=False)
        ],
    }


def _sources(run: OpenRun) -> dict[str, str]:
    if "concepts" not in run.tables:
        return {}
    return remembered(run, "sources", lambda: dict(run.query("SELECT concept, source FROM concepts")))


def _pairs(run: OpenRun, neuron: int) -> list[shapes.Pair]:
    label = "label" if "label" in run.columns("images") else "NULL"
    names = {
        i: (str(name), None if given is None else str(given))
        for i, name, given in run.query(
            f"""SELECT "index", id, {label} FROM images WHERE "index" IN
            (SELECT positive FROM exemplars WHERE neuron = ? UNION SELECT contrast FROM exemplars WHERE neuron = ?)""",
            [neuron, neuron],
        )
    }

    def picture(image: Any) -> shapes.Picture | None:
        found = names.get(_image(image))
        return None if found is None else {"image": int(image), "id": found[0], "label": found[1]}

    return [
        {
            "rank": row["rank"],
            "activation": _number(row["activation"]),
            "positive": picture(row["positive"]),
            "contrast": picture(row["contrast"]),
            "contrast_activation": _number(row["contrast_activation"]),
            "similarity": _number(row["similarity"]),
        }
        for row in run.records("SELECT * FROM exemplars WHERE neuron = ? ORDER BY rank", [neuron])
        if _image(row["positive"]) >= 0
    ]


def _gamma(run: OpenRun, neuron: int) -> shapes.Gamma | None:
    found = run.vectors.gamma(neuron) if run.vectors else None
    if found is None:
        return None
    sources = _sources(run)
    return {
        "concepts": found["concepts"],
        "sources": [sources.get(c) for c in found["concepts"]],
        "first": found["first"],
        "second": found["second"],
        "norms": found["norms"],
    }


def _neighbours(run: OpenRun, neuron: int) -> list[shapes.Neighbour] | None:
    found = run.vectors.neighbours(neuron, run.gamma) if run.vectors else None
    if found is None:
        return None
    known = named(run, [n for n, _ in found])
    pictures: dict[int, list[int]] = {n: [] for n, _ in found}
    marks = ",".join("?" * len(found)) or "NULL"
    for n, image in run.query(
        f"SELECT neuron, positive FROM exemplars WHERE rank < {SHOWN} AND neuron IN ({marks}) ORDER BY rank",
        list(pictures),
    ):
        if _image(image) >= 0:
            pictures[n].append(int(image))
    return [
        {
            "neuron": n,
            "name": known[n][0],
            "label": known[n][1],
            "similarity": round(s, 4),
            "pictures": pictures[n],
        }
        for n, s in found
    ]


def named(run: OpenRun, neurons: list[int]) -> dict[int, tuple[str, str | None]]:
    """Name and primary label of some neurons."""
    ready(run)
    marks = ",".join("?" * len(neurons)) or "NULL"
    return {
        n: (str(name), label)
        for n, name, label in run.query(
            f"SELECT neuron, name, label FROM overview WHERE scorer = ? AND neuron IN ({marks})",
            [run.primary, *neurons],
        )
    }


def _histogram(own: dict[str, Any]) -> shapes.Histogram | None:
    counts = own.get("histogram")
    if not counts:
        return None
    low, high = _number(own.get("minimum")), _number(own.get("maximum"))
    edges = own.get("histogram_edges")
    if edges is None and low is not None and high is not None:
        edges = np.linspace(low, high, len(counts) + 1).tolist()
    if edges is None or len(edges) != len(counts) + 1:
        return None
    return {"edges": [float(f"{e:.6g}") for e in edges], "counts": [int(c) for c in counts]}


def _optional(run: OpenRun, table: str, neuron: int) -> list[dict[str, Any]] | None:
    if table not in run.tables:
        return None
    found = run.records(f"SELECT * EXCLUDE (neuron) FROM {table} WHERE neuron = ? LIMIT 500", [neuron])
    return [{k: _plain(v) for k, v in row.items()} for row in found]


def _maps(run: OpenRun, neuron: int, pairs: list[shapes.Pair]) -> list[shapes.Map] | None:
    if "maps" not in run.tables:
        return None
    out: list[shapes.Map] = []
    for image, height, width, values in run.query(
        'SELECT image, height, width, "map" FROM maps WHERE neuron = ? LIMIT 500', [neuron]
    ):
        values = list(values) if values is not None else []
        if 0 < height * width <= 4096 and len(values) == height * width:
            out.append(
                {"image": int(image), "height": int(height), "width": int(width), "values": [int(v) for v in values]}
            )
    return out


def _image(value: Any) -> int:
    return -1 if value is None or value < 0 else int(value)


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.7g}")


def _short(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.5g}")


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return _number(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
