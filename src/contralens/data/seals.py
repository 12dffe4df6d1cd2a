"""Seals: a folder that contralens wrote says which files belong to it, and what they held.

The manifest of a sealed folder (manifest.json, share.json, ...) has two keys more than its content: `files`, the
SHA-256 of every other file by its path in the folder, and `digest`, the SHA-256 of the manifest itself (as canonical
JSON, without that key). So a folder can be proven ours, and damage can be named.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILES, DIGEST = "files", "digest"
"""Keys that a seal adds to a manifest."""
PENDING = "pending"
"""Files that are just being written, with the digests that they will have; only in manifests of what is added."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def manifest_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest as canonical JSON, `digest` left out.

    >>> manifest_digest({"b": 1, "a": 2.5}) == manifest_digest({"a": 2.5, "b": 1, "digest": "any"})
    True
    """
    kept = {key: value for key, value in content.items() if key != DIGEST}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_object(path: Path) -> dict[str, Any] | None:
    """The object that a plain JSON file holds; None for anything else.

    >>> _ = Path("list.json").write_text("[]")
    >>> read_object(Path("list.json")), read_object(Path("none.json"))
    (None, None)
    """
    try:
        if path.is_symlink() or not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def files_in(folder: Path) -> list[str]:
    """Paths of all that is no folder below `folder`, with "/", sorted; links are named, never followed.

    >>> Path("some/deep").mkdir(parents=True)
    >>> _ = Path("some/deep/file").write_text("x")
    >>> files_in(Path("some"))
    ['deep/file']
    """
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def sealed(
    content: Mapping[str, Any], files: Mapping[str, str], pending: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A manifest with its seal: `content` as JSON gives it back, the files' digests, and its own."""
    own = {key: value for key, value in content.items() if key not in (FILES, PENDING, DIGEST)}
    whole: dict[str, Any] = {**json.loads(json.dumps(own)), FILES: dict(sorted(files.items()))}
    if pending:
        whole[PENDING] = dict(sorted(pending.items()))
    return {**whole, DIGEST: manifest_digest(whole)}


def manifest_text(manifest: Mapping[str, Any]) -> str:
    """A manifest as it is in its file."""
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def seal(folder: Path, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Write `folder`/`name`, the manifest of a folder whose other files are all written.

    Returns:
        The manifest as it was written: `content`, `files` and `digest`.

    >>> Path("own").mkdir()
    >>> _ = Path("own/labels.json").write_text("[]")
    >>> made = seal(Path("own"), "manifest.json", {"format": 2})
    >>> list(made["files"]), made == json.loads(Path("own/manifest.json").read_text())
    (['labels.json'], True)
    >>> made["digest"] == manifest_digest(made)
    True
    """
    made = sealed(content, {file: file_digest(folder / file) for file in files_in(folder) if file != name})
    (folder / name).write_text(manifest_text(made), encoding="utf-8")
    return made
