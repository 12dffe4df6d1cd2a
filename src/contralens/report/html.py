"""The HTML report of a run: one file with everything in it, that asks nobody for anything.

The page leads with what contrast changed most clearly; then come a table of all neurons, a card for each neuron shown
with pictures, and how the numbers were got.
Every picture is embedded once, however often it occurs. The same run gives the same bytes. `contralens.pages` holds
the templates.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from contralens.data.added_files import add_to_run
from contralens.data.atomic_files import write_whole
from contralens.data.contrast_changes import changes, contrast_pair, varied
from contralens.data.final_labels import CORRECTED, final
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.pages import render
from contralens.report.cards import Pictures, card, change_card, more_pairs, order
from contralens.report.concept_origin import MARK
from contralens.report.header import REASONS, header, shown_cards, table
from contralens.types import word_of

CHANGES, THUMBNAILS = 6, 4
PICTURE_BYTES = 20_000_000
"""Bytes of JPEG that a report embeds at most; in base64 they take a third more."""


def write_report(
    run: Run, out: str | Path | None = None, *, most: int = 200, pairs: int = 10, budget: int = PICTURE_BYTES
) -> Path:
    """Write the report of `run` and return where it lies: `out`, or report.html in the run's folder.

    Up to `most` neurons, evenly spread over the layer, are shown with pictures, each with its first `pairs` exemplars
    above their contrasts; both are lowered until the pictures fit `budget` bytes. All neurons are in the table.
    """
    if out is None and run.path is None:
        raise InputError("this run was never saved; give a file for the report: write_report(run, 'report.html')")
    if most < 0 or pairs < 1:
        raise InputError(f"`most` must be at least 0 and `pairs` at least 1; got {most} and {pairs}")
    path = Path(out) if out is not None else Path(run.path or "") / "report.html"
    if path.is_dir():
        path = path / "report.html"
    write_page(path, page(run, most, pairs, budget), run)
    return path


def write_page(path: Path, text: str, run: Run) -> None:
    """Write a page: into its run, which then lists it, or elsewhere."""
    if run.path is not None and path.parent.resolve() == run.path.resolve():
        add_to_run(path.parent, {path.name: text.encode()})
    else:
        write_whole(path, text.encode())


def page(run: Run, most: int = 200, pairs: int = 10, budget: int = PICTURE_BYTES) -> str:
    """The report as text, of the labels as finally judged."""
    run = final(run)
    m = run.manifest
    changed = changes(run)
    lead = varied(changed, CHANGES)
    shown, pairs, embedded = _choose(run, most, pairs, budget, [change.neuron for change in lead])
    pictures = Pictures(run)
    base, contrasted = contrast_pair(run)
    cards = [card(run, neuron, pairs, pictures, base, contrasted) for neuron in shown]
    strip = [change_card(run, change, pictures, embedded) for change in lead if change.neuron in shown]
    rows = _rows(run, set(shown), base, contrasted)
    more = {neuron: more_pairs(run, neuron, pairs, embedded, pictures) for neuron in shown if embedded > pairs}
    return render(
        "report.html",
        script="report.js",
        target=m["target"],
        top=header(run, rows),
        scorers=run.scorers,
        primary=m["primary"],
        table=table(rows),
        cards=cards,
        strip=strip,
        changed=len(changed),
        mark=MARK,
        version=m["contralens"],
        source=run.path.name if run.path else "a run",
        data={
            "scorers": order(run),
            "base": base,
            "contrasted": contrasted,
            "reasons": REASONS,
            "rows": rows,
            "extra": _extra(run, rows, shown, pictures),
            "more": {str(neuron): own for neuron, own in more.items()},
        },
        pictures=pictures.encoded(),
        **shown_cards(run, len(shown), pairs),
    )  # fmt: skip


def _choose(run: Run, most: int, pairs: int, budget: int, first: list[int]) -> tuple[list[int], int, int]:
    """The neurons shown with pictures, evenly spread but for the `first` ones; of each the pairs that are seen at once,
    and all whose pictures are in the page, so that they fit the budget."""
    neurons = np.asarray(run.exemplars["neuron"])
    rank = np.asarray(run.exemplars["rank"])
    sides = np.stack([np.asarray(run.exemplars[side]) for side in ("positive", "contrast")], 1)
    labeled = np.unique(neurons)
    size = dict(zip(run.thumbnails["fingerprint"].to_pylist(), pc.binary_length(run.thumbnails["jpeg"]), strict=True))
    of_image = np.array([int(size[f].as_py()) if f in size else 0 for f in run.images["fingerprint"].to_pylist()] + [0])
    deepest = int(rank.max()) + 1 if len(rank) else pairs
    pairs = min(pairs, deepest)

    def size_of(shown: Any, depth: int) -> int:
        return int(of_image[np.unique(sides[np.isin(neurons, shown) & (rank < depth)])].sum())

    while True:
        count = min(most, len(labeled))
        shown = labeled[np.linspace(0, len(labeled) - 1, count).round().astype(int)] if count else labeled[:0]
        if lacking := [n for n in first[:count] if n not in shown]:  # in the places of those that lead nothing
            rest = [n for n in shown.tolist() if n not in first]
            shown = np.array(sorted({*first[:count], *rest[: max(0, count - len(first))], *lacking}), labeled.dtype)
        if size_of(shown, pairs) <= budget or count == 0:
            depths = range(deepest, pairs, -1)
            embedded = next((depth for depth in depths if size_of(shown, depth) <= budget), pairs)
            return [int(n) for n in shown], pairs, embedded
        if pairs > 4:
            pairs -= 2
        else:
            most = count * 3 // 4


def _rows(run: Run, shown: set[int], base: str | None, contrasted: str | None) -> list[list[Any]]:
    """Per neuron: index, name, status, labels by scorer, primary score, changed by contrast, maximum, fires, cosine."""
    by_scorer = {}
    for scorer in run.scorers:
        part = run.labels.filter(pc.field("scorer") == scorer).select(["neuron", "label", "score", "status", "best"])
        numbers, *values = (part[name].to_pylist() for name in part.column_names)
        by_scorer[scorer] = dict(zip(numbers, zip(*values, strict=True), strict=True))
    neurons = np.asarray(run.exemplars["neuron"])
    cosine = np.asarray(run.exemplars["similarity"], dtype=np.float64)
    kept = np.isfinite(cosine)
    size = max(len(run), int(neurons.max(initial=-1)) + 1)
    counts = np.bincount(neurons[kept], minlength=size)
    means = np.bincount(neurons[kept], cosine[kept], minlength=size) / np.maximum(counts, 1)
    table = run.neurons.select(["neuron", "name", "status", "maximum", "firing_rate", "selected"]).to_pylist()
    out = []
    for row in table:
        n = row["neuron"]
        got = {scorer: by_scorer[scorer].get(n, (None, None, None, None)) for scorer in order(run)}
        primary = got[run.manifest["primary"]]
        status = row["status"] if row["status"] != "ok" and primary[2] != CORRECTED else primary[2] or "not selected"
        changed = None
        if base and contrasted and got[base][0] is not None and got[contrasted][0] is not None:
            changed = int(got[base][3] != got[contrasted][3])
        values = [primary[1], row["maximum"], row["firing_rate"], float(means[n]) if counts[n] else None]
        score, maximum, fires, cos = (_short(v) for v in values)
        labels = [label for label, *_ in got.values()]
        out.append([n, row["name"], status, labels, score, changed, maximum, fires, cos, int(n in shown)])
    return out


def _extra(run: Run, rows: list[list[Any]], shown: list[int], pictures: Pictures) -> list[list[Any]]:
    """Beside each of the rows: confidence, the word for it, what an experiment came to, and up to four pictures."""
    primary = {row["neuron"]: row for row in run.rows()}
    chosen = run.exemplars.filter(pc.field("rank") < THUMBNAILS)
    first: dict[int, list[int]] = {}
    for neuron, image in zip(chosen["neuron"].to_pylist(), chosen["positive"].to_pylist(), strict=True):
        first.setdefault(neuron, []).append(image)
    out = []
    for neuron, *_ in rows:
        row = primary.get(neuron, {})
        sure = row.get("confidence")
        places = [pictures.place(image) for image in first.get(neuron, ()) if image >= 0] if neuron in shown else []
        word = word_of(sure) if sure is not None else ""
        seen = [place for place in places if place is not None]
        out.append([_short(sure), word, row.get("verified"), seen])
    return out


def _short(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.4g}")
