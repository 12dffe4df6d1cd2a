"""One neuron as a picture to share: its label before and after contrast, exemplars above contrasts, and how sure it is.

1200 by 630 pixels, the size at which links are previewed.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from contralens.checks import whole
from contralens.data.answers import answer
from contralens.data.contrast_changes import before_contrast, changes
from contralens.data.final_labels import final
from contralens.data.runs import Run
from contralens.errors import InputError
from contralens.pages import number
from contralens.types import Brief, word_of

WIDTH, HEIGHT, EDGE, GAP = 1200, 630, 48, 12
MOST_PAIRS = 10
ARROW = 72
LIGHT = {"paper": "#ffffff", "ink": "#1c1d22", "soft": "#62656f", "line": "#e4e2dd"}
DARK = {"paper": "#16181c", "ink": "#ececef", "soft": "#9a9da8", "line": "#2e3138"}
BLUE, ORANGE, GREEN, AMBER = "#2f7bf0", "#d3651a", "#1f8a3b", "#b58a12"
COLOURS = {"supported": BLUE, "uncertain": AMBER, "unsupported": ORANGE, "verified": GREEN, "refuted": ORANGE}
FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "Arial.ttf")
"""Tried for writing that is not in Pillow's own font."""


@dataclass(frozen=True, repr=False)
class Card(Brief):
    """What a card shows."""

    title: str
    label: str
    before: str | None
    """The label that contrast replaced; None where it replaced none."""
    confidence: float | None
    outcome: str | None
    """What an experiment came to."""
    pairs: Sequence[tuple[bytes | None, float | None, bytes | None, float | None]]
    """JPEG and activation of an exemplar, then those of its contrast."""
    said: str
    """How it was got, in a line."""


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
    m = run.manifest
    found = run.neuron(chosen(run) if neuron is None else neuron)
    row = found["labels"][m["primary"]]
    labels = {scorer: found["labels"][scorer]["label"] for scorer in run.scorers}

    def side(one: Mapping[str, Any], which: str) -> bytes | None:
        shown = one[which] >= 0 and not (which == "contrast" and one["contrast"] == one["positive"])
        return run.thumbnail(one[which]) if shown else None

    shown = [one for one in found["exemplars"] if one["positive"] >= 0][:pairs]
    return draw(
        Card(
            f"{found['name']}  ·  {m['target']['name']} {m['target']['layer']}", answer(row),
            before_contrast(labels, m["primary"]), row.get("confidence"), row.get("verified"),
            [(side(o, "positive"), o["activation"], side(o, "contrast"), o["contrast_activation"]) for o in shown],
            made_from(m),
        ),
        dark,
    )  # fmt: skip


def made_from(manifest: Mapping[str, Any]) -> str:
    """How a run's labels were got, in a line."""
    images, concepts = manifest["images"]["count"], manifest["vocabulary"]["concepts"]
    return f"{images:,} images, {concepts:,} concepts, {manifest['encoder']['name']}, {manifest['primary']}"


def draw(card: Card, dark: bool = False) -> Image.Image:
    """The picture of a card."""
    look = DARK if dark else LIGHT
    image = Image.new("RGB", (WIDTH, HEIGHT), look["paper"])
    pen = ImageDraw.Draw(image)
    _write(pen, (EDGE, 30), card.title, 22, look["soft"], 860)
    _write(pen, (WIDTH - EDGE, 30), "contralens", 22, look["soft"], anchor="ra")
    _heading(pen, card, look)
    _pictures(image, pen, card, look)
    _write(pen, (EDGE, HEIGHT - 40), card.said, 18, look["soft"], WIDTH - 2 * EDGE)
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


def _heading(pen: ImageDraw.ImageDraw, card: Card, look: Mapping[str, str]) -> None:
    """The label, after the one that contrast replaced; below, how sure it is and what an experiment came to."""
    texts = [card.label] if card.before is None else [card.before, card.label]
    size, room, x = 52, WIDTH - 2 * EDGE - ARROW * (len(texts) - 1), float(EDGE)
    while size > 24 and sum(_length(text, size) for text in texts) > room:
        size -= 2
    if len(texts) > 1:
        end = _write(pen, (x, 66), texts[0], size, ORANGE, room / 2)
        middle = 66 + size * 0.62
        pen.line((x, middle, end, middle), ORANGE, 3)
        x = end + ARROW
        pen.line((end + 18, middle, x - 20, middle), look["soft"], 4)
        pen.polygon(((x - 16, middle), (x - 30, middle - 9), (x - 30, middle + 9)), look["soft"])
    _write(pen, (x, 66), texts[-1], size, look["ink"], WIDTH - EDGE - x, bold=True)
    x, y = float(EDGE), 136
    if (sure := card.confidence) is not None:
        word = word_of(sure)
        pen.rounded_rectangle((x, y + 8, x + 160, y + 20), 6, look["line"])
        pen.rounded_rectangle((x, y + 8, x + max(12, 160 * sure), y + 20), 6, COLOURS.get(word, BLUE))
        x = 24 + _write(pen, (x + 172, y), f"{math.floor(100 * sure) / 100:.2f} {word}", 22, look["ink"])
    if card.outcome in ("verified", "refuted"):
        _write(pen, (x, y), f"{card.outcome} by experiment", 22, COLOURS[card.outcome], bold=True)


def _pictures(image: Image.Image, pen: ImageDraw.ImageDraw, card: Card, look: Mapping[str, str]) -> None:
    """The exemplars with their activations, in a row above their contrasts with theirs."""
    side = min(140, (WIDTH - 2 * EDGE + GAP) // max(1, len(card.pairs)) - GAP)
    rows = (
        (0, BLUE, "Images that activate it most, with the activation"),
        (2, ORANGE, "Their contrasts: the most similar images that activate it little"),
    )
    for at, (place, colour, title) in enumerate(rows):
        top = 208 + at * 200
        _write(pen, (EDGE, top - 28), title, 18, colour)
        for column, pair in enumerate(card.pairs):
            jpeg, value = pair[place : place + 2]
            x = EDGE + column * (side + GAP)
            pen.rounded_rectangle((x, top, x + side, top + side), 8, look["line"])
            if isinstance(jpeg, bytes):
                small = Image.open(io.BytesIO(jpeg)).convert("RGB")
                small = small.resize(_fitted(small.size, side), Image.Resampling.LANCZOS)
                image.paste(small, (x + (side - small.width) // 2, top + (side - small.height) // 2))
                said = number(value) if isinstance(value, (int, float)) else "–"
                _write(pen, (x + side / 2, top + side + 6), said, 18, colour, anchor="ma")
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
