"""Fingerprints of networks and preprocessing: equal where they compute the same, different where anything changed."""

from __future__ import annotations

import enum
import functools
import hashlib
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TARGET_VERSION = "contralens target 1"
"""Raise the number when the computing code changes its results: cached activations are then computed anew."""

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, PurePath, enum.Enum)
_MODULE_INTERNALS = frozenset(nn.Module().__dict__)
_NOT_COMPUTED_WITH = {"training", "name_or_path", "warnings_issued", "transformers_version", "_processor_class"}


def network_digest(network: nn.Module) -> str:
    """Hash of all weights and buffers (name, dtype, shape, bytes), the structure, and the user's own code in it.

    The structure is `repr(network)` plus plain attributes (numbers, texts, functions) of each module. Where a module's
    class is not from an installed package, its code counts too. Not included: forward hooks, the versions of libraries.
    """
    h = hashlib.sha256()
    h.update(_without_addresses(repr(network)).encode())
    tensors: dict[str, Any] = {**dict(network.named_buffers()), **network.state_dict()}
    for name in sorted(tensors):
        value = tensors[name]
        h.update(f"\n{name} {describe(value)}".encode())
    classes: set[type] = set()
    for name, module in network.named_modules():
        classes.add(type(module))
        for key, value in sorted(module.__dict__.items()):
            if key in _MODULE_INTERNALS or key in _NOT_COMPUTED_WITH or key.startswith("_"):
                continue
            if _is_plain(value) or isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                h.update(f"\n{name}.{key} {describe(value)}".encode())
    for cls in sorted(classes, key=_qualified):
        h.update(f"\n{describe(cls)}".encode())
    return h.hexdigest()


def describe(value: Any, notes: list[str] | None = None) -> str:
    """A text that is equal for things that compute the same and differs where a setting of theirs differs.

    Numbers and texts stand for themselves, tensors for a hash of their bytes, objects for their class and attributes.
    Functions and classes of installed packages stand for their name; those of the user for their bytecode (two lambdas
    of one line share their source), defaults, closure and the constants, functions and classes that they refer to. An
    object may say it itself, by an attribute or method `__contralens_fingerprint__`. What can only be named leaves a
    line in `notes`.

    >>> describe({"size": 224}) == describe({"size": 225})
    False
    >>> describe(functools.partial(round, ndigits=1)) == describe(functools.partial(round, ndigits=1))
    True
    """
    return _Describer(notes if notes is not None else []).of(value)


class _Describer:
    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.seen: set[int] = set()

    def of(self, value: Any) -> str:
        own = getattr(value, "__contralens_fingerprint__", None)
        if own is not None and not isinstance(value, type):
            return f"{_qualified(type(value))}:{own() if callable(own) else own}"
        if isinstance(value, enum.Enum):
            return f"{_qualified(type(value))}.{value.name}"
        if isinstance(value, _CONSTANTS):
            return repr(value)
        if isinstance(value, Tensor):
            return f"tensor {value.dtype} {tuple(value.shape)} {_tensor_hash(value)}"
        if isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            return f"array {array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        if id(value) in self.seen:
            return "..."
        self.seen.add(id(value))
        try:
            return self._compound(value)
        finally:
            self.seen.discard(id(value))

    def _compound(self, value: Any) -> str:
        if isinstance(value, Mapping):
            return "{" + ",".join(sorted(f"{self.of(k)}:{self.of(v)}" for k, v in value.items())) + "}"
        if isinstance(value, set | frozenset):
            return "set(" + ",".join(sorted(map(self.of, value))) + ")"
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}(" + ",".join(map(self.of, value)) + ")"
        if isinstance(value, functools.partial):
            return f"partial({self.of(value.func)},{self.of(value.args)},{self.of(value.keywords)})"
        if isinstance(value, types.MethodType):
            owner = value.__self__
            bound = _qualified(type(owner)) if isinstance(owner, nn.Module) else self.of(owner)
            return f"method {self.of(value.__func__)} of {bound}"
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.ModuleType):  # imported inside the function around it
            return f"module {value.__name__}"
        if isinstance(value, type):
            return self._class(value)
        return self._object(value)

    def _function(self, function: types.FunctionType) -> str:
        code = function.__code__
        closure = {
            name: cell.cell_contents
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if _is_filled(cell)
        }
        if _is_library(function):
            return (
                f"function {_qualified(function)} {self.of(closure)}" if closure else f"function {_qualified(function)}"
            )
        parts = [self._code(code), self.of(function.__defaults__), self.of(function.__kwdefaults__), self.of(closure)]
        for name in sorted(_names(code)):
            found = function.__globals__.get(name)
            if name in function.__globals__ and (
                _is_plain(found) or isinstance(found, Tensor | np.ndarray | types.FunctionType | type)
            ):
                parts.append(f"{name}={self.of(found)}")
        return "function(" + ",".join(parts) + ")"

    def _code(self, code: types.CodeType) -> str:
        constants = [self._code(c) if isinstance(c, types.CodeType) else self.of(c) for c in code.co_consts]
        names = (code.co_names, code.co_varnames, code.co_freevars)
        return f"{code.co_code.hex()} {constants} {names} {code.co_exceptiontable.hex()}"

    def _class(self, cls: type) -> str:
        if _is_library(cls):
            return f"class {_qualified(cls)}"
        parts = [self.of(base) for base in cls.__bases__ if base is not object]
        for name, member in sorted(vars(cls).items()):
            member = getattr(member, "__func__", getattr(member, "fget", member))
            if isinstance(member, types.FunctionType) or _is_plain(member):
                parts.append(f"{name}={self.of(member)}")
        skip = ("__module__=", "__qualname__=", "__doc__=", "__firstlineno__=", "__annotations__=")
        return f"class {cls.__qualname__}(" + ",".join(p for p in parts if not p.startswith(skip)) + ")"

    def _object(self, value: Any) -> str:
        if isinstance(value, types.BuiltinFunctionType):
            return f"function {_qualified(value)}"
        cls = self.of(type(value))
        if type(value).__module__.startswith("transformers.") and hasattr(value, "to_dict"):
            settings = {k: v for k, v in value.to_dict().items() if k not in _NOT_COMPUTED_WITH}
            return f"{cls}{self.of(settings)}"
        if isinstance(value, nn.Module):
            keep = ("_parameters", "_buffers", "_modules")
            return cls + self.of(
                {
                    k: v
                    for k, v in value.__dict__.items()
                    if k in keep or k not in _MODULE_INTERNALS | _NOT_COMPUTED_WITH
                }
            )
        state = dict(getattr(value, "__dict__", {}))
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            names = (slots,) if isinstance(slots, str) else tuple(slots)
            state.update({slot: getattr(value, slot) for slot in names if hasattr(value, slot)})
        if state:
            return f"{cls}{self.of(state)}"
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            self.notes.append(f"a {_qualified(type(value))} is fingerprinted by its class only")
            return cls
        return cls + (self.of(reduced[1:3]) if isinstance(reduced, tuple) else str(reduced))


def _qualified(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _is_plain(value: Any) -> bool:
    if isinstance(value, _CONSTANTS):
        return True
    if isinstance(value, Mapping):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    return isinstance(value, list | tuple | set | frozenset) and all(map(_is_plain, value))


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _tensor_hash(tensor: Tensor) -> str:
    plain = tensor.detach().cpu()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    raw = plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


@functools.cache
def _library_folders(search: tuple[str, ...]) -> tuple[str, ...]:
    """The standard library's folders, and those of `sys.path` that an installer has put packages into.

    Not only this environment's: a virtual environment may borrow the packages of another.
    """
    paths = sysconfig.get_paths()
    installed = [folder for folder in search if any(Path(folder).glob("*.dist-info"))]
    standard = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({os.path.abspath(folder) + os.sep for folder in [*standard, *installed]})


def _is_library(thing: Callable[..., Any]) -> bool:
    """Whether a function or class comes with Python, an installed package or contralens itself."""
    name = getattr(thing, "__module__", None) or ""
    if name in sys.builtin_module_names or name.partition(".")[0] == "contralens":
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return file.startswith(_library_folders(tuple(sys.path))) or f"{os.sep}dist-packages{os.sep}" in file


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found
