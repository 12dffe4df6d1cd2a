"""The HTML page of an audit, beside the report of its run: one file without a script, that asks nobody for anything."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from contralens.data.audits import VERDICTS, Audit, load_audit, margin
from contralens.data.final import final
from contralens.data.runs import Run
from contralens.data.verifications import on_verdict, outcomes_of, verification_of
from contralens.errors import InputError
from contralens.report.cards import Pictures, number, pair
from contralens.report.html import shared_style, style_hash, write_page

ABOUT = {
    "spurious": "What the classifier should not look at. The mask takes these out.",
    "expected": "What it should look at.",
    "undecided": "An expected and a spurious concept tie within noise; the mask leaves these alone.",
    "unexplained": "No concept of the list is supported; the nearest one is named.",
}
SHOWN = ("spurious", "expected", "undecided", "unexplained")
"""Verdicts in the order of the page."""
STYLE = """
.verdict {
  display: inline-block; border-radius: 6px; padding: 1px 9px; margin-right: 8px;
  font-size: 13px; font-weight: 600; vertical-align: 3px;
}
.verdict.spurious { background: var(--contrast-soft); color: var(--contrast); }
.verdict.expected { background: var(--positive-soft); color: var(--positive); }
.verdict.undecided { background: var(--well); color: inherit; }
.verdict.unexplained { background: var(--well); color: var(--soft); }
.effects { max-width: 640px; margin: 14px 0 0; }
.conclusion { font-size: 18px; font-weight: 600; margin: 12px 0; max-width: 78ch; }
.part { margin-top: 36px; }
.part > p { color: var(--soft); margin: 4px 0 12px; max-width: 78ch; }
"""


def write_audit_page(
    run: Run, found: Audit | None = None, out: str | Path | None = None, *, most: int = 24, pairs: int = 10
) -> Path:
    """Write the page of a run's audit and return where it lies: `out`, or audit.html in the run's folder.

    Args:
        run: the run, with its thumbnails.
        found: its audit; by default the one in its folder.
        out: the file.
        most: neurons of each verdict shown with pictures, those with the largest margin first; all are counted.
        pairs: exemplars of each, above their contrasts.

    Raises:
        InputError: the run has no audit, or no place to write to.

    >>> import contralens
    >>> found = contralens.audit("run", {"expected": ["striped"], "spurious": ["red"]}, fakes=50, sample=0)
    >>> write_audit_page(contralens.load("run"), found).as_posix()
    'run/audit.html'
    """
    if found is None:
        if run.path is None:
            raise InputError("this run was never saved, so it holds no audit")
        found = load_audit(run.path)
    if out is None and run.path is None:
        raise InputError("this run was never saved; say where the page shall go")
    path = Path(out) if out is not None else Path(run.path or "") / "audit.html"
    write_page(path, audit_page(run, found, most, pairs), run)
    return path


def audit_page(run: Run, found: Audit, most: int = 24, pairs: int = 10) -> str:
    """The page as text."""
    m = found.manifest
    run = final(run)
    pictures = Pictures(run)
    moved: dict[int, list[dict[str, Any]]] = {}
    for row in found.influence.to_pylist():
        moved.setdefault(row["neuron"], []).append(row)
    tested = verification_of(run.path, str(run.manifest["target"]["fingerprint"]))
    experiments = outcomes_of(tested.labels if tested else None)
    parts = [
        _part(run, found, verdict, moved, pictures, most, pairs, experiments) for verdict in ("spurious", "expected")
    ]
    for verdict in ("undecided", "unexplained"):
        parts.append(_part(run, found, verdict, moved, pictures, most // 4, pairs, experiments))
    shown = pictures.encoded()
    body = re.sub(
        r'<img data-p="(\d+)"',
        lambda at: f'<img loading="lazy" src="data:image/jpeg;base64,{shown[int(at[1])]}"',
        "".join(parts),
    )
    style = shared_style() + STYLE
    policy = f"default-src 'none'; img-src data:; style-src {style_hash(style)}; base-uri 'none'; form-action 'none'"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
            f"<title>Audit: {escape(m['concepts']['title'])} – contralens</title>\n<style>{style}</style>\n</head>",
            f"<body>\n{_header(found)}\n{_pruning(found)}\n{_new_head(found)}\n{body}\n{_footer(found)}\n</body>\n</html>\n",
        ]
    )


def _header(found: Audit) -> str:
    m = found.manifest
    tiles = "".join(f"<li><b>{found.counts[v]:,}</b> {v} neurons</li>" for v in SHOWN)
    threshold, told = m["threshold"], m["separation"]
    rule = f"{threshold['fakes']:,} fake neurons, false-discovery rate {threshold['fdr']:g}"
    if threshold["empty"]:
        rule = f"score above the empty template's; {rule}"
    if "confidence" in threshold:
        rule += f", confidence {threshold['confidence']:g}; undecided below {threshold['tie']:g} deviations"
    seen = f"; {told['readable']} pass all checks" if "readable" in told else ""
    facts = [
        ("Network", f"{escape(m['target']['name'])}, <b>{escape(m['target']['layer'])}</b>"),
        ("Concepts", f"{escape(m['concepts']['title'])}: {len(m['concepts']['expected'])} expected, "
                     f"{len(m['concepts']['spurious'])} spurious ({escape(m['concepts']['source'])})"),
        ("Scorer", escape(m["scorer"])),
        ("Encoder", f"{escape(m['encoder']['name'])}; tells {told['told_apart']} of {len(told['concepts'])} concepts "
                    f"apart on these images{seen}"),
        ("Threshold", rule),
        ("Layer", ", ".join(f"{name} {number(value)}" for name, value in m["layer"].items())),
    ]  # fmt: skip
    if m["agreement"]:
        pairs = (f"{escape(pair)}: {number(x['correlation'])}" for pair, x in m["agreement"].items())
        facts.append(("Influence", "correlation of " + "; ".join(pairs)))
    return "".join(
        [
            '<header class="top"><p class="brand">contralens <span>audit</span></p>',
            f"<h1>{escape(m['concepts']['title'])} <span>{escape(m['target']['name'])} "
            f"{escape(m['target']['layer'])}</span></h1>\n{_conclusion(found)}",
            f'<ul class="tiles">{tiles}</ul>\n<dl class="facts">',
            *(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in facts),
            "</dl>\n",
            *(f'<p class="note">{escape(note)}</p>' for note in found.warnings),
            "</header>",
        ]
    )


def _conclusion(found: Audit) -> str:
    first = f'<p class="conclusion">{escape(found.conclusion)}</p>\n' if found.conclusion else ""
    return first + "".join(f"<p>{escape(line)}</p>\n" for line in found.explanation)


def _new_head(found: Audit) -> str:
    head = found.manifest.get("new_head")
    if not head:
        return ""
    names = ("group", "images", "before", "pruned", "new head", "on all neurons", "points", "95 % interval")
    rows = [
        [
            row["group"], f"{row['images']:,}",
            *("–" if row[k] is None else f"{row[k]:.1%}" for k in ("before", "pruned", "after", "all_neurons")),
            *_points(row),
        ]
        for row in head["rows"]
    ]  # fmt: skip
    return (
        '<section class="part"><h2>What a new head does</h2>'
        f"<p>Accuracy on {head['held_out']:,} held-out images of the network, of the pruned network, of a new linear "
        f"head without the {head['left_out']:,} spurious neurons, and of one on all neurons. Fitted on "
        f"{head['fitted_on']:,} other images; points: new head minus before, with a paired bootstrap interval over "
        "images.</p>"
        f'<div class="scroll">{_table(names, rows, 1)}</div></section>'
    )


def _pruning(found: Audit) -> str:
    if not found.pruning.num_rows:
        return ""
    m = found.manifest
    control = {row["group"]: row for row in found.pruning.to_pylist() if row["mode"] == "random"}
    rows = [
        [
            row["group"], f"{row['images']:,}", f"{row['before']:.1%}", f"{row['after']:.1%}", *_points(row),
            *_points(control[row["group"]]),
        ]
        for row in found.pruning.to_pylist()
        if row["mode"] != "random"
    ]  # fmt: skip
    head = ("group", "images", "before", "after", "points", "95 % interval", "random", "95 % interval")
    done = "switched off" if m["mode"] == "hard" else "turned down"
    return (
        '<section class="part"><h2>What pruning does</h2>'
        f"<p>Accuracy on {escape(str(m['labeled']['name']))}, with the {found.counts['spurious']} spurious neurons "
        f"{done} inside the network, and the change in points. Random: the change where the same factors go to random "
        "neurons, mean of several draws. Intervals: paired bootstrap over images.</p>"
        f'<div class="scroll">{_table(head, rows, 1)}</div></section>'
    )


def _points(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{100 * row['difference']:+.1f}", f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"


def _part(
    run: Run,
    found: Audit,
    verdict: str,
    moved: Mapping[int, Sequence[dict[str, Any]]],
    pictures: Pictures,
    most: int,
    pairs: int,
    experiments: Mapping[tuple[int, str], tuple[str, str]],
) -> str:
    rows = found.rows(verdict)
    named = Counter(row["best"] for row in rows if row["best"])
    counted = ", ".join(f"{escape(name)} {count:,}" for name, count in named.most_common(12))
    more = f" The {most:,} with the largest margin are shown." if len(rows) > most else ""
    cards = "".join(
        _card(run, row, moved.get(row["neuron"], []), pictures, pairs, on_verdict(experiments.get(_key(row))))
        for row in rows[:most]
    )
    return (
        f'<section class="part" id="{verdict}"><h2>{verdict.capitalize()}: {len(rows):,}</h2>'
        f"<p>{ABOUT[verdict]}{more} {counted}</p>{cards}</section>\n"
    )


def _key(row: Mapping[str, Any]) -> tuple[int, str]:
    return int(row["neuron"]), str(row["best"])


def _card(
    run: Run, row: dict[str, Any], moved: Sequence[dict[str, Any]], pictures: Pictures, pairs: int, tested: str
) -> str:
    own = run.neuron(row["neuron"])
    label = own["labels"].get(run.manifest["primary"], {}).get("label")
    numbers = [
        f"confidence {number(row['confidence'])}",
        f"stands out {number(row['z'])} deviations, margin {number(margin(row))} (noise {number(row['noise'])})",
        f"score {number(row['score'])}, empty {number(row['empty'])}",
        f"false-discovery rate {number(row['fdr'])}", f"clarity {number(row['clarity'])}",
        f"redundancy {number(row['redundancy'])}", f"polysemanticity {number(row['polysemanticity'])}",
    ]  # fmt: skip
    if label is not None:
        numbers.insert(0, f"labeled “{escape(label)}”")
    shown = sorted(moved, key=lambda r: -abs(_first(r)))[:6]
    effects = ""
    if shown:
        cells = [[r["class"], *(_signed(r[k]) for k in ("ablation", "gradient", "head"))] for r in shown]
        effects = f'<div class="effects">{_table(("adds to", "ablation", "gradient", "head"), cells, 1)}</div>'
    verdict = row["verdict"]
    told = (row["reason"], tested[:1].upper() + tested[1:])
    why = "".join(f'<p class="numbers">{escape(text)}</p>' for text in told if text)
    return "".join(
        [
            f'<section class="neuron" id="n{row["neuron"]}">\n<div class="head"><div><h3>{escape(own["name"])}</h3>',
            f'<p class="title"><span class="verdict {verdict}">{verdict}</span>{escape(row["best"] or "–")}</p>',
            f'<p class="numbers">{" · ".join(numbers)}</p>{why}</div></div>{effects}<ol class="pairs">',
            *(pair(run, own, exemplar, pictures) for exemplar in own["exemplars"][:pairs] if exemplar["positive"] >= 0),
            "</ol></section>\n",
        ]
    )


def _first(row: Mapping[str, Any]) -> float:
    """What the network itself says of the effect, where that was measured."""
    return next((float(row[k]) for k in ("ablation", "gradient", "head") if row[k] == row[k]), 0.0)


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> str:
    """An HTML table; all columns but the first `words` are numbers."""
    mark = [' class="number"' if i >= words else "" for i in range(len(head))]
    top = "".join(f"<th{mark[i]}>{escape(name)}</th>" for i, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{mark[i]}>{escape(str(cell))}</td>" for i, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _footer(found: Audit) -> str:
    m = found.manifest
    return (
        f"<footer>contralens {escape(m['contralens'])}, seed {m['seed']}, concept list {m['concepts']['fingerprint']}. "
        "The null test compares with images at random: the images of a neuron that passes share something, and of the "
        "list the named concept is nearest to it. Look at the pictures before you believe it. Effects are in units of "
        f"the class score, mean over the images that activate the neuron. Verdicts: {', '.join(VERDICTS)}.</footer>"
    )
