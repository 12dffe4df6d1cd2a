"""Tensors out of a pickle without running any of its code.

A pickle may call any function that it names. Here every name becomes a class of its own that does nothing and keeps
what it is called with (`Stub`); nothing is imported and nothing is called. Afterwards the stubs of PyTorch's and
numpy's own builders are turned into tensors by the code below (`Content.value`), the others stay inert.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_MAGIC = 0x1950A86A20F9469CFC6C
"""First pickle of a file that torch.save wrote before PyTorch 1.6."""
_STORAGES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}  # fmt: skip
_NUMPY = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8, "i2": torch.int16,
    "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8, "b1": torch.bool,
}  # fmt: skip
_NUMPY_CORES = ("numpy.core.multiarray.", "numpy._core.multiarray.")


class Stub:
    """A placeholder for a class or function that a pickle names; keeps what it is built from and does nothing.

    >>> made = Stub(1, 2)
    >>> made.arguments, made(3) is made
    ((1, 2), True)
    """

    kind = ""
    """The name in the pickle, "module.name"."""

    def __new__(cls, *arguments: Any, **named: Any) -> Stub:
        made = object.__new__(cls)
        fields: dict[str, Any] = {"arguments": arguments, "state": None, "items": {}, "parts": []}
        made.__dict__.update(fields)
        return made

    def __init__(self, *arguments: Any, **named: Any) -> None:
        pass

    def __call__(self, *arguments: Any, **named: Any) -> Stub:
        return self

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__["items"][key] = value

    def append(self, part: Any) -> None:
        self.__dict__["parts"].append(part)

    def extend(self, parts: Any) -> None:
        self.__dict__["parts"].extend(parts)

    def add(self, part: Any) -> None:
        self.__dict__["parts"].append(part)

    def __repr__(self) -> str:
        return f"<{self.kind}>"


@dataclass(slots=True)
class Storage:
    """The numbers that tensors of a file share: their kind, their name in the file, how many, and later themselves."""

    kind: str
    key: str
    count: int
    data: Tensor | None = None


class _Unpickler(pickle.Unpickler):
    """Knows no class: whatever a pickle names becomes a `Stub`."""

    def __init__(self, file: BinaryIO, content: Content) -> None:
        super().__init__(file, encoding="latin1")
        self._content = content

    def find_class(self, module: str, name: str) -> Any:
        kind = f"{module}.{name}"
        self._content.kinds.setdefault(kind, type("Stub", (Stub,), {"kind": kind}))
        return self._content.kinds[kind]

    def persistent_load(self, saved: Any) -> Any:
        if not isinstance(saved, tuple) or len(saved) < 2:
            raise pickle.UnpicklingError("an unknown reference")
        if saved[0] == "module":  # old files keep the source of a class beside it
            return saved[1]
        kind, key, count = saved[1], str(saved[2]), int(saved[4])
        name = kind.kind.rpartition(".")[2] if isinstance(kind, type) and issubclass(kind, Stub) else str(kind)
        storage = self._content.storages.setdefault(key, Storage(name, key, count))
        if len(saved) > 5 and saved[5] is not None:  # a view (key, offset, size) of the storage
            view, offset, size = str(saved[5][0]), int(saved[5][1]), int(saved[5][2])
            self._content.views[view] = (key, offset, size)
            return self._content.storages.setdefault(view, Storage(name, view, size))
        return storage


@dataclass(slots=True)
class Content:
    """What a file holds: builtin containers, texts, numbers, stubs, and storages that tensors are made from."""

    root: Any = None
    kinds: dict[str, type[Stub]] = field(default_factory=dict)
    """All names in the pickle."""
    storages: dict[str, Storage] = field(default_factory=dict)
    views: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    fetch: Callable[[str], Any] | None = None
    """The bytes of a storage by its key; None where they are read already."""

    def value(self, made: Any) -> Any:
        """A tensor, a mapping, a path or whatever else a stub of a known kind stands for; others unchanged."""
        if not isinstance(made, Stub):
            return made
        kind, name = made.kind, made.kind.rpartition(".")[2]
        arguments = made.__dict__["arguments"]
        if kind.startswith("torch."):
            if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
                return self._tensor(arguments, name.endswith("3"))
            if name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter"):
                return self.value(arguments[0])
            if name in ("_rebuild_from_type_v2", "_rebuild_from_type") and isinstance(arguments[0], type):
                return self.value(arguments[0](*arguments[2]))
        if kind.startswith(_NUMPY_CORES):
            return _array(made)
        if kind == "argparse.Namespace" or (made.__dict__["state"] is None and kind.startswith("collections.")):
            return {**dict(_pairs(arguments)), **made.__dict__["items"], **_mapping(made.__dict__["state"])}
        if name.endswith("Path") and kind.startswith("pathlib."):
            return "/".join(map(str, arguments))
        if made.__dict__["items"] and "_modules" not in _mapping(made.__dict__["state"]):
            return made.__dict__["items"]
        if kind == "collections.OrderedDict":
            return dict(_pairs(arguments))
        if name in ("set", "frozenset") and arguments and isinstance(arguments[0], list):
            return {one for one in arguments[0] if isinstance(one, str)}
        return made

    def _tensor(self, arguments: tuple[Any, ...], typed: bool) -> Tensor:
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without numbers")
        data = self._data(storage)
        if typed:
            data = data.view(getattr(torch, arguments[6].kind.rpartition(".")[2]))
        size, stride = tuple(map(int, self._numbers(size))), tuple(map(int, self._numbers(stride)))
        last = int(offset) + sum((s - 1) * step for s, step in zip(size, stride, strict=True))
        if min((int(offset), *size, *stride)) < 0 or (0 not in size and last >= len(data)):
            raise pickle.UnpicklingError("a tensor beyond its numbers")
        return data.as_strided(size, stride, int(offset))

    def _numbers(self, made: Any) -> tuple[Any, ...]:
        return tuple(made.__dict__["arguments"][0]) if isinstance(made, Stub) else tuple(made)

    def _data(self, storage: Storage) -> Tensor:
        if storage.data is None:
            if storage.key in self.views:
                whole, offset, size = self.views[storage.key]
                storage.data = self._data(self.storages[whole])[offset : offset + size]
            elif self.fetch is None:
                raise pickle.UnpicklingError(f"numbers that are not in the file ({storage.key})")
            else:
                storage.data = numbers(self.fetch(storage.key), kind_of(storage.kind), storage.count)
        return storage.data


def kind_of(name: str) -> torch.dtype:
    """The kind of number in a storage class, e.g. "FloatStorage"."""
    found = _STORAGES.get(name.removesuffix("Storage"))
    if found is None:
        raise pickle.UnpicklingError(f"numbers of the kind {name}")
    return found


def numbers(raw: bytes, dtype: torch.dtype, count: int) -> Tensor:
    """A one-dimensional tensor from bytes."""
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype, count=count)


def read(path: Path) -> Content:
    """What a file of torch.save (any version since 0.2) or of pickle.dump holds, with none of its code run.

    Raises:
        pickle.UnpicklingError, OSError, ValueError, zipfile.BadZipFile, ...: the file is damaged or none of these.
    """
    if zipfile.is_zipfile(path):
        return _zipped(path)
    content = Content()
    with path.open("rb") as file:
        content.root = _load(file, content)
        if content.root != _MAGIC:
            return content
        _load(file, content)  # version of the protocol
        _load(file, content)  # sizes of C types
        content.root = _load(file, content)
        for key in _load(file, content):
            storage = content.storages[str(key)]
            dtype = kind_of(storage.kind)
            (count,) = struct.unpack("<q", file.read(8))
            raw = file.read(count * dtype.itemsize)
            if len(raw) < count * dtype.itemsize:
                raise EOFError("the file ends too early")
            storage.data = numbers(raw, dtype, count)
    return content


def _zipped(path: Path) -> Content:
    archive = zipfile.ZipFile(path)  # open as long as the content is in use: storages are read when asked for
    names = archive.namelist()
    main = next((name for name in names if name.endswith("/data.pkl") or name == "data.pkl"), None)
    if main is None:
        raise pickle.UnpicklingError("a zip archive without data.pkl")
    folder = main.removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in names else b"little"
    if order != sys.byteorder.encode():
        raise pickle.UnpicklingError(f"numbers in {order.decode(errors='replace')}-endian order")
    content = Content(fetch=lambda key: archive.read(f"{folder}data/{key}"))
    content.root = _load(io.BytesIO(archive.read(main)), content)
    return content


def _load(file: BinaryIO, content: Content) -> Any:
    return _Unpickler(file, content).load()


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, tuple) and len(value) == 2 and (value[0] is None or isinstance(value[0], dict)):
        value = {**(value[0] or {}), **(value[1] if isinstance(value[1], dict) else {})}
    return value if isinstance(value, dict) else {}


def _pairs(arguments: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    first = arguments[-1] if arguments else None
    if isinstance(first, dict):
        return list(first.items())
    if isinstance(first, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in first):
        return [(key, value) for key, value in first]
    return []


def _array(made: Stub) -> Any:
    """A numpy array or scalar as a tensor or a number; what is of another kind stays a stub."""
    name, arguments, state = made.kind.rpartition(".")[2], made.__dict__["arguments"], made.__dict__["state"]
    if name == "scalar" and len(arguments) == 2:
        shape: tuple[int, ...] = ()
        described, raw = arguments
    elif name == "_reconstruct" and isinstance(state, tuple) and len(state) == 5:
        shape, described, raw = tuple(map(int, state[1])), state[2], state[4]
    else:
        return made
    code = described.__dict__["arguments"][0] if isinstance(described, Stub) else None
    order = described.__dict__["state"][1] if isinstance(described, Stub) and described.__dict__["state"] else "="
    if isinstance(raw, Stub) and raw.kind == "_codecs.encode":
        raw = raw.__dict__["arguments"][0]
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if code not in _NUMPY or order == ">" or not isinstance(raw, bytes):
        return made
    flat = numbers(raw, _NUMPY[code], math.prod(shape))
    if name == "scalar":
        return flat[0].item()
    return flat.view(shape[::-1]).permute(*range(len(shape))[::-1]) if state[3] else flat.view(shape)


def module_state(content: Content, made: Stub, prefix: str = "") -> dict[str, Tensor] | None:
    """The tensors by name of a network that was pickled whole, None if the stub is no network."""
    state = _mapping(made.__dict__["state"])
    if "_modules" not in state or "_parameters" not in state:
        return None
    loose = content.value(state.get("_non_persistent_buffers_set"))
    left_out = set(loose) if isinstance(loose, set | frozenset) else set()
    found: dict[str, Tensor] = {}
    for own in (state["_parameters"], state.get("_buffers") or {}):
        for name, value in dict(content.value(own)).items():
            tensor = content.value(value)
            if isinstance(tensor, Tensor) and name not in left_out:
                found[prefix + name] = tensor
    for name, child in dict(content.value(state["_modules"])).items():
        if isinstance(child, Stub):
            found.update(module_state(content, child, f"{prefix}{name}.") or {})
    return found
