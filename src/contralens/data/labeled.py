"""Images with their classes and subgroups: from folders, or from tables as data sets come with."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contralens.checks import InputError, counted, nearest
from contralens.data.images import images as image_set
from contralens.data.images import listed
from contralens.data.sets import ImageSet, OtherImages
from contralens.types import Images

IMAGE_COLUMNS = ("image", "image_id", "image_name", "isic_id", "filename", "file_name", "file", "path")
"""Names of the column that says which image a row is about; the first of a table's columns if none is there."""
CLASS_COLUMNS = ("class", "label", "diagnosis", "dx", "target")
"""Names of a column that holds an image's class."""
MOST_GROUPS = 30
"""A column with more different values (an id, a date) is no subgroup unless asked for."""
UNKNOWN = ""
"""Subgroup of an image that the tables are silent about."""


@dataclass(frozen=True)
class LabeledImages:
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

        Raises:
            InputError: the table names none of the images.
        """
        rows: Mapping[str, Mapping[str, Any]] = table if isinstance(table, Mapping) else _read(Path(table)).named()
        place = _Places(self.ids)
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
                    f"{self.images.name} has images of {len(self.classes)} classes ({_some(self.classes)}), the "
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
                f"outputs: {_some(names)}"
            )
        number = np.array([place.get(_plain(name), -1) for name in self.classes], np.int64)
        return replace(self, classes=tuple(names), targets=number[self.targets])


def labeled_images(
    source: Any,
    table: str | Path | Sequence[str | Path] | None = None,
    *,
    classes: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> LabeledImages:
    """Images with the class and the subgroups of each.

    Args:
        source: what `contralens.images` takes (without `table`, one sub-folder per class, or a data set with classes);
            a CSV file whose first column holds paths relative to it; a mapping of these arguments; or `LabeledImages`.
        table: a CSV (or .tsv) file, or several that are joined by image. One of them tells the classes: in a column
            called class, label, diagnosis, dx or target, or in columns of 0 and 1 with one 1 a row, as in ISIC 2019's
            ground truth. An image is named by its path or file name, with or without its suffix.
        classes: names of the classes in their order; with one-hot columns, which columns those are.
        groups: columns to keep as subgroups; by default all others with at most 30 different values.
        limit: use a sample of that many images, drawn with `seed` as `contralens.images` does.
        seed: of that sample.

    Returns:
        The images that have a class; those without one are counted in `notes`.

    Raises:
        InputError: no classes to be found, two classes for one image, a table that names none of the images.

    >>> from pathlib import Path
    >>> _ = Path("table.csv").write_text("image,class,camera\\n00000.png,striped,A\\n00001.png,plain,B\\n")
    >>> found = labeled_images("world-1/images", "table.csv")
    >>> found.classes, found.targets.tolist(), found.groups["camera"].tolist()
    (('plain', 'striped'), [1, 0], ['A', 'B'])
    """
    if isinstance(source, LabeledImages):
        return source
    if isinstance(source, Mapping):
        if unknown := [key for key in source if key not in ("images", "table", "classes", "groups", "limit", "seed")]:
            raise InputError(
                f"labeled images: unknown key {unknown[0]!r}; known: images, table, classes, groups, limit"
            )
        given = dict(source)
        return labeled_images(given.pop("images", None), given.pop("table", None), **given)
    if table is None and isinstance(source, (str, Path)) and Path(source).suffix.lower() in (".csv", ".tsv"):
        table = Path(source)
        source = listed(list(_read(table).rows), table.parent, str(table))
    found = image_set(source, limit=limit, seed=seed)
    images = found if isinstance(found, ImageSet) else OtherImages(found)
    if table is None:
        own = getattr(found, "labels", None)
        if own is None:
            raise InputError(
                f"{found.name} tells no classes: give a folder with one sub-folder per class, or a table (CSV)"
            )
        order, targets = _numbered(own, classes, found.name)
        return LabeledImages(images, order, targets)
    paths = [Path(t) for t in ([table] if isinstance(table, (str, Path)) else table)]
    return _joined(images, [_read(path) for path in paths], classes, groups)


@dataclass(frozen=True, slots=True)
class _Table:
    path: Path
    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    """Image -> its values in `columns`."""

    def of(self, column: str) -> dict[str, str]:
        at = self.columns.index(column)
        return {image: row[at] for image, row in self.rows.items()}

    def named(self) -> dict[str, dict[str, str]]:
        """Image -> column -> value."""
        return {image: dict(zip(self.columns, row, strict=True)) for image, row in self.rows.items()}

    @property
    def one_hot(self) -> tuple[str, ...]:
        """The columns that hold 0 and 1 only."""
        values = zip(*self.rows.values(), strict=True)
        return tuple(c for c, own in zip(self.columns, values, strict=True) if {_bit(v) for v in own} <= {0, 1})


def _read(path: Path) -> _Table:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [row for row in csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",") if row]
    except FileNotFoundError:
        raise InputError(f"no table {path}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"cannot read the table {path}: {e}") from e
    if len(lines) < 2:
        raise InputError(f"the table {path} must hold a line of column names and one line per image")
    head = [name.strip() for name in lines[0]]
    if doubled := next((name for i, name in enumerate(head) if name in head[:i]), None):
        raise InputError(f"{path}: two columns are called {doubled!r}")
    lowered = [name.lower() for name in head]
    at = next((lowered.index(name) for name in IMAGE_COLUMNS if name in lowered), 0)
    rows: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(lines[1:], start=2):
        if len(row) != len(head):
            raise InputError(f"{path}, line {number}: {len(row)} values for {len(head)} columns")
        values = [value.strip() for value in row]
        image, rest = values[at], tuple(values[:at] + values[at + 1 :])
        if rows.setdefault(image, rest) != rest:
            raise InputError(f"{path}, line {number}: {image!r} stands there twice, with different values")
    return _Table(path, tuple(head[:at] + head[at + 1 :]), rows)


def _joined(
    images: ImageSet, tables: Sequence[_Table], classes: Sequence[str] | None, groups: Sequence[str] | None
) -> LabeledImages:
    place = _Places(images.ids)
    telling, used, names = _classes(tables, classes)
    by_row = {row: name for image, name in names.items() if (row := place.find(image)) is not None}
    if not by_row:
        raise InputError(
            f"{telling.path} names none of the images of {images.name}: it says {next(iter(names))!r}, an image is "
            f"called {images.ids[0]!r}"
        )
    rows = sorted(by_row)
    if classes is None and len(used) > 1:
        classes = used
    order, targets = _numbered([by_row[row] for row in rows], classes, str(telling.path))
    kept: dict[str, NDArray[np.str_]] = {}
    offered = {c: t for t in tables for c in t.columns if not (t is telling and c in used)}
    for name in groups or ():
        if name not in offered:
            raise InputError(f"no table has a column {name!r}{nearest(name, offered)}; there are {_some(offered)}")
    for name, table in offered.items():
        values = {row: value for image, value in table.of(name).items() if (row := place.find(image)) is not None}
        column = np.array([values.get(row, UNKNOWN) for row in rows], np.str_)
        if name in groups if groups is not None else 2 <= len(np.unique(column)) <= MOST_GROUPS:
            kept[name] = column
    notes = []
    if len(rows) < len(images):
        notes.append(f"{counted(len(images) - len(rows), 'image')} without a class in {telling.path.name} left out")
    if len(by_row) < len(names):
        notes.append(f"{counted(len(names) - len(by_row), 'row')} of {telling.path.name} without an image left out")
    return LabeledImages(images.take(rows), order, targets, kept, tuple(notes))


def _classes(tables: Sequence[_Table], classes: Sequence[str] | None) -> tuple[_Table, tuple[str, ...], dict[str, str]]:
    """The table that tells the classes, the columns that do, and image -> class."""
    for table in tables:
        for column in table.columns:
            if column.lower() in CLASS_COLUMNS:
                return table, (column,), {image: name for image, name in table.of(column).items() if name}
    for table in tables:
        told = table.one_hot
        columns = tuple(c for c in classes if c in told) if classes is not None else told
        if len(columns) < 2:
            continue
        at = [table.columns.index(c) for c in columns]
        found = {}
        for image, row in table.rows.items():
            ones = [c for c, i in zip(columns, at, strict=True) if _bit(row[i])]
            if len(ones) != 1:
                raise InputError(
                    f"{table.path}: {image!r} has {len(ones)} ones in the columns {_some(columns)}, exactly one is its "
                    "class; say with `classes` which columns are classes"
                )
            found[image] = ones[0]
        return table, columns, found
    raise InputError(
        f"{', '.join(str(t.path) for t in tables)}: no column called {', '.join(CLASS_COLUMNS)}, and no columns of 0 "
        "and 1, that would tell the classes"
    )


def _numbered(
    names: Sequence[str], classes: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    order = tuple(classes) if classes is not None else tuple(sorted(set(names)))
    number = {name: i for i, name in enumerate(order)}
    if strange := next((name for name in names if name not in number), None):
        raise InputError(f"{where}: class {strange!r} is not among the given {_some(order)}{nearest(strange, order)}")
    return order, np.array([number[name] for name in names], np.int64)


class _Places:
    """Rows of images by what a table may call them: path or file name, with or without suffix."""

    def __init__(self, ids: Sequence[str]) -> None:
        self._rows: dict[str, list[int]] = {}
        for row, name in enumerate(ids):
            path = PurePosixPath(name)
            for key in {name, path.name, str(path.with_suffix("")), path.stem}:
                self._rows.setdefault(key, []).append(row)
        self._ids = ids

    def find(self, image: str) -> int | None:
        rows = self._rows.get(image.replace("\\", "/"), [])
        exact = [row for row in rows if self._ids[row] == image]
        if len(rows) > 1 and len(exact) != 1:
            raise InputError(f"the table's {image!r} may be {self._ids[rows[0]]} or {self._ids[rows[1]]}: give paths")
        return next(iter(exact or rows), None)


def _bit(value: str) -> int | None:
    try:
        return {0.0: 0, 1.0: 1}.get(float(value))
    except ValueError:
        return None


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _some(names: Iterable[str], most: int = 9) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
