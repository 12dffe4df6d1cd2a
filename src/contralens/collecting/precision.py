"""Another precision, used only where a look at the first images says that it is safe.

bfloat16 halves the memory traffic of a forward and is several times faster on hardware that multiplies it (Intel AMX,
NVIDIA since Ampere), and slower on other CPUs. "onednn" is float32 with a CPU's matrix products by oneDNN, up to twice
as fast as torch's default on some processors. What is not faster on this machine (`math.fast_kernels`) is not used.
Rows in another precision have fingerprints of their own, and are used for a network only if on the first
`CHECKED_IMAGES` images

- no row of the encoder turns by more than "turn" of `LIMITS` (1 - cosine),
- no row of the target differs by more than "apart" (relative L2 difference), and
- at least "same" of the neurons get the same best of `CHECKED_CONCEPTS` concepts from both, by the mean embedding of
  these images weighted with the neuron's activation (CSP with gamma = 0 over the first images).

What was found is kept in the store, also that it is not faster, so that every worker with this kind of device and every
resumed run decides alike, and reported in the manifest. A machine that cannot follow, since the precision gives wrong
results there, uses float32 and its own fingerprints, and the run's notes say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.store import Store
from contralens.data.vocabulary import read_vocabulary
from contralens.encoders.base import BaseEncoder
from contralens.encoders.registry import embed_texts
from contralens.errors import ImageError, InputError
from contralens.math.fast_kernels import tried
from contralens.models.compiled import CLOSE
from contralens.models.hooked_layer import HookedTarget
from contralens.types import Extractor, Images

CHECKED_IMAGES = 64
"""Images looked at."""
CHECKED_CONCEPTS = 200
"""Concepts, spread evenly over the built-in vocabulary "imagenet"."""
LIMITS = {
    "onednn": {"turn": CLOSE**2 / 2, "apart": CLOSE, "same": 0.95},
    "bf16": {"turn": 2e-3, "apart": 5e-2, "same": 0.95},
}
"""What each precision may change. Unit rows that are x apart turn by x^2 / 2."""
PRECISIONS = ("float32", *LIMITS)
BATCH = 32


@dataclass(frozen=True)
class Checked:
    """The extractors to use, and what was measured."""

    extractors: list[Extractor]
    report: dict[str, Any]
    """For the manifest: the limits, and of each network what was measured and is used."""


def if_safe(precision: str, extractors: Sequence[Extractor], images: Images, store: Store) -> Checked:
    """Each extractor in a precision of `LIMITS` if that is faster and the first images say it is safe; else as it is.

    Sparse autoencoders and extractors of the user's own stay as they are, and the report says so.
    """
    look = _Look(precision, images, store, next((x for x in extractors if isinstance(x, BaseEncoder)), None))
    used: list[Extractor] = []
    networks: dict[str, dict[str, Any]] = {}
    for extractor in extractors:
        other, found, why = look.at(extractor)
        used.append(extractor if other is None or why else other)
        about = {"used": "float32" if why else precision, **found, **({"why": why} if why else {})}
        networks[f"{extractor.name} {getattr(extractor, 'layer', '')}".strip()] = about
    return Checked(
        used,
        {"asked": precision, "images": CHECKED_IMAGES, "allowed": LIMITS[precision], "networks": networks},
    )


def in_precision(
    precision: str, extractors: Sequence[Extractor], images: Images, store: Store
) -> tuple[list[Any], dict[str, Any] | None, list[str]]:
    """The extractors as `precision` wants them, and what the manifest says of it, with a note for each that stays as it
    is; float32 leaves them alone."""
    if precision not in PRECISIONS:
        raise InputError(f"`precision` must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if precision == "float32":
        return list(extractors), None, []
    checked = if_safe(precision, extractors, images, store)
    told = checked.report["networks"].items()
    return (
        checked.extractors,
        checked.report,
        [f"{name}: float32, not {precision}: {one['why']}" for name, one in told if "why" in one],
    )


class _Look:
    """The first images, seen by extractors in two precisions."""

    def __init__(self, precision: str, images: Images, store: Store, eyes: BaseEncoder | None) -> None:
        self.precision, self.images, self.store, self.eyes = precision, images, store, eyes
        self._rows: dict[str, Tensor] = {}

    def at(self, extractor: Extractor) -> tuple[Extractor | None, dict[str, float], str]:
        """The extractor in the other precision, how its rows differ, and why it is not to be used ("": it is)."""
        device = torch.device(getattr(extractor, "device", "cpu"))
        here, place = tried(self.precision, device), f"on this machine's {device.type}"
        other = self._other(extractor) if here.right else None
        if other is None:
            why = "is for targets and built-in encoders only" if here.right else f"is not right, or not there, {place}"
            return None, {}, f"{self.precision} {why}"
        others = [] if self.eyes is None or isinstance(extractor, BaseEncoder) else [self.eyes.fingerprint]
        first = known_fingerprints(self.images, self.store)[:CHECKED_IMAGES]
        names = (extractor.fingerprint, other.fingerprint, device.type, *others, *first)
        made = self.store.remember("precision", "2", *names).get_or_make(
            lambda: {"measured": np.array(self._measured(extractor, other) if here.fast else [], np.float64)}
        )["measured"]
        if not len(made):
            return None, {}, f"{self.precision} is not faster than float32 {place} (or where this cache was first used)"
        found = {key: float(f"{value:.3g}") for key, value in zip(("turn", "apart", "same"), made, strict=True)}
        return other, found, self._unsafe(found)

    def _other(self, extractor: Extractor) -> Extractor | None:
        if isinstance(extractor, BaseEncoder):
            return extractor.adapted(dtype=self.precision)
        return extractor.with_dtype(self.precision) if isinstance(extractor, HookedTarget) else None

    def _unsafe(self, found: dict[str, float]) -> str:
        """Why these differences forbid the other precision, "" where they do not."""
        if not found["turn"] and not found["apart"]:
            return f"{self.precision} changes no bit of its rows"
        over = [
            f"{key} {found[key]:g} in place of {limit:g}"
            for key, limit in LIMITS[self.precision].items()
            if not (found[key] >= limit if key == "same" else found[key] <= limit)
        ]
        return f"its rows of the first images differ too much ({', '.join(over)})" if over else ""

    def _measured(self, exact: Extractor, other: Extractor) -> tuple[float, float, float]:
        rows = self.rows(exact), self.rows(other)
        if isinstance(exact, BaseEncoder):
            return turned(*rows), 0.0, 1.0
        same = 1.0
        if self.eyes is not None:
            concepts = read_vocabulary("imagenet").concepts
            texts = embed_texts(self.eyes, concepts[:: max(1, len(concepts) // CHECKED_CONCEPTS)])
            seen = self.rows(self.eyes), self.rows(self.eyes.adapted(dtype=self.precision))
            same = same_best(rows, seen, texts)
        return 0.0, apart(*rows), same

    def rows(self, extractor: Extractor) -> Tensor:
        """Rows of those of the first images that are available."""
        if extractor.fingerprint not in self._rows:
            batches = [self._pictures[at : at + BATCH] for at in range(0, len(self._pictures), BATCH)]
            parts = [extractor(default_collate([extractor.preprocess(p) for p in batch])) for batch in batches]
            self._rows[extractor.fingerprint] = torch.cat(parts)
        return self._rows[extractor.fingerprint]

    @cached_property
    def _pictures(self) -> list[Any]:
        made = []
        for i in range(min(CHECKED_IMAGES, len(self.images))):
            with suppress(ImageError):
                made.append(self.images.load(i))
        if not made:
            raise InputError(
                f"precision {self.precision} cannot be checked: none of the first {CHECKED_IMAGES} images can be used"
            )
        return made


def turned(exact: Tensor, half: Tensor) -> float:
    """The greatest 1 - cosine of two sets of unit rows (I,D), as half the squared distance, which keeps small angles.

    >>> round(turned(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]])), 6)
    0.2
    """
    return float(((exact - half).square().sum(1) / 2).max())


def apart(exact: Tensor, half: Tensor) -> float:
    """The greatest |half - exact| / |exact| of rows (I,N); infinite where a value is not finite in one only.

    >>> apart(torch.ones(1, 4), torch.tensor([[1.0, 1.0, 1.0, 0.0]]))
    0.5
    """
    if not torch.equal(exact.isfinite(), half.isfinite()):
        return float("inf")
    exact, half = exact.nan_to_num(0, 0, 0), half.nan_to_num(0, 0, 0)
    norm = exact.norm(dim=1)
    return float(((half - exact).norm(dim=1) / norm.clamp_min(float(norm.mean()) * 1e-3 + 1e-30)).max())


def same_best(activations: tuple[Tensor, Tensor], embeddings: tuple[Tensor, Tensor], texts: Tensor) -> float:
    """The share of neurons whose best text is the same in both precisions, of those that fire on these images.

    activations (I,N), embeddings (I,D), texts (C,D): best[n] = argmax_c < sum_i max(a[i,n],0) e[i], t[c] >.
    """
    exact, half = ((a.clamp_min(0).T @ e @ texts.T).argmax(1) for a, e in zip(activations, embeddings, strict=True))
    fires = (activations[0] > 1e-6).any(0)
    return float((exact == half)[fires].double().mean()) if bool(fires.any()) else 1.0
