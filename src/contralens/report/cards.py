"""One neuron of the report: its label, what contrast changed, its exemplars above their contrasts, all scorers."""

from __future__ import annotations

import base64
import math
from html import escape
from typing import Any

from contralens.data.runs import Run
from contralens.report.answers import answer, because, corrected, rates, tested, trust
from contralens.report.origin import MARK, is_proposed, origin
from contralens.specs import gamma_of

CONCEPTS = 5


class Pictures:
    """The thumbnails that a page shows, each once, by number."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._fingerprints = run.images["fingerprint"]
        self._numbers: dict[str, int | None] = {}
        self._jpegs: list[bytes] = []

    def place(self, image: int) -> int | None:
        """The number of an image's thumbnail, None where the run has none."""
        fingerprint = str(self._fingerprints[image].as_py())
        if fingerprint not in self._numbers:
            jpeg = self._run.thumbnail(image)
            self._numbers[fingerprint] = None if jpeg is None else len(self._jpegs)
            if jpeg is not None:
                self._jpegs.append(jpeg)
        return self._numbers[fingerprint]

    def encoded(self) -> list[str]:
        return [base64.b64encode(jpeg).decode() for jpeg in self._jpegs]


def contrast_pair(run: Run) -> tuple[str | None, str | None]:
    """The scorers that show what contrast changes: without it, and with it; None where the run lacks either."""
    plain = [s for s in run.scorers if gamma_of(s) == 0]
    without = next((s for s in (*plain, "semanticlens") if s in run.scorers), None)
    contrasted = [s for s in run.scorers if gamma_of(s) is not None and s != without]
    if without is None or not contrasted:
        return None, None
    primary = str(run.manifest["primary"])
    return without, primary if primary in contrasted else "csp" if "csp" in contrasted else contrasted[-1]


def card(run: Run, neuron: int, pairs: int, pictures: Pictures, without: str | None, contrasted: str | None) -> str:
    """One neuron as an HTML section."""
    found = run.neuron(neuron)
    labels = found["labels"]
    primary = labels[run.manifest["primary"]]
    best = primary["label"]
    score = f'<span class="score">{number(primary["score"])}</span>' if best is not None else ""
    rows = [labels[scorer] for scorer in order(run)]
    return "".join(
        [
            f'<section class="neuron" id="n{neuron}">\n<div class="head"><div><h3>{escape(found["name"])}</h3>',
            f'<p class="title">{escape(answer(primary))} {score}</p>',
            f'<p class="trust">{_trust(primary)}</p>' if trust(primary) else "",
            _tested(primary),
            f'<p class="numbers">{_numbers(found)}</p></div>{_histogram(found)}</div>\n',
            _proposals(run, neuron, best),
            _change(labels[without], labels[contrasted]) if without and contrasted else "",
            '<ol class="pairs">',
            *(pair(run, found, row, pictures) for row in found["exemplars"][:pairs] if row["positive"] >= 0),
            '</ol>\n<div class="scorers">',
            *(_scorer(run, row, best, row is primary) for row in rows),
            '</div>\n<p class="back"><a href="#overview">↑ all neurons</a></p></section>',
        ]
    )


def _trust(row: dict[str, Any]) -> str:
    """How likely the label is right, and why."""
    return f"Confidence <b>{escape(trust(row))}</b>: {escape(because(row))}"


def _tested(row: dict[str, Any]) -> str:
    """What an experiment on the label came to."""
    if not (said := tested(row)):
        return ""
    return f'<p class="trust"><b class="outcome {row["verified"]}">{row["verified"]}</b> {escape(said)}</p>'


def _proposals(run: Run, neuron: int, label: str | None) -> str:
    """Where the label came from, and what was proposed for the neuron."""
    lines = [escape(came)] if (came := origin(run, neuron, label)) else []
    if named := list(dict.fromkeys(row["concept"] for row in run.proposals(neuron))):
        lines.append(f"Proposed for this neuron: {escape(', '.join(named))}")
    return f'<p class="origin">{"<br>".join(lines)}</p>\n' if lines else ""


def _mark(run: Run, concept: str) -> str:
    return (
        f'<b class="proposed" title="proposed, not in the vocabulary">{MARK}</b>' if is_proposed(run, concept) else ""
    )


def _numbers(found: dict[str, Any]) -> str:
    return (
        f"mean {number(found['mean'])} · max {number(found['maximum'])} · fires on {found['firing_rate']:.1%} of images"
    )


def _histogram(found: dict[str, Any]) -> str:
    """How activations are spread: bins below the mean, where contrasts come from, in the contrasts' colour."""
    counts = found.get("histogram") or []
    low, high, mean = found["minimum"], found["maximum"], found["mean"]
    if not counts or not all(map(math.isfinite, (low, high, mean))) or high <= low:
        return ""
    highest = max(math.sqrt(c) for c in counts) or 1
    width = 160 / len(counts)
    bars = []
    for i, count in enumerate(counts):
        height = max(1.0, 38 * math.sqrt(count) / highest)
        below = low + (i + 0.5) * (high - low) / len(counts) < mean
        if count:
            bars.append(
                f'<rect class="{"contrast" if below else "positive"}" x="{i * width:.2f}" y="{40 - height:.2f}" '
                f'width="{width - 0.8:.2f}" height="{height:.2f}"/>'
            )
    at = 160 * (mean - low) / (high - low)
    return (
        '<figure class="histogram"><svg viewBox="0 0 160 40" preserveAspectRatio="none" role="img" '
        f'aria-label="Histogram of activations">{"".join(bars)}<line x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="40"/></svg>'
        f"<figcaption><span>{number(low)}</span><span>√ counts; dashed: mean</span>"
        f"<span>{number(high)}</span></figcaption></figure>"
    )


def _change(without: dict[str, Any], contrasted: dict[str, Any]) -> str:
    before, after = (row["best"] if row["label"] is not None else None for row in (without, contrasted))
    if before is None or after is None:
        return ""
    top = [row["concepts"][:CONCEPTS] for row in (without, contrasted)]
    left = ", ".join(c for c in top[0] if c not in top[1])
    entered = ", ".join(c for c in top[1] if c not in top[0])
    moves = f'<span class="left">left the top {CONCEPTS}: {escape(left)}</span> ' if left else ""
    moves += f'<span class="entered">entered: {escape(entered)}</span>' if entered else ""
    same = before == after
    return (
        f'<div class="change {"same" if same else "changed"}">'
        f'<p class="what">Contrast {"kept" if same else "changed"} the label</p><p class="move">'
        f'<span class="from"><small>{escape(_gamma(without["scorer"]))}</small> {escape(before)}</span>'
        f'<span class="arrow">{"=" if same else "→"}</span>'
        f'<span class="to"><small>{escape(_gamma(contrasted["scorer"]))}</small> {escape(after)}</span></p>'
        f'<p class="moves">{moves}</p></div>\n'
    )


def _gamma(scorer: str) -> str:
    """A scorer by what its gamma is, since that is what the two beside each other differ in.

    >>> _gamma("csp"), _gamma("csp:gamma=0"), _gamma("semanticlens")
    ('csp, γ = 1', 'csp, γ = 0', 'semanticlens')
    """
    gamma = gamma_of(scorer)
    return scorer if gamma is None else f"csp, γ = {gamma:g}"


def pair(run: Run, found: dict[str, Any], row: dict[str, Any], pictures: Pictures) -> str:
    """An exemplar above its contrast, as a list item."""
    low = min(0.0, found["minimum"])
    span = found["maximum"] - low
    sides = []
    for side, value in (("positive", row["activation"]), ("contrast", row["contrast_activation"])):
        image = row[side]
        if image < 0:
            sides.append(f'<div class="{side}"><div class="none">none below the mean</div></div>')
            continue
        if side == "contrast" and image == row["positive"]:
            sides.append('<div class="contrast"><div class="none">itself: below the mean already</div></div>')
            continue
        name = row[f"{side}_id"]
        word = run.images["label"][image].as_py() or name.rpartition("/")[2]
        share = round(100 * max(0, min(1, (value - low) / span))) if span > 0 and math.isfinite(value) else 0
        at = pictures.place(image)
        shown = f'<img data-p="{at}" alt="{escape(name)}">' if at is not None else '<div class="none">no picture</div>'
        sides.append(
            f'<div class="{side}" title="{escape(name)}">{shown}<span class="bar"><i class="w{share}"></i></span>'
            f'<span class="value">{number(value)}</span><span class="id">{escape(word)}</span></div>'
        )
    cosine = f"cos {row['similarity']:.2f}" if math.isfinite(row["similarity"]) else "no contrast"
    return f'<li>{sides[0]}<span class="cos">{cosine}</span>{sides[1]}</li>'


def _scorer(run: Run, row: dict[str, Any], best: str | None, primary: bool) -> str:
    said = "; ".join(filter(None, [corrected(row) or rates(row), "" if primary else tested(row)]))
    told = f'<p class="rates">{escape(said)}</p>' if said else ""
    if row["label"] is None:
        body = f"<p>{escape(answer(row))}</p>{told}"
    else:
        items = (
            f"<li{' class=best' if concept == best else ''}><span>{escape(concept)}{_mark(run, concept)}</span>"
            f"<span>{number(score)}</span></li>"
            for concept, score in list(zip(row["concepts"], row["scores"], strict=True))[:CONCEPTS]
        )
        body = f"<ol>{''.join(items)}</ol>{told}"
    mark = " <span>primary</span>" if primary else ""
    return f'<div class="scorer{" primary" if primary else ""}"><h4>{escape(row["scorer"])}{mark}</h4>{body}</div>'


def order(run: Run) -> list[str]:
    """The scorers, the primary first."""
    return sorted(run.scorers, key=lambda scorer: scorer != run.manifest["primary"])


def number(value: float | None) -> str:
    """Three digits or so, in a form that lines up in columns; a dash for what is undefined.

    >>> [number(v) for v in (0.123456, 4, 12345.6, -0.5, 0, 0.0002, float("nan"), None)]
    ['0.123', '4.00', '12,346', '-0.500', '0', '2.0e-04', '–', '–']
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size < 0.001:
        return f"{value:.1e}" if size else "0"
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.9995 else 3}f}"
