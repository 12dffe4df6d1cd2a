"""What stands around the cards: how the numbers were got, the table's controls, what the pictures mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from contralens.data.runs import Run
from contralens.report.answers import NO_LABEL, abstentions, experiments, notes
from contralens.report.cards import number
from contralens.report.origin import MARK, asked, seen_as

REASONS = {
    "dead": "never active",
    "constant": "the same on every image",
    "nan": "no finite activation",
    "not selected": "not among the neurons chosen",
    "chance": NO_LABEL,
    "corrected": "the label is a person's",
}
"""What a status of a neuron without a label means."""


def header(run: Run, rows: Sequence[Sequence[Any]]) -> str:
    """The title, the counts, and how the numbers were got."""
    m = run.manifest
    target, encoder, images, vocabulary = (m[k] for k in ("target", "encoder", "images", "vocabulary"))
    skipped = images["skipped"]
    judged = [row[5] for row in rows if row[5] is not None]
    tiles = [(f"{sum(row[3][0] is not None for row in rows):,}", f"of {target['neurons']:,} neurons labeled")]
    if judged:
        share = f"{sum(judged) / len(judged):.0%}"
        tiles.append((share, f"of labels changed by contrast ({sum(judged):,} of {len(judged):,})"))
    tiles += [(f"{images['count']:,}", "probe images"), (f"{run.concepts.num_rows:,}", "concepts to choose from")]
    not_labeled = ", ".join(
        f"{count:,} {escape(status)} ({REASONS.get(status, 'no label')})"
        for status, count in m["neurons"]["skipped"].items()
    )
    pairing = "an image may be the contrast of several" if m.get("reuse", True) else "no image is a contrast twice"
    if m.get("exclude") is not None:
        pairing += f", none above cosine {number(m['exclude'])}"
    templates = ", ".join(f"“{escape(t)}”" for t in m["templates"][:3])
    if len(m["templates"]) > 3:
        templates += f" and {len(m['templates']) - 3} more"
    scorers = (f"<b>{escape(s)}</b> (primary)" if s == m["primary"] else escape(s) for s in run.scorers)
    facts = [
        (
            "Network",
            f"{escape(target['name'])}, <b>{escape(target['layer'])}</b>, pooling: {escape(target['pooling'])}",
        ),
        ("Probe images", f"{escape(images['name'])}: {images['count']:,} used, {_skipped(len(skipped))}"),
        ("Encoder", f"{escape(encoder['name'])}, width {encoder['width']:,}"),
        ("Vocabulary", f"{escape(vocabulary['source'])}: {vocabulary['concepts']:,} concepts, asked as {templates}"),
        ("Exemplars", f"the {m['k']} {seen_as(m)}; {pairing}"),
        ("Scorers", ", ".join(scorers)),
    ]
    if came := asked(run):
        facts.insert(4, ("Candidates", escape(came)))
    if not_labeled:
        facts.append(("Without a label", not_labeled))
    if told := abstentions(run):
        facts.append(("Null test", "<br>".join(map(escape, told))))
    if said := experiments(run):
        facts.append(("Experiments", escape(said)))
    failed = (m.get("candidates") or {}).get("errors", [])
    return "".join(
        [
            '<header class="top"><p class="brand">contralens <span>neuron report</span></p>',
            f'<h1>{escape(target["name"])} <span>{escape(target["layer"])}</span></h1>\n<ul class="tiles">',
            *(f"<li><b>{value}</b> {text}</li>" for value, text in tiles),
            '</ul>\n<dl class="facts">',
            *(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts),
            "</dl>\n",
            "".join(f'<p class="note">{escape(note)}</p>' for note in notes(m)),
            _details("Skipped images", [f"{s['id']}: {s['reason'].removeprefix(s['id'] + ': ')}" for s in skipped]),
            _details("Neurons without a candidate", [f"{e['name']}: {e['error']}" for e in failed]),
            _details("Remarks on the vocabulary", _lines(vocabulary.get("report"))),
            _details(
                "To get these numbers again",
                [
                    f"contralens {m['contralens']}",
                    *(f"{name} {value}" for name, value in m.get("versions", {}).items()),
                    f"seed {m.get('seed')}",
                    *(f"{name}: fingerprint {m[name]['fingerprint']}" for name in ("target", "encoder", "images")),
                ],
            ),
            "</header>",
        ]
    )


def _skipped(count: int) -> str:
    return f"{count:,} skipped (listed below)" if count else "none skipped"


def _lines(report: Any) -> list[str]:
    if isinstance(report, dict):
        return [f"{key}: {value}" for key, value in report.items()]
    return [str(line) for line in report or []]


def _details(title: str, lines: Sequence[str], most: int = 500) -> str:
    if not lines:
        return ""
    more = f"<li>and {len(lines) - most:,} more, in manifest.json</li>" if len(lines) > most else ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines[:most])
    return f"<details><summary>{title} <span>{len(lines):,}</span></summary><ul>{items}{more}</ul></details>\n"


def overview(rows: Sequence[Sequence[Any]]) -> str:
    """The table of all neurons, to be filled by the script, and its controls."""
    labels = Counter(row[3][0] for row in rows if row[3][0] is not None)
    frequent = sorted(((n, label) for label, n in labels.items() if n > 1), key=lambda x: (-x[0], x[1]))[:12]
    chips = "".join(
        f'<button type="button" class="chip" data-find="{escape(label)}">{escape(label)} <span>{n:,}</span></button>'
        for n, label in frequent
    )
    statuses = "".join(
        f'<option value="{escape(status)}">{escape(status)} ({count:,})</option>'
        for status, count in sorted(Counter(row[2] for row in rows).items(), key=lambda x: (x[0] != "ok", x[0]))
    )
    frequent_labels = f'<div class="chips"><span>Frequent labels</span>{chips}</div>\n' if chips else ""
    return f"""<main>
<section class="overview" id="overview"><h2>All neurons</h2>
<div class="controls">
<input type="search" id="find" placeholder="Find a neuron or a label" aria-label="Find a neuron or a label">
<select id="status" aria-label="Status"><option value="">any status</option>{statuses}</select>
<label id="changed-only"><input type="checkbox" id="changed"> changed by contrast</label></div>
{frequent_labels}<div class="scroll"><table><thead id="head"></thead><tbody id="rows"></tbody></table></div>
<p class="more"><span id="count" role="status"></span> <button type="button" id="more">Show more</button></p>
<noscript><p class="note">The table and the pictures need JavaScript, which is switched off here.</p></noscript>
</section>"""


def about_cards(run: Run, shown: int, pairs: int) -> str:
    """What is shown with pictures, and how to read it."""
    labeled, k = int(run.manifest["neurons"]["labeled"]), int(run.manifest["k"])
    if not shown:
        return f'<p class="lead">No neuron {"is shown with pictures" if labeled else "has a label"}.</p>'
    which = f"{shown:,} of {labeled:,} labeled neurons, evenly spread over the layer so that the file stays small,"
    if shown == labeled:
        which = "The labeled neuron" if shown == 1 else f"All {labeled:,} labeled neurons"
    first = f"the first {pairs} of {k} pairs each" if pairs < k else "all pairs"
    marked = f" {MARK} marks concepts that were proposed and are not in the vocabulary." if asked(run) else ""
    return f"""<section class="lead"><h2>Neurons with their evidence</h2>
<p>{which} with {first}. The <b class="positive">upper row</b> holds the images that activate the neuron most. Below
each stands its <b class="contrast">contrast</b>: the image most like it, to the encoder, among those that activate the
neuron less than its mean. What the two share is hardly what the neuron responds to, and CSP subtracts it before naming.
Bars are activations, on one scale for each neuron; cos is the cosine between the two images.{marked}</p></section>"""


def footer(run: Run) -> str:
    """What a label is worth, and where the method comes from."""
    source = escape(run.path.name if run.path else "a run")
    return f"""</main>
<footer><p>Written by contralens {escape(str(run.manifest["contralens"]))} from {source}. Method: Bouanani et al. 2026,
<a href="https://arxiv.org/abs/2604.22477" rel="noreferrer">arXiv 2604.22477</a>. A label is the best match within this
vocabulary to this encoder; it is a hypothesis about the neuron, not a proof.</p></footer>"""
