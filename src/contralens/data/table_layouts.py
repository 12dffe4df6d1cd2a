"""Tables of known data sets: which column names the image, and which the class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layout:
    """How a data set's table is read. It is known by its columns, whatever else the table holds."""

    name: str
    known_by: tuple[str, ...]
    """Columns, in lower case, that only this data set's table has together."""
    image: str | None = None
    """Column that names the image; None looks for it among the values."""
    classes: tuple[str, ...] = ()
    """The class column, or the columns of 0 and 1 with one 1 a row; none: the table has no single class of an image."""
    rest: str | None = None
    """The class of a row without a 1."""
    instead: str = ""
    """What to choose instead, where there are no `classes`."""


LAYOUTS = (
    Layout("Fitzpatrick17k", ("md5hash", "three_partition_label"), "md5hash", ("three_partition_label",)),
    Layout("DDI", ("ddi_file", "malignant"), "ddi_file", ("malignant",)),
    Layout("PAD-UFES-20", ("img_id", "diagnostic"), "img_id", ("diagnostic",)),
    Layout("derm7pt", ("diagnosis", "clinic", "derm"), None, ("diagnosis",)),
    Layout("NIH ChestX-ray14", ("image index", "finding labels"), "image index", ("finding labels",)),
    Layout(
        "CheXpert", ("path", "no finding", "support devices"), "path",
        instead="a finding with 1 for present, 0 for absent, -1 for uncertain, e.g. Cardiomegaly",
    ),
    Layout(
        "ISIC 2017", ("image_id", "melanoma", "seborrheic_keratosis"), "image_id",
        ("melanoma", "seborrheic_keratosis"), rest="nevus",
    ),
)  # fmt: skip
"""Known tables, the first that fits is used."""


def layout_of(columns: Sequence[str]) -> Layout | None:
    """The data set whose table has these columns, if it is a known one.

    >>> layout_of(["patient_id", "img_id", "diagnostic"]).name, layout_of(["image", "class"])
    ('PAD-UFES-20', None)
    """
    lowered = {column.lower() for column in columns}
    return next((layout for layout in LAYOUTS if lowered.issuperset(layout.known_by)), None)
