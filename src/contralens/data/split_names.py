"""Names of folders that divide a data set into parts, which are no classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

_SPLIT = re.compile(
    r"(train|training|val|valid|validation|dev|test|testing|eval|evaluation|holdout|split|fold)"
    r"([-_ ]?(set|data|images|imgs|split))?([-_ ]?[0-9]{1,4})?",
    re.IGNORECASE,
)


def is_split(name: str) -> bool:
    """Whether a folder's name says that it holds a part of a data set, such as train or test.

    >>> [is_split(name) for name in ("train", "Val", "test_set", "fold-1", "test_tube", "benign")]
    [True, True, True, True, False, False]
    """
    return _SPLIT.fullmatch(name) is not None


def classes_of(names: Sequence[str]) -> list[str] | None:
    """The class of each image by its path: the folder at the first level where there are several.

    A level on which all folders are parts of a data set (`is_split`) does not count. "" for an image that is above
    the classes of others; None where the folders tell nothing.

    >>> classes_of(["train/benign/1.png", "test/malignant/2.png", "test/3.png"]), classes_of(["train/1.png"])
    (['benign', 'malignant', ''], None)
    """
    parts = [PurePath(name).parts[:-1] for name in names]
    divided = False
    for level in range(max(map(len, parts), default=0)):
        there = {folders[level] for folders in parts if len(folders) > level}
        if all(map(is_split, there)):
            divided = True
            continue
        if not divided and any(len(folders) <= level for folders in parts):
            return None
        if len(there) > 1 or divided:
            return [folders[level] if len(folders) > level else "" for folders in parts]
    return None
