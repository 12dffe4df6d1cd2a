"""Pictures for a vision-language model: grids of images, crops and masks, as JPEG bytes. Needs no torch."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from contralens.errors import InputError

PICTURES_VERSION = "pictures-1"
"""Part of every key of a reply: raise it when the code changes how pictures are made."""
LEAST_CELL = 112
"""Smaller cells lose the detail that labels are about (the paper's code gives an image about 42 px)."""
GAP = 4
_PAPER = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a group of images becomes pictures."""

    kind: Literal["grids", "separate"] = "grids"
    """One picture per group, or one per image for models that read several."""
    cell: int = 224
    """Side of an image in px."""
    columns: int = 0
    """Of a grid; 0 makes it as square as it can be."""

    def __post_init__(self) -> None:
        if self.kind not in ("grids", "separate"):
            raise InputError(f'`layout` must be "grids" or "separate"; got {self.kind!r}')
        if self.cell < LEAST_CELL:
            raise InputError(f"`cell` must be at least {LEAST_CELL} px, so that details can be seen; got {self.cell}")
        if self.columns < 0:
            raise InputError(f"`columns` must be at least 1, or 0 for as square as it can be; got {self.columns}")

    def sizes(self, images: int) -> list[tuple[int, int]]:
        """Width and height of each picture that a group of so many images becomes."""
        if images == 0:
            return []
        if self.kind == "separate":
            return [(self.cell, self.cell)] * images
        across = min(self.columns or math.ceil(math.sqrt(images)), images)
        down = math.ceil(images / across)
        return [(across * (self.cell + GAP) - GAP, down * (self.cell + GAP) - GAP)]

    def render(self, images: Sequence[Image.Image]) -> list[bytes]:
        """The pictures of a group as JPEG files."""
        cells = [fit(image, self.cell) for image in images]
        if self.kind == "separate" or not cells:
            return [jpeg(cell) for cell in cells]
        canvas = Image.new("RGB", self.sizes(len(cells))[0], _PAPER)
        across = (canvas.width + GAP) // (self.cell + GAP)
        for i, cell in enumerate(cells):
            canvas.paste(cell, (i % across * (self.cell + GAP), i // across * (self.cell + GAP)))
        return [jpeg(canvas)]

    def about(self, images: int) -> str:
        """The instruction before the pictures."""
        if images == 0:
            return "(no image)"
        if images == 1:
            return "(one image)"
        return f"({images} images)" if self.kind == "separate" else f"({images} images, side by side in one picture)"


def fit(image: Image.Image, side: int) -> Image.Image:
    """The whole image within a white square, enlarged or reduced, proportions kept."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    if size == (side, side):
        return small
    canvas = Image.new("RGB", (side, side), _PAPER)
    canvas.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


def jpeg(image: Image.Image) -> bytes:
    """JPEG bytes of high quality, colours at full resolution."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=92, subsampling=0)
    return out.getvalue()


# --- where a neuron fires ---


@dataclass(frozen=True, slots=True)
class Heat:
    """How strongly a neuron fires over an image."""

    values: NDArray[np.float32]
    """(H,W), coarse."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the part of the image that `values` covers, in its pixels."""


def crop_to(image: Image.Image, heat: Heat, share: float = 0.5, least: float = 1 / 3) -> Image.Image:
    """The smallest box around all places with at least `share` of the peak, no side below `least` of the image's."""
    box = crop_box(image.size, heat, share, least)
    return image if box is None else image.crop(box)


def crop_box(
    size: tuple[int, int], heat: Heat, share: float = 0.5, least: float = 1 / 3
) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of what `crop_to` keeps of an image of this size; None for all of it.

    >>> crop_box((90, 90), Heat(np.eye(3, dtype=np.float32)[:, :1], (0, 0, 90, 90)))
    (0, 0, 90, 30)
    """
    peak = heat.values.max()
    hot = heat.values >= share * peak
    if not peak > 0 or not hot.any():
        return None
    left, top, right, bottom = heat.box
    high, wide = heat.values.shape
    rows, columns = np.flatnonzero(hot.any(1)), np.flatnonzero(hot.any(0))
    x = _widen(
        left + columns[0] / wide * (right - left), left + (columns[-1] + 1) / wide * (right - left), size[0], least
    )
    y = _widen(top + rows[0] / high * (bottom - top), top + (rows[-1] + 1) / high * (bottom - top), size[1], least)
    return x[0], y[0], x[1], y[1]


def mask_to(image: Image.Image, heat: Heat, share: float = 0.5) -> Image.Image:
    """The image with all greyed out that is not near a place with at least `share` of the peak; the border is soft."""
    if heat.values.max() <= 0:
        return image
    left, top, right, bottom = (round(v) for v in heat.box)
    level = np.clip(heat.values / heat.values.max(), 0, 1).astype(np.float32)
    upsampled = Image.fromarray(level).resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BILINEAR)
    stencil = Image.new("L", image.size, 0)
    stencil.paste(Image.fromarray(((np.asarray(upsampled) >= share) * 255).astype(np.uint8)), (left, top))
    near = max(image.size) / 24
    grown = stencil.filter(ImageFilter.GaussianBlur(near)).point(lambda v: 255 if v > 32 else 0)
    stencil = ImageChops.lighter(grown, grown.filter(ImageFilter.GaussianBlur(near / 3)))
    return Image.composite(image, Image.new("RGB", image.size, (128, 128, 128)), stencil)


def _widen(low: float, high: float, size: int, least: float) -> tuple[int, int]:
    missing = max(0.0, least * size - (high - low)) / 2
    low, high = low - missing, high + missing
    low, high = low - max(0.0, high - size), high - min(0.0, low)
    return max(0, math.floor(low)), min(size, math.ceil(high))
