"""One neuron as a picture to share: its label before and after contrast, exemplars above contrasts, and how sure it is.

1200 by 630 pixels, the size at which links are previewed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from contralens.checks import whole
from contralens.data.answers import answer
from contralens.data.contrast_changes import changes, contrast_pair
from contralens.data.final_labels import final
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.pages import number
from contralens.types import word_of

WIDTH, HEIGHT, EDGE, GAP = 1200, 630, 48, 12
MOST_PAIRS = 10
ARROW = 72
LIGHT = {"paper": "#ffffff", "ink": "#1c1d22", "soft": "#62656f", "line": "#e4e2dd"}
DARK = {"paper": "#16181c", "ink": "#ececef", "soft": "#9a9da8", "line": "#2e3138"}
BLUE, ORANGE, GREEN, AMBER = "#2f7bf0", "#d3651a", "#1f8a3b", "#b58a12"
COLOURS = {"supported": BLUE, "uncertain": AMBER, "unsupported": ORANGE, "verified": GREEN, "refuted": ORANGE}
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
"""Tried for writing that Pillow's own font lacks."""


def card(run: Run, neuron: int | str | None = None, pairs: int = 6, dark: bool = False) -> Image.Image:
    """One neuron of a run as a picture, 1200 by 630.

    Args:
        run: a finished run.
        neuron: its index or name; by default the one that contrast changes most clearly, or else the first labeled one.
        pairs: exemplars that are shown, from the first.
        dark: light writing on dark ground.

    Raises:
        InputError: the run has no such neuron, or no labeled one.

    >>> from contralens.data.runs import load
    >>> card(load("run"), "block3/5", pairs=4).size
    (1200, 630)
    """
    pairs = whole("pairs", pairs, 1, MOST_PAIRS)
    run = final(run)
    found = run.neuron(chosen(run) if neuron is None else neuron)
    look = DARK if dark else LIGHT
    image = Image.new("RGB", (WIDTH, HEIGHT), look["paper"])
    pen = ImageDraw.Draw(image)
    m = run.manifest
    _write(pen, (EDGE, 30), f"{found['name']}  ·  {m['target']['name']} {m['target']['layer']}", 22, look["soft"], 720)
    _write(pen, (WIDTH - EDGE, 30), "contralens", 22, look["soft"], anchor="ra")
    _heading(pen, run, found, look)
    _pictures(image, pen, run, found, pairs, look)
    said = (
        f"{m['images']['count']:,} images, {run.concepts.num_rows:,} concepts, {m['encoder']['name']}, {m['primary']}"
    )
    _write(pen, (EDGE, HEIGHT - 40), said, 18, look["soft"], WIDTH - 2 * EDGE)
    return image


def stacked(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width, one below the other."""
    if len(images) == 1:
        return images[0]
    out = Image.new("RGB", (images[0].width, sum(image.height for image in images)))
    top = 0
    for image in images:
        out.paste(image, (0, top))
        top += image.height
    return out


def png(image: Image.Image) -> bytes:
    """The picture as a PNG file."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def chosen(run: Run) -> int:
    """The neuron that contrast changes most clearly, or else the first labeled one."""
    if changed := changes(run):
        return changed[0].neuron
    for row in run.rows():
        if row["label"] is not None:
            return int(row["neuron"])
    raise InputError("no neuron of the run has a label; name the neuron to show")


def _heading(pen: ImageDraw.ImageDraw, run: Run, found: Mapping[str, Any], look: Mapping[str, str]) -> None:
    """The label, after the one that contrast replaced; below, how sure it is and what an experiment came to."""
    row = found["labels"][run.manifest["primary"]]
    without, contrasted = contrast_pair(run)
    old = found["labels"][without]["label"] if without and contrasted == run.manifest["primary"] else None
    changed = old is not None and row["label"] is not None and old != row["label"]
    texts = [str(old), answer(row)] if changed else [answer(row)]
    size, room, x = 52, WIDTH - 2 * EDGE - ARROW * changed, float(EDGE)
    while size > 24 and sum(_length(text, size) for text in texts) > room:
        size -= 2
    if changed:
        end = _write(pen, (x, 66), texts[0], size, ORANGE, room / 2)
        middle = 66 + size * 0.62
        pen.line((x, middle, end, middle), ORANGE, 3)
        x = end + ARROW
        pen.line((end + 18, middle, x - 20, middle), look["soft"], 4)
        pen.polygon(((x - 16, middle), (x - 30, middle - 9), (x - 30, middle + 9)), look["soft"])
    _write(pen, (x, 66), texts[-1], size, look["ink"], WIDTH - EDGE - x, bold=True)
    x, y = float(EDGE), 136
    if (sure := row.get("confidence")) is not None:
        word = word_of(sure)
        pen.rounded_rectangle((x, y + 8, x + 160, y + 20), 6, look["line"])
        pen.rounded_rectangle((x, y + 8, x + max(12, 160 * sure), y + 20), 6, COLOURS.get(word, BLUE))
        x = 24 + _write(pen, (x + 172, y), f"{math.floor(100 * sure) / 100:.2f} {word}", 22, look["ink"])
    if (tested := row.get("verified")) in ("verified", "refuted"):
        _write(pen, (x, y), f"{tested} by experiment", 22, COLOURS[tested], bold=True)


def _pictures(
    image: Image.Image,
    pen: ImageDraw.ImageDraw,
    run: Run,
    found: Mapping[str, Any],
    pairs: int,
    look: Mapping[str, str],
) -> None:
    """The exemplars with their activations, in a row above their contrasts with theirs."""
    rows = [row for row in found["exemplars"] if row["positive"] >= 0][:pairs]
    side = min(140, (WIDTH - 2 * EDGE + GAP) // pairs - GAP)
    sides = (
        ("positive", "activation", BLUE, "Images that activate it most, with the activation"),
        ("contrast", "contrast_activation", ORANGE, "Their contrasts: the most similar images that activate it little"),
    )
    for at, (which, value, colour, title) in enumerate(sides):
        top = 208 + at * 200
        _write(pen, (EDGE, top - 28), title, 18, colour)
        for column, row in enumerate(rows):
            x = EDGE + column * (side + GAP)
            jpeg = run.thumbnail(row[which]) if row[which] >= 0 else None
            pen.rounded_rectangle((x, top, x + side, top + side), 8, look["line"])
            if jpeg is not None and not (which == "contrast" and row["contrast"] == row["positive"]):
                small = Image.open(io.BytesIO(jpeg)).convert("RGB")
                small = small.resize(_fitted(small.size, side), Image.Resampling.LANCZOS)
                image.paste(small, (x + (side - small.width) // 2, top + (side - small.height) // 2))
                _write(pen, (x + side / 2, top + side + 6), number(row[value]), 18, colour, anchor="ma")
            else:
                _write(pen, (x + side / 2, top + side / 2), "none", 18, look["soft"], anchor="mm")


def _fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _write(
    pen: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, colour: str, room: float = math.inf, *,
    anchor: str = "la", bold: bool = False,
) -> float:  # fmt: skip
    """Write a line, cut to the room that it has; returns where it ends."""
    text = " ".join(text.split())
    if _length(text, size) > room:
        while len(text) > 1 and _length(text + "…", size) > room:
            text = text[:-1]
        text += "…"
    pen.text(at, text, colour, _font(size, _plain(text)), anchor=anchor, stroke_width=size / 60 if bold else 0)
    return at[0] + _length(text, size)


def _length(text: str, size: int) -> float:
    return float(_font(size, _plain(text)).getlength(text))


def _plain(text: str) -> bool:
    """Whether Pillow's own font can write it."""
    return all(ord(letter) < 127 or letter in "…·“”" for letter in text)


@cache
def _font(size: int, plain: bool) -> Any:
    for name in () if plain else FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
