"""Checks of what users give, each with an error of one line (`contralens.errors`): what is wrong, where, what to do."""

from __future__ import annotations

import difflib
import importlib
import math
import operator
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contralens.errors import ContralensError, MissingPackage, ModelUnavailable
from contralens.errors import ImageError as ImageError
from contralens.errors import InputError as InputError
from contralens.errors import KindError as KindError


def shown(value: Any, most: int = 80) -> str:
    """A value as an error may show it: never long, whatever it is.

    >>> shown("5"), shown([0] * 100), shown(10**5000)
    ("'5'", '[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0...', 'a huge number')
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a huge number"
    return text if len(text) <= most else text[: most - 1] + "..."


def whole(name: str, value: Any, least: int = 1, most: int = 2**31 - 1) -> int:
    """A whole number from `least` to `most`, of Python's or numpy's kinds; `name` is how the user calls it.

    >>> whole("k", 5)
    5
    >>> whole("k", 2.5)
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `k` must be a whole number; got 2.5
    >>> whole("seed", -1, least=0)
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `seed` must be at least 0; got -1
    """
    try:
        if type(value).__name__ in ("bool", "bool_"):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"`{name}` must be a whole number; got {shown(value)}") from None
    if number < least:
        raise InputError(f"`{name}` must be at least {least}; got {shown(number)}")
    if number > most:
        raise InputError(f"`{name}` must be at most {most:,}; got {shown(number)}")
    return number


MOST_INDICES = 2**22
"""Neurons at most that are chosen one by one."""
FAKES, MOST_FAKES = 1000, 1_000_000
"""Null neurons of a null test, and how many it can have at most."""


def distinct(name: str, given: Any) -> list[int]:
    """Indices of neurons, each once, in the order given.

    >>> distinct("neurons", [5, 0, 5])
    [5, 0]
    >>> distinct("neurons", [0.5])
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `neurons` must be a whole number; got 0.5
    """
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InputError(f"`{name}` must be indices such as [0, 5]; got {shown(given)}")
    if isinstance(given, Sized) and len(given) > MOST_INDICES:
        raise InputError(f"`{name}` names {len(given):,} neurons; at most {MOST_INDICES:,} can be chosen by index")
    chosen = list(dict.fromkeys(whole(name, one, 0) for one in given))
    if not chosen:
        raise InputError(f"`{name}` is empty; give indices such as [0, 5]")
    return chosen


def as_share(name: str, value: Any, *, zero: bool = False, one: bool = False) -> float:
    """A number between 0 and 1, which may be 0 or 1 only if that is said.

    >>> as_share("fdr", 0.05)
    0.05
    >>> as_share("holdout", 1)
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `holdout` must lie between 0 and 1; got 1
    """
    number = real(name, value)
    if not (0 < number < 1 or (zero and number == 0) or (one and number == 1)):
        said = {(True, False): "at least 0 and below 1", (False, True): "a cosine between 0 and 1"}
        raise InputError(f"`{name}` must {'be ' + said[zero, one] if zero != one else 'lie between 0 and 1'}; "
                         f"got {shown(value)}")  # fmt: skip
    return number


def real(name: str, value: Any) -> float:
    """A finite number, of Python's or numpy's kinds.

    >>> real("price", "free")
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `price` must be a number; got 'free'
    """
    try:
        if isinstance(value, str | bytes) or type(value).__name__ in ("bool", "bool_"):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"`{name}` must be a number; got {shown(value)}") from None
    if not math.isfinite(number):
        raise InputError(f"`{name}` must be a finite number; got {shown(value)}")
    return number


def as_text(name: str, value: Any) -> str:
    """A text.

    >>> as_text("layer", 5)
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: `layer` must be a text; got 5
    """
    if not isinstance(value, str):
        raise InputError(f"`{name}` must be a text; got {shown(value)}")
    return value


def as_texts(name: str, value: Any) -> list[str]:
    """Texts in a list, or one.

    >>> as_texts("scorers", "csp"), as_texts("scorers", ("csp", "semanticlens"))
    (['csp'], ['csp', 'semanticlens'])
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, bytes):
        raise InputError(f"`{name}` must be a list of texts; got {shown(value)}")
    return [as_text(name, one) for one in value]


def as_path(name: str, value: Any) -> Path:
    """A path, as a text or a `Path`.

    >>> as_path("out", "run").name
    'run'
    """
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise InputError(f"`{name}` must be a path; got {shown(value)}")
    return Path(value)


def nearest(name: Any, known: Iterable[str], most: int = 3) -> str:
    """A hint with the known names closest to `name`, ready to append to an error.

    >>> nearest("resnet5", ["resnet50", "vit"])
    '; did you mean resnet50?'
    >>> nearest("zzz", ["resnet50"])
    ''
    """
    found = difflib.get_close_matches(str(name), list(known), n=most, cutoff=0.5)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def counted(number: int, thing: str) -> str:
    """A number and the thing counted.

    >>> counted(1, "question"), counted(2000, "question")
    ('1 question', '2,000 questions')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def some(what: str, keys: Sequence[str], most: int = 3) -> str:
    """How many, of what, and the first few.

    >>> some("missing", ["a", "b", "c", "d"])
    '4 missing (a, b, c, ... 1 more)'
    """
    if not keys:
        return ""
    more = f", ... {len(keys) - most} more" if len(keys) > most else ""
    return f"{len(keys)} {what} ({', '.join(keys[:most])}{more})"


def few(names: Iterable[str], most: int = 9) -> str:
    """Names as an error lists them.

    >>> few("abcd", 2)
    'a, b and 2 more'
    """
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of an error's text, or its kind where it says nothing; for use inside a one-line message.

    >>> first_line(OSError("no space\\nTraceback")), first_line(KeyError())
    ('no space', 'KeyError')
    """
    lines = str(error).strip().splitlines()
    line = lines[0].strip() if lines else type(error).__name__
    return line if len(line) <= most else line[: most - 3] + "..."


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever code of the user's raises inside, also a wish to exit, into one line that begins with `what`.

    >>> with blaming("the network failed"):
    ...     raise SystemExit(3)
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: the network failed (SystemExit: 3)
    """
    try:
        yield
    except ContralensError:
        raise
    except (Exception, SystemExit) as e:
        raise InputError(f"{what} ({reason(e)})") from e


def unavailable(message: str, error: BaseException) -> ContralensError:
    """The error for a model that a library failed to load: a package that the library needs, or the model itself.

    >>> unavailable("no weights", OSError()), unavailable("no weights", ImportError())
    (ModelUnavailable('no weights'), MissingPackage('no weights'))
    """
    return (MissingPackage if isinstance(error, ImportError) else ModelUnavailable)(message)


def reason(error: BaseException) -> str:
    """The kind of an error and the first line of its text.

    >>> reason(ValueError("3 channels expected"))
    'ValueError: 3 channels expected'
    """
    kind, said = type(error).__name__, first_line(error)
    return said if said == kind else f"{kind}: {said}"


def require(module: str, extra: str) -> Any:
    """Import an optional dependency; `MissingPackage` says which pip command installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise MissingPackage(
            f"this needs the package {e.name}, which is not installed: pip install 'contralens[{extra}]'"
        ) from e
