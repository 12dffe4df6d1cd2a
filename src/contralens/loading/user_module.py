"""Targets from the user's own code: calling what builds the network in a file or a module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from contralens.checks import blaming
from contralens.errors import InputError
from contralens.loading.loaded import Loaded, fill, seeded
from contralens.loading.network_arguments import split_arguments, told
from contralens.specs import part_of
from contralens.user_code import attribute_of, module_at


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
    what = f"module:{rest}"
    found = attribute_of(module_at(where, what), attribute, what)
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
