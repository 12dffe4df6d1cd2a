"""Two folders that change places in one step, where the system has such a call."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

_HERE = -100
"""AT_FDCWD of Linux."""
_EXCHANGE = 2
"""RENAME_EXCHANGE of Linux; RENAME_SWAP of macOS is the same number."""


def exchange(one: Path, two: Path) -> bool:
    """Exchange the names of two files or folders atomically; False, and nothing done, where that is not available.

    >>> Path("one").mkdir(), Path("two").mkdir(), Path("one/file").touch()
    (None, None, None)
    >>> done = exchange(Path("one"), Path("two"))
    >>> Path("two/file").exists() == done
    True
    """
    call = _call()
    return call is not None and call(os.fsencode(one), os.fsencode(two)) == 0


@functools.cache
def _call() -> Callable[[bytes, bytes], int] | None:
    try:
        library = ctypes.CDLL(None)
        if sys.platform == "darwin":
            swap = library.renamex_np
            swap.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint]
            return lambda one, two: int(swap(one, two, _EXCHANGE))
        rename = library.renameat2
        rename.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
        return lambda one, two: int(rename(_HERE, one, _HERE, two, _EXCHANGE))
    except (OSError, AttributeError, TypeError):  # no such call, or no C library to ask (Windows)
        return None
