"""Files that join others in a folder: a report or maps in a run, rendered pictures in a folder of the user's.

The folder's list (a sealed manifest) first says what will be written, then the files are, then the list is closed. So
each file of ours can be proven ours at any moment, and nothing else is ever written over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from contralens.data.atomic_files import explained, sweep, write_whole
from contralens.data.folder_kinds import ADDED, RUN, look
from contralens.data.locks import lock_beside, locked
from contralens.data.seals import (
    DIGEST,
    FILES,
    PENDING,
    file_digest,
    manifest_digest,
    manifest_text,
    read_object,
    sealed,
)
from contralens.errors import InputError

PATIENCE = 60.0
"""Seconds to wait for another process that adds files to the same folder."""


def check_addable(run: Path, names: Sequence[str]) -> list[str]:
    """Those of the files that a version without digests wrote there, which may be replaced.

    Raises:
        InputError: contralens did not write one of them, or it was edited; or the folder is not a run.
    """
    held = look(run, RUN) if run.is_dir() else None
    if held is None or held.manifest is None:
        raise InputError(f"{run} is not a run folder")
    for name in (ADDED, *names):
        if name in held.foreign or name in held.changed or (run / name).is_dir():
            raise InputError(
                f"{run / name} is not as contralens wrote it and would be overwritten: move it away, or choose another "
                "file"
            )
    return [] if DIGEST in held.manifest else [name for name in names if name in held.own]


def add_to_run(run: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a run folder, each atomically, and list them in its added.json.

    Raises:
        InputError: one of them is there and not ours; the folder is no run.
        StoreError: it cannot be written.

    >>> add_to_run(Path("run"), {"report.html": b"<p>empty</p>"})
    >>> Path("run/report.html").read_text()
    '<p>empty</p>'
    """
    busy = f"another process is adding files to {run}; try again when it has ended"
    with explained(run), locked(lock_beside(run.resolve() / ADDED), busy, PATIENCE):
        older = check_addable(run, list(files))
        write_listed(run, ADDED, {"format": 1}, files, keep=True, older=older)


def listed(folder: Path, name: str) -> dict[str, set[str]]:
    """Path -> the digests that a file of ours may have, by the list `name` of a folder; empty if there is none."""
    found: dict[str, set[str]] = {}
    content = _list(folder / name) or {}
    for key in (FILES, PENDING):
        for file, digest in content.get(key, {}).items():
            found.setdefault(file, set()).add(digest)
    return found


def write_listed(
    folder: Path, name: str, content: Mapping[str, Any], files: Mapping[str, bytes], *, keep: bool = False,
    older: Iterable[str] = (), sync: bool = True,
) -> None:  # fmt: skip
    """Write files into `folder` and list them in `folder`/`name`; files listed before go, unless `keep`.

    Args:
        folder: may hold other files, which stay. No other process may write into it meanwhile.
        name: the list, a JSON file with `content` in it.
        files: what to write, by path in the folder.
        older: files that a version without digests wrote, which count as listed.
        sync: False spares the fsync of each file.

    Raises:
        InputError: a file is there that is not ours.

    >>> write_listed(Path("some"), "list.json", {}, {"one.txt": b"1", "two.txt": b"2"})
    >>> write_listed(Path("some"), "list.json", {}, {"two.txt": b"3"})
    >>> sorted(path.name for path in Path("some").iterdir())
    ['list.json', 'two.txt']
    """
    before, known = listed(folder, name), set(older)
    check_listed(folder, name, files, older=known)
    new = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
    there = {file: file_digest(folder / file) for file in {*before, *known} - {name} if _is_file(folder / file)}
    own = {file: digest for file, digest in there.items() if file in known or digest in before[file]}
    with explained(folder):
        for place in {(folder / file).parent for file in [name, *files]}:
            sweep(place, 0.0)
        write_whole(folder / name, manifest_text(sealed(content, own, new)).encode())
        for file in () if keep else sorted(own.keys() - new.keys()):
            (folder / file).unlink()
        for file, data in files.items():
            write_whole(folder / file, data, sync)
        write_whole(folder / name, manifest_text(sealed(content, {**(own if keep else {}), **new})).encode())


def check_listed(folder: Path, name: str, files: Iterable[str], *, older: Iterable[str] = ()) -> None:
    """Raise if one of the files is in `folder` and not as the list `name` says, nor one of the `older` ones.

    A list that is there has to be one, too, unless there are `older` files, of a version without it.
    """
    before, known = listed(folder, name), set(older)
    if os.path.lexists(folder / name) and not known and _list(folder / name) is None:
        raise InputError(
            f"{folder / name} is not as contralens wrote it and would be overwritten: move it away, or choose another "
            "folder"
        )
    for file in files:
        path = folder / file
        if not os.path.lexists(path) or (file in known and _is_file(path)):
            continue
        if not _is_file(path) or file_digest(path) not in before.get(file, ()):
            raise InputError(
                f"{path} is not as contralens wrote it and would be overwritten: move it away, or choose another folder"
            )


def _list(file: Path) -> dict[str, Any] | None:
    """A list that is as it was written; None for anything else."""
    content = read_object(file)
    return content if content is not None and content.get(DIGEST) == manifest_digest(content) else None


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
