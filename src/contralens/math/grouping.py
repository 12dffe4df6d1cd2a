"""Images that belong together: of one patient, lesion, scene or video. They are no independent evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from contralens.checks import whole
from contralens.errors import InputError
from contralens.types import Brief


@dataclass(frozen=True, slots=True, repr=False)
class Groups(Brief):
    """Which images belong together, and how many of them may be exemplars of one neuron.

    >>> groups = Groups.of(["a", "a", "b"], images=3)
    >>> groups.numbers, groups.most
    (tensor([0, 0, 1]), 1)
    """

    numbers: Tensor
    """(I) int64: images with one number belong together; a contrast is never of its exemplar's group."""
    most: int = 1
    """Exemplars of one neuron from one group, at most."""
    counted: Tensor | None = None
    """(I) int64: images that share `most`, if these are not the groups (a group drawn twice counts twice)."""

    @classmethod
    def of(cls, given: Any, images: int) -> Groups | None:
        """Groups from what a user gives: None, `Groups`, or a name or a number of each image.

        Raises:
            InputError: not one entry per image, or `most` below 1.
        """
        if given is None:
            return None
        if not isinstance(given, cls):
            if isinstance(given, Tensor):
                given = given.tolist()
            number: dict[Any, int] = {}
            given = cls(torch.tensor([number.setdefault(name, len(number)) for name in given], dtype=torch.int64))
        made: Groups = given
        if len(made.numbers) != images:
            raise InputError(f"`groups` must name the group of each of {images} images; got {len(made.numbers)}")
        whole("per_group", made.most)
        return made

    def at(self, images: Any) -> Groups:
        """Those of some images."""
        return Groups(self.numbers[torch.as_tensor(images)], self.most)

    def to(self, device: torch.device) -> Groups:
        """The same on a device."""
        return Groups(self.numbers.to(device), self.most, None if self.counted is None else self.counted.to(device))

    def within(self, column: Tensor, images: Tensor) -> Tensor:
        """Which entries (L) stay when at most `most` of one group may be in a column; earlier ones go first."""
        shared = (self.numbers if self.counted is None else self.counted).to(images.device)[images]
        key = column * (int(shared.max()) + 1 if len(shared) else 1) + shared
        order = key.sort(stable=True).indices
        key = key[order]
        place = torch.arange(len(key), device=key.device)
        new = torch.ones_like(key, dtype=torch.bool)
        new[1:] = key[1:] != key[:-1]
        first = place.masked_fill(~new, 0).cummax(0).values
        stays = torch.empty_like(new)
        stays[order] = place - first < self.most
        return stays

    def resampled(self, drawn: Tensor, draw: Tensor) -> Groups:
        """The groups of a bootstrap sample: image `drawn[i]`, which came with draw number `draw[i]`."""
        together = self.numbers[drawn] * (int(draw.max()) + 1) + draw
        return Groups(self.numbers[drawn], self.most, torch.unique(together, return_inverse=True)[1])


def same_groups(one: Groups | None, other: Groups | None) -> bool:
    """Whether the two group the images in one way.

    >>> same_groups(Groups(torch.tensor([0, 0])), Groups(torch.tensor([0, 0]))), same_groups(None, None)
    (True, True)
    """
    if one is None or other is None:
        return one is other
    return one.most == other.most and torch.equal(one.numbers, other.numbers)


def draw_groups(numbers: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bootstrap sample of whole groups (I): the images drawn, rising, and the number of the draw each came with.

    >>> rows, draw = draw_groups(torch.tensor([0, 0, 1, 2]), torch.Generator().manual_seed(0))
    >>> int((rows == 0).sum()) == int((rows == 1).sum()), len(rows) == len(draw)  # images of a group come together
    (True, True)
    """
    _, place = torch.unique(numbers, return_inverse=True)
    sizes = torch.bincount(place)
    members, starts = place.argsort(stable=True), sizes.cumsum(0) - sizes
    picked = torch.randint(len(sizes), (len(sizes),), generator=generator)
    size = sizes[picked]
    draw = torch.arange(len(picked)).repeat_interleave(size)
    within = torch.arange(int(size.sum())) - (size.cumsum(0) - size).repeat_interleave(size)
    rows = members[starts[picked].repeat_interleave(size) + within]
    order = rows.argsort(stable=True)
    return rows[order], draw[order]
