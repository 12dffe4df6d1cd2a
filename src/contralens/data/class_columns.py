"""Which column of a table holds the classes of the images, and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from contralens.checks import counted, few
from contralens.data.image_tables import CLASS_COLUMNS, Table, bit
from contralens.data.table_layouts import Layout
from contralens.errors import InputError

OTHER_CLASS_COLUMNS = (
    "diagnostic", "malignant", "benign_malignant", "disease", "category", "class_name", "label_name", "labels",
    "classes", "finding labels", "y",
)  # fmt: skip
"""Further names, which count where only one of them is there."""
SEVERAL = "|"
"""What is between the classes of an image that has several."""


def classes_in(
    tables: Sequence[Table], asked: str | None, classes: Sequence[str] | None
) -> tuple[Table, tuple[str, ...], dict[str, str], list[str]]:
    """The table that holds the classes, the columns that do, image -> class, and notes."""
    if asked is not None:
        for table in tables:
            if asked.lower() in (c.lower() for c in table.columns):
                return _of_column(table, table.column(asked), classes, [])
        tables[0].column(asked)
    for table in tables:
        if table.layout is not None and (layout := table.layout).classes:
            columns = tuple(table.column(c) for c in layout.classes)
            notes = [f"{table.path.name} is read as {layout.name}: classes from {few(columns)}"]
            return _of_column(table, columns[0], classes, notes) if len(columns) == 1 else (
                table, columns, _of_ones(table, columns, layout.rest), notes
            )  # fmt: skip
    for names in (CLASS_COLUMNS, OTHER_CLASS_COLUMNS):
        for table in tables:
            found = [column for column in table.columns if column.lower() in names]
            if names is OTHER_CLASS_COLUMNS and len(ones := table.one_hot) > 1:
                found = [column for column in found if column not in ones]  # malignant beside benign, with one 1 a row
            if len(found) > 1 and names is OTHER_CLASS_COLUMNS:
                raise InputError(
                    f"{table.path}: each of {few(found)} may hold the classes; name one with class_column= "
                    f"(--class-column), e.g. {found[0]!r}"
                )
            if found:
                others = f"; so might {few(found[1:])}: choose with class_column (--class-column)"
                told = [f"{table.path.name}: {found[0]} holds the classes{others}"] if found[1:] else []
                return _of_column(table, found[0], classes, told)
    for table in tables:
        found = [c for c in table.one_hot if classes is None or c in classes]
        if len(found) > 1:
            return table, tuple(found), _of_ones(table, found, None), []
    for table in tables:  # an image and its class, without a line of names
        if table.columns in (("column 1",), ("column 2",)):
            return _of_column(table, table.columns[0], classes, [])
    raise InputError(_without_classes(tables))


def _of_column(
    table: Table, column: str, classes: Sequence[str] | None, notes: list[str]
) -> tuple[Table, tuple[str, ...], dict[str, str], list[str]]:
    """Classes as a column holds them; images with several of them are left out."""
    names = {image: name for image, name in table.of(column).items() if name}
    if not names:
        raise InputError(
            f"{table.path}: the column {column!r} is empty; say with class_column= (--class-column) which holds the "
            "classes"
        )
    several, left = {image for image, name in names.items() if SEVERAL in name}, 0
    for image in several:
        own = dict.fromkeys(one.strip() for one in names[image].split(SEVERAL))
        wanted = [one for one in own if classes is None or one in classes]
        if len(wanted) == 1:
            names[image] = wanted[0]
        else:
            del names[image]
            left += 1
    if several and classes is not None:
        names = {image: name for image, name in names.items() if name in classes or image in several}
    if not names:
        raise InputError(f"{table.path}: by the column {column!r} no image has a single class, or none of `classes`")
    if left:
        notes.append(
            f"{counted(left, 'image')} with several classes in {table.path.name} left out"
            + ("" if classes is not None else "; `classes` chooses those that count")
        )
    return table, (column,), names, notes


def _of_ones(table: Table, columns: Sequence[str], rest: str | None) -> dict[str, str]:
    """The column with the 1 of each image; `rest` where there is none."""
    at = [table.columns.index(c) for c in columns]
    found = {}
    for image, row in table.rows.items():
        ones = [c for c, i in zip(columns, at, strict=True) if bit(row[i])]
        if not ones and rest is not None:
            ones = [rest]
        if len(ones) != 1:
            raise InputError(
                f"{table.path}: {image!r} has {len(ones)} ones in the columns {few(columns)}, exactly one is its "
                "class; say with `classes` which columns are classes, or with class_column= (--class-column) which one "
                "column holds them"
            )
        found[image] = ones[0]
    return found


def _without_classes(tables: Sequence[Table]) -> str:
    layout: Layout | None = next((t.layout for t in tables if t.layout is not None), None)
    where = ", ".join(str(t.path) for t in tables)
    if layout is not None and layout.instead:
        return (
            f"{where} ({layout.name}) has several findings an image and no single class; choose one column with "
            f"class_column= (--class-column): {layout.instead}"
        )
    columns = list(dict.fromkeys(c for t in tables for c in t.columns))
    return (
        f"{where}: no column called {', '.join(CLASS_COLUMNS)}, and no columns of 0 and 1, that would tell the "
        f"classes; say with class_column= (--class-column) which does: {few(columns)}"
    )
