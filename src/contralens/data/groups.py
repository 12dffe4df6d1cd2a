"""Images that belong together, by what a user says of them: of one patient, lesion, scene or video."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contralens.checks import counted
from contralens.data.image_tables import Places, read_column
from contralens.errors import InputError, KindError
from contralens.specs import part_of
from contralens.types import Images


@dataclass(frozen=True, slots=True)
class ImageGroups:
    """The group of each image of a set.

    >>> found = image_groups({"1.png": "lesion 7", "2.png": "lesion 7"}, ["1.png", "2.png", "3.png"], "photos")
    >>> found.names, found.alone
    (('lesion 7', 'lesion 7', None), 1)
    """

    names: tuple[str | None, ...]
    """(I); None for an image that belongs to no other."""
    source: str
    """As the user gave it: "TABLE:COLUMN", or "given"."""
    joined: int = 0
    """Groups that became one with another, since both hold the same picture."""

    @property
    def alone(self) -> int:
        """Images without a group."""
        return sum(name is None for name in self.names)

    @property
    def count(self) -> int:
        """Groups, without the images that are alone."""
        return len({name for name in self.names if name is not None})

    def joined_by(self, fingerprints: Sequence[str]) -> ImageGroups:
        """The same after groups that hold the same picture (equal content) have become one, named by the first.

        >>> image_groups({"1": "a", "2": "b"}, ["1", "2", "3"], "photos").joined_by(["x", "x", "x"]).names
        ('a', 'a', 'a')
        """
        root: dict[str, str] = {}

        def find(name: str) -> str:
            while root.setdefault(name, name) != name:
                root[name] = name = root[root[name]]
            return name

        of_content: dict[str, str] = {}
        for name, content in zip(self.names, fingerprints, strict=True):
            if name is not None:
                one, other = sorted((find(name), find(of_content.setdefault(content, name))))
                root[other] = one
        out = tuple(
            None if (known := name if name is not None else of_content.get(content)) is None else find(known)
            for name, content in zip(self.names, fingerprints, strict=True)
        )
        return ImageGroups(out, self.source, self.count - len({name for name in out if name is not None}))

    def notes(self) -> list[str]:
        """What a reader should know of them."""
        out = []
        if self.alone:
            out.append(f"{counted(self.alone, 'image')} without a group in {self.source}: each counts as its own group")
        if self.joined:
            out.append(f"{counted(self.joined, 'group')} of {self.source} joined to others, since they share pictures")
        return out


def image_groups(given: Any, ids: Sequence[str], name: str) -> ImageGroups | None:
    """The groups of images.

    Args:
        given: "TABLE:COLUMN", a table and the column that names the group (patient, lesion, scene, video); or image ->
            group; or None.
        ids: (I) names of the images; the table names them as in `contralens.labeled_images`.
        name: of the set, for errors.

    Raises:
        InputError: no such table or column, it names none of the images, or an image is in two groups.
    """
    if given is None:
        return None
    place = Places(ids)
    if isinstance(given, Mapping):
        source, said = "the given groups", {str(image): str(group) for image, group in given.items()}
        found = {row: group for image, group in said.items() if (row := place.find(image)) is not None}
        shown = next(iter(said), "")
    elif isinstance(given, (str, os.PathLike)):
        source = os.fspath(given)
        found, shown = _of_table(source, place)
    else:
        raise KindError(f'`groups` must be "TABLE:COLUMN" or a mapping of images to groups; got {type(given).__name__}')
    if not found:
        raise InputError(
            f"`groups`: {source} names none of the images of {name}: it says {shown!r}, an image is called {ids[0]!r}"
        )
    return ImageGroups(tuple(found.get(row) or None for row in range(len(ids))), source)


def groups_of_sets(given: Any, sets: Sequence[Images]) -> dict[str, str]:
    """Content fingerprint -> group, over several sets of images; of an image in no group, nothing.

    Raises:
        InputError: as `image_groups`, if it names images of none of the sets.
    """
    names: list[str | None] = []
    contents: list[str] = []
    errors = []
    for images in sets:
        try:
            found = image_groups(given, images.ids, images.name)
        except InputError as e:  # it names images of another set
            errors.append(e)
            continue
        names += found.names if found else [None] * len(images)
        contents += images.fingerprints()
    if len(errors) == len(sets):
        raise errors[0]
    joined = ImageGroups(tuple(names), "").joined_by(contents)
    return {f: name for name, f in zip(joined.names, contents, strict=True) if name is not None}


def _of_table(source: str, place: Places) -> tuple[dict[int, str], str]:
    """Row of the image -> group, and a name that the table gives an image."""
    table, column = part_of(source)
    if not table or not Path(table).is_file():
        if Path(source).is_file():
            raise InputError(f"`groups`: name the column of {source} with the groups, e.g. {source}:patient_id")
        raise InputError(
            f"`groups` is TABLE:COLUMN, e.g. metadata.csv:patient_id; there is no table {table or source!r}"
        )
    return read_column(Path(table), column, place)
