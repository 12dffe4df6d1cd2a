"""What a setting may be: how a person writes it, and the one check that flags, files and Python share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contralens.checks import (
    MOST_FAKES,
    MOST_INDICES,
    as_path,
    as_share,
    as_text,
    as_texts,
    distinct,
    nearest,
    real,
    shown,
    whole,
)
from contralens.errors import InputError
from contralens.specs import setting

MOST_SEED = 2**63


def as_it_is(name: str, value: Any) -> Any:
    """Whatever is given, for what only the job itself can judge."""
    return value


@dataclass(frozen=True)
class Kind:
    """What values a setting takes."""

    check: Callable[[str, Any], Any]
    """(name, value) -> value, or an `InputError` that names the setting."""
    read: Callable[[str, Any], Any] = as_it_is
    """(name, what a flag, a YAML file or a recipe says) -> value, still to be checked."""
    metavar: str = "<str>"
    """The kind's name in the help of a flag; "" for a switch."""
    many: bool = False
    """Whether the flag may be repeated."""
    beside: Callable[[Path, Any], Any] | None = None
    """(folder, value) -> value, where a relative path that a file holds is looked for in the file's folder first."""


def _number(name: str, value: Any) -> Any:
    """A text that is a number as one: YAML reads 1e-3 as a text."""
    for kind in (int, float) if isinstance(value, str) else ():
        with suppress(ValueError):
            return kind(value)
    return value


def _whole_number(name: str, value: Any) -> Any:
    number = _number(name, value)
    return int(number) if isinstance(number, float) and number.is_integer() else number


def whole_from(least: int = 1, most: int = 2**31 - 1) -> Kind:
    """A whole number within limits."""
    return Kind(lambda name, value: whole(name, value, least, most), _whole_number, "<int>")


def between(*, zero: bool = False, one: bool = False) -> Kind:
    """A number between 0 and 1, which may be 0 or 1 only if that is said."""
    return Kind(lambda name, value: as_share(name, value, zero=zero, one=one), _number, "<float>")


def _switch(name: str, value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"`{name}` must be true or false; got {shown(value)}")
    return bool(value)


def one_of(*known: str) -> Kind:
    """One of some words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise InputError(f"`{name}` must be one of {', '.join(known)}; got {shown(value)}{nearest(value, known)}")
        return value

    return Kind(check, metavar="|".join(known))


def several(kind: Kind) -> Kind:
    """One or more of what another kind takes, in a list; one alone stands for a list of one.

    >>> several(between()).read("dials", "0.5")
    [0.5]
    """

    def each(take: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
        def every(name: str, value: Any) -> list[Any]:
            listed = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
            if not listed:
                raise InputError(f"`{name}` is empty; omit it, or give at least one")
            return [take(name, one) for one in listed]

        return every

    return Kind(each(kind.check), each(kind.read), kind.metavar, many=True)


def _own_texts(name: str, value: Any) -> Any:
    """A text or texts in a list, as they are."""
    if not as_texts(name, value):
        raise InputError(f"`{name}` is empty; omit it, or give at least one text")
    return value


def _several(name: str, value: Any) -> Any:
    """A text, or several of them in a list, as a file or a flag holds what Python also takes as an object."""
    if isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)):
        return value
    raise InputError(f"`{name}` must be a text or a list of texts; got {shown(value)}")


def _names(name: str, value: Any) -> Any:
    """A text, or several; YAML reads the layer "1" of a sequence as a number. One in a list stands for itself."""
    if not isinstance(value, (list, tuple)):
        return str(value)
    return str(value[0]) if len(value) == 1 else [str(one) for one in value]


def _words(name: str, value: Any) -> Any:
    """Texts, also in one text with commas."""
    parts = [value] if isinstance(value, str) else _several(name, value)
    return [word.strip() for part in parts for word in part.split(",") if word.strip()]


def _device(name: str, value: Any) -> Any:
    """A text, or a `torch.device`."""
    return value if type(value).__name__ == "device" else as_text(name, value)


def _one_or_all(name: str, value: Any) -> Any:
    """A single text of a repeatable flag stands for itself."""
    value = _several(name, value)
    return value[0] if isinstance(value, (list, tuple)) and len(value) == 1 else value


def _path(name: str, value: Any) -> Any:
    as_path(name, value)
    return value


def indices(name: str, text: str, also: str = "") -> list[int]:
    """Numbers and ranges separated by commas; `also` names what else could have been given.

    >>> indices("neurons", "1,4-6")
    [1, 4, 5, 6]
    """
    spans: list[range] = []
    for part in text.split(","):
        low, dash, high = (piece.strip() for piece in part.partition("-"))
        first, last = _index(low), _index(high if dash else low)
        if first is None or last is None:
            raise InputError(f"`{name}` must be {also}indices such as 0,5,10-20; got {shown(text)}")
        if last < first:
            raise InputError(f"`{name}`: {shown(part.strip())} goes down; write {last}-{first}")
        spans.append(range(first, last + 1))
    if (number := sum(span[-1] - span[0] + 1 for span in spans)) > MOST_INDICES:
        raise InputError(f"`{name}` names {number:,} neurons; at most {MOST_INDICES:,} can be chosen by index")
    return [index for span in spans for index in span]


def _index(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else None


def indices_or(*words: str) -> Kind:
    """Indices of neurons, each once, or one of some words; written with commas and ranges."""
    also = "".join(f'"{word}", ' for word in words[:-1]) + (f'"{words[-1]}" or ' if words else "")

    def read(name: str, value: Any) -> Any:
        return indices(name, value, also) if isinstance(value, str) and value not in words else value

    def check(name: str, value: Any) -> Any:
        if isinstance(value, str):
            return value if value in words else list(dict.fromkeys(indices(name, value, also)))
        return distinct(name, value)

    return Kind(check, read)


def class_names(name: str, value: Any) -> list[str]:
    """Names in a list, or a file with one a line."""
    if not isinstance(value, str | Path):
        return as_texts(name, value)
    try:
        return [line.strip() for line in Path(value).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as e:
        raise InputError(f"`{name}`: cannot read {value}: {e}") from e


def _all_or_number(name: str, value: Any) -> Any:
    number = _whole_number(name, value)
    return None if number in (-1, "all") else number


def _cosine_or_never(name: str, value: Any) -> float | None:
    """A cosine; None, or 0 in a text, stands for never."""
    return None if value is None else as_share(name, value, one=True)


def _groups_of_indices(name: str, value: Any) -> Any:
    if value == "auto" or not isinstance(value, str):
        return value
    return [indices(name, group) for group in value.split(";")]


def _two(name: str, value: Any) -> tuple[float, float]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise InputError(f"`{name}` must be two numbers; got {shown(value)}")
    return real(name, value[0]), real(name, value[1])


def _numbers(name: str, value: Any) -> Any:
    return [_number(name, part) for part in re.split("[,/]", value)] if isinstance(value, str) else value


def _beside(folder: Path, value: Any) -> Any:
    """A relative path that is in that folder, from there."""
    here = isinstance(value, str) and not Path(value).is_absolute() and (folder / value).exists()
    return str(folder / value) if here else value


def _part_beside(folder: Path, value: Any) -> Any:
    """FILE::PART, likewise."""
    file, mark, part = str(value).partition("::")
    return f"{_beside(folder, file)}{mark}{part}"


def _table_beside(folder: Path, value: Any) -> Any:
    """TABLE:COLUMN, likewise."""
    table, colon, column = value.rpartition(":")
    return f"{_beside(folder, table)}{colon}{column}" if table else value


def _tables_beside(folder: Path, value: Any) -> Any:
    """A text or a list of them, likewise."""
    return [_table_beside(folder, one) for one in value] if isinstance(value, list) else _table_beside(folder, value)


WHOLE = whole_from()
PROCESSES = whole_from(0, 1024)
NULL_NEURONS = whole_from(1, MOST_FAKES)
ANY_WHOLE = whole_from(-MOST_SEED, MOST_SEED - 1)
SWITCH = Kind(_switch, metavar="")
TEXT = Kind(as_text)
WORLD = Kind(as_it_is, _whole_number, "<int>")
"""A rendered world by number, in Python also one of the caller's own."""
TEXTS = Kind(_own_texts, _several, many=True)
NAMES = Kind(_own_texts, _several)
TEMPLATES = Kind(_own_texts, _one_or_all, many=True)
LAYER = Kind(_own_texts, _names, many=True)
WORDS = Kind(lambda name, value: _own_texts(name, _words(name, value)), _words, many=True)
"""Words, each a text of its own or several in one with commas."""
DEVICE = Kind(_device, as_text)
FOLDER = Kind(as_it_is, metavar="<path>", beside=_beside)
"""In Python an object, elsewhere the folder that holds it."""
PATH = Kind(_path, metavar="<path>", beside=_beside)
CHECKPOINT = Kind(_path, metavar="<path>", beside=_part_beside)
CLASSES = Kind(class_names, as_it_is, "<path>")
ALL_OR_COUNT = Kind(lambda name, value: None if value is None else whole(name, value, 0), _all_or_number, "<int>")
MERGE = Kind(_cosine_or_never, lambda name, value: _number(name, value) or None, "<float>")
GROUPS_OF_NEURONS = Kind(as_it_is, _groups_of_indices)
TWO_NUMBERS = Kind(_two, _numbers, "<float>,<float>")
NUMBER = Kind(real, _number, "<float>")
THING = Kind(as_it_is, as_text)
"""In Python an object, or the text that stands for it elsewhere."""
ENCODER = Kind(as_it_is, _one_or_all, many=True)
OBJECT = Kind(as_it_is)
"""In Python an object, elsewhere a text or what YAML holds."""
FILE_OR_OBJECT = Kind(as_it_is, beside=_beside)
FILE = Kind(as_it_is, _several, beside=_beside)
"""Likewise, where the text may be a file's."""
FILES = Kind(as_it_is, _several, many=True)
CALIBRATE = Kind(as_it_is, _several, many=True, beside=_tables_beside)
TABLE = Kind(as_it_is, as_text, beside=_table_beside)
PYTHON = Kind(as_it_is)
"""What only Python can give; no flag, and no entry of a file."""


def named(example: str) -> Kind:
    """Settings of something else by name: NAME=VALUE texts, or a mapping.

    >>> named("focus=crop").read("propose", ["focus=crop", "max-tokens=64"])
    {'focus': 'crop', 'max_tokens': '64'}
    """

    def read(name: str, value: Any) -> Any:
        if isinstance(value, str | list | tuple):
            split = [setting(str(text)) for text in ([value] if isinstance(value, str) else value)]
            if not split or any(text is None for _, text in split):
                raise InputError(f"`{name}` is NAME=VALUE, e.g. {example}; got {shown(value)}")
            value = dict(split)
        return {str(key).strip().replace("-", "_"): one for key, one in check(name, value).items()}

    def check(name: str, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise InputError(f"`{name}` must be settings by name, e.g. {example}; got {shown(value)}")
        return value

    return Kind(check, read, many=True)
