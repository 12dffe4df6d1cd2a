"""The HTML page of a contrast between two classes: one file without a script, that asks nobody for anything."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

from contralens.data.class_contrasts import ClassContrast
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.pages import render
from contralens.report.cards import picture
from contralens.report.html import write_page

PAIRS = 10
FIRST = 4
"""Neurons that are above the table, with their pictures."""


def write_contrast_page(run: Run, found: ClassContrast, out: str | Path | None = None, *, most: int = 25) -> Path:
    """Write the page of a contrast and return where it lies: `out`, or contrast-A-B.html in the run's folder.

    Args:
        run: the run that was asked.
        found: what `contralens.contrast_classes` returned.
        out: the file.
        most: neurons in the table; those described in words all have pictures.

    Raises:
        InputError: no place to write to.

    >>> import contralens
    >>> found = contralens.contrast_classes("run", "striped", "dotted", words=True)
    >>> write_contrast_page(contralens.load("run"), found).as_posix()
    'run/contrast-striped-dotted.html'
    """
    if out is None and run.path is None:
        raise InputError("this run was never saved; give a file for the page")
    names = (re.sub(r"\W+", "_", found.manifest[side].replace("*", "rest")).strip("_") or side for side in ("a", "b"))
    path = Path(out) if out is not None else Path(str(run.path)) / f"contrast-{'-'.join(names)}.html"
    write_page(path, contrast_page(found, most), run)
    return path


def contrast_page(found: ClassContrast, most: int = 25) -> str:
    """The page as text."""
    m, places = found.manifest, {image: at for at, image in enumerate(found.pictures)}
    rows = [{**row, "side": _side(found, row["fires_for"])} for row in found.rows()]
    described = [row for row in rows if row["histogram_a"] is not None]
    intervals = "DeLong's, by group (Obuchowski)" if m["groups"] else "DeLong's"
    return render(
        "contrast.html",
        style=("report.css", "contrast.css"),
        **{name: m[name] for name in ("a", "b", "target", "layer", "fdr", "scorer", "tested")},
        version=m["contralens"],
        most=most,
        first=FIRST,
        rows=rows,
        cards=[_card(found, row, places) for row in described],
        pictures=[base64.b64encode(jpeg).decode() for jpeg in found.pictures.values()],
        sides=[
            {"name": m[side], "side": side, "images": m[f"images_{side}"], "count": m["separating"][m[side]],
             "words": m["words"][m[side]], "images_differ": m["images_differ"][m[side]]}
            for side in ("a", "b")
        ],
        facts=[
            ("Classes from", m["source"]), ("Encoder", m["encoder"]),
            ("Intervals", f"{intervals}; rank-sum test, false-discovery rate {m['fdr']:g} over neurons"),
        ],
        warnings=m["notes"],
    )  # fmt: skip


def _side(found: ClassContrast, name: str | None) -> str:
    return "a" if name == found.manifest["a"] else "b"


def _card(found: ClassContrast, row: dict[str, Any], places: dict[int, int]) -> dict[str, Any]:
    def side(image: int, value: float, which: str) -> dict[str, Any]:
        if image < 0:
            return {"side": which, "id": "", "none": "none that does not activate it"}
        return picture(row, which, found.ids[image], places.get(image), value)

    pairs = [
        {"positive": side(pair["positive"], pair["activation"], "positive"),
         "contrast": side(pair["contrast"], pair["contrast_activation"], "contrast"),
         "cosine": f"cos {pair['similarity']:.2f}" if math.isfinite(pair["similarity"]) else "no contrast"}
        for pair in found.pairs_of(row["neuron"])[:PAIRS]
    ]  # fmt: skip
    film = [
        {"side": _side(found, frame["side"]), "word": frame["side"], "id": found.ids[frame["image"]],
         "at": places.get(frame["image"]), "value": frame["activation"]}
        for frame in found.film_of(row["neuron"])
    ]  # fmt: skip
    return {**row, "others": (row["concepts"] or [])[1:], "bars": _bars(row), "rows": pairs, "film": film}


def _bars(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The two histograms side by side in a field of 160 by 40, by the roots of the shares."""
    shares = {side: [n / max(1, sum(row[f"histogram_{side}"])) for n in row[f"histogram_{side}"]] for side in "ab"}
    highest = math.sqrt(max(max(some, default=0) for some in shares.values())) or 1.0
    width = 160 / max(1, len(shares["a"]))
    return [
        {"side": side, "x": i * width + (0 if side == "a" else width / 2), "width": width / 2 - 0.3,
         "height": 38 * math.sqrt(share) / highest}
        for side in "ab" for i, share in enumerate(shares[side]) if share
    ]  # fmt: skip
