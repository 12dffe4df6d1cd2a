"""Images made for labels, and what the network does on them (CoSy, Kopf et al. 2024): painted, or from a folder.

Every painted image is kept in the store under painter, prompt and seed, and so are its activations: a killed evaluation
continues where it stopped. Blank and filtered images are counted and never scored.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contralens.data.atomic_files import digest
from contralens.data.images import images as image_set
from contralens.data.store import Table, pack
from contralens.encoders.diffusion import is_blank
from contralens.errors import ImageError, InputError
from contralens.evaluation.painters import BATCH, Painter
from contralens.math.activation_sources import ActivationSource
from contralens.run_data.reopened import Reopened
from contralens.types import Progress, silent


@dataclass(frozen=True)
class Made:
    """Activations on the images of each label."""

    activations: ActivationSource | None
    """(images,N) of all images, None where there is none."""
    rows: dict[str, list[int]]
    """Label -> its images, by row of the activations; labels without any usable image are missing."""
    counts: dict[str, int] = field(default_factory=dict)
    """Images "scored", "blank", "filtered", "unreadable"; labels "without images"."""
    images: Any = None
    """The images themselves, None where there is none."""
    fingerprints: Sequence[str] = ()
    """Content fingerprint of each row of the activations."""

    def of(self, labels: Sequence[str | None], neurons: Sequence[int]) -> Tensor:
        """Activations (G,len(labels)) of each neuron on its own label's images, filled up with NaN."""
        found = [self.rows.get(label, []) if label is not None else [] for label in labels]
        counts = torch.tensor([len(rows) for rows in found], dtype=torch.int64)
        out = torch.full((int(counts.max()) if len(counts) else 0, len(labels)), torch.nan)
        if self.activations is not None and out.numel():
            column = torch.arange(len(labels)).repeat_interleave(counts)
            place = torch.cat([torch.arange(len(rows)) for rows in found])
            images = torch.tensor([row for rows in found for row in rows])
            out[place, column] = self.activations.lookup(images, torch.tensor(list(neurons))[column]).float()
        return out


class PaintedImages:
    """Images in a table of the store, as `types.Images`."""

    def __init__(self, table: Table, keys: Sequence[str], ids: Sequence[str], name: str) -> None:
        self.name, self.ids = name, list(ids)
        self._table, self._keys = table, list(keys)
        self._fingerprints: list[str] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def _bytes(self, index: int) -> bytes:
        key = self._keys[index]
        return self._table.blobs([key])[key]

    def fingerprints(self) -> Sequence[str]:
        """Hash of each image file."""
        if self._fingerprints is None:
            self._fingerprints = [hashlib.sha256(self._bytes(i)).hexdigest()[:32] for i in range(len(self))]
        return self._fingerprints

    def load(self, index: int) -> Image.Image:
        try:
            return Image.open(io.BytesIO(self._bytes(index))).convert("RGB")
        except (OSError, ValueError) as e:
            raise ImageError(f"{self.ids[index]}: {e}") from e


def paint(
    reopened: Reopened,
    labels: Iterable[str],
    painter: Painter,
    *,
    prompt: str = "{label}",
    count: int = 20,
    seed: int = 0,
    progress: Progress = silent,
) -> Made:
    """Paint `count` images per label (seeds `seed`, `seed` + 1, ...) and run the network on them.

    Args:
        reopened: the run whose network looks at the images.
        labels: the labels to paint; each is painted once.
        painter: see `contralens.evaluation.painters`.
        prompt: what to ask for; {label} stands for the label.
    """
    if "{label}" not in prompt:
        raise InputError(f"`prompt` must contain {{label}}; got {prompt!r}")
    if count < 1:
        raise InputError(f"`count` must be at least 1 image per label; got {count}")
    table = reopened.store.table("painted", painter.fingerprint)
    counts: Counter[str] = Counter()
    places: dict[str, list[tuple[str, str]]] = {}
    wanted = list(dict.fromkeys(labels))
    for done, label in enumerate(wanted):
        progress("painting", done, len(wanted))
        text = prompt.replace("{label}", label)
        keys = {digest(text, str(s)): s for s in range(seed, seed + count)}
        order = list(keys)
        for start in range(0, count, BATCH):  # borders that do not depend on what is there already
            batch = order[start : start + BATCH]
            if any(key not in table for key in batch):
                _append(table, batch, painter.paint(text, [keys[key] for key in batch]))
        there = [key for key in order if table.has_row(key)]
        counts.update(table.skipped[key] for key in order if not table.has_row(key))
        places[label] = [(key, f"{label}/{keys[key]}") for key in there]
    progress("painting", len(wanted), len(wanted))
    flat = [place for label in wanted for place in places[label]]
    images = PaintedImages(table, [k for k, _ in flat], [i for _, i in flat], f"painted by {painter.name}")
    return _activations(reopened, images, [label for label in wanted for _ in places[label]], wanted, counts)


def from_folder(reopened: Reopened, labels: Iterable[str], folder: str | Path) -> Made:
    """The network on a user's images: one subfolder per label, named like it (case and punctuation do not matter)."""
    images = image_set(folder)
    if not (wanted := list(dict.fromkeys(labels))):
        raise InputError(f"this run has no label that images in {folder} could show")
    by_name = {_plain(label): label for label in wanted}
    of = [by_name.get(_plain(name.split("/")[0])) if "/" in name else None for name in images.ids]
    used = [i for i, label in enumerate(of) if label is not None]
    if not used:
        raise InputError(
            f"no subfolder of {folder} is named like a label of this run, e.g. {wanted[0]!r}; "
            "--images needs one folder per label"
        )
    counts: Counter[str] = Counter()
    kept = []
    for i in used:
        try:
            blank = is_blank(images.load(i))
        except ImageError:
            counts["unreadable"] += 1
            continue
        counts["blank"] += blank
        kept += [] if blank else [i]
    part = images.take(kept) if hasattr(images, "take") else images
    return _activations(reopened, part, [str(of[i]) for i in kept], wanted, counts)


def _activations(
    reopened: Reopened, images: Any, labels: Sequence[str], wanted: Sequence[str], counts: Counter[str]
) -> Made:
    rows: dict[str, list[int]] = {}
    activations, usable = None, list[str]()
    if len(images):
        activations, usable = reopened.activations_of(images)
        row_of = {fingerprint: row for row, fingerprint in enumerate(usable)}
        for fingerprint, label in zip(images.fingerprints(), labels, strict=True):
            if fingerprint in row_of:
                rows.setdefault(label, []).append(row_of[fingerprint])
    counts["scored"] = sum(map(len, rows.values()))
    counts["labels without images"] = len(wanted) - len(rows)
    return Made(activations, rows, {k: v for k, v in counts.items() if v}, images, usable)


def _append(table: Table, keys: Sequence[str], painted: Sequence[Image.Image | str]) -> None:
    blobs, skipped = {}, {}
    for key, image in zip(keys, painted, strict=True):
        if isinstance(image, str):
            skipped[key] = image
            continue
        out = io.BytesIO()
        image.save(out, "PNG")
        blobs[key] = out.getvalue()
    table.append(list(blobs), pack(list(blobs.values())), skipped)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()
