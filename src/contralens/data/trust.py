"""What a file may decide: a run, a configuration or a recipe is data, and names no code and no file to open by itself.

A run that `contralens label` makes carries "made_here": an HMAC, under a key that only this user can read, over all in
its manifest that says what to import or open. Only such a run may have its network rebuilt from code or files without
being asked about; `push` leaves it out, and nobody else can make it. The key lies in $XDG_STATE_HOME/contralens, or
~/.local/state/contralens: in no cache that others may share.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib.machinery
import json
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from contralens.errors import InputError

SIGNATURE = "made_here"
ALLOW = "allow it with --trust-code (in Python: load(RUN, trust_code=True))"
SAFE = {
    "target": ("torchvision", "timm", "hf", "world", "offline"),
    "encoder": ("open_clip", "hf", "siglip", "world", "offline"),
    "judge": ("open_clip", "hf", "siglip", "world", "offline"),
    "proposer": ("hf", "openai", "captions"),
    "painter": ("diffusers",),
}
"""Schemes that run no code beyond contralens and the libraries it names, by what they are for."""
SETTINGS = ("trust_remote_code", "key_env")
"""Settings by which a file could have foreign code run, or a secret of this machine sent."""
_VARIABLE = re.compile(r"\$\w+")
"""A recipe's text that the user's environment gives."""


def runs_code(kind: str, spec: Any) -> bool:
    """Whether a text that names a "target", an "encoder" ... has code run that contralens does not bring: a module, or
    the plug-in of an installed package.

    >>> runs_code("target", "module:os:abort"), runs_code("target", "torchvision:resnet50"), runs_code("encoder", "x")
    (True, False, False)
    """
    if not isinstance(spec, str):
        return False
    scheme, group = spec.strip().partition(":")[0], "encoders" if kind == "judge" else f"{kind}s"
    if scheme in SAFE[kind]:
        return False
    return scheme == "module" or scheme in entry_points(group=f"contralens.{group}").names


def opens_file(spec: Any) -> bool:
    """Whether a text names a file or a folder that does not lie below the folder that one works in.

    >>> [opens_file(x) for x in ("hf:org/name", "/etc/passwd", "timm:local-dir:w", "../up", "hf:~/w", "pictures")]
    [False, True, True, True, True, False]
    """
    if not isinstance(spec, str):
        return False
    parts = re.split(r"[:,=@\s]", spec.replace("\\", "/"))
    return "local-dir" in parts or any(part.startswith(("/", "~")) or ".." in part.split("/") for part in parts)


def settings_that_run(given: Any, where: str = "") -> Iterator[str]:
    """What in the settings of a configuration or a recipe has code run, as "KEY: VALUE".

    >>> list(settings_that_run({"runs": {"a": {"label": {"target": "module:os:abort", "layer": "1"}}}}))
    ['runs.a.label.target: module:os:abort']
    """
    if isinstance(given, list):
        for text in given:
            name, equals, value = str(text).partition("=")
            if equals and name.strip().replace("-", "_") in SETTINGS:
                yield f"{where}: {name.strip()}={value}"
        return
    for key, value in given.items() if isinstance(given, Mapping) else ():
        name, place = str(key).replace("-", "_"), f"{where}.{key}" if where else str(key)
        texts = value if isinstance(value, list) else [value]
        own = [t for t in texts if name in SAFE and not _VARIABLE.fullmatch(str(t)) and runs_code(name, t)]
        if own or (name in SETTINGS and value):
            yield f"{place}: {value}"
        else:
            yield from settings_that_run(value, place)


def sign(manifest: Mapping[str, Any]) -> str | None:
    """What proves later that this manifest names what it named here; None where no key can be kept."""
    key = _key(make=True)
    return None if key is None else _mac(key, manifest)


def made_here(manifest: Mapping[str, Any]) -> bool:
    """Whether `label` of this user wrote all that the manifest has imported or opened."""
    told = manifest.get(SIGNATURE)
    key = _key(make=False) if isinstance(told, str) else None
    return key is not None and hmac.compare_digest(str(told).encode(errors="replace"), _mac(key, manifest).encode())


def check_named(run: Any, kind: str, spec: Any, instead: str, **options: Any) -> None:
    """Refuse what a run from elsewhere would have imported or opened.

    Args:
        run: whose manifest it is from, with `trusted` and `path`; one that may be trusted passes.
        kind: what the text is for, a key of `SAFE`, or "images".
        spec: the text, or None where the user gave the object.
        instead: what to do, beside allowing it.
        options: what else goes with it; texts in these may name files.

    Raises:
        InputError: one line that says what would have been run or opened.
    """
    if run.trusted:
        return
    would = None
    if kind in SAFE and runs_code(kind, spec):
        would = f"run the code {spec}"
    for name, text in ({kind: spec} | options).items():
        found = [t for t in (text.values() if isinstance(text, Mapping) else (text,)) if opens_file(t)]
        if found and would is None:
            would = f"open {found[0]} ({name})"
    if would is not None:
        raise InputError(
            f"{run.path or 'this run'} was not made here, and contralens would {would} because it says so: "
            f"{ALLOW} if you trust where it came from, or {instead}"
        )


def _mac(key: bytes, manifest: Mapping[str, Any]) -> str:
    target, encoder, images = (_part(manifest, name) for name in ("target", "encoder", "images"))
    told = [
        {name: target.get(name) for name in ("name", "spec", "options", "sae", "sae_pooling", "layer")},
        {name: encoder.get(name) for name in ("name", "options")},
        {name: images.get(name) for name in ("name", "source")},
        _origin(target.get("spec")),
    ]
    return hmac.new(key, json.dumps(told, sort_keys=True).encode(), "sha256").hexdigest()


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = manifest.get(name)
    return part if isinstance(part, Mapping) else {}


def _origin(spec: Any) -> str | None:
    """The file that "module:..." means here and now: the same words mean other code in another folder."""
    if not isinstance(spec, str) or not spec.startswith("module:"):
        return None
    where = spec.removeprefix("module:").rpartition(":")[0]
    if where.endswith(".py") or os.sep in where:
        return str(Path(where).expanduser().resolve())
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        found = importlib.machinery.PathFinder.find_spec(where.partition(".")[0], [os.getcwd(), *sys.path])
        return None if found is None else str(found.origin or list(found.submodule_search_locations or []))
    return None


def _key(make: bool) -> bytes | None:
    """The user's key: 32 bytes in a file that nobody else may read or write; None where there is none."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        path = Path(state) / "contralens" / "made-here.key"
        if make and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, fresh = tempfile.mkstemp(prefix=".partial-", dir=path.parent)  # private from the start
            with os.fdopen(handle, "wb") as f:
                f.write(secrets.token_bytes(32))
            try:
                with contextlib.suppress(FileExistsError):  # another process was first
                    os.link(fresh, path)
            finally:
                os.unlink(fresh)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb") as f:
            found = os.fstat(f.fileno())
            private = os.name == "nt" or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
            data = f.read(33) if private and stat.S_ISREG(found.st_mode) else b""
    except (OSError, RuntimeError):  # no place for it, or no home
        return None
    return data if len(data) == 32 else None
