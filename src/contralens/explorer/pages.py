"""What a page shows, built from an open run: one neuron, the plane, a comparison, the summary of an evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np

from contralens.data.answers import notes as remarks
from contralens.data.evaluations import NEW
from contralens.data.final_labels import OVERRULED
from contralens.explorer import audit_pages, cards, home, shapes, tested
from contralens.explorer.meanings import meanings
from contralens.explorer.overview import figures, named, ready, remembered, rows, shown
from contralens.explorer.runs import OpenRun
from contralens.explorer.values import NotThere, image_number, number, plain, short


def info(run: OpenRun, notes: int) -> shapes.RunInfo:
    """The run as the list of runs has it; `notes` is how many people took."""
    return {
        "key": run.key,
        "title": run.title,
        "stamp": run.stamp,
        "problem": None,
        "summary": home.summary(run),
        "manifest": home.brief(run.manifest),
        "missing": [{"what": m["what"], "why": m["why"]} for m in run.missing],
        "remarks": remarks(run.manifest),
        "notes": notes,
        "evaluation": summary(run),
        "audit": audit_pages.line(run),
    }


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
    agreement = {"agreement": short(first[0][0])} if first and len(run.scorers) > 1 else {}
    labels = [_labels(run, by_scorer[s]) for s in run.scorers if s in by_scorer]
    label = next((row["label"] for row in labels if row["scorer"] == run.primary), None)
    overruled = next((row["status"] for row in labels if row["scorer"] == run.primary), "")
    return {
        "run": run.key,
        "neuron": neuron,
        "name": str(own["name"]),
        "status": overruled if overruled in OVERRULED else str(own["status"]),
        "previous": run.neurons[at - 1] if at else None,
        "next": run.neurons[at + 1] if at + 1 < len(run.neurons) else None,
        "figures": {**{n: number(own[n]) for n in figures(run)}, **agreement},
        "labels": labels,
        "before": cards.before(run, labels),
        "true_class": cards.true_class(run, str(own["name"]), label),
        "exemplars": pairs,
        "gamma": _gamma(run, neuron),
        "histogram": histogram,
        "neighbours": _neighbours(run, neuron),
        "evaluation": _evaluation(run, neuron),
        "candidates": _candidates(run, neuron),
        "classes": _classes(run, neuron),
        "maps": _maps(run, neuron),
        "audit": audit_pages.verdict(run, neuron),
        "experiments": tested.experiments(run, neuron),
        "missing": missing,
    }


def plane(run: OpenRun, method: str | None = None) -> shapes.Plane:
    """The neurons of a run as points, where similar concept vectors lie close; by default by UMAP where the run has it.

    Raises:
        NotThere: the run has no vectors, or no layout by UMAP.
    """
    methods = (["umap"] if "layout" in run.tables else []) + (["pca"] if run.vectors is not None else [])
    if not methods:
        raise NotThere(next(m["why"] for m in run.missing if "map" in m["what"]))
    chosen = method or methods[0]
    if chosen not in methods:
        raise NotThere(f"run {run.key} has no map by {chosen}; it has {', '.join(methods)}")

    def make() -> shapes.Plane:
        explained = None
        if chosen == "pca":
            assert run.vectors is not None
            points, explained = run.vectors.plane(run.gamma)
            neurons, (x, y) = run.vectors.neurons.tolist(), points.T.round(5).tolist()
        else:
            found = run.arrays("SELECT neuron, x, y FROM layout WHERE isfinite(x) AND isfinite(y) ORDER BY neuron")
            neurons, x, y = (np.asarray(found[name]).round(4).tolist() for name in ("neuron", "x", "y"))
        return {"method": chosen, "methods": methods, "gamma": run.gamma, "explained": explained,
                "neuron": neurons, "x": x, "y": y}  # fmt: skip

    return remembered(run, f"plane {chosen}", make)


def compare(
    a: OpenRun, b: OpenRun, found: shapes.Matched, scorer_a: str | None = None, scorer_b: str | None = None,
    changed: bool = True,
) -> shapes.Comparison:  # fmt: skip
    """Two runs, or two scorers of one, neuron by neuron, as `found` pairs them."""
    first, second = (
        {r["neuron"]: r for r in rows(run, scorer, limit=10**9)["rows"]}
        for run, scorer in ((a, scorer_a), (b, scorer_b))
    )
    places = zip(found["status"], found["a"], found["b"], found["correlation"], strict=True)
    both = [(first[i], second[j], r) for word, i, j, r in places if word == "pair" and i in first and j in second]
    same = sum(one["label"] == other["label"] for one, other, _ in both)
    return {
        "a": f"{a.key} {a.scorer(scorer_a)}",
        "b": f"{b.key} {b.scorer(scorer_b)}",
        "matched_by": found["by"],
        "problem": found["problem"],
        "both": len(both),
        "same": same,
        "changes": [
            {"name": one["name"], "a": one, "b": other, "correlation": r}
            for one, other, r in both
            if not changed or one["label"] != other["label"]
        ],
    }


def _labels(run: OpenRun, row: dict[str, Any]) -> shapes.ScorerLabels:
    """A scorer's label as finally judged."""
    sources = _sources(run)
    concepts = zip(row["concepts"] or [], row["scores"] or [], strict=False)
    return {
        "scorer": row["scorer"],
        "status": row["status"],
        "label": row["label"],
        "best": row["best"],
        "why": row["why"],
        "verified": row["verified"],
        "experiment": row["experiment"],
        "score": number(row["score"]),
        "confidence": number(row["confidence"]),
        "reasons": row["reasons"] or [],
        "p": number(row["p"]),
        "fdr": number(row["fdr"]),
        "concepts": [{"concept": c, "score": number(s), "source": sources.get(c)} for c, s in concepts],
        "meanings": meanings(run, row),
    }


def _sources(run: OpenRun) -> dict[str, str]:
    if "concepts" not in run.tables:
        return {}
    return remembered(run, "sources", lambda: dict(run.query("SELECT concept, source FROM concepts")))


def _pairs(run: OpenRun, neuron: int) -> list[shapes.Pair]:
    label = "label" if "label" in run.columns("images") else "NULL"
    found = run.records("SELECT * FROM exemplars WHERE neuron = ? ORDER BY rank", [neuron])
    wanted = sorted({image_number(row[side]) for row in found for side in ("positive", "contrast")})
    marks = ",".join("?" * len(wanted)) or "NULL"
    names = {
        i: (str(name), None if given is None else str(given))
        for i, name, given in run.query(f'SELECT "index", id, {label} FROM images WHERE "index" IN ({marks})', wanted)
    }

    def picture(image: Any) -> shapes.Picture | None:
        found = names.get(image_number(image))
        return None if found is None else {"image": int(image), "id": found[0], "label": found[1]}

    return [
        {
            "rank": row["rank"],
            "activation": number(row["activation"]),
            "positive": picture(row["positive"]),
            "contrast": picture(row["contrast"]),
            "contrast_activation": number(row["contrast_activation"]),
            "similarity": number(row["similarity"]),
        }
        for row in found
        if image_number(row["positive"]) >= 0
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
    positives, _ = shown(run)
    at = np.searchsorted(run.neurons, [n for n, _ in found])
    return [
        {
            "neuron": n,
            "name": known[n][0],
            "label": known[n][1],
            "similarity": round(s, 4),
            "pictures": [int(i) for i in positives[place] if i >= 0],
        }
        for (n, s), place in zip(found, at, strict=True)
    ]


def _histogram(own: dict[str, Any]) -> shapes.Histogram | None:
    counts = own.get("histogram")
    if not counts:
        return None
    low, high = number(own.get("minimum")), number(own.get("maximum"))
    edges = own.get("histogram_edges")
    if edges is None and low is not None and high is not None:
        edges = np.linspace(low, high, len(counts) + 1).tolist()
    if edges is None or len(edges) != len(counts) + 1:
        return None
    return {"edges": [float(f"{e:.6g}") for e in edges], "counts": [int(c) for c in counts]}


def summary(run: OpenRun) -> list[shapes.Plain]:
    """Means of an evaluation over the neurons, with their intervals."""
    if "summary" not in run.tables:
        return []
    return [{k: plain(v) for k, v in row.items()} for row in run.records("SELECT * FROM summary LIMIT 500")]


def _evaluation(run: OpenRun, neuron: int) -> shapes.Evaluated | None:
    if "values" not in run.tables and "verdicts" not in run.tables:
        return None
    values: list[shapes.Measured] = []
    if "values" in run.tables:
        wide = "summary" in run.tables
        join = "LEFT JOIN summary s ON s.scorer = v.scorer AND s.metric = v.metric" if wide else ""
        means = "s.mean, s.low, s.high" if wide else "NULL, NULL, NULL"
        values = [
            {
                "scorer": str(scorer),
                "metric": str(metric),
                "value": number(value),
                "mean": number(mean),
                "low": number(low),
                "high": number(high),
            }
            for scorer, metric, value, mean, low, high in run.query(
                f'SELECT v.scorer, v.metric, v.value, {means} FROM "values" v {join} WHERE v.neuron = ? LIMIT 500',
                [neuron],
            )
        ]
    verdicts: list[dict[str, shapes.Value | list[shapes.Value]]] = []
    if "verdicts" in run.tables:
        for row in run.records("SELECT * EXCLUDE (neuron) FROM verdicts WHERE neuron = ? LIMIT 50", [neuron]):
            verdicts.append(
                {
                    k: [plain(x) for x in v[:20]] if isinstance(v, (list, tuple)) else plain(v)
                    for k, v in row.items()
                    if k not in NEW
                }
            )
    return {"values": values, "verdicts": verdicts}


def _candidates(run: OpenRun, neuron: int) -> list[shapes.Plain] | None:
    if "candidates" not in run.tables:
        return None
    found = run.records("SELECT * EXCLUDE (neuron) FROM candidates WHERE neuron = ? LIMIT 500", [neuron])
    return [{k: plain(v) for k, v in row.items()} for row in found]


def _classes(run: OpenRun, neuron: int) -> list[shapes.Fed] | None:
    if "classes" not in run.tables:
        return None
    adds = "adds" if "adds" in run.columns("classes") else "NULL"
    found = run.query(
        f'SELECT "class", weight, {adds} FROM classes WHERE neuron = ? ORDER BY weight DESC LIMIT 100', [neuron]
    )
    return [{"name": str(name), "weight": number(weight), "adds": number(more)} for name, weight, more in found]


def _maps(run: OpenRun, neuron: int) -> list[shapes.Map] | None:
    if "maps" not in run.tables:
        return None
    out: list[shapes.Map] = []
    for image, height, width, values, box, aspect in run.query(
        'SELECT image, height, width, "map", box, aspect FROM maps WHERE neuron = ? LIMIT 500', [neuron]
    ):
        sides = [number(side) for side in box or ()]
        if not (values and 0 < height * width <= 4096 and len(values) == height * width and aspect and aspect > 0):
            continue
        if len(sides) == 4 and None not in sides:
            out.append({"image": int(image), "box": [s or 0.0 for s in sides], "aspect": float(f"{aspect:.5g}"),
                        "height": int(height), "width": int(width), "values": list(values)})  # fmt: skip
    return out
