"""The images of a run that was labeled in shards: read from where its manifest says that they are, shard by shard."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contralens import types
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.images import images as image_set
from contralens.data.runs import Run
from contralens.data.store import Store, Table
from contralens.data.trust import check_named
from contralens.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

ALL_AT_ONCE = (
    "this needs all images at once, and the run was labeled on images in shards: "
    "use a run of one shard, which `contralens label` makes from the shard's images and cache"
)


def in_shards(run: Run) -> bool:
    """Whether `contralens.label_shards` made the run."""
    return bool(run.manifest["images"].get("shards"))


class ShardedImages:
    """The images that a run in shards names (`types.Images`), without those that its shards no longer hold.

    One shard's list of images is in memory at a time.

    Args:
        run: made by `contralens.label_shards`.
        store: the cache in place of that of a shard that is gone.

    Raises:
        InputError: the run does not say where its shards are, or one of them cannot be opened.
    """

    def __init__(self, run: Run, store: Store) -> None:
        recorded = run.manifest["images"]
        self.name = f"{recorded['count']} images in {len(recorded['shards'])} shards"
        self._recorded: list[dict[str, Any]] = recorded.get("sources") or []
        if not self._recorded:
            raise InputError("the run does not say where its shards are; give a folder of their images with --source")
        for one in self._recorded:
            check_named(run, "images", one["source"], "say with --source where they are", cache=one["cache"])
        self._store, self._open = store, lru_cache(1)(self._opened)
        names = dict(zip(run.images["fingerprint"].to_pylist(), run.images["id"].to_pylist(), strict=True))
        self._at = self._places(names.keys())
        self._fingerprints = [f for f in names if f in self._at]
        self.ids: Sequence[str] = tuple(names[f] for f in self._fingerprints)

    def __len__(self) -> int:
        return len(self.ids)

    def fingerprints(self) -> list[str]:
        return self._fingerprints

    def load(self, index: int) -> Image:
        shard, row = self._at[self._fingerprints[index]]
        return self._open(shard)[0].load(row)

    def among(self, fingerprints: Collection[str]) -> set[str]:
        """Those of some content fingerprints that an image of any shard has, named by the run or not."""
        return set(self._places(fingerprints))

    def take_over(self, fingerprints: Collection[str], key: str, into: Table) -> None:
        """Copies the rows of some images that the shards' caches hold, of what has the fingerprint `key`."""
        for shard in range(len(self._recorded)):
            kept = self._open(shard)[2].table("rows", key)
            there = [f for f in fingerprints if kept.has_row(f) and f not in into]
            if there and not kept.sparse:
                into.append(there, {"rows": kept.rows(there)})

    def _places(self, wanted: Collection[str]) -> dict[str, tuple[int, int]]:
        """Shard and row of the images that have one of these fingerprints."""
        found: dict[str, tuple[int, int]] = {}
        for shard in range(len(self._recorded)):
            for row, fingerprint in enumerate(self._open(shard)[1]):
                if fingerprint in wanted:
                    found.setdefault(fingerprint, (shard, row))
        return found

    def _opened(self, shard: int) -> tuple[types.Images, list[str], Store]:
        """A shard: its images, their fingerprints and its cache."""
        source, cache = (self._recorded[shard][name] for name in ("source", "cache"))
        try:
            images = image_set(source)
        except (InputError, TypeError) as e:
            raise InputError(
                f"shard {shard} of the run's images cannot be opened ({e}); "
                "give a folder of the images of all shards with --source"
            ) from e
        store = Store(cache) if Path(cache).is_dir() else self._store
        return images, known_fingerprints(images, store), store


def check_at_once(run: Run, **asked: Any) -> None:
    """Refuse settings that look at every image of a run in shards, if one of them is given.

    Raises:
        InputError: one is.
    """
    for name, value in asked.items():
        if value and in_shards(run):
            raise InputError(f"`{name}`: {ALL_AT_ONCE}; or omit `{name}`")
