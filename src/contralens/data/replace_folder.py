"""The one way in which a folder is written whole: looked at before the work, locked during it, put in place at once.

A folder that is there is replaced only if it is provably ours (`contralens.data.folder_kinds`), holds nothing else, and
is not, contains not and lies not inside what the command reads. What a killed process left beside it is swept by the
next one, and an older folder that is left only under a hidden name gets its own back.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contralens.data.atomic_files import TEMPORARY, explained, readable, sync_folder
from contralens.data.folder_kinds import RUN, Held, Kind, look
from contralens.data.locks import lock_beside, locked
from contralens.data.seals import DIGEST, file_digest, manifest_digest
from contralens.data.swap_folders import exchange
from contralens.errors import InputError, RunError, StoreError

_reservations: dict[tuple[int, int, Path], Reservation] = {}
"""What each thread of this process has reserved."""


@dataclass
class Reservation:
    """A folder that this thread alone may write."""

    path: Path
    """Where the folder is, links resolved."""
    given: Path
    """The path as the user gave it, for messages."""
    kind: Kind
    replace: bool = False
    """Whether what is ours may go although it was changed, or holds what was added to it."""
    remade: frozenset[str] = frozenset()
    """Parts that are made again in any case."""
    request: str | None = None
    """What says that a run is asked for again; the manifest of an older one has it under "request"."""
    run: str | None = field(default=None)
    """Of a part: the digest of its run's manifest when it was reserved."""

    def check(self, final: bool = False) -> Held:
        """Look whether the folder may be replaced; `final`, whether by what is ready."""
        held = look(self.path, self.kind) if self.path.is_dir() else Held()
        if why := self._refusal(held, final):
            raise InputError(why)
        return held

    def _refusal(self, held: Held, final: bool) -> str | None:
        place = self.given
        if held.foreign or self.replace:
            return found_in(place, self.kind, held)
        if held.changed:
            return (
                f"{place} holds {held.changed[0]}, which is not as contralens wrote it: move it away, or choose "
                f"another folder{', or lose the change with --replace (replace=True)' if self.kind is RUN else ''}"
            )
        lost = [part for part in held.parts if part not in self.remade]
        again = self.request is not None and (held.manifest or {}).get("request") == self.request
        if lost and (final or not again):
            return (
                f"{place} holds {' and '.join(lost)}, made of the labels that are there: choose another folder to keep "
                "them, or --replace (replace=True) to lose them with the older run"
            )
        return None

    @contextlib.contextmanager
    def filled(self) -> Iterator[Path]:
        """A temporary folder that takes its place, all files synced, when the block ends without an error.

        A folder that holds the same already stays as it is, with all that was added to it.
        """
        with explained(self.given):
            temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{self.path.name}-", dir=self.path.parent))
            try:
                temporary.chmod(0o755)
                yield temporary
                _sync(temporary)
                self._place(temporary)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            sync_folder(self.path.parent)

    def _place(self, made: Path) -> None:
        if self.run is not None and self.run != _of_run(self.path):
            raise RunError(f"{self.given.parent} was labeled again meanwhile: repeat the command on the new run")
        if not self.path.exists():
            os.rename(made, self.path)
            return
        held = look(self.path, self.kind)
        new = look(made, self.kind)
        if _same(held, new) and not held.changed and new.own <= held.own:
            return
        self.check(final=True)
        if exchange(made, self.path):
            _discard(made, self)
            return
        old = made.with_name(f"{made.name}.old")
        os.rename(self.path, old)
        os.rename(made, self.path)
        _discard(old, self)


@contextlib.contextmanager
def reserved(
    path: str | Path,
    kind: Kind,
    *,
    inputs: Iterable[Path] = (),
    replace: bool = False,
    remade: Iterable[str] = (),
    request: str | None = None,
) -> Iterator[Reservation]:
    """Reserve a folder for what is going to be written, before it is computed.

    Args:
        path: the folder; where it is a link, what that points at.
        kind: what will be written.
        inputs: files and folders that the command reads.
        replace: may what is ours go although it was changed, or holds what was added to it?
        remade: parts of a run that the command makes again in any case.
        request: what says that the same run is asked for again.

    Raises:
        InputError: it holds something that is not ours, or would be lost; it is, contains or lies inside an input.
        StoreError: it cannot be written; another process writes it.

    >>> from contralens.data.folder_kinds import RUN
    >>> Path("mine").mkdir()
    >>> _ = Path("mine/thesis.tex").write_text("...")
    >>> try:
    ...     with reserved("mine", RUN):
    ...         pass
    ... except InputError as e:
    ...     print(str(e).partition(";")[0])
    mine holds files but no run, the first is thesis.tex
    """
    given = Path(path)
    real = _real(given, kind)
    key = (os.getpid(), threading.get_ident(), real)
    if outer := _reservations.get(key):
        yield outer
        return
    if real.is_dir() and (there := look(real, kind)).manifest is None and (why := found_in(given, kind, there)):
        raise InputError(why)
    apart(given, real, inputs)
    run = _of_run(real) if kind.part else None
    found = Reservation(real, given, kind, replace, frozenset(remade), request, run)
    with _alone(given, real, kind):
        settle(real, kind)
        with explained(given):
            os.rmdir(tempfile.mkdtemp(prefix=f"{TEMPORARY}{real.name}-", dir=real.parent))
        found.check()
        _reservations[key] = found
        try:
            yield found
        finally:
            del _reservations[key]


def found_in(place: Path, kind: Kind, held: Held) -> str | None:
    """What to say about the first file that is not ours; None if there is none."""
    if not held.foreign:
        return None
    first = readable(held.foreign[0])
    if held.manifest is None:
        return (
            f"{place} holds files but no {kind.what}, the first is {first}; choose a new folder, so that your files "
            "are not overwritten"
        )
    return (
        f"{place} holds {first}, which contralens did not write: move it away, or choose another folder; "
        "nothing was changed"
    )


def restored(path: Path, kind: Kind) -> None:
    """Give an older folder its name back, if a killed process left it only under a hidden one."""
    if os.path.lexists(path) or not path.parent.is_dir() or not _left(path.resolve()):
        return
    with contextlib.suppress(StoreError, OSError), locked(lock_beside(path.resolve()), ""):
        settle(path.resolve(), kind)


def settle(path: Path, kind: Kind) -> None:
    """Bring back or remove what killed processes left beside `path`; its lock must be held."""
    with explained(path):
        for left in _left(path):
            inner = left / path.name if left.name.startswith(f"{TEMPORARY}old-") else left
            moved = inner != left or left.name.endswith(".old")
            if moved and not os.path.lexists(path):
                os.rename(inner, path)
            elif inner.exists():
                _discard(inner, Reservation(path, path, kind))
            if inner != left:
                with contextlib.suppress(OSError):
                    left.rmdir()


def _left(path: Path) -> list[Path]:
    """What killed processes left of `path`, the newest first."""
    own = re.compile(rf"{re.escape(TEMPORARY + path.name)}-[a-z0-9_]{{8}}(\.old)?")
    older = re.compile(rf"{re.escape(TEMPORARY)}old-[a-z0-9_]{{8}}")  # holds just the folder, by its name
    found = [
        left
        for left in path.parent.glob(f"{TEMPORARY}*")
        if left.is_dir()
        and not left.is_symlink()
        and (own.fullmatch(left.name) or (older.fullmatch(left.name) and os.listdir(left) in ([path.name], [])))
    ]
    return sorted(found, key=lambda left: (-left.stat().st_mtime, left.name))


def _discard(old: Path, place: Reservation) -> None:
    """Remove a folder that was replaced; should anything else be in it by now, it is kept under a visible name."""
    if look(old, place.kind).foreign and (old / place.kind.manifest).exists():
        name, number = place.path.name, 1
        while os.path.lexists(kept := place.path.with_name(f"{name}.kept{number}")):
            number += 1
        os.rename(old, kept)
        warnings.warn(f"the older {name} has files that were added meanwhile; it is kept as {kept}", stacklevel=2)
        return
    with contextlib.suppress(OSError):  # first, so that what a kill leaves of it is not taken for the user's
        (old / place.kind.manifest).unlink()
    shutil.rmtree(old, ignore_errors=True)


def _same(held: Held, new: Held) -> bool:
    one, other = (found.manifest for found in (held, new))
    return one is not None and DIGEST in one and one == other and one[DIGEST] == manifest_digest(one)


def _real(given: Path, kind: Kind) -> Path:
    if readable(str(given)) != str(given):
        shown = readable(str(given))
        raise InputError(f"the {kind.what} folder's name is no UTF-8 text: {shown!r}; choose another one")
    try:
        real = given.resolve()
    except (OSError, RuntimeError):
        raise InputError(f"{given} is a broken link; choose a new folder for the {kind.what}") from None
    if os.path.lexists(real) and not real.is_dir():
        raise InputError(f"{given} is a file; choose a new folder for the {kind.what}")
    if not real.name:
        raise InputError(f"{given} is the root of the file system; choose a new folder for the {kind.what}")
    return real


def apart(given: Path, real: Path, inputs: Iterable[Path]) -> None:
    """Raise if the folder is, contains or lies inside an input."""
    for one in inputs:
        source = one.resolve()
        if real == source:
            raise InputError(f"{given} is an input; choose another output folder")
        if real in source.parents:
            raise InputError(f"{given} contains {one}, which is an input; choose another output folder")
        if source in real.parents and source.is_dir():
            raise InputError(f"{given} lies in {one}, which is an input; choose a folder outside it")


@contextlib.contextmanager
def _alone(given: Path, real: Path, kind: Kind) -> Iterator[None]:
    file = lock_beside(real.parent, real.name) if kind.part and os.access(real.parent.parent, os.W_OK) else None
    busy = f"another process is writing {given}: wait until it has ended, or choose another folder"
    with contextlib.ExitStack() as held:
        with explained(given):
            real.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(file or lock_beside(real), busy))
        yield


def _of_run(part: Path) -> str | None:
    manifest = part.parent / "manifest.json"
    return file_digest(manifest) if manifest.is_file() else None


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("rb") as f:
                os.fsync(f.fileno())
    sync_folder(folder)
