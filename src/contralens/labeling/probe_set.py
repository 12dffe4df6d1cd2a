"""The images that exemplars may come from: each content once, without those held out; and which belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from contralens.checks import counted
from contralens.collecting.collect import Collected
from contralens.data.fingerprint_cache import known_fingerprints
from contralens.data.groups import ImageGroups, image_groups
from contralens.data.store import Store
from contralens.errors import InputError
from contralens.holdout import drawn, split_keys
from contralens.math.grouping import Groups
from contralens.settings.label import Mine
from contralens.types import Images


@dataclass(frozen=True)
class Parts:
    """What each image of a set is there for."""

    fingerprints: Sequence[str]
    copies: list[bool]
    """(I): whether the image has the content of an earlier one, which stands for both."""
    held: list[bool]
    """(I): whether the image is held out."""
    share: float
    """Of the images that is held out."""
    groups: ImageGroups | None
    per_group: int

    @property
    def left_out(self) -> list[bool]:
        """(I): whether no exemplar comes from the image."""
        return [copy or held for copy, held in zip(self.copies, self.held, strict=True)]

    def grouping(self, images: Sequence[int] | None = None) -> Groups | None:
        """The groups of all images of the set, or of some, as mining takes them; an image without one is alone."""
        if self.groups is None:
            return None
        number: dict[Any, int] = {}
        names = [name if name is not None else i for i, name in enumerate(self.groups.names)]
        numbers = torch.tensor([number.setdefault(name, len(number)) for name in names], dtype=torch.int64)
        whole = Groups(numbers, self.per_group)
        return whole if images is None else whole.at(images)

    def probe(self, collected: Collected) -> Collected:
        """The part of what was collected that exemplars come from.

        Raises:
            InputError: nothing is left.
        """
        out = self.left_out
        kept = [i for i, image in enumerate(collected.usable) if not out[image]]
        if not kept:
            raise InputError(
                f"`holdout`={self.share} leaves no image to label with; there are {len(collected.usable)}"
                + ("" if self.groups is None else f" in {self.groups.count} groups")
            )
        return dataclasses.replace(
            collected,
            usable=[collected.usable[i] for i in kept],
            fingerprints=[collected.fingerprints[i] for i in kept],
        )

    def about_holdout(self, collected: Collected) -> dict[str, Any] | None:
        """What the manifest holds of the images held out, among those collected; None without any."""
        rows = [image for image in collected.usable if self.held[image] and not self.copies[image]]
        if not rows:
            return None
        out: dict[str, Any] = {"share": self.share, "fingerprints": [self.fingerprints[image] for image in rows]}
        return out if self.groups is None else {**out, "groups": [self.groups.names[image] for image in rows]}

    def about_groups(self) -> dict[str, Any] | None:
        """What the manifest holds of the groups; None without any."""
        if self.groups is None:
            return None
        g = self.groups
        return {"source": g.source, "count": g.count, "alone": g.alone, "joined": g.joined, "per_group": self.per_group}

    def notes(self, collected: Collected) -> list[str]:
        """What a reader should know: exact copies, and images without a group."""
        out = [] if self.groups is None else self.groups.notes()
        if copies := self.copied(collected):
            out.insert(
                0,
                f"{counted(copies, 'image')} of {len(collected.usable)} excluded: exact copies of others (same content "
                "under another name)",
            )
        return out

    def copied(self, collected: Collected) -> int:
        """How many of the images collected are copies of others."""
        return sum(self.copies[image] for image in collected.usable)


def parts_of(
    images: Images, fingerprints: Sequence[str], holdout: float, seed: int, groups: Any = None, per_group: int = 1
) -> Parts:
    """Which images are held out, copies of others, and of one group.

    A group is held out as a whole, and so are the copies of an image.

    Args:
        images: the set.
        fingerprints: (I) content of each image.
        holdout: share of the groups, or of the images that are in none, that is held out; 0 for none.
        seed: of that draw.
        groups: "TABLE:COLUMN", image -> group, or None; see `contralens.data.groups`.
        per_group: exemplars of one neuron from one group, at most.
    """
    first: dict[str, int] = {}
    copies = [first.setdefault(f, i) != i for i, f in enumerate(fingerprints)]
    found = image_groups(groups, images.ids, images.name)
    found = None if found is None else found.joined_by(fingerprints)
    keys = fingerprints if found is None else split_keys(fingerprints, found.names)
    held = drawn(keys, holdout, seed, "holdout") if holdout else [False] * len(fingerprints)
    return Parts(fingerprints, copies, held, holdout, found, per_group)


def parts_asked(settings: Mine, images: Images, store: Store) -> Parts:
    """The same, as the settings of labeling ask for it."""
    fingerprints = known_fingerprints(images, store)
    return parts_of(images, fingerprints, settings.holdout, settings.seed, settings.groups, settings.per_group)
