"""The HTML page of a verification: pictures before and after, with what the neuron did. One file without a script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from contralens.data.runs import Run
from contralens.data.verifications import OUTCOMES, Verification, load_verification
from contralens.errors import InputError
from contralens.report.cards import number
from contralens.report.html import shared_style, style_hash, write_page
from contralens.report.verify_tables import effect, summary_lines

ABOUT = {
    "verified": "The neuron falls when the concept is taken out, and rises when it is put in; other edits do less.",
    "refuted": "Taking the concept out, or putting it in, does not do to the neuron what it should.",
    "untested": "Too few edits, or an effect that is neither surely strong nor surely weak.",
}
STYLE = """
.strip { display: flex; flex-wrap: wrap; gap: 18px; margin: 10px 0 0; }
.strip figure { margin: 0; display: flex; align-items: center; gap: 6px; }
.strip img { width: 104px; height: 104px; object-fit: cover; border-radius: 6px; }
.strip figcaption { font-size: 13px; color: var(--soft); max-width: 120px; }
.part { margin-top: 36px; }
.part article { margin-top: 26px; }
.part h3 { font-size: 17px; margin: 0; }
.part > p, .because { color: var(--soft); margin: 4px 0 12px; max-width: 78ch; }
"""
WORDS = {"remove": "taken out", "insert": "put in"}


def write_verify_page(
    run: Run, found: Verification | None = None, out: str | Path | None = None, *, most: int = 60
) -> Path:
    """Write the page of a run's verification and return where it lies: `out`, or verification.html in the run's folder.

    Args:
        run: the run.
        found: its verification; by default the one in its folder.
        out: the file.
        most: labels of each outcome shown with pictures; all are counted.

    Raises:
        InputError: the run has no verification, or no place to write to.

    >>> import contralens
    >>> found = contralens.verify("run", neurons=[0, 1], images=3)
    >>> write_verify_page(contralens.load("run"), found).as_posix()
    'run/verification.html'
    """
    if run.path is None and (found is None or out is None):
        raise InputError("this run was never saved: give its verification, and say where the page shall go")
    found = found or load_verification(str(run.path))
    path = Path(out) if out is not None else Path(str(run.path)) / "verification.html"
    write_page(path, verify_page(found, most), run)
    return path


def verify_page(found: Verification, most: int = 60) -> str:
    """The page as text."""
    style = shared_style() + STYLE
    policy = f"default-src 'none'; img-src data:; style-src {style_hash(style)}; base-uri 'none'; form-action 'none'"
    pictures: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in found.pictures.to_pylist():
        pictures.setdefault((row["neuron"], row["label"]), []).append(row)
    parts = []
    for word in OUTCOMES:
        rows = found.rows(word)
        cards = [_card(row, pictures.get((row["neuron"], row["label"]), [])) for row in rows[:most]]
        more = f"<p>... and {len(rows) - most} more</p>" if len(rows) > most else ""
        parts.append(
            f'<section class="part"><h2>{word.capitalize()} <small>{len(rows)}</small></h2><p>{ABOUT[word]}</p>'
            f"{''.join(cards)}{more}</section>"
        )
    lines = "".join(f"<p>{escape(line)}</p>" for line in summary_lines(found))
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
            f"<title>Labels put to the test – contralens</title>\n<style>{style}</style>\n</head>",
            f"<body>\n<header><h1>Labels put to the test</h1>{lines}</header>\n{''.join(parts)}\n</body>\n</html>\n",
        ]
    )


def _card(row: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]]) -> str:
    removal, insertion = (effect(row[kind], row[f"{kind}_images"]) for kind in ("remove", "insert"))
    return (
        f"<article><h3>{escape(row['name'])}: {escape(row['label'])}"
        f'<span class="outcome {row["outcome"]}">{row["outcome"]}</span></h3>'
        f'<p class="because">{escape(row["reason"])} '
        f"(removal {removal}, insertion {insertion})</p>{strip(pictures)}</article>"
    )


def strip(pictures: Sequence[Mapping[str, Any]]) -> str:
    """Pictures before and after as HTML, with what the neuron did."""
    figures = []
    for picture in pictures:
        images = "".join(
            f'<img loading="lazy" alt="{when}" src="data:image/jpeg;base64,{base64.b64encode(picture[when]).decode()}">'
            for when in ("before", "after")
        )
        told = f"{WORDS[picture['kind']]}: {number(picture['was'])} → {number(picture['became'])}"
        figures.append(f"<figure>{images}<figcaption>{told}</figcaption></figure>")
    return f'<div class="strip">{"".join(figures)}</div>'
