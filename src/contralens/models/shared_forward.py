"""Extractors that can share one forward: several layers of a network, or sparse autoencoders over them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import Tensor

from contralens.checks import blaming, counted
from contralens.errors import InputError
from contralens.models.hooks import Tap, run_taps
from contralens.types import Extractor


def tap_of(extractor: Extractor) -> Tap | None:
    """Where an extractor listens to its network, None for one that can only be called as it is, e.g. compiled."""
    found = getattr(extractor, "tap", None)
    return found if isinstance(found, Tap) and getattr(extractor, "compiled", None) is None else None


def forward_key(extractor: Extractor) -> Hashable:
    """Equal for extractors of one network, one preprocessing and one precision: one forward serves them all."""
    tap = tap_of(extractor)
    return id(extractor) if tap is None else (id(tap.module), tap.dtype, id(extractor.preprocess))


def rows_together(extractors: Sequence[Extractor], batch: Any) -> list[Tensor]:
    """Rows (B,width) of each of some extractors with the same `forward_key`, from one forward.

    They are to the last bit those that each extractor gives alone: the forward up to a layer is the same.
    """
    taps = [tap for tap in map(tap_of, extractors) if tap is not None]
    first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
    with blaming(f"{extractors[0].name} failed on a batch of {counted(len(first), 'image')}"):
        rows = [extractors[0](batch)] if len(taps) < 2 else run_taps(taps, batch)
    for extractor, one in zip(extractors, rows, strict=True):
        if not isinstance(one, Tensor) or one.shape != (len(first), extractor.width):
            got = f"shape {tuple(one.shape)}" if isinstance(one, Tensor) else type(one).__name__
            raise InputError(
                f"{extractor.name} must give rows of shape {(len(first), extractor.width)} for a batch of "
                f"{counted(len(first), 'image')}; got {got}"
            )
    return rows
