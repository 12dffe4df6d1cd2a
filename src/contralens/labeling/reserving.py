"""The run folder that labels will be written to: looked at, and locked, before anything is computed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

from contralens.checks import as_path
from contralens.data.files import digest
from contralens.data.owned import RUN
from contralens.data.replacing import reserved
from contralens.data.runs import Run

P = ParamSpec("P")
ELSEWHERE = ("out", "replace", "cache", "device", "batch_size", "workers", "progress")
"""Arguments that do not say what a run holds."""
READ = ("target", "images", "encoder", "vocabulary", "sae", "candidates", "checkpoint", "proposer", "groups")
"""Arguments that may name files and folders that are read."""


def reserving(make: Callable[P, Run]) -> Callable[P, Run]:
    """Writes the run that `make` returns to `out`, which is reserved before `make` begins."""

    @functools.wraps(make)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Run:
        given = asked_of(make, *args, **kwargs)
        out = given.get("out")
        if out is None:
            return make(*args, **kwargs)
        out = as_path("out", out)
        asked = request_of(given)
        with reserved(out, RUN, inputs=inputs_of(given), replace=bool(given["replace"]), request=asked) as place:
            run = make(*args, **kwargs)
            return replace(run, manifest={**run.manifest, "request": place.request or asked}).save(out)

    return inner


def asked_of(make: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call with all defaults, those of its ** among them."""
    bound = signature(make).bind(*args, **kwargs)
    bound.apply_defaults()
    return {**bound.arguments, **bound.arguments.get("target_options", {}), "target_options": None}


def request_of(arguments: Mapping[str, Any]) -> str:
    """What says that the same run is asked for: two equal ones give equal labels unless files have changed meanwhile.

    >>> request_of({"k": 5, "out": "run"}) == request_of({"out": "other", "k": 5})
    True
    """
    return digest(*(f"{name}={_text(value)}" for name, value in sorted(arguments.items()) if name not in ELSEWHERE))


def _text(value: Any) -> str:
    if value is None or isinstance(value, (str, int, float, os.PathLike)):
        return repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(v)}" for key, v in sorted(value.items(), key=repr)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_text, value)) + "]"
    own = getattr(value, "fingerprint", None) or getattr(value, "name", None)
    return f"{type(value).__qualname__} {own if isinstance(own, str) else ''}"


def inputs_of(arguments: Mapping[str, Any]) -> list[Path]:
    """Files and folders that are there among what `label` is given to read.

    >>> [path.as_posix() for path in inputs_of({"images": "world-1/images", "encoder": "world", "k": 5})]
    ['world-1/images']
    """
    found = (path for name in READ for path in _paths(name, arguments.get(name)))
    return [path for path in dict.fromkeys(found) if path.exists()]


def _paths(name: str, value: Any) -> Iterator[Path]:
    if isinstance(value, os.PathLike):
        yield Path(value)
        if name == "checkpoint":  # FILE::PART
            yield Path(os.fspath(value).partition("::")[0])
    elif isinstance(value, str) and "\n" not in value and len(value) < 4096:
        if name in ("images", "checkpoint", "candidates"):
            yield Path(value)
        value = value.partition("?")[0]  # arguments of a network
        # Of a spec such as module:FILE.py:NAME or @LIST.txt what is a file; a folder only if it looks like a path.
        for part in {value, value.removeprefix("@"), *value.split(":")}:
            if part and (_is_file(part) or (os.sep in part and not part.startswith("//"))):
                yield Path(part)
    elif isinstance(value, (list, tuple)) and name == "images":
        folders = {os.path.dirname(os.fspath(v)): v for v in value if isinstance(v, (str, os.PathLike))}
        yield from (Path(v) for v in folders.values())
    else:
        for attribute in ("source", "path"):
            own = getattr(value, attribute, None)
            if isinstance(own, (str, os.PathLike)):
                yield Path(own)


def _is_file(text: str) -> bool:
    try:
        return os.path.isfile(text)
    except ValueError:
        return False
