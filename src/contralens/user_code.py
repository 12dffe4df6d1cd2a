"""The user's own code, named as FILE.py:NAME or module:package.module:NAME: found in a text, and imported."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from contralens.checks import blaming, nearest
from contralens.errors import InputError

T = TypeVar("T")
_NAMED = re.compile(r"(.+?\.py|module:[\w.]+):([A-Za-z_]\w*(?:\.\w+)*)(?=[:?]|$)")


@dataclass(frozen=True, slots=True)
class Code:
    """What a text names of the user's own code.

    >>> code_named("code/eyes.py:load:small")
    Code(where='code/eyes.py', name='load', rest=':small')
    """

    where: str
    """A file, or a module with dots."""
    name: str
    rest: str
    """What comes after the name, with the mark in front of it."""

    @property
    def spec(self) -> str:
        """The text without what comes after the name."""
        return f"{self.where}:{self.name}" if self.where.endswith(".py") else f"module:{self.where}:{self.name}"

    def load(self, what: str) -> Any:
        """The object; a file is run once, and again after it has changed. `what` begins each error.

        Raises:
            InputError: no such file or name, or the code fails.
        """
        path = file_of(self.where)
        if path is None or not path.is_file():
            return attribute_of(module_at(self.where, what), self.name, what)
        state = path.stat()
        return attribute_of(_kept(path, state.st_mtime_ns, state.st_size, self.where, what), self.name, what)


def code_named(text: str) -> Code | None:
    """The code that a text names, or None.

    >>> code_named("module:package.eyes:load"), code_named("csp:gamma=1"), code_named("classes.csv:name")
    (Code(where='package.eyes', name='load', rest=''), None, None)
    """
    match = _NAMED.match(text.strip())
    return match and Code(match[1].removeprefix("module:"), match[2], text.strip()[match.end() :])


def file_of(where: str) -> Path | None:
    """The whole path of a Python file; None for a module with dots.

    >>> file_of("package.eyes") is None, file_of("eyes.py").is_absolute()
    (True, True)
    """
    return Path(where).expanduser().resolve() if where.endswith(".py") or os.sep in where else None


def module_at(where: str, what: str) -> ModuleType:
    """The module of a file, run again, or of a name with dots. `what` begins each error.

    Raises:
        InputError: there is none, or its code fails.

    >>> module_at("json", "an example").__name__
    'json'
    """
    path = file_of(where)
    with blaming(f"{what}: importing {where} failed"):
        if path is None:
            return _from(Path.cwd(), lambda: importlib.import_module(where))
        if not path.is_file():
            raise InputError(f"{what}: there is no file {path}")
        name = f"contralens_target_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{what}: {path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        run = spec.loader.exec_module
        _from(path.parent, lambda: run(module))
        return module


@lru_cache(maxsize=256)
def _kept(path: Path, changed: int, size: int, where: str, what: str) -> ModuleType:
    return module_at(where, what)


def _from(folder: Path, run: Callable[[], T]) -> T:
    """What `run` returns, where modules of a folder can be imported."""
    sys.path.insert(0, str(folder))
    try:
        return run()
    finally:
        sys.path.remove(str(folder))


def attribute_of(module: ModuleType, name: str, what: str) -> Any:
    """What is under a name, with dots, in a module. `what` begins the error.

    Raises:
        InputError: nothing does.

    >>> import json
    >>> attribute_of(json, "JSONDecoder.decode", "an example").__name__
    'decode'
    """
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [n for n in dir(found) if not n.startswith("_")]
            raise InputError(f"{what}: there is no {part!r}{nearest(part, names)}")
        found = getattr(found, part)
    return found
