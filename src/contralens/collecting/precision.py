"""Half precision, used only where a look at the first images says that it is safe.

bfloat16 halves the memory traffic of a forward and is several times faster on hardware that multiplies it (Intel AMX,
NVIDIA since Ampere), and slower on other CPUs, where float32 stays (`math.fast_kernels`). Its rows differ from those of
float32, have fingerprints of their own, and are used for a network only if on the first `CHECKED_IMAGES` images

- no row of the encoder turns by more than `TURN` (1 - cosine),
- no row of the target differs by more than `APART` (relative L2 difference), and
- at least `SAME` of the neurons get the same best of `CHECKED_CONCEPTS` concepts from both, by the mean embedding of
  these images weighted with the neuron's activation (CSP with gamma = 0 over the first images).

What was found is kept in the store, so that every worker and every resumed run decides alike, and reported in the
manifest.
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
from contralens.math.fast_kernels import bfloat16_is_fast
from contralens.models.hooked_layer import HookedTarget
from contralens.types import Extractor, Images

PRECISIONS = ("float32", "bf16")
CHECKED_IMAGES = 64
"""Images looked at."""
CHECKED_CONCEPTS = 200
"""Concepts, spread evenly over the built-in vocabulary "imagenet"."""
TURN, APART, SAME = 2e-3, 5e-2, 0.95
BATCH = 32


@dataclass(frozen=True)
class Checked:
    """The extractors to use, and what was measured."""

    extractors: list[Extractor]
    report: dict[str, Any]
    """For the manifest: the limits, and of each network what was measured and is used."""


def half_if_safe(extractors: Sequence[Extractor], images: Images, store: Store) -> Checked:
    """Each extractor in bfloat16 where that is faster and the first images say that it is safe, else as it is.

    Sparse autoencoders and extractors of the user's own stay as they are, and the report says so.
    """
    look = _Look(images, store, next((x for x in extractors if isinstance(x, BaseEncoder)), None))
    used: list[Extractor] = []
    told: dict[str, dict[str, Any]] = {}
    for extractor in extractors:
        name = f"{extractor.name} {getattr(extractor, 'layer', '')}".strip()
        half: Extractor | None = None
        found: dict[str, float] = {}
        why = f"bfloat16 is not faster than float32 on this machine's {_device(extractor).type}"
        if bfloat16_is_fast(_device(extractor)):
            half, found = look.half(extractor)
            why = "bf16 works with targets and built-in encoders only"
        safe = half is not None and found["turn"] <= TURN and found["apart"] <= APART and found["same"] >= SAME
        used.append(half if safe and half is not None else extractor)
        told[name] = {"used": "bf16" if safe else "float32"}
        told[name] |= {"why": why} if half is None else {key: round(value, 6) for key, value in found.items()}
    return Checked(
        used,
        {
            "asked": "bf16",
            "images": CHECKED_IMAGES,
            "allowed": {"turn": TURN, "apart": APART, "same": SAME},
            "networks": told,
        },
    )


def _device(extractor: Extractor) -> torch.device:
    return torch.device(getattr(extractor, "device", "cpu"))


def in_precision(
    precision: str, extractors: Sequence[Extractor], images: Images, store: Store
) -> tuple[list[Any], dict[str, Any] | None]:
    """The extractors as `precision` wants them, and what the manifest says of it; float32 leaves them alone."""
    if precision not in PRECISIONS:
        raise InputError(f"`precision` must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    if precision == "float32":
        return list(extractors), None
    checked = half_if_safe(extractors, images, store)
    return checked.extractors, checked.report


class _Look:
    """The first images, seen by extractors in both precisions."""

    def __init__(self, images: Images, store: Store, eyes: BaseEncoder | None) -> None:
        self.images, self.store, self.eyes = images, store, eyes
        self._rows: dict[str, Tensor] = {}

    def half(self, extractor: Extractor) -> tuple[Extractor | None, dict[str, float]]:
        """The extractor in bfloat16 (None where it is not available) and how its rows differ: 0, 0 and 1 at best."""
        if isinstance(extractor, BaseEncoder):
            half: Extractor = extractor.adapted(dtype="bf16")
        elif isinstance(extractor, HookedTarget):
            half = extractor.with_dtype("bf16")
        else:
            return None, {}
        others = [] if self.eyes is None or isinstance(extractor, BaseEncoder) else [self.eyes.fingerprint]
        first = known_fingerprints(self.images, self.store)[:CHECKED_IMAGES]
        kept = self.store.remember("precision", "1", extractor.fingerprint, half.fingerprint, *others, *first)
        arrays = kept.get_or_make(lambda: {"measured": np.array(self._measured(extractor, half), np.float64)})
        return half, dict(zip(("turn", "apart", "same"), arrays["measured"].tolist(), strict=True))

    def _measured(self, exact: Extractor, half: Extractor) -> tuple[float, float, float]:
        one, other = self.rows(exact), self.rows(half)
        if isinstance(exact, BaseEncoder):
            return turned(one, other), 0.0, 1.0
        same = 1.0
        if self.eyes is not None:
            concepts = read_vocabulary("imagenet").concepts
            texts = embed_texts(self.eyes, concepts[:: max(1, len(concepts) // CHECKED_CONCEPTS)])
            seen = self.rows(self.eyes), self.rows(self.eyes.adapted(dtype="bf16"))
            same = same_best((one, other), seen, texts)
        return 0.0, apart(one, other), same

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
            raise InputError(f"precision bf16 cannot be checked: none of the first {CHECKED_IMAGES} images can be used")
        return made


def turned(exact: Tensor, half: Tensor) -> float:
    """The greatest 1 - cosine of two sets of unit rows (I,D).

    >>> turned(torch.eye(2), torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    0.19999998807907104
    """
    return float((1 - (exact * half).sum(1)).max())


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
