"""Texts that are equal for things that compute the same: settings, functions with all that they reach, objects.

What a function reaches are its defaults, closure, attributes, and the global names that its code mentions: numbers,
objects such as a transform or a settings object, functions and classes, and what it names of the user's own modules
(`helper.scale` of `import helper`). Functions and classes of installed packages stand for their name.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import os
import random
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

CONSTANTS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, PurePath, enum.Enum)
MODULE_INTERNALS = frozenset(nn.Module().__dict__)
NOT_COMPUTED_WITH = {"training", "name_or_path", "warnings_issued", "transformers_version", "_processor_class"}
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
"""Attributes of an `nn.Module` that hold what runs before and after its forward."""
_DRAWN = (random.Random, np.random.Generator, np.random.RandomState, np.random.BitGenerator, torch.Generator)
"""Sources of chance: their state changes with every use and says nothing of a setting."""
_SETTINGS_OF_PYTHON = {
    "argparse", "array", "builtins", "collections", "datetime", "decimal", "fractions", "functools", "itertools",
    "operator", "re", "string", "types", "_operator",
}  # fmt: skip
"""Modules of the standard library whose objects hold settings; others hold files, locks, threads, loggers."""
_NO_SETTINGS = sys.stdlib_module_names - _SETTINGS_OF_PYTHON
_SAYS_NOTHING = {"__module__", "__qualname__", "__doc__", "__firstlineno__", "__annotations__", "__dict__",
                 "__weakref__", "__static_attributes__", "__annotate__", "__annotate_func__", "__annotations_cache__",
                 "__slotnames__", "_abc_impl", "__abstractmethods__", "__parameters__", "__orig_bases__"}  # fmt: skip
_MOVED = {
    "loading.network_arguments": "arguments", "loading.channels": "channels", "loading.checkpoints": "checkpoints",
    "loading.fast_preprocessing": "fast", "loading.loaded": "loaded", "loading.loaders_timm": "loaders_timm",
    "loading.loaders_torchvision": "loaders_torchvision", "loading.matching": "matching",
    "loading.preprocessing": "preprocessing", "loading.vision_towers": "towers", "loading.unpickling": "unpickling",
    "loading.user_module": "own_code", "loading.weight_files": "weight_files", "saes.autoencoder": "autoencoders",
    "saes.contents": "sae_contents", "saes.disk": "sae_disk", "saes.reading": "sae_files",
    "saes.formats": "sae_formats", "saes.trainers": "sae_trainers", "models.sae_target": "saes",
    "encoders.registry": "encoders", "encoders.base": "encoder_base", "encoders.hf_encoder": "hf_encoder",
    "encoders.offline_encoder": "offline_encoder", "encoders.open_clip_encoder": "open_clip_encoder",
    "encoders.text_tower": "text_tower", "models.activation_maps": "where", "models.shared_forward": "together",
    "models.hooked_layer": "hooked", "models.token_layouts": "layouts", "models.determinism": "repeating",
    "models.input_scale": "scales", "models.interventions": "scaling", "models.untrained_weights": "untrained",
    "models.layer_outputs": "outputs", "models.pixel_attribution": "pixel_heat", "loading.loaders": "loaders",
    "loading.loaders_hf": "loaders",
}  # fmt: skip
FIRST_MODULE = {f"contralens.{now}": f"contralens.models.{first}" for now, first in _MOVED.items()}
"""Modules of ours that have moved: fingerprints name them as they always did, so that stored rows stay valid."""


def describe(value: Any, notes: list[str] | None = None) -> str:
    """A text that is equal for things that compute the same and differs where a setting of theirs differs.

    Numbers and texts stand for themselves, tensors for a hash of their bytes, objects for their class and attributes.
    Functions and classes of installed packages stand for their name; those of the user for their bytecode (two lambdas
    of one line share their source), defaults, closure and whatever global things they refer to. An object may say it
    itself, by an attribute or method `__contralens_fingerprint__`. What can only be named leaves a line in `notes`.

    >>> describe({"size": 224}) == describe({"size": 225})
    False
    >>> describe(functools.partial(round, ndigits=1)) == describe(functools.partial(round, ndigits=1))
    True
    """
    return _Describer(notes if notes is not None else []).of(value)


class _Describer:
    def __init__(self, notes: list[str]) -> None:
        self.notes = notes
        self.path: set[int] = set()
        """What is being described, from the outermost inwards."""
        self.told: dict[int, tuple[int, Any]] = {}
        """Functions, classes and objects that have been described: a number, and themselves, lest an id be reused."""

    def of(self, value: Any) -> str:
        own = getattr(value, "__contralens_fingerprint__", None)
        if own is not None and not isinstance(value, type | types.ModuleType):
            return f"{qualified(type(value))}:{own() if callable(own) else own}"
        if isinstance(value, enum.Enum):
            return f"{qualified(type(value))}.{value.name}"
        if isinstance(value, CONSTANTS):
            return repr(value)
        if isinstance(value, Tensor):
            return f"tensor {value.dtype} {tuple(value.shape)} {tensor_hash(value)}"
        if isinstance(value, np.ndarray | np.generic):
            array = np.ascontiguousarray(value)
            content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            return f"array {array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"
        if id(value) in self.path:
            return "..."
        self.path.add(id(value))
        try:
            return self._compound(value)
        except RecursionError:
            self.notes.append(f"a {qualified(type(value))} is too deep for a fingerprint: its class only counts")
            return f"deep {qualified(type(value))}"
        finally:
            self.path.discard(id(value))

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
            bound = qualified(type(owner)) if isinstance(owner, nn.Module) else self.of(owner)
            return f"method {self.of(value.__func__)} of {bound}"
        if isinstance(value, types.ModuleType):  # imported inside the function around it
            return f"module {value.__name__}"
        return self._once(value)

    def _once(self, value: Any) -> str:
        """Functions, classes and objects are described where they are met first, so that the text stays short."""
        known = self.told.get(id(value))
        if known is not None:
            return f"#{known[0]}"
        self.told[id(value)] = (len(self.told), value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        return self._class(value) if isinstance(value, type) else self._object(value)

    def _function(self, function: types.FunctionType) -> str:
        code = function.__code__
        closure = {
            name: cell.cell_contents
            for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            if _is_filled(cell)
        }
        if is_library(function):
            return (
                f"function {qualified(function)} {self.of(closure)}" if closure else f"function {qualified(function)}"
            )
        names = _names(code)
        modules = [f"{k}={self._module(v, names)}" for k, v in closure.items() if isinstance(v, types.ModuleType)]
        parts = [self._code(code), self.of(function.__defaults__), self.of(function.__kwdefaults__), self.of(closure)]
        own = {k: v for k, v in vars(function).items() if k != "__wrapped__"}
        parts += modules + ([self.of(own)] if own else [])
        for name in sorted(names):
            found = function.__globals__.get(name, _imported_inside(name))
            if isinstance(found, types.ModuleType):
                parts.append(f"{name}={self._module(found, names)}")
            elif name in function.__globals__:
                parts.append(f"{name}={self.of(found)}")
        return "function(" + ",".join(parts) + ")"

    def _module(self, module: types.ModuleType, names: Iterable[str]) -> str:
        """What some code may mean by a module: of one of the user's own, whatever it holds under a name in the code."""
        if is_library(module) or id(module) in self.path:
            return f"module {module.__name__}"
        self.path.add(id(module))
        try:
            held = {name: vars(module)[name] for name in names if name in vars(module)}
            parts = [
                f"{name}={self._module(v, names) if isinstance(v, types.ModuleType) else self.of(v)}"
                for name, v in sorted(held.items())
            ]
        finally:
            self.path.discard(id(module))
        return f"module({','.join(parts)})"

    def _code(self, code: types.CodeType) -> str:
        constants = [self._code(c) if isinstance(c, types.CodeType) else self.of(c) for c in code.co_consts]
        names = (code.co_names, code.co_varnames, code.co_freevars)
        return f"{code.co_code.hex()} {constants} {names} {code.co_exceptiontable.hex()}"

    def _class(self, cls: type) -> str:
        if is_library(cls):
            return f"class {qualified(cls)}"
        parts = [self.of(base) for base in cls.__bases__ if base is not object]
        for name, member in sorted(vars(cls).items()):
            if name in _SAYS_NOTHING:
                continue
            member = getattr(member, "__func__", getattr(member, "fget", getattr(member, "func", member)))
            hidden = name.startswith("__") and name.endswith("__")
            hidden |= isinstance(member, types.MemberDescriptorType | types.GetSetDescriptorType)  # a slot
            if isinstance(member, types.FunctionType) or is_plain(member) or not hidden:
                parts.append(f"{name}={self.of(member)}")
        return f"class {cls.__qualname__}(" + ",".join(parts) + ")"

    def _object(self, value: Any) -> str:
        if isinstance(value, types.BuiltinFunctionType):
            return f"function {qualified(value)}"
        cls = self.of(type(value))
        if isinstance(value, _DRAWN):
            return cls
        if type(value).__module__.partition(".")[0] in _NO_SETTINGS and is_library(type(value)):
            return cls
        if hasattr(value, "to_dict") and any(c.__module__.startswith("transformers.") for c in type(value).__mro__):
            settings = {k: v for k, v in value.to_dict().items() if k not in NOT_COMPUTED_WITH}
            return f"{cls}{self.of(settings)}"
        if isinstance(value, nn.Module):
            keep = ("_parameters", "_buffers", "_modules")
            left_out = MODULE_INTERNALS | NOT_COMPUTED_WITH
            hooks = [list(getattr(value, name).values()) for name in HOOKS if getattr(value, name, None)]
            state = {k: v for k, v in value.__dict__.items() if k in keep or k not in left_out}
            return cls + self.of(state) + (self.of(hooks) if hooks else "")
        state = dict(getattr(value, "__dict__", {}))
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            names = (slots,) if isinstance(slots, str) else tuple(slots)
            state.update({slot: getattr(value, slot) for slot in names if hasattr(value, slot)})
        if state:
            return f"{cls}{self.of(state)}"
        try:
            said = copyreg.dispatch_table.get(type(value))
            reduced = said(value) if said else value.__reduce_ex__(4)
        except Exception:
            self.notes.append(f"a {qualified(type(value))} is fingerprinted by its class only")
            return cls
        if not isinstance(reduced, tuple):
            return f"{cls}{reduced}"
        held = [list(items) for items in reduced[3:5] if items is not None]
        return cls + self.of(reduced[1:3]) + (self.of(held) if held else "")


def qualified(thing: Any) -> str:
    """Module and name of a function or class; one of ours keeps the module that it had first (`FIRST_MODULE`).

    >>> from contralens.loading.channels import Gray
    >>> qualified(Gray)
    'contralens.models.channels.Gray'
    """
    module = getattr(thing, "__module__", "")
    return f"{FIRST_MODULE.get(module, module)}.{getattr(thing, '__qualname__', type(thing).__name__)}"


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text or a container of such."""
    if isinstance(value, CONSTANTS):
        return True
    if isinstance(value, Mapping):
        return all(is_plain(k) and is_plain(v) for k, v in value.items())
    return isinstance(value, list | tuple | set | frozenset) and all(map(is_plain, value))


def tensor_hash(tensor: Tensor) -> str:
    """Of a tensor's bytes; one on the meta device has none."""
    plain = tensor.detach()
    if plain.is_meta:
        return "without values"
    plain = plain.cpu()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout != torch.strided:
        plain = plain.to_dense()
    raw = plain.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(raw.numpy().data).hexdigest()


def is_library(thing: Callable[..., Any] | types.ModuleType) -> bool:
    """Whether a function, a class or a module comes with Python, an installed package or contralens itself."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None) or ""
    if name in sys.builtin_module_names or name.partition(".")[0] == "contralens":
        return True
    module = thing if isinstance(thing, types.ModuleType) else sys.modules.get(name)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "") or ""
    return file.startswith(_library_folders(tuple(sys.path))) or f"{os.sep}dist-packages{os.sep}" in file


@functools.cache
def _library_folders(search: tuple[str, ...]) -> tuple[str, ...]:
    """The standard library's folders, and those of `sys.path` that an installer has put packages into.

    Not only this environment's: a virtual environment may borrow the packages of another.
    """
    paths = sysconfig.get_paths()
    installed = [folder for folder in search if any(Path(folder).glob("*.dist-info"))]
    standard = [paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple({os.path.abspath(folder) + os.sep for folder in [*standard, *installed]})


def _imported_inside(name: str) -> types.ModuleType | None:
    """The user's own module of that name, which a function may import by itself."""
    found = sys.modules.get(name)
    return found if isinstance(found, types.ModuleType) and not is_library(found) else None


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _names(constant)
    return found
