"""What stands around the cards: how the numbers were got, the table's controls, what the pictures mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from contralens.data.answers import NO_LABEL, abstentions, experiments, notes
from contralens.data.runs import Run
from contralens.pages import number
from contralens.report.concept_origin import asked, seen_as

REASONS = {
    "dead": "never active",
    "constant": "the same on every image",
    "nan": "no finite activation",
    "not selected": "not among the neurons chosen",
    "chance": NO_LABEL,
    "corrected": "label corrected by a person",
}
"""What a status of a neuron without a label means."""


def header(run: Run, rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The counts, and how the numbers were got, as pages/report.html shows them."""
    m = run.manifest
    target, images = m["target"], m["images"]
    judged = [row[5] for row in rows if row[5] is not None]
    tiles = [(f"{sum(row[3][0] is not None for row in rows):,}", f"of {target['neurons']:,} neurons labeled")]
    if judged:
        share = f"{sum(judged) / len(judged):.0%}"
        tiles.append((share, f"of labels changed by contrast ({sum(judged):,} of {len(judged):,})"))
    tiles += [(f"{images['count']:,}", "probe images"), (f"{run.concepts.num_rows:,}", "concepts to choose from")]
    failed = (m.get("candidates") or {}).get("errors", [])
    return {
        "tiles": tiles,
        "facts": _facts(run),
        "more": _more(run),
        "notes": notes(m),
        "details": [
            ("Skipped images", [f"{s['id']}: {s['reason'].removeprefix(s['id'] + ': ')}" for s in images["skipped"]]),
            ("Neurons without a candidate", [f"{e['name']}: {e['error']}" for e in failed]),
            ("Null tests of the other scorers", null_tests(run)[1]),
            ("Notes on the vocabulary", _lines(m["vocabulary"].get("report"))),
            ("To reproduce these numbers", [
                f"contralens {m['contralens']}",
                *(f"{name} {value}" for name, value in m.get("versions", {}).items()),
                f"seed {m.get('seed')}",
                *(
                    f"{name}: fingerprint {m[name]['fingerprint']}"
                    for name in ("target", "encoder", "images") if m[name].get("fingerprint")
                ),
            ]),
        ],
    }  # fmt: skip


def _facts(run: Run) -> list[tuple[str, str]]:
    """What was looked at, by what."""
    m = run.manifest
    encoder, images, vocabulary = (m[k] for k in ("encoder", "images", "vocabulary"))
    pairing = "images may be contrasts of several exemplars" if m.get("reuse", True) else "no image is a contrast twice"
    if m.get("exclude") is not None:
        pairing += f", none above cosine {number(m['exclude'])}"
    templates = ", ".join(f"“{t}”" for t in m["templates"][:3])
    if len(m["templates"]) > 3:
        templates += f" and {len(m['templates']) - 3} more"
    skipped = f"{len(images['skipped']):,} skipped (listed below)" if images["skipped"] else "none skipped"
    facts = [
        ("Probe images", f"{images['name']}: {images['count']:,} used, {skipped}"),
        ("Encoder", f"{encoder['name']}, width {encoder['width']:,}"),
        ("Vocabulary", f"{vocabulary['source']}: {vocabulary['concepts']:,} concepts, asked as {templates}"),
        ("Exemplars", f"the {m['k']} {seen_as(m)}; {pairing}"),
    ]
    if came := asked(run):
        facts.insert(3, ("Candidates", came))
    return facts


def _more(run: Run) -> list[tuple[str, list[str]]]:
    """Which neurons have no label, and how the null test went."""
    skipped = run.manifest["neurons"]["skipped"].items()
    without = ", ".join(f"{count:,} {status} ({REASONS.get(status, 'no label')})" for status, count in skipped)
    said = [
        ("Without a label", [without]), ("Null test", null_tests(run)[0]), ("Experiments", [experiments(run)]),
    ]  # fmt: skip
    return [(name, lines) for name, lines in said if any(lines)]


def null_tests(run: Run) -> tuple[list[str], list[str]]:
    """How the null test went, of the primary scorer and of the others."""
    lines = abstentions(run)
    own = [line for line in lines if line.startswith(f"null test of {run.manifest['primary']}: {NO_LABEL}")]
    return own, [line for line in lines if line not in own]


def table(rows: Sequence[Sequence[Any]]) -> dict[str, Any]:
    """The controls of the table of all neurons: statuses, and labels that several have."""
    labels = Counter(row[3][0] for row in rows if row[3][0] is not None)
    frequent = sorted(((label, n) for label, n in labels.items() if n > 1), key=lambda x: (-x[1], x[0]))[:12]
    statuses = sorted(Counter(row[2] for row in rows).items(), key=lambda x: (x[0] != "ok", x[0]))
    return {"frequent": frequent, "statuses": statuses}


def shown_cards(run: Run, shown: int, pairs: int) -> dict[str, Any]:
    """Which neurons are shown with pictures, and how many pairs of each."""
    labeled, k = int(run.manifest["neurons"]["labeled"]), int(run.manifest["k"])
    which = f"{shown:,} of {labeled:,} labeled neurons, evenly spread over the layer so that the file stays small,"
    if shown == labeled:
        which = "The labeled neuron" if shown == 1 else f"All {labeled:,} labeled neurons"
    first = f"the first {pairs} of {k} pairs each" if pairs < k else "all pairs"
    return {"labeled": labeled, "which": which, "first": first, "proposed": bool(asked(run))}


def _lines(report: Any) -> list[str]:
    if isinstance(report, dict):
        return [f"{key}: {value}" for key, value in report.items()]
    return [str(line) for line in report or []]
