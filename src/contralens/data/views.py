"""What runs, neurons, exemplars, audits, evaluations and verifications show of themselves: pictures first, small."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from contralens.data.answers import answer, because, rates, several, sure_of, tested
from contralens.data.contrast_changes import before_contrast, changes, telling_pairs, varied
from contralens.data.final_labels import final
from contralens.data.runs import Run, load
from contralens.errors import ContralensError
from contralens.pages import fragment, number

if TYPE_CHECKING:
    from contralens.data.audits import Audit
    from contralens.data.evaluations import Evaluation
    from contralens.data.verifications import Verification

SIDE = 72
"""Pixels of a picture's longer side."""
PAIRS = 8
ROWS = 6
SHOWN = 4
Part = dict[str, Any]


@dataclass(frozen=True, repr=False)
class View:
    """What `Run.show` gives: pictures in a notebook, lines of text elsewhere.

    >>> import contralens
    >>> shown = contralens.load("run").show("block3/5")
    >>> str(shown).splitlines()[0].startswith("block3/5: "), "<img" in shown._repr_html_()
    (True, True)
    """

    parts: Sequence[Part]
    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return fragment(self.parts)


def run_view(run: Run) -> View:
    """A run: what it is, then the neurons that contrast changes most clearly, or the first ones."""
    run = final(run)
    rows = [row for row in run.rows() if row["label"] is not None]
    changed = changes(run)
    m = run.manifest
    lines = [
        f"{len(rows):,} of {len(run):,} neurons of {m['target']['name']} {m['target']['layer']} labeled",
        f"{m['images']['count']:,} images, {run.concepts.num_rows:,} concepts, encoder {m['encoder']['name']}, "
        f"scorer {m['primary']}",
    ]
    if changed:
        lines.append(f"Contrast changed {len(changed):,} labels; the clearest changes:")
    shown = [change.neuron for change in varied(changed, ROWS)] or [row["neuron"] for row in rows]
    parts = [_head(lines[0]), *(_line(text, soft=not i) for i, text in enumerate(lines[1:]))]
    parts.append({"kind": "neurons", "rows": neuron_rows(run, shown[:ROWS])})
    return View(parts, "\n".join([*lines, *(_in_a_line(run, n) for n in shown[:ROWS])]))


def neuron_view(run: Run, neuron: int | str) -> View:
    """A neuron: its label without and with contrast, why one may believe it, its exemplars above their contrasts."""
    run = final(run)
    found = run.neuron(neuron)
    row = found["labels"][run.manifest["primary"]]
    said = [text for text in (because(row), rates(row), tested(row)) if text]
    others = [f"{name}: {answer(one)}" for name, one in found["labels"].items() if one is not row]
    active = f"mean {number(found['mean'])}, maximum {number(found['maximum'])}"
    parts = [
        {"kind": "title", "name": found["name"], **_labeled(run, found)},
        *(_line(text) for text in said),
        _line("; ".join([active, *others]), soft=True),
        {"kind": "pairs", "rows": _pairs(run, found["exemplars"][:PAIRS])},
    ]
    pairs = [
        f"  {row['positive_id']} {number(row['activation'])}, contrast {row['contrast_id'] or 'none'} "
        f"{number(row['contrast_activation'])}"
        for row in found["exemplars"][:PAIRS]
        if row["positive"] >= 0
    ]
    return View(parts, "\n".join([_in_a_line(run, found["neuron"]), *said, active, *others, *pairs]))


def exemplars_view(run: Run, rows: Sequence[Mapping[str, Any]]) -> View:
    """Exemplars above their contrasts, the first ones."""
    more = f"{len(rows)} pairs" + (f", the first {PAIRS} shown" if len(rows) > PAIRS else "")
    return View([_line(more, soft=True), {"kind": "pairs", "rows": _pairs(run, rows[:PAIRS])}], more)


def audit_view(audit: Audit) -> View:
    """An audit: its conclusion, then the neurons of each verdict that stand out most."""
    counts = ", ".join(f"{n} {verdict}" for verdict, n in audit.counts.items())
    parts = [_head(audit.conclusion or counts), _line(counts), *(_line(text, soft=True) for text in audit.explanation)]
    run = _run_of(audit.path)
    for verdict in ("spurious", "expected"):
        rows = audit.rows(verdict)[:3]
        if run is not None and rows:
            said = {row["neuron"]: f"{verdict}: {row['concept']}" for row in rows}
            parts.append({"kind": "neurons", "rows": neuron_rows(run, said, said)})
    if audit.pruning.num_rows:
        keys = ("group", "mode", "before", "after")
        head = ("group", "pruning", "accuracy before", "after")
        shown = audit.pruning.slice(0, ROWS).to_pylist()
        cells = ([number(v) if isinstance(v := row[key], float) else v for key in keys] for row in shown)
        parts.append(_grid(head, cells))
    return View(parts, "\n".join(part["text"] for part in parts if "text" in part))


def evaluation_view(found: Evaluation) -> View:
    """An evaluation: each scorer's means, then the neurons that the primary scorer's labels fit best and worst."""
    means = {(row["scorer"], row["metric"]): row for row in found.summary.to_pylist()}
    table = [
        [metric, *(_mean(means.get((scorer, metric))) for scorer in found.scorers)] for metric in found.metrics[:12]
    ]
    parts = [_head(f"Evaluation of {', '.join(found.scorers)}"), _grid(("metric", *found.scorers), table)]
    run = _run_of(found.path)
    metric = next((m for m in found.metrics if m != "right"), None)
    if run is not None and metric is not None and (primary := str(run.manifest["primary"])) in found.scorers:
        values = {n: v for n, v in found.value(metric, primary).items() if v == v}
        order = sorted(values, key=lambda n: (-values[n], n))
        chosen = list(dict.fromkeys([*order[:2], *order[-2:]]))
        said = {n: f"{metric} {number(values[n])}" for n in chosen}
        parts.append(_line(f"Best and worst by {metric}:", soft=True))
        parts.append({"kind": "neurons", "rows": neuron_rows(run, chosen, said)})
    text = "\n".join(
        ", ".join(f"{name} {cell}" for name, cell in zip(("", *found.scorers), row, strict=True)) for row in table
    )
    return View(parts, f"{parts[0]['text']}\n{text}")


def verification_view(found: Verification) -> View:
    """A verification: how many labels were verified and refuted, then some of each."""
    counts = ", ".join(f"{n} {word}" for word, n in found.counts.items())
    parts = [_head(f"Labels tested by changing pictures: {counts}")]
    run = _run_of(found.path)
    for outcome in ("verified", "refuted"):
        rows = [row for row in found.rows(outcome) if row["instead_of"] is None][:3]
        if run is not None and rows:
            said = {row["neuron"]: row["reason"] for row in rows}
            parts.append({"kind": "neurons", "rows": neuron_rows(run, said, said)})
    return View(parts, str(parts[0]["text"]))


def neuron_rows(run: Run, neurons: Iterable[int], said: Mapping[int, str] | None = None) -> list[Part]:
    """One row per neuron: its name, label and confidence, exemplars, and last the pair that shows most."""
    run = final(run)
    out = []
    for neuron in neurons:
        found = run.neuron(neuron)
        pair = [image for row in telling_pairs(found["exemplars"])[:1] for image in (row["positive"], row["contrast"])]
        others = [row["positive"] for row in found["exemplars"] if row["positive"] not in (-1, *pair)]
        images = [*others[: SHOWN - len(pair)], *pair]
        pictures = [picture(run, image) for image in images] + [None] * (SHOWN - len(images))
        text = (said or {}).get(neuron, "")
        out.append({"name": found["name"], "pictures": pictures, "said": text, **_labeled(run, found)})
    return out


def picture(run: Run, image: int, side: int = SIDE) -> Part | None:
    """A small JPEG of the image in that row of the run's `images`, with its id; None where the run has none."""
    jpeg = run.thumbnail(image) if image >= 0 else None
    if jpeg is None:
        return None
    small = Image.open(io.BytesIO(jpeg)).convert("RGB")
    small.thumbnail((side, side))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=80)
    return {"jpeg": out.getvalue(), "id": run.images["id"][image].as_py()}


def _labeled(run: Run, found: Mapping[str, Any]) -> Part:
    """The label of a neuron, that without contrast where it was another, and what is known of it."""
    row = found["labels"][run.manifest["primary"]]
    labels = {scorer: found["labels"][scorer]["label"] for scorer in run.scorers}
    before = before_contrast(labels, run.manifest["primary"])
    return {"label": answer(row), "before": before, "confidence": row.get("confidence"), **sure_of(row)}


def _in_a_line(run: Run, neuron: int) -> str:
    found = run.neuron(neuron)
    it = _labeled(run, found)
    was = f" (without contrast: {it['before']})" if it["before"] else ""
    said = several(found["labels"][run.manifest["primary"]])
    return "; ".join(filter(None, [f"{found['name']}: {it['label']}{was}", it["trust"], it["verified"], said]))


def _pairs(run: Run, rows: Sequence[Mapping[str, Any]]) -> list[Part]:
    return [
        {
            "positive": picture(run, row["positive"]), "activation": row["activation"],
            "contrast": picture(run, row["contrast"]), "contrast_activation": row["contrast_activation"],
        }
        for row in rows if row["positive"] >= 0
    ]  # fmt: skip


def _run_of(part: Path | None) -> Run | None:
    """The run in whose folder an audit, evaluation or verification lies, if it can be read."""
    with suppress(ContralensError):
        return None if part is None else final(load(part.parent))
    return None


def _head(text: str) -> Part:
    return {"kind": "head", "text": text}


def _line(text: str, soft: bool = False) -> Part:
    return {"kind": "line", "text": text, "soft": soft}


def _grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Part:
    return {"kind": "grid", "head": head, "rows": list(rows)}


def _mean(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else f"{number(row['mean'])} ({number(row['low'])} to {number(row['high'])})"
