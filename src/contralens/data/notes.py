"""Notes, tags and corrected labels of a run: an append-only file beside the run folder, never inside it.

RUN.notes.jsonl holds one JSON object a line: {"id", "time", "neuron", "name", "kind", "text"}, kind one of note, tag,
label; or {"id", "time", "kind": "remove", "of"} that takes an earlier one back. Nothing is ever rewritten.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from typing_extensions import TypeAliasType, TypedDict

from contralens.data.locks import lock_beside, locked
from contralens.errors import InputError, StoreError

KINDS = ("note", "tag", "label")
LONGEST = {"note": 4000, "tag": 60, "label": 200}
LARGEST = 64 << 20
PATIENCE = 60.0
"""Seconds to wait for another explorer that writes to the same notes."""
NO_LINK_NO_WAIT = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
"""Neither through a link nor waiting for a pipe."""


NoteKind = TypeAliasType("NoteKind", Literal["note", "tag", "label"])


class Note(TypedDict):
    """What a person said of a neuron."""

    id: str
    time: str
    neuron: int
    name: str
    kind: NoteKind
    """A "label" is a corrected label."""
    text: str


class Notes(TypedDict):
    """The notes of a run that stand, oldest first."""

    file: str
    writable: bool
    notes: list[Note]
    problems: list[str]


class Notebook:
    """The notes file of one run."""

    def __init__(self, run: Path, writable: bool) -> None:
        run = run.resolve()
        self.path = run.parent / f"{run.name}.notes.jsonl"
        self.writable = writable
        self._lock = threading.Lock()

    def read(self) -> Notes:
        """Notes that stand, oldest first; a damaged line is reported and skipped."""
        kept: dict[str, Note] = {}
        problems: list[str] = []
        try:
            data = self._bytes()
        except OSError as e:
            return {"file": self.path.name, "writable": False, "notes": [], "problems": [_why(self.path, e)]}
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                if entry["kind"] == "remove":
                    kept.pop(str(entry["of"]), None)
                    continue
                if entry["kind"] not in KINDS or not isinstance(entry["text"], str):
                    raise ValueError
                neuron = entry["neuron"]
                if type(neuron) is not int or not 0 <= neuron < 2**31:
                    raise ValueError
                kept[str(entry["id"])] = {
                    "id": str(entry["id"]),
                    "time": str(entry["time"]),
                    "neuron": neuron,
                    "name": str(entry.get("name", "")),
                    "kind": entry["kind"],
                    "text": entry["text"],
                }
            except (ValueError, KeyError, TypeError, RecursionError):
                problems.append(f"line {number} of {self.path.name} is damaged and was skipped")
        notes = list(kept.values())
        return {"file": self.path.name, "writable": self.writable, "notes": notes, "problems": problems[:20]}

    def corrections(self) -> dict[int, Note]:
        """Neuron -> the latest corrected label that stands."""
        return {note["neuron"]: note for note in self.read()["notes"] if note["kind"] == "label"}

    def stamp(self) -> str:
        """What changes whenever the file does."""
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except OSError:
            return ""
        return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"

    def add(self, neuron: int, name: str, kind: str, text: str) -> Note:
        """Append one note, tag or corrected label."""
        if kind not in KINDS:
            raise InputError(f"`kind` must be one of {', '.join(KINDS)}; got {kind!r}")
        text = "".join(c for c in text if c == "\n" or c.isprintable()).strip()
        if not text:
            raise InputError("`text` is empty")
        if len(text) > LONGEST[kind]:
            raise InputError(f"a {kind} has at most {LONGEST[kind]} characters; got {len(text)}")
        note: Note = {
            "id": secrets.token_hex(6),
            "time": _now(),
            "neuron": neuron,
            "name": name,
            "kind": cast(NoteKind, kind),
            "text": text if kind == "note" else " ".join(text.split()),
        }
        self._append(dict(note))
        return note

    def remove(self, identity: str) -> None:
        """Take a note back: a line is appended, the note stays in the file."""
        if all(note["id"] != identity for note in self.read()["notes"]):
            raise InputError(f"there is no note {identity!r}")
        self._append({"id": secrets.token_hex(6), "time": _now(), "kind": "remove", "of": identity})

    def _bytes(self) -> bytes:
        try:
            handle = os.open(self.path, os.O_RDONLY | NO_LINK_NO_WAIT)
        except FileNotFoundError:
            return b""
        with os.fdopen(handle, "rb") as file:
            return file.read(LARGEST)

    def _append(self, entry: dict[str, Any]) -> None:
        if not self.writable:
            raise InputError("this explorer is read-only; start it without --read-only to write notes")
        line = json.dumps(entry, ensure_ascii=False).encode() + b"\n"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | NO_LINK_NO_WAIT
        with self._lock:
            try:
                with (
                    locked(lock_beside(self.path), f"another explorer is writing to {self.path}; try again", PATIENCE),
                    os.fdopen(os.open(self.path, flags, 0o600), "r+b", buffering=0) as file,
                ):
                    end = file.seek(0, os.SEEK_END)
                    if end + len(line) > LARGEST:
                        raise StoreError(f"{self.path} is full ({LARGEST >> 20} MB)")
                    if end:
                        file.seek(end - 1)
                        if file.read(1) != b"\n":  # a line that a crash cut short
                            line = b"\n" + line
                    file.write(line)
                    os.fsync(file.fileno())
            except OSError as e:
                raise StoreError(_why(self.path, e)) from e


def _why(path: Path, error: OSError) -> str:
    with contextlib.suppress(OSError):
        if path.is_symlink():
            return f"{path} is a link; notes are not followed through links"
    return f"{path} cannot be used for notes: {error.strerror or error}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
