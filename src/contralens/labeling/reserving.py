"""The run folder that labels will be written to: looked at, and locked, before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from contralens.data.atomic_files import digest
from contralens.data.folder_kinds import RUN
from contralens.data.replace_folder import reserved
from contralens.data.runs import Run
from contralens.settings.label import Label
from contralens.settings.record import settings_of


@contextmanager
def reserving(settings: Label) -> Iterator[Callable[[Run], Run]]:
    """Reserves the folder `out`; gives what writes a run to it, or leaves the run as it is where there is no `out`."""
    if (out := settings.out) is None:
        yield lambda run: run
        return
    asked = request_of(settings)
    with reserved(out, RUN, inputs=inputs_of(vars(settings)), replace=settings.replace, request=asked) as place:
        yield lambda run: replace(run, manifest={**run.manifest, "request": place.request or asked}).save(out)


def request_of(settings: Label) -> str:
    """What says that the same run is asked for: two equal ones give equal labels unless files have changed meanwhile.

    >>> one = Label("world:1", "images", "world", "world", k=5, out="run")
    >>> request_of(one) == request_of(one.to(Label, out="other", batch_size=8)) != request_of(one.to(Label, k=6))
    True
    """
    given = settings.given(*(name for name, setting in settings_of(Label).items() if setting.result))
    return digest(*(f"{name}={_text(value)}" for name, value in sorted(given.items())))


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
    reads = [name for name, setting in settings_of(Label).items() if setting.reads]
    found = (path for name in reads for path in _paths(name, arguments.get(name)))
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
