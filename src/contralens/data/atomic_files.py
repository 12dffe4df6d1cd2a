"""Writing so that a reader sees a whole file or none, whenever the power goes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from contralens.errors import StoreError

TEMPORARY = ".partial-"
"""Prefix of names that are still being written; a reader ignores them."""
_OURS = re.compile(rf"{re.escape(TEMPORARY)}[a-z0-9_]{{8}}")
"""Names of files that are still being written; others with that prefix may be the user's."""


def digest(*parts: str | bytes) -> str:
    """32 hex digits that identify a sequence of parts.

    >>> digest("ab", "c") == digest("a", "bc")
    False
    """
    out = hashlib.sha256()
    for part in parts:
        data = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        out.update(len(data).to_bytes(8, "little") + data)
    return out.hexdigest()[:32]


def readable(name: str) -> str:
    r"""A file's name as text that every file can hold: bytes that are no UTF-8 are written as escapes.

    >>> readable(os.fsdecode(b"gr\xf6n.jpg")), readable("grün.jpg")
    ('gr\\xf6n.jpg', 'grün.jpg')
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line that says where and what to do."""
    try:
        yield
    except OSError as e:
        what = {
            errno.ENOSPC: "the disk is full; free some space and run the same command again, it resumes",
            errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
            errno.EACCES: "no permission to write there; choose another folder",
            errno.EPERM: "no permission to write there; choose another folder",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.ENOTDIR: "part of the path is a file, not a folder",
            errno.ENOENT: "no folder can be made there; choose another one",
            errno.EISDIR: "a folder is in the way there; choose another name",
            errno.EEXIST: "something else is in the way there",
        }.get(e.errno or 0)
        if what is None:
            raise
        raise StoreError(f"cannot write {path}: {what}") from e


def write_whole(path: Path, data: bytes, sync: bool = True) -> None:
    """Write a file atomically: temporary file, fsync, rename, fsync of the folder; without the fsyncs if not `sync`."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as f:
                os.chmod(temporary, 0o644)  # mkstemp's files are private
                f.write(data)
                f.flush()
                if sync:
                    os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if sync:
            sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path, older_than: float = 600.0) -> None:
    """Remove what killed runs left half-written in `folder`, once it is older than `older_than` seconds."""
    for left in folder.glob(f"{TEMPORARY}*"):
        if not _OURS.fullmatch(left.name):
            continue
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > older_than:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
