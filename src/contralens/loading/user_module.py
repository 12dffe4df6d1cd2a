"""Targets from the user's own code: importing a file or a module and calling what builds the network."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from torch import nn

from contralens.checks import blaming, nearest
from contralens.errors import InputError
from contralens.loading.loaded import Loaded, fill, seeded
from contralens.loading.network_arguments import split_arguments, told
from contralens.specs import part_of


def load_module(rest: str, *, weights: str | None = None, checkpoint: str | Path | None = None) -> Loaded:
    """The user's own code: "package.module:callable" or "path/to/file.py:callable".

    The callable returns a network, or a network and its preprocessing; it may be a network itself. It takes no argument
    but those that follow a "?", "file.py:build?width=32". This runs that code.
    """
    if weights not in (None, "random"):
        raise InputError(f"module:{rest}: weights are up to the callable; give a file with checkpoint=FILE")
    rest, given = split_arguments(rest, "module")
    where, attribute = part_of(rest)
    if not where or not attribute:
        raise InputError(f"module:{rest}: write module:FILE.py:CALLABLE or module:package.module:CALLABLE")
    found = _attribute(_imported(where, rest), attribute, rest)
    made: list[Any] = []

    def build(number: int | None) -> nn.Module:
        with seeded(), blaming(f"module:{rest}: calling {attribute}() failed"):
            result = found if isinstance(found, nn.Module) or not callable(found) else found(**given)
        network, *others = result if isinstance(result, tuple) else (result,)
        if not isinstance(network, nn.Module) or len(others) > 1 or any(not callable(o) for o in others):
            raise InputError(
                f"module:{rest}: {attribute} must return an nn.Module, or an nn.Module and its preprocessing; got "
                f"{type(result).__name__}"
            )
        made[:] = others
        return network

    loaded = Loaded(nn.Identity(), notes=[f"built with {told(given)}"] if given else [])
    if checkpoint is None:
        loaded.network = build(None)
    else:
        fill(loaded, build, checkpoint, f"module:{rest}", other_heads=False)
    loaded.preprocess = made[0] if made else None
    return loaded


def _imported(where: str, rest: str) -> Any:
    with blaming(f"module:{rest}: importing {where} failed"):
        if where.endswith(".py") or os.sep in where:
            path = Path(where).expanduser().resolve()
            if not path.is_file():
                raise InputError(f"module:{rest}: there is no file {path}")
            name = f"contralens_target_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is None or spec.loader is None:
                raise InputError(f"module:{rest}: {path} is no Python file")
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module
            sys.path.insert(0, str(path.parent))
            try:
                spec.loader.exec_module(module)
            finally:
                sys.path.remove(str(path.parent))
            return module
        here = os.getcwd()
        sys.path.insert(0, here)
        try:
            return importlib.import_module(where)
        finally:
            sys.path.remove(here)


def _attribute(module: Any, attribute: str, rest: str) -> Any:
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [n for n in dir(found) if not n.startswith("_")]
            raise InputError(f"module:{rest}: there is no {part!r}{nearest(part, names)}")
        found = getattr(found, part)
    return found
