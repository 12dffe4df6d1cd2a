"""Images with their classes and subgroups: from folders, or from tables as data sets come with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.checks import counted, few, nearest
from contralens.data.class_columns import classes_in
from contralens.data.image_sets import HuggingFaceImages, ImageSet, OtherImages
from contralens.data.image_tables import Places, Table, read_table
from contralens.data.images import images as image_set
from contralens.data.images import listed
from contralens.data.split_names import is_split
from contralens.errors import InputError
from contralens.types import Brief, Images

MOST_GROUPS = 30
"""A column with more different values (an id, a date) is no subgroup unless asked for."""
UNKNOWN = ""
"""Subgroup of an image that the tables are silent about."""


@dataclass(frozen=True, repr=False)
class LabeledImages(Brief):
    """I images with a class each, and the subgroups that they belong to.

    >>> from pathlib import Path
    >>> _ = Path("table.csv").write_text("image,class,camera\\n00000.png,striped,A\\n00001.png,plain,B\\n")
    >>> found = labeled_images("world-1/images", "table.csv")
    >>> len(found), list(found.ids), found.take([1]).targets.tolist()
    (2, ['00000.png', '00001.png'], [0])
    >>> found.with_groups({"00000.png": {"light": "day"}}).groups["light"].tolist()
    ['day', '']
    >>> found.for_outputs(3, ["dotted", "plain", "striped"]).targets.tolist()
    [2, 1]
    """

    images: Images
    classes: tuple[str, ...]
    """Names, in the order of the numbers in `targets`."""
    targets: NDArray[np.int64]
    """(I): number of each image's class."""
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    """Column -> (I) value of each image; "" where none is known."""
    notes: tuple[str, ...] = ()
    """What was left out, for people."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def ids(self) -> Sequence[str]:
        """(I) names of the images."""
        return self.images.ids

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | Sequence[int]) -> LabeledImages:
        """The images at these rows, or where a mask (I) is true."""
        at = np.arange(len(self))[np.asarray(rows)]
        images = self.images if isinstance(self.images, ImageSet) else OtherImages(self.images)
        return replace(
            self, images=images.take(at.tolist()), targets=self.targets[at],
            groups={name: values[at] for name, values in self.groups.items()},
        )  # fmt: skip

    def with_groups(self, table: str | Path | Mapping[str, Mapping[str, Any]]) -> LabeledImages:
        """The same images with the subgroups of a table beside their own: a CSV file, or image -> {column: value}.

        Which column names the image is found as in `labeled_images`.

        Raises:
            InputError: the table names none of the images.
        """
        place = Places(self.ids)
        rows: Mapping[str, Mapping[str, Any]] = (
            table if isinstance(table, Mapping) else read_table(Path(table), place.sole).named()
        )
        at = {row: values for image, values in rows.items() if (row := place.find(str(image))) is not None}
        if not at:
            raise InputError(
                f"the subgroups name none of the images of {self.images.name}: they say {next(iter(rows), '')!r}, an "
                f"image is called {self.ids[0]!r}"
            )
        told = {
            column: np.array([str(at.get(row, {}).get(column, UNKNOWN)) for row in range(len(self))], np.str_)
            for column in dict.fromkeys(c for values in at.values() for c in values)
        }
        return replace(self, groups={**self.groups, **told})

    def for_outputs(self, outputs: int, names: Sequence[str] | None = None) -> LabeledImages:
        """The same images with classes numbered as a network's `outputs`.

        With the outputs' `names`, by name (case, "_" and "-" do not matter); without, by position: then every class
        that has images must have an output.

        Raises:
            InputError: a class has images and no output.
        """
        if names is None:
            if len(self) and int(self.targets.max()) >= outputs:
                raise InputError(
                    f"{self.images.name} has images of {len(self.classes)} classes ({few(self.classes)}), the "
                    f"network has {outputs} outputs; give the names of the outputs in their order"
                )
            kept = (*self.classes[:outputs], *(f"output {i}" for i in range(len(self.classes), outputs)))
            return replace(self, classes=kept)
        if len(names) != outputs:
            raise InputError(f"{counted(len(names), 'class name')} for a network with {outputs} outputs")
        place = {_plain(name): i for i, name in enumerate(names)}
        used = [self.classes[i] for i in np.unique(self.targets)]
        if missing := [name for name in used if _plain(name) not in place]:
            raise InputError(
                f"{self.images.name}: the network has no output called {missing[0]!r}{nearest(missing[0], names)}; its "
                f"outputs: {few(names)}"
            )
        number = np.array([place.get(_plain(name), -1) for name in self.classes], np.int64)
        return replace(self, classes=tuple(names), targets=number[self.targets])


def labeled_images(
    source: Any,
    table: str | Path | Sequence[str | Path] | None = None,
    *,
    image_column: str | None = None,
    class_column: str | None = None,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> LabeledImages:
    """Images with the class and the subgroups of each.

    Args:
        source: what `contralens.images` takes (without `table`, one subfolder per class, or a data set with classes);
            a CSV file with paths relative to it; a mapping of these arguments; or `LabeledImages`. Folders named
            train, val, test and the like are not classes; their subfolders are.
        table: a CSV, .tsv or .parquet file, or several that are joined by image. One of them holds the classes: in
            `class_column`, in that of a known data set (`contralens.data.table_layouts`), in a column called class,
            label, diagnosis, dx or target, or in columns of 0 and 1 with one 1 a row, as in ISIC 2019's ground truth.
            Images with several classes ("A|B", as in NIH's tables) are excluded. An image is named by its path or the
            end of it, with or without its suffix.
        image_column: the column with the image names; by default detected by its name or values.
        class_column: the column that holds the classes.
        classes: names of the classes in their order; with one-hot columns, which columns those are.
        groups: columns to keep as subgroups; by default all others with at most 30 different values.
        limit: use a sample of this many images, drawn with `seed` as in `contralens.images`.
        seed: of that sample.

    Returns:
        The images with a class; `notes` counts those without one.

    Raises:
        InputError: no classes found, two classes for one image, or a table that names none of the images.

    >>> from pathlib import Path
    >>> _ = Path("table.csv").write_text("image,class,camera\\n00000.png,striped,A\\n00001.png,plain,B\\n")
    >>> found = labeled_images("world-1/images", "table.csv")
    >>> found.classes, found.targets.tolist(), found.groups["camera"].tolist()
    (('plain', 'striped'), [1, 0], ['A', 'B'])
    """
    if isinstance(source, LabeledImages):
        return source
    if isinstance(source, Mapping):
        known = ("images", "table", "image_column", "class_column", "classes", "groups", "limit", "seed")
        if unknown := [key for key in source if key not in known]:
            raise InputError(f"labeled images: unknown key {unknown[0]!r}; known: {', '.join(known)}")
        given = dict(source)
        return labeled_images(given.pop("images", None), given.pop("table", None), **given)
    if table is None and isinstance(source, (str, Path)) and Path(source).suffix.lower() in (".csv", ".tsv"):
        table = Path(source)
        beside = table.parent
        rows = read_table(table, lambda name: name if os.path.isfile(beside / name) else None, image_column).rows
        source = listed(list(rows), beside, str(table))
    found = image_set(source, limit=limit, seed=seed)
    images = found if isinstance(found, ImageSet) else OtherImages(found)
    if table is None:
        return _by_source(images, class_column, classes)
    paths = [Path(t) for t in ([table] if isinstance(table, (str, Path)) else table)]
    place = Places(images.ids)
    asked = [None] * len(paths) if image_column is None else _having(paths, place, image_column)
    tables = [read_table(path, place.sole, column) for path, column in zip(paths, asked, strict=True)]
    return _joined(images, tables, class_column, classes, groups)


def _by_source(images: ImageSet, class_column: str | None, classes: Sequence[str] | None) -> LabeledImages:
    """Images whose source shows their classes: folders, or a column of a data set."""
    columns = isinstance(images, HuggingFaceImages)
    if class_column is not None and not columns:
        raise InputError(f"{images.name} has no columns: class_column is about a table or a Hugging Face data set")
    own = images.values(class_column) if isinstance(images, HuggingFaceImages) and class_column else images.labels
    if own is None:
        raise InputError(
            f"{images.name} has no classes: give a folder with one subfolder per class, or a table (CSV)"
            + (", or name the column that does with class_column" if columns else "")
        )
    if all(is_split(label) for label in own):
        raise InputError(
            f"{images.name}: {few(sorted(set(own)))} are parts of a data set, no classes: give a folder with one "
            "subfolder per class, or a table (CSV)"
        )
    rows = [row for row, label in enumerate(own) if label]
    left = len(images) - len(rows)
    order, targets = _numbered([own[row] for row in rows], classes, images.name)
    notes = (f"{counted(left, 'image')} of {images.name} without a class excluded",) if left else ()
    return LabeledImages(images.take(rows) if left else images, order, targets, {}, notes)


def _having(paths: Sequence[Path], place: Places, image_column: str) -> list[str | None]:
    """The image column of each table: of several tables, some may call it otherwise."""
    out: list[str | None] = []
    errors: list[InputError] = []
    for path in paths:
        try:
            read_table(path, place.sole, image_column)
            out.append(image_column)
        except InputError as e:
            errors.append(e)
            out.append(None)
    if len(errors) == len(paths):
        raise errors[0]
    return out


def _joined(
    images: ImageSet, tables: Sequence[Table], class_column: str | None, classes: Sequence[str] | None,
    groups: Sequence[str] | None,
) -> LabeledImages:  # fmt: skip
    place = Places(images.ids)
    telling, used, names, notes = classes_in(tables, class_column, classes)
    by_row = {row: name for image, name in names.items() if (row := place.find(image)) is not None}
    if not by_row:
        raise InputError(
            f"{telling.path} names none of the images of {images.name}: it says {next(iter(names))!r}, an image is "
            f"called {images.ids[0]!r}"
        )
    rows = sorted(by_row)
    if classes is None and len(used) > 1:
        classes = (*used, *sorted(set(by_row.values()) - set(used)))
    order, targets = _numbered([by_row[row] for row in rows], classes, str(telling.path))
    kept: dict[str, NDArray[np.str_]] = {}
    offered = {c: t for t in tables for c in t.columns if not (t is telling and c in used)}
    for name in groups or ():
        if name not in offered:
            raise InputError(f"no table has a column {name!r}{nearest(name, offered)}; there are {few(offered)}")
    for name, table in offered.items():
        values = {row: value for image, value in table.of(name).items() if (row := place.find(image)) is not None}
        column = np.array([values.get(row, UNKNOWN) for row in rows], np.str_)
        if name in groups if groups is not None else 2 <= len(np.unique(column)) <= MOST_GROUPS:
            kept[name] = column
    notes = [*(note for table in tables for note in table.notes), *notes]
    if len(rows) < len(images):
        notes.append(f"{counted(len(images) - len(rows), 'image')} without a class in {telling.path.name} left out")
    if len(by_row) < len(names):
        notes.append(f"{counted(len(names) - len(by_row), 'row')} of {telling.path.name} without an image left out")
    return LabeledImages(images.take(rows), order, targets, kept, tuple(notes))


def _numbered(
    names: Sequence[str], classes: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    order = tuple(classes) if classes is not None else tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(order)}
    if strange := next((name for name in names if name not in number), None):
        raise InputError(f"{where}: class {strange!r} is not among the given {few(order)}{nearest(strange, order)}")
    return order, np.array([number[name] for name in names], np.int64)


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())
