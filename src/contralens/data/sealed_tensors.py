"""Files of arrays that prove themselves: safetensors whose metadata hold checksums of the header and of the data.

"crc32" has one number for each array, "sha256" covers all that the header says: names, kinds and shapes of the arrays,
every other entry of the metadata, and "crc32". So a file that opens says what its writer said, whichever bit flipped
since; and arrays that are mapped rather than read are checked once a process, in one pass over the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from contralens.data.atomic_files import explained
from contralens.errors import StoreError

KINDS = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16, "U32": np.uint32,
    "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
"""Kinds of numbers, as safetensors calls them."""
_NAMES = {np.dtype(kind): name for name, kind in KINDS.items()}
_checked: set[tuple[str, int, int, int]] = set()
"""Files whose data this process has checked: path, inode, size and time of change."""


class Damaged(StoreError):
    """A file of the cache is not as it was written. It is reported as a warning, and its rows are recomputed.

    >>> from contralens.data.store import Store
    >>> Store("cache").remember("fingerprints", "x").put({"numbers": np.arange(3)})
    >>> file = next(Path("cache").rglob("*.safetensors"))
    >>> _ = file.write_bytes(file.read_bytes()[:-1])
    >>> try:
    ...     Sealed(file)
    ... except Damaged as e:
    ...     print(e)
    its header names offsets outside the file
    """


class Unsealed(Damaged):
    """A file has no checksum over its header: an older contralens wrote it, or the bit that flipped is there."""


class Array(NamedTuple):
    """Where an array is in the file."""

    kind: Any
    begin: int
    shape: tuple[int, ...]
    crc32: int


def sealed(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file that holds these arrays and texts.

    >>> data = sealed({"rows": np.zeros((2, 3), np.float32)}, {"ids": "a b"})
    >>> _ = Path("rows.safetensors").write_bytes(data)
    >>> Sealed(Path("rows.safetensors")).metadata["ids"]
    'a b'
    >>> _ = Path("rows.safetensors").write_bytes(data.replace(b"a b", b"a c"))
    >>> Sealed(Path("rows.safetensors"))
    Traceback (most recent call last):
        ...
    contralens.data.sealed_tensors.Damaged: its header was changed
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    crc32 = {name: _crc32(array) for name, array in whole.items()}
    about = {**metadata, "crc32": json.dumps(crc32, sort_keys=True)}
    said = {name: (_NAMES[array.dtype], array.shape) for name, array in whole.items()}
    return bytes(save(whole, {**about, "sha256": _sha256(about, said)}))


class Sealed:
    """A file that `sealed` made: its header is checked when it is opened, its data by `check`.

    Raises:
        Damaged: it is not as it was written; `Unsealed` where it has no checksum over its header.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as f:
            found = os.fstat(f.fileno())
            length = int.from_bytes(f.read(8), "little")
            if not 2 <= length <= found.st_size - 8:
                raise Damaged("its header is truncated")
            raw = f.read(length)
        self._identity = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
        try:
            header = json.loads(raw)
            about: dict[str, str] = header.pop("__metadata__")
            told = about.pop("sha256", None)
            if told is None:
                raise Unsealed("it has no checksum of its header")
            if told != _sha256(about, {name: (a["dtype"], a["shape"]) for name, a in header.items()}):
                raise Damaged("its header was changed")
            crc32 = json.loads(about.pop("crc32"))
            self.metadata: Mapping[str, str] = about
            self.arrays = {name: _place(a, 8 + length, found.st_size, crc32[name]) for name, a in header.items()}
        except Damaged:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as e:
            raise Damaged("its header cannot be read") from e

    def mapped(self, name: str) -> NDArray[Any]:
        """An array as it is in the file, read where it is looked at. Nothing is checked."""
        kind, begin, shape, _ = self.arrays[name]
        return np.memmap(self.path, kind, "r", begin, shape) if 0 not in shape else np.empty(shape, kind)

    def read(self, name: str) -> NDArray[Any]:
        """An array in memory. Nothing is checked."""
        return np.array(self.mapped(name))

    def check(self) -> None:
        """Look at all data, unless this process did so before.

        Raises:
            Damaged: they were changed.
        """
        if self._identity in _checked:
            return
        for name, array in self.arrays.items():
            if _crc32(self.mapped(name)) != array.crc32:
                raise Damaged(f"its {name} were changed")
        _checked.add(self._identity)


def set_aside(path: Path, why: BaseException, then: str) -> None:
    """Move a damaged file out of the way and say so in one line; one without a checksum of its header is removed.

    Several processes may find the same file at once: whoever comes second finds it gone.
    """
    with explained(path):
        try:
            if isinstance(why, Unsealed):
                path.unlink()
            else:
                os.replace(path, path.with_suffix(".damaged"))
        except FileNotFoundError:
            return
    if isinstance(why, Unsealed):
        said = f"{path} has no checksum of its header (an older contralens wrote it, or it is damaged); removed, {then}"
    else:
        said = f"{path} is damaged ({why}); set aside, {then}"
    warnings.warn(said, stacklevel=3)


def _sha256(about: Mapping[str, str], arrays: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([about, arrays], sort_keys=True).encode()).hexdigest()


def _place(told: Mapping[str, Any], begin: int, size: int, crc32: int) -> Array:
    """Where an array of the header is in a file of `size` bytes whose data begin at `begin`."""
    kind, shape, (start, end) = KINDS[told["dtype"]], tuple(told["shape"]), told["data_offsets"]
    if type(start) is not int or type(end) is not int or not 0 <= start <= end <= size - begin:
        raise Damaged("its header names offsets outside the file")
    if end - start != np.dtype(kind).itemsize * math.prod(shape):
        raise Damaged("its header names offsets that fit no array")
    return Array(kind, begin + start, shape, crc32)


def _crc32(array: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data) if array.size else 0
