"""Editors that need no generator: a better similar image found among the images, or a region exchanged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from contralens.checks import require
from contralens.data.atomic_files import digest
from contralens.errors import InputError
from contralens.verifying.editors import Bench, Request

if TYPE_CHECKING:
    from PIL.Image import Image

APART = 1.0
"""By how many deviations over the images the concept has to differ between the images of a minimal pair."""
NO_REGION = "the neuron fires everywhere or nowhere in it"
FILLS = ("contrast", "inpaint")
RADIUS = 3
"""Pixels around each inpainted one that it is made of."""
FIRES = 0.5
"""The region where a neuron fires: from this share of the way between the map's median and its maximum."""


class Retrieve:
    """In place of an edit, the image of the run that differs along the concept and is most alike elsewhere.

    With t the concept's unit text row and e unit image rows, images are compared by the cosine of what is left of them
    without t. The best image whose e t is lower (removal) or higher (insertion) by at least `APART` deviations stands
    for the edited one. Controls do so for another concept.
    """

    name, by_region, exact = "retrieve", False, False

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.fingerprint = digest(
            "retrieve-3", bench.reopened.run.manifest["encoder"]["fingerprint"], *bench.reopened.probe
        )

    def edit(self, request: Request) -> int | str:
        _, along, spread = self.bench.along(request.concept)
        change = (along - along[request.image]) * (1 if request.kind == "insert" else -1)
        far = change >= APART * spread
        far[request.image] = False
        if not bool(far.any()):
            return "no image differs enough along the concept"
        alike = self.bench.alike(request.image, request.concept)
        return int(alike.masked_fill(~far, -torch.inf).argmax())


class Swap:
    """The region where the neuron fires, exchanged between an exemplar and its contrast, with a soft edge.

    Removal pastes the contrast's pixels over the exemplar's region, or with `fill` "inpaint" what continues the
    region's surroundings (Telea 2004, by OpenCV); insertion pastes the exemplar's region into the contrast. A control
    changes a region of the same size where the neuron fires least.
    """

    by_region, exact = True, False

    def __init__(self, bench: Bench, fill: str = "contrast") -> None:
        self.bench, self.fill = bench, fill
        self.name = "swap" if fill == "contrast" else f"swap, fill={fill}"
        network = bench.reopened.run.manifest["target"]["fingerprint"]
        self.fingerprint = digest("swap-1", network, *([] if fill == "contrast" else [fill]))

    def edit(self, request: Request) -> Image | str:
        from PIL import Image, ImageFilter

        positive = request.image if request.kind == "remove" else request.partner
        base, donor = self.bench.picture(request.image), self.bench.picture(request.partner)
        shown, place = self.bench.picture(positive), self.bench.where(positive, request.neuron)
        if base is None or donor is None or shown is None or place is None:
            return "a picture of the pair is missing"
        values, (left, top, right, bottom) = place
        box = region(values, low=request.control)
        if box is None:
            return NO_REGION
        h, w = values.shape
        part = (box[0] / w * (right - left) + left, box[1] / h * (bottom - top) + top,
                box[2] / w * (right - left) + left, box[3] / h * (bottom - top) + top)  # fmt: skip
        share = tuple(v / s for v, s in zip(part, (shown.width, shown.height) * 2, strict=True))
        pixels = tuple(round(v * s) for v, s in zip(share, (base.width, base.height) * 2, strict=True))
        mask = Image.new("L", base.size, 0)
        mask.paste(255, pixels)
        if self.fill == "inpaint" and request.kind == "remove":
            donor = inpainted(base, mask)
        soft = mask.filter(ImageFilter.GaussianBlur(max(1.0, min(base.size) / 40)))
        return Image.composite(donor.resize(base.size), base, soft)


def retrieve(rest: str, bench: Bench) -> Retrieve:
    """The editor "retrieve"."""
    return Retrieve(_bare("retrieve", rest, bench))


def swap(rest: str, bench: Bench, *, fill: str = "contrast") -> Swap:
    """The editor "swap"; `fill` is what takes the region's place in removal, "contrast" or "inpaint".

    Raises:
        InputError: another `fill`.
        MissingPackage: OpenCV is not installed.
    """
    if fill not in FILLS:
        raise InputError(f"the editor swap takes fill={' or '.join(FILLS)}; got {fill!r}")
    if fill == "inpaint":
        require("cv2", "inpaint")
    return Swap(_bare("swap", rest, bench), fill)


def inpainted(image: Image, mask: Image) -> Image:
    """The image with what `mask` (255) marks continued from its surroundings.

    >>> from PIL import Image
    >>> image, mask = Image.new("RGB", (9, 9), "red"), Image.new("L", (9, 9), 0)
    >>> image.paste("blue", (3, 3, 6, 6)); mask.paste(255, (3, 3, 6, 6))
    >>> inpainted(image, mask).getpixel((4, 4))
    (255, 0, 0)
    """
    from PIL import Image

    cv2 = require("cv2", "inpaint")
    filled = cv2.inpaint(np.asarray(image.convert("RGB")), np.asarray(mask), RADIUS, cv2.INPAINT_TELEA)
    return Image.fromarray(filled)


def _bare(name: str, rest: str, bench: Bench) -> Bench:
    if rest:
        raise InputError(f"the editor {name} takes no options; got {rest!r}")
    return bench


def region(values: NDArray[np.float32], low: bool = False) -> tuple[int, int, int, int] | None:
    """Columns and rows (left, top, right, bottom) where a map (H,W) is high; `low`: as large, where it sums least.

    None for a map that is flat, or high nearly everywhere.

    >>> values = np.zeros((4, 4), np.float32)
    >>> values[1, 2] = 1.0
    >>> region(values), region(values, low=True)
    ((2, 1, 3, 2), (0, 0, 1, 1))
    """
    middle, most = float(np.median(values)), float(values.max())
    if not most > middle:
        return None
    rows, columns = np.nonzero(values >= middle + FIRES * (most - middle))
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    h, w = bottom - top, right - left
    if 2 * h * w > values.size:
        return None
    if low:
        sums = np.lib.stride_tricks.sliding_window_view(values, (h, w)).sum((2, 3))
        top, left = np.unravel_index(int(sums.argmin()), sums.shape)
        bottom, right = top + h, left + w
    return int(left), int(top), int(right), int(bottom)
