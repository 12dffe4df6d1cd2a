"""What a file may decide: a run, a configuration or a recipe is data, and names no code and no file to open by itself.

A run that `contralens label` makes carries "made_here": an HMAC, under a key that only this user can read, over all in
its manifest that says what to import or open. Only such a run may have its network rebuilt from code or files without
being asked about; `push` leaves it out, and nobody else can make it. The key is in $XDG_STATE_HOME/contralens, or
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
from contralens.specs import part_of, scheme, setting
from contralens.user_code import code_named

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
GROUPS = {
    "target": "targets", "encoder": "encoders", "judge": "encoders", "proposer": "proposers", "painter": "painters",
    "scorer": "scorers", "metric": "metrics", "vocabulary": "vocabularies", "editor": "editors",
}  # fmt: skip
"""Kinds of plug by what a text is for."""
_KEYS = {**{kind: kind for kind in GROUPS}, "scorers": "scorer", "metrics": "metric"}
SETTINGS = ("trust_remote_code", "key_env")
"""Settings by which a file could have foreign code run, or a secret of this machine sent."""
_VARIABLE = re.compile(r"\$\w+")
"""A recipe's text that the user's environment gives."""


def runs_code(kind: str, spec: Any) -> bool:
    """Whether a text that names one of `GROUPS` has code run that contralens does not bring: a file, a module, or the
    plug-in of an installed package.

    >>> runs_code("target", "module:os:abort"), runs_code("target", "torchvision:resnet50"), runs_code("encoder", "x")
    (True, False, False)
    >>> runs_code("scorer", "mine.py:trimmed:share=0.3"), runs_code("proposer", "captions:words.py:birds")
    (True, True)
    """
    if not isinstance(spec, str):
        return False
    name, rest = scheme(spec)
    if name in SAFE.get(kind, ()):
        return name == "captions" and runs_code("vocabulary", rest)
    installed = entry_points(group=f"contralens.{GROUPS[kind]}").names
    return name == "module" or name in installed or code_named(spec) is not None


def opens_file(spec: Any) -> bool:
    """Whether a text names a file or a folder that does not be below the folder that one works in.

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
            name, value = setting(str(text))
            if value is not None and name.replace("-", "_") in SETTINGS:
                yield f"{where}: {name}={value}"
        return
    for key, value in given.items() if isinstance(given, Mapping) else ():
        name, place = str(key).replace("-", "_"), f"{where}.{key}" if where else str(key)
        texts = value.split(",") if name == "metrics" and isinstance(value, str) else value
        texts = texts if isinstance(texts, list) and name != "vocabulary" else [texts]  # a list of words is data
        kind = _KEYS.get(name)
        own = [t for t in texts if kind and not _VARIABLE.fullmatch(str(t)) and runs_code(kind, t)]
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
        kind: what the text is for, a key of `GROUPS`, or "images".
        spec: the text, or None where the user gave the object.
        instead: what to do, beside allowing it.
        options: what else goes with it; texts in these may name files.

    Raises:
        InputError: one line that says what would have been run or opened.
    """
    if run.trusted:
        return
    would = None
    if kind in GROUPS and runs_code(kind, spec):
        would = f"run the code {spec}"
    for name, text in ({kind: spec} | options).items():
        found = [t for t in (text.values() if isinstance(text, Mapping) else (text,)) if opens_file(t)]
        if found and would is None:
            would = f"open {found[0]} ({name})"
    if would is not None:
        raise InputError(
            f"{run.path or 'this run'} was not made here, and contralens would {would} for it: "
            f"{ALLOW} if you trust where it came from, or {instead}"
        )


def _mac(key: bytes, manifest: Mapping[str, Any]) -> str:
    target, encoder, images = (_part(manifest, name) for name in ("target", "encoder", "images"))
    told: list[Any] = [
        {name: target.get(name) for name in ("name", "spec", "options", "sae", "sae_pooling", "layer")},
        {name: encoder.get(name) for name in ("name", "options")},
        {name: images.get(name) for name in ("name", "source")},
        _origin(target.get("spec")),
    ]
    told += [images["sources"]] if images.get("sources") else []
    scorers = manifest.get("scorers")
    code = [(s, _origin(s)) for s in scorers if code_named(str(s))] if isinstance(scorers, list) else []
    told += [code] if code else []
    return hmac.new(key, json.dumps(told, sort_keys=True).encode(), "sha256").hexdigest()


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = manifest.get(name)
    return part if isinstance(part, Mapping) else {}


def _origin(spec: Any) -> str | None:
    """The file that "module:..." or FILE.py:... means here and now: elsewhere the same words mean other code."""
    code = code_named(spec) if isinstance(spec, str) else None
    if isinstance(spec, str) and spec.startswith("module:"):
        where = part_of(spec.removeprefix("module:"))[0]
    elif code is not None and code.where.endswith(".py"):
        where = code.where
    else:
        return None
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
