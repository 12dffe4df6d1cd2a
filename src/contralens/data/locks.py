"""One process at a time: locks that end with their process, in files that go when they are released."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from contralens.data.atomic_files import TEMPORARY
from contralens.errors import StoreError

LOCK = f"{TEMPORARY}lock-"
"""Prefix of the names of lock files."""


def lock_beside(path: Path, part: str = "") -> Path:
    """The lock file of a file or folder, beside it; `part` names a part of it that has a lock of its own.

    >>> lock_beside(Path("out/run")).name, lock_beside(Path("out/run"), "evaluation").name
    ('.partial-lock-run', '.partial-lock-run~evaluation')
    """
    name = f"{path.name}~{part}" if part else path.name
    if len(os.fsencode(name)) > 200:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f"{LOCK}{name}")


@contextlib.contextmanager
def locked(file: Path, busy: str, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock `file`, which is made and removed here; a file that a killed process left does not block.

    Args:
        file: the lock file; its folder must exist.
        busy: what to say if another process, or another thread, holds it.
        wait: seconds to wait for another holder; below 0, as long as it takes.

    Raises:
        StoreError: another one holds it.
    """
    from filelock import BaseFileLock, FileLock, Timeout

    while True:
        with file.open("ab") as mark:
            lock: BaseFileLock | None = FileLock(file)
            try:
                assert lock is not None
                lock.acquire(timeout=wait)
            except Timeout:
                raise StoreError(busy) from None
            except NotImplementedError:  # a file system without locks
                lock = None
            # The file is removed before its lock is released. Whoever opened it before that holds a lock that nobody
            # else will ever see, which shows: another file, or none, has the name by then.
            if lock is None or os.name == "nt" or _is(mark.fileno(), file):
                break
            lock.release()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.name != "nt":
                file.unlink()
        if lock is not None:
            lock.release()
        with contextlib.suppress(OSError):
            if os.name == "nt":
                file.unlink()


def _is(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
