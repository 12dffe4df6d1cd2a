"""Tables about images: CSV files as data sets come with, and which image a row is about."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from contralens.checks import few, nearest
from contralens.data.table_layouts import Layout, layout_of
from contralens.errors import InputError

CLASS_COLUMNS = ("class", "label", "diagnosis", "dx", "target")
"""Names of a column that holds an image's class."""
IMAGE_COLUMNS = ("image", "image_id", "image_name", "isic_id", "filename", "file_name", "file", "path")
"""Names of the column that says which image a row is about, before it is looked for among the values."""
OTHER_TABLES = {
    ".json": "JSON is no table; write a CSV file with the columns image and class (pandas: DataFrame(...).to_csv(...))",
    ".jsonl": 'write it as CSV (pandas: read_json("x.jsonl", lines=True).to_csv("x.csv"))',
    ".xlsx": "save the sheet as CSV",
    ".xls": "save the sheet as CSV",
    ".mat": "write a CSV file with the columns image and class",
    ".npz": "write a CSV file with the columns image and class",
    ".pkl": 'write it as CSV (pandas: read_pickle("x.pkl").to_csv("x.csv"))',
}
"""Suffixes of what holds tables and is not read, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a file, by image."""

    path: Path
    columns: tuple[str, ...]
    """Names of all columns but the image's."""
    rows: Mapping[str, tuple[str, ...]]
    """Image -> its values in `columns`."""
    layout: Layout | None = None
    """The data set that the table is of, if it is a known one."""
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> str:
        """A column as the table spells it; case does not matter.

        Raises:
            InputError: there is none.
        """
        return self.columns[_place_of(name, self.columns, self.path)]

    def of(self, column: str) -> dict[str, str]:
        """Image -> its value in a column."""
        at = self.columns.index(column)
        return {image: row[at] for image, row in self.rows.items()}

    def named(self) -> dict[str, dict[str, str]]:
        """Image -> column -> value."""
        return {image: dict(zip(self.columns, row, strict=True)) for image, row in self.rows.items()}

    @property
    def one_hot(self) -> tuple[str, ...]:
        """The columns that hold 0 and 1 only."""
        values = zip(*self.rows.values(), strict=True)
        return tuple(c for c, own in zip(self.columns, values, strict=True) if {bit(v) for v in own} <= {0, 1})


def read_table(path: Path, find: Callable[[str], object], image_column: str | None = None) -> Table:
    """A table by image.

    The image's column is `image_column`; else that of a known data set (`LAYOUTS`); else one called as in
    `IMAGE_COLUMNS`; else the one whose values name the most images; else the first. A table without a line of names is
    known by the image that its first line names; its columns are then called "column 1" and so on.

    Args:
        path: a CSV file (with commas, semicolons or tabs) or a parquet file.
        find: the image that a text names, None if it names none.
        image_column: the column's name.

    Raises:
        InputError: it cannot be read, no such column, several columns name images, an image twice with other values.
    """
    head, lines, first = _cells(path)
    names_columns = any(name.lower() in (*IMAGE_COLUMNS, *CLASS_COLUMNS) for name in head)
    if not names_columns and any(find(value) is not None for value in head if value):
        head, lines, first = [f"column {i}" for i in range(1, len(head) + 1)], [head, *lines], 1
    if not lines:
        raise InputError(f"the table {path} must hold a line of column names and one line per image")
    for number, row in enumerate(lines, start=first):
        if len(row) != len(head):
            raise InputError(f"{path}, line {number}: {len(row)} values for {len(head)} columns")
    layout = layout_of(head)
    at, note = _image_at(path, head, lines, find, image_column, layout)
    rows: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(lines, start=first):
        image, rest = row[at], tuple(row[:at] + row[at + 1 :])
        if image and rows.setdefault(image, rest) != rest:
            raise InputError(f"{path}, line {number}: {image!r} is there twice, with different values")
    if not rows:
        raise InputError(f"{path}: no line names an image, the column {head[at]!r} is empty: give another image_column")
    return Table(path, tuple(head[:at] + head[at + 1 :]), rows, layout, (note,) if note else ())


def _cells(path: Path) -> tuple[list[str], list[list[str]], int]:
    """Column names, rows, and the number of the first row's line."""
    suffix = path.suffix.lower()
    if suffix in OTHER_TABLES and path.exists():
        raise InputError(f"{path} cannot be read as a table: {OTHER_TABLES[suffix]}")
    if suffix == ".parquet" and path.exists():
        return _parquet(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            read = csv.reader(file, delimiter=_delimiter(path, first))
            lines = [[value.strip() for value in row] for row in read if row]
    except FileNotFoundError:
        raise InputError(f"no table {path}") from None
    except UnicodeDecodeError as e:
        raise InputError(f"cannot read the table {path}: it is no UTF-8 text ({e}); save it as CSV in UTF-8") from e
    except (OSError, csv.Error) as e:
        raise InputError(f"cannot read the table {path}: {e}") from e
    if not lines:
        raise InputError(f"the table {path} must hold a line of column names and one line per image")
    head = lines[0]
    while len(head) > 1 and not head[-1]:  # a comma at the end of each line
        head = head[:-1]
    rows = [row[: len(head)] if not any(row[len(head) :]) else row for row in lines[1:]]
    return _named(path, head), rows, 2


def _delimiter(path: Path, first: str) -> str:
    """Tabs in a .tsv file; else commas, or what the first line has in their place."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    return "," if "," in first else max(",;\t", key=first.count)


def _named(path: Path, head: Sequence[str]) -> list[str]:
    """The columns' names; one without a name (as the index that pandas writes) is called by its place."""
    names = [name or f"column {i}" for i, name in enumerate(head, start=1)]
    if doubled := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise InputError(f"{path}: two columns are called {doubled!r}")
    return names


def _parquet(path: Path) -> tuple[list[str], list[list[str]], int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as e:
        raise InputError(f"cannot read the table {path}: {e}") from e
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    plain = [name for name, kind in kinds.items() if not (pa.types.is_nested(kind) or pa.types.is_binary(kind))]
    columns = [["" if v is None else str(v) for v in table[c].to_pylist()] for c in plain]
    return _named(path, plain), [list(row) for row in zip(*columns, strict=True)], 1


def read_column(path: Path, name: str, places: Places) -> tuple[dict[int, str], str]:
    """What a column says of each image, by row of the image, and how the table names an image.

    Where several columns name images (two pictures of one case), a line is about all of them.

    Raises:
        InputError: it cannot be read, no such column, or two values for one image.
    """
    head, lines, _ = _cells(path)
    value = _place_of(name, head, path)
    name = head[value]
    images = _image_columns(head, lines, places.sole, layout_of(head), but=value)
    found: dict[int, str] = {}
    for row in lines:
        if len(row) != len(head):
            raise InputError(f"{path}: {len(row)} values for {len(head)} columns, in the line of {row[images[0]]!r}")
        for at in images:
            image = places.find(row[at]) if row[at] else None
            if image is not None and found.setdefault(image, row[value]) != row[value]:
                raise InputError(f"{path}: {row[at]!r} has two values of {name}: {found[image]!r} and {row[value]!r}")
    return found, lines[0][images[0]] if lines else ""


def read_lines(path: Path, name: str | None, places: Places) -> dict[int, list[str]]:
    """All texts that a table holds of each image, such as several captions, by row of the image.

    Args:
        path: the table; without a line of column names, its columns are called "column 1" and so on.
        name: the column of the texts; by default the one with the longest.
        places: the images.

    Raises:
        InputError: it cannot be read, no such column.
    """
    head, lines, _ = _cells(path)
    if any(places.sole(value) is not None for value in head if value):
        head, lines = [f"column {i}" for i in range(1, len(head) + 1)], [head, *lines]
    asked = None if name is None else _place_of(name, head, path)
    image = _image_columns(head, lines, places.sole, layout_of(head), but=asked)[0]
    lengths = [sum(len(row[at]) for row in lines if at < len(row)) if at != image else -1 for at in range(len(head))]
    value = lengths.index(max(lengths)) if asked is None else asked
    found: dict[int, list[str]] = {}
    for row in lines:
        if len(row) > max(image, value) and (at := places.find(row[image])) is not None:
            found.setdefault(at, []).append(row[value])
    return found


def _place_of(name: str, columns: Sequence[str], path: Path) -> int:
    """Where a column is; case does not matter where none is spelled just so."""
    lowered = [column.lower() for column in columns]
    if name.lower() not in lowered:
        raise InputError(f"{path} has no column {name!r}{nearest(name, columns)}; it has {few(columns)}")
    return columns.index(name) if name in columns else lowered.index(name.lower())


def _image_at(
    path: Path, head: Sequence[str], lines: Sequence[Sequence[str]], find: Callable[[str], object], asked: str | None,
    layout: Layout | None,
) -> tuple[int, str | None]:  # fmt: skip
    """The image's column, and what to say where it was found by its values."""
    if asked is not None:
        return _place_of(asked, head, path), None
    found = _image_columns(head, lines, find, layout)
    if len(found) > 1:
        raise InputError(
            f"{path}: the columns {few(head[i] for i in found)} all name images; choose one with image_column= "
            f"(--image-column), e.g. {head[found[0]]!r}"
        )
    at, known = found[0], (*IMAGE_COLUMNS, *([layout.image] if layout and layout.image else []))
    told = at > 0 and head[at].lower() not in known
    return at, f"{path.name}: images are named by the column {head[at]!r}" if told else None


def _image_columns(
    head: Sequence[str], lines: Sequence[Sequence[str]], find: Callable[[str], object], layout: Layout | None,
    but: int | None = None,
) -> list[int]:  # fmt: skip
    """The column that names the images, and others that name other ones; at least one column, and not `but`."""
    lowered = [name.lower() for name in head]
    if layout is not None and layout.image is not None:
        return [lowered.index(layout.image)]
    named = next((lowered.index(name) for name in IMAGE_COLUMNS if name in lowered), None)
    if named is not None and any(find(row[named]) is not None for row in lines if row[named]):
        return [named]
    unnamed = [name == f"column {at}" for at, name in enumerate(head, start=1)]  # pandas' index, beside others
    found = [
        [find(row[at]) if row[at] and at != but and (all(unnamed) or not unnamed[at]) else None for row in lines]
        for at in range(len(head))
    ]
    counts = [len({one for one in column if one is not None}) for column in found]
    if not (most := max(counts)):
        return [named if named is not None else 0]
    at = counts.index(most)
    rivals = [i for i in range(len(head)) if i != at and counts[i] and 2 * counts[i] >= most and found[i] != found[at]]
    return [at, *rivals]


class Places:
    """Rows of images by what a table may call them: the path, or its end, with or without suffix.

    A table may give more folders than the image's name has, or fewer.

    >>> Places(["train/p1/view.jpg", "train/p2/view.jpg"]).find("CheXpert/train/p2/view.jpg")
    1
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        self._rows: dict[str, list[int]] = {}
        for row, name in enumerate(ids):
            path = PurePosixPath(name)
            for key in {path.name, path.stem, name}:
                self._rows.setdefault(key, []).append(row)

    def find(self, image: str) -> int | None:
        """The row of an image, None if the text names none.

        Raises:
            InputError: it may name several.
        """
        rows = self.candidates(image)
        if len(rows) > 1:
            raise InputError(f"the table's {image!r} may be {self._ids[rows[0]]} or {self._ids[rows[1]]}: give paths")
        return rows[0] if rows else None

    def sole(self, image: str) -> int | None:
        """The row of an image, None if the text names none or may name several."""
        rows = self.candidates(image)
        return rows[0] if len(rows) == 1 else None

    def candidates(self, image: str) -> list[int]:
        """Rows that the text may name: of the image that is called so, else of those whose path ends so."""
        image = image.replace("\\", "/")
        parts = PurePosixPath(image).parts
        if not parts:
            return []
        shared = {row: self._shared(row, parts) for row in self._rows.get(parts[-1], ())}
        most = max(shared.values(), default=-1)
        rows = [row for row, folders in shared.items() if folders == most >= 0] or self._rows.get(image, [])
        exact = [row for row in rows if self._ids[row] == image]
        return exact if len(exact) == 1 else rows

    def _shared(self, row: int, parts: Sequence[str]) -> int:
        """Folders that the text and the image's path share at their end; -1 if neither path ends with the other."""
        folders, own = tuple(parts[:-1]), PurePosixPath(self._ids[row]).parts[:-1]
        shared = min(len(folders), len(own))
        return shared if folders[len(folders) - shared :] == own[len(own) - shared :] else -1


def bit(value: str) -> int | None:
    """0 or 1, however it is written; None for anything else."""
    try:
        return {0.0: 0, 1.0: 1}.get(float(value))
    except ValueError:
        return None
