"""One style of error: what is wrong, where, and what to do next, in one line."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Something that the user gave is wrong. The command line prints it as one line and exits with code 2.

    >>> import contralens
    >>> try:
    ...     contralens.load("nowhere")
    ... except InputError as e:
    ...     print(e)
    nowhere is not a whole run folder: manifest.json is missing
    """


class ImageError(InputError):
    """An image that cannot be decoded. It is counted, listed and skipped; a run never dies of it.

    >>> import contralens
    >>> from pathlib import Path
    >>> Path("broken").mkdir()
    >>> _ = Path("broken/half.png").write_bytes(b"no picture")
    >>> try:
    ...     contralens.images("broken").load(0)
    ... except ImageError as e:
    ...     print("half.png" in str(e))
    True
    """


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """A hint with the known names closest to `name`, ready to append to an error.

    >>> nearest("resnet5", ["resnet50", "vit"])
    '; did you mean resnet50?'
    >>> nearest("zzz", ["resnet50"])
    ''
    """
    found = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def counted(number: int, thing: str) -> str:
    """A number and the thing counted.

    >>> counted(1, "question"), counted(2000, "question")
    ('1 question', '2,000 questions')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text, or its kind where it says nothing; for use inside a one-line message.

    >>> first_line(OSError("no space\\nTraceback")), first_line(KeyError())
    ('no space', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    return line if len(line) <= most else line[: most - 3] + "..."


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its text.

    >>> reason(ValueError("3 channels expected"))
    'ValueError: 3 channels expected'
    """
    kind, said = type(error).__name__, first_line(error)
    return said if said == kind else f"{kind}: {said}"


def require(module: str, extra: str) -> Any:
    """Import an optional dependency, or say which pip command installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise InputError(
            f"this needs the package {e.name}, which is not installed: pip install 'contralens[{extra}]'"
        ) from e
