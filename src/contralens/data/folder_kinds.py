"""What in a folder is provably ours: the kinds of folders that contralens writes whole, and a look at one of them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from contralens.data.atomic_files import TEMPORARY
from contralens.data.seals import DIGEST, FILES, PENDING, file_digest, manifest_digest, read_object

ADDED = "added.json"
"""The manifest of what was added to a run folder after it was written: its report, its maps, an atlas."""
RELATIONS = "atlas.parquet"
"""Matches in other layers and edges, which an atlas adds to a run."""
ATLAS_PART = "an atlas"
"""What `Held.parts` calls it."""
_MAPS = ("maps.parquet", "classes.parquet", "layout.parquet")
_TABLES = ("neurons", "labels", "exemplars", "images", "concepts", "thumbnails", "candidates")
_LEFT = re.compile(
    rf"{re.escape(TEMPORARY)}([a-z0-9_]{{8}}|(evaluation|audit|verification)-[a-z0-9_]{{8}}(\.old)?|lock-.*)"
)


@dataclass(frozen=True)
class Kind:
    """A kind of folder that is written whole."""

    what: str
    manifest: str
    """Name of the file that says what belongs to the folder."""
    ours: Callable[[Mapping[str, Any]], bool]
    """Whether a manifest's content is of this kind."""
    older: str
    """Regular expression of the names that versions without digests wrote."""
    parts: Mapping[str, Kind] = field(default_factory=dict)
    """Subfolders with a manifest of their own."""
    part: bool = False
    """Whether it is itself a part of a run."""


EVALUATION = Kind(
    "evaluation",
    "manifest.json",
    lambda m: "format" in m and "scorers" in m,
    r"(values|summary|verdicts)\.parquet",
    part=True,
)
AUDIT = Kind(
    "audit",
    "audit.json",
    lambda m: "format" in m and "mode" in m,
    r"(neurons|influence|pruning)\.parquet|(mask|head)\.safetensors",
    part=True,
)
VERIFICATION = Kind("verification", "verification.json", lambda m: "format" in m and "editor" in m, r"(?!)", part=True)
_OLDER_RUN = (
    rf"({'|'.join(_TABLES)})\.parquet|labels\.json|vectors\.safetensors|report\.html|audit\.html|"
    rf"{'|'.join(map(re.escape, _MAPS))}"
)
RUN = Kind(
    "run",
    "manifest.json",
    lambda m: "format" in m and "primary" in m and isinstance(m.get("scorers"), list),
    _OLDER_RUN,
    {"evaluation": EVALUATION, "audit": AUDIT, "verification": VERIFICATION},
)
SHARE = Kind(
    "pushed run",
    "share.json",
    lambda m: m.get("format") == "contralens-share" and isinstance(m.get("files"), dict),
    rf"README\.md|labels\.json|run/({_OLDER_RUN})|run/evaluation/(values|summary|verdicts)\.parquet",
    {"run": RUN},
)
EXPORT = Kind(
    "export",
    "contralens-export.json",
    lambda m: "contralens" in m and isinstance(m.get("runs"), list),
    r"index\.html|explorer\.(css|js)|icon\.svg|data/([^/]+/)?(runs|index|audit|notes|map[a-z-]*|neurons-\d+)\.js"
    r"|images/[^/]+/\d+/\d+\.jpg|links/[^/]+/-?\d+\.(html|jpg)",
)
COMPARISON = Kind(
    "comparison",
    "comparison.json",
    lambda m: {"methods", "differences", "changes"} <= m.keys(),
    r"(differences|changes)\.parquet",
)


@dataclass
class Held:
    """What a look at a folder found."""

    manifest: dict[str, Any] | None = None
    """The manifest, if it is one of the kind asked for."""
    own: set[str] = field(default_factory=set)
    """Files that are ours, by path in the folder."""
    left: set[str] = field(default_factory=set)
    """What killed processes left half-written."""
    foreign: list[str] = field(default_factory=list)
    """Files and empty folders that contralens did not write."""
    changed: list[str] = field(default_factory=list)
    """Files of ours that were changed."""
    parts: list[str] = field(default_factory=list)
    """What was added to a run: evaluation, audit, maps, an atlas."""


def leftover(name: str) -> bool:
    """Whether a name is one that only an unfinished write has.

    >>> leftover(".partial-abcd_123"), leftover(".partial-notes")
    (True, False)
    """
    return _LEFT.fullmatch(name) is not None


def look(folder: Path, kind: Kind) -> Held:
    """Compare a folder with its manifests, file by file; links are never followed.

    >>> import contralens
    >>> held = look(contralens.load("run").save("looked-at").path, RUN)
    >>> "labels.parquet" in held.own, held.foreign, held.changed, held.parts
    (True, [], [], [])
    """
    held = Held(read_object(folder / kind.manifest))
    known = {} if held.manifest is None or not kind.ours(held.manifest) else _known(folder, kind, held.manifest)
    if not known:
        held.manifest = None
    older = re.compile(kind.older) if held.manifest is not None and DIGEST not in held.manifest else None
    for name, empty in _walk(folder):
        first = name.partition("/")[0]
        if any(leftover(part) for part in name.split("/")):
            held.left.add(name)
        elif empty or (name not in known and not (older and older.fullmatch(name))):
            held.foreign.append(name + ("/" if empty else ""))
            if not known:  # nothing of it is ours: the first file says enough, however many there are
                break
        else:
            held.own.add(name)
            digests = known.get(name)
            if (folder / name).is_symlink() or (digests is not None and file_digest(folder / name) not in digests):
                held.changed.append(name)
            if kind is RUN and (first in kind.parts or name in (*_MAPS, RELATIONS)):
                held.parts.append(first if first in kind.parts else ATLAS_PART if name == RELATIONS else "maps")
    held.parts = list(dict.fromkeys(held.parts))
    return held


def _known(folder: Path, kind: Kind, manifest: dict[str, Any]) -> dict[str, set[str] | None]:
    """Path -> SHA-256 that it may have; None for a manifest that vouches for itself."""
    found: dict[str, set[str] | None] = {kind.manifest: None if _vouched(manifest) else set()}
    if isinstance(manifest.get(FILES), dict):
        _note(found, manifest)
    if kind is RUN and (added := read_object(folder / ADDED)) and _vouched(added):
        found[ADDED] = None
        _note(found, added)
    for name, inner in kind.parts.items():
        below = read_object(folder / name / inner.manifest)
        if below is not None and inner.ours(below) and not (folder / name).is_symlink():
            for path, digests in _known(folder / name, inner, below).items():
                found.setdefault(f"{name}/{path}", digests)
            if DIGEST not in below:
                older = re.compile(inner.older)
                found |= {
                    f"{name}/{path}": None
                    for path, empty in _walk(folder / name)
                    if not empty and older.fullmatch(path) and f"{name}/{path}" not in found
                }
    return found


def _note(found: dict[str, set[str] | None], manifest: Mapping[str, Any]) -> None:
    for key in (FILES, PENDING):
        for name, digest in (manifest.get(key) or {}).items():
            own = found.setdefault(str(name), set())
            if own is not None:
                own.add(str(digest))


def _vouched(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest is as it was written; one of a version without digests says nothing against it."""
    return DIGEST not in manifest or manifest[DIGEST] == manifest_digest(manifest)


def _walk(folder: Path, below: str = "") -> Iterator[tuple[str, bool]]:
    """Path of every file, link and empty folder in order, and whether it is an empty folder."""
    with os.scandir(folder / below) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        name = f"{below}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            with os.scandir(entry.path) as own:
                empty = next(own, None) is None
            if empty:
                yield name, True
            else:
                yield from _walk(folder, f"{name}/")
        else:
            yield name, False
