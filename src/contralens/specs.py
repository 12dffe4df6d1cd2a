"""Names with options, as people write them: "csp:gamma=0.5", "diffusers:FOLDER@steps=4", "FILE:kind=topk,k=32".

The one parser of such texts. A spec is SCHEME:REST, or a name with options behind a mark; options are KEY=VALUE with
commas between them, each of a kind. Whoever has options says which (a table of `Kind`), and does not parse.

>>> options("gamma=1e-1", {"gamma": NUMBER}, "scorer 'csp'")
{'gamma': 0.1}
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, Union, get_args, get_origin

from contralens.checks import nearest, shown
from contralens.errors import InputError


@dataclass(frozen=True, slots=True)
class Kind:
    """What the value of an option may be.

    >>> (NUMBER | word("auto")).read("auto"), (NUMBER | word("auto")).about
    ('auto', 'a number or auto')
    """

    about: str
    """As an error says it: "a number"."""
    read: Callable[[str], Any]
    """The value of a text; raises ValueError for one that is none."""

    def __or__(self, other: Kind) -> Kind:
        """This or, where it is not, that."""

        def either(text: str) -> Any:
            try:
                return self.read(text)
            except ValueError:
                return other.read(text)

        return Kind(f"{self.about} or {other.about}", either)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or not text.isascii() or "_" in text:
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    if not text.removeprefix("-").isdigit() or not text.isascii() or len(text) > 20:
        raise ValueError(text)
    return int(text)


def _flag(text: str) -> bool:
    return bool(("no", "yes").index(text.lower().replace("true", "yes").replace("false", "no")))


def word(*words: str) -> Kind:
    """One of some words.

    >>> word("rgb", "bgr").read("bgr")
    'bgr'
    """
    return Kind(" or ".join(words), lambda text: words[words.index(text)])


NUMBER, WHOLE = Kind("a number", _number), Kind("a whole number", _whole)
FLAG, TEXT = Kind("yes or no", _flag), Kind("a text", str)


def kind_of(annotation: Any, default: Any = None) -> Kind:
    """The kind of an option, by its annotation, else by its default.

    >>> kind_of(float | Literal["auto"]).about, kind_of(int | None).about, kind_of(None, default=True).about
    ('a number or auto', 'a whole number', 'yes or no')
    """
    if get_origin(annotation) is Literal:
        return word(*map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        members = [kind_of(member) for member in get_args(annotation) if member is not type(None)]
        return reduce(Kind.__or__, sorted(members, key=lambda kind: kind is TEXT))  # a text, where nothing else fits
    plain = {bool: FLAG, int: WHOLE, float: NUMBER, str: TEXT}
    return plain.get(annotation) or plain.get(type(default)) or NUMBER | TEXT


def scheme(spec: str) -> tuple[str, str]:
    """What is before the first colon, and what after it; nothing after it where there is none.

    >>> scheme("hf:org/name"), scheme("offline"), scheme("openai:m@http://localhost:8000/v1")
    (('hf', 'org/name'), ('offline', ''), ('openai', 'm@http://localhost:8000/v1'))
    """
    before, _, after = spec.strip().partition(":")
    return before, after.strip()


def part_of(spec: str) -> tuple[str, str]:
    """FILE and PART of FILE:PART: a function of a module, a column of a table; no file where there is no colon.

    >>> part_of("code/net.py:build"), part_of("C:/table.csv:patient"), part_of("patient")
    (('code/net.py', 'build'), ('C:/table.csv', 'patient'), ('', 'patient'))
    """
    file, _, part = spec.rpartition(":")
    return file, part


def tail(spec: str, mark: str) -> tuple[str, str]:
    """A name, and the options behind `mark`; the whole is the name where no KEY=VALUE follows one.

    >>> tail("runs/sae.pt:kind=topk,k=32", ":"), tail("C:/k=3/sae.pt", ":"), tail("org/name@v2", "@")
    (('runs/sae.pt', 'kind=topk,k=32'), ('C:/k=3/sae.pt', ''), ('org/name@v2', ''))
    """
    found = re.search(rf"{re.escape(mark)}(?=\s*[A-Za-z_]\w*\s*=)", spec)
    return (spec[: found.start()], spec[found.end() :]) if found else (spec, "")


def setting(text: str) -> tuple[str, str | None]:
    """KEY and VALUE of KEY=VALUE; no value where there is no "=".

    >>> setting("focus = crop"), setting("gamma"), setting("text=a=b")
    (('focus', 'crop'), ('gamma', None), ('text', 'a=b'))
    """
    key, equals, value = text.partition("=")
    return key.strip(), value.strip() if equals else None


def settings(text: str) -> list[tuple[str, str | None]]:
    """KEY=VALUE with commas between them, taken apart; empty parts count for nothing.

    >>> settings("kind=topk, k=32,")
    [('kind', 'topk'), ('k', '32')]
    """
    return [setting(part) for part in text.split(",") if part.strip()]


def options(text: str, kinds: Mapping[str, Kind], what: str) -> dict[str, Any]:
    """KEY=VALUE with commas between them, each value of its kind.

    Args:
        text: what was written; empty parts count for nothing.
        kinds: the options that there are.
        what: how an error calls what has them, e.g. "scorer 'csp'".

    Raises:
        InputError: an option that is not there, given twice or without a value, or a value that is not of its kind.

    >>> options("kind=topk, k=32", {"kind": TEXT, "k": WHOLE}, "sae 'sae.pt'")
    {'kind': 'topk', 'k': 32}
    """
    values: dict[str, Any] = {}
    for key, value in settings(text):
        if key in values:
            raise InputError(f"{what} gives {key} twice")
        values[key] = option(key, value, kinds, what)
    return values


def option(key: str, value: str | None, kinds: Mapping[str, Kind], what: str) -> Any:
    """The value of one option; arguments and errors are those of `options`.

    >>> option("k", "32", {"k": WHOLE}, "sae 'sae.pt'")
    32
    """
    if key not in kinds or value is None:
        takes = f"; it takes {', '.join(kinds) or 'none'}"
        raise InputError(f"{what} has no option {shown(key)}{nearest(key, set(kinds) - {key}) or takes}")
    try:
        return kinds[key].read(value)
    except ValueError:
        raise InputError(f"{what}: {key} must be {kinds[key].about}; got {shown(value)}") from None


def written(name: str, values: Mapping[str, Any], mark: str = ":") -> str:
    """The spec of a name and its options: what `options` reads back.

    >>> written("csp", {"gamma": 0.1}), written("csp", {})
    ('csp:gamma=0.1', 'csp')
    """
    words = {True: "yes", False: "no"}
    parts = [f"{key}={words[value] if isinstance(value, bool) else value}" for key, value in values.items()]
    return f"{name}{mark}{','.join(parts)}" if parts else name


def gamma_of(scorer: str) -> float | None:
    """The gamma of a CSP scorer's name, from 0 to 1, 1 where it names none; None for another scorer.

    >>> [gamma_of(name) for name in ("csp", "csp:gamma=0.5", "csp:gamma=1e-1", "csp:gamma=neuron", "semanticlens")]
    [1.0, 0.5, 0.1, 1.0, None]
    """
    name, rest = scheme(scorer)
    if name != "csp":
        return None
    try:
        return min(1.0, max(0.0, _number(dict(settings(rest)).get("gamma") or "1")))
    except ValueError:  # chosen for each neuron
        return 1.0
