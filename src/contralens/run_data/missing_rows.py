"""Rows of a finished run's images that the cache does not hold: taken over from the caches of shards, or computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from contralens import types
from contralens.collecting.collect import collect
from contralens.collecting.probe_check import proved
from contralens.data.image_sets import ImageSet, OtherImages
from contralens.data.store import Table
from contralens.errors import InputError, StoreError
from contralens.types import Extractor

if TYPE_CHECKING:
    from contralens.run_data.reopened import Reopened


def with_rows(reopened: Reopened, fingerprint: str, extractor: Callable[[], Extractor], wanted: Sequence[str]) -> Table:
    """The table in the store that has this fingerprint, with at least one of the images wanted.

    Args:
        reopened: the run, with its images and those held out.
        fingerprint: of the extractor.
        extractor: opens it, for rows that are missing.
        wanted: content fingerprints of images.

    Raises:
        InputError: images cannot be found, or none can be used.
        StoreError: the extractor computes other rows now.
    """
    if not wanted:
        raise InputError("no held-out image is left to measure on: hold out more images, or of more groups")
    table = reopened.store.table("rows", fingerprint)
    lacking = {f for f in wanted if f not in table}
    if lacking and reopened.shards is not None:
        reopened.shards.take_over(lacking, fingerprint, table)
        lacking = {f for f in lacking if f not in table}
    if lacking:
        allow = bool(reopened.run.manifest.get("allow_nondeterministic"))
        (one,), _ = proved([extractor()], None, reopened.store, allow_nondeterministic=allow, expected=fingerprint)
        if one.fingerprint != fingerprint:
            raise StoreError(
                f"{one.name} computes other rows now than the cache holds under its fingerprint; label again"
            )
        for images in (["heldout_images"] if reopened.on_other_images else []) + ["images"]:
            lacking -= _collected(reopened, getattr(reopened, images), lacking, one) if lacking else set()
        if lacking:
            raise InputError(
                f"{len(lacking)} of the run's images are neither in the cache nor in {reopened.images.name}; "
                "give their folder with --source"
            )
        table = reopened.store.table("rows", fingerprint)
    if not any(table.has_row(f) for f in wanted):
        raise InputError(f"none of {len(wanted)} images could be used; the cache says why")
    return table


def _collected(reopened: Reopened, images: types.Images, wanted: set[str], extractor: Extractor) -> set[str]:
    """Collect those of `wanted` that are in `images`; which they were."""
    at = {f: i for i, f in reversed(list(enumerate(images.fingerprints()))) if f in wanted}
    if at:
        collect(_take(images, sorted(at.values())), [extractor], reopened.store, **reopened.options)
    return set(at)


def _take(images: types.Images, indices: Sequence[int]) -> types.Images:
    return (images if isinstance(images, ImageSet) else OtherImages(images)).take(indices)
