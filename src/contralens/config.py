"""Settings of a run from a YAML file; flags given on the command line go before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from contralens.checks import nearest, shown
from contralens.data.trust import settings_that_run
from contralens.errors import InputError

SETTINGS = (
    "target",
    "layer",
    "encoder",
    "images",
    "vocabulary",
    "scorers",
    "out",
    "pooling",
    "sae",
    "sae_pooling",
    "k",
    "rank_by",
    "crop",
    "reuse",
    "exclude",
    "neighbours",
    "neurons",
    "templates",
    "proposer",
    "candidates",
    "propose",
    "own_only",
    "holdout",
    "groups",
    "per_group",
    "fdr",
    "fakes",
    "confidence",
    "calibrate",
    "store_activations",
    "limit",
    "top",
    "seed",
    "device",
    "batch_size",
    "workers",
    "cache",
    "checkpoint",
    "weights",
    "preprocess",
    "prefix_tokens",
    "decode",
    "precision",
    "allow_nondeterministic",
    "report",
)
"""What a run can be told; a file may hold all of it, whichever command reads it."""
PATHS = ("images", "vocabulary", "out", "cache", "checkpoint", "candidates")
"""Settings that may name a file; a relative one that lies beside the YAML file is taken from there."""
COUNTS = ("k", "fakes", "limit", "top", "seed", "batch_size", "workers", "prefix_tokens", "per_group")
SHARES = ("exclude", "holdout", "fdr")
SWITCHES = ("reuse", "own_only", "confidence", "store_activations", "allow_nondeterministic", "report")
TEXTS = (
    "target",
    "out",
    "pooling",
    "sae_pooling",
    "neighbours",
    "proposer",
    "candidates",
    "device",
    "cache",
    "checkpoint",
    "weights",
    "decode",
    "precision",
    "groups",
    "rank_by",
    "crop",
)


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, as keyword arguments of `contralens.label`; unknown ones are refused by name."""
    content = read_yaml(path, "config file")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must hold settings as `name: value` lines; got {type(content).__name__}")
    settings = {str(key).replace("-", "_"): value for key, value in content.items()}
    for key in settings:
        if key not in SETTINGS:
            raise InputError(f"{path}: unknown setting {key!r}{nearest(key, SETTINGS)} (known: {', '.join(SETTINGS)})")
    settings = {key: _as_kind(path, key, value) for key, value in settings.items() if value is not None}
    for key in PATHS:
        value = settings.get(key)
        if not isinstance(value, str) or Path(value).is_absolute():
            continue
        file = value.partition("::")[0] if key == "checkpoint" else value  # FILE::PART
        if (path.parent / file).exists():
            settings[key] = str(path.parent / value)
    for key in ("groups", "calibrate"):
        if isinstance(value := settings.get(key), list):
            settings[key] = [_beside(path, one) for one in value]
        elif value is not None:
            settings[key] = _beside(path, value)
    return settings


def _as_kind(path: Path, key: str, value: Any) -> Any:
    """A setting as what it must be; YAML reads 1e-3 as a text, and the layer "1" of a sequence as a number."""
    if key in ("images", "encoder", "vocabulary", "scorers", "templates", "calibrate") and not _is_texts(value):
        raise InputError(f"{path}: {key} must be a text or a list of texts; got {shown(value)}")
    if key == "layer":
        return [str(name) for name in value] if isinstance(value, list) else str(value)
    for keys, kind, said in ((COUNTS, int, "a whole number"), (SHARES, float, "a number")):
        if key in keys:
            try:
                if not isinstance(value, bool) and kind(value) == float(value):
                    return kind(value)
            except (TypeError, ValueError, OverflowError):
                pass
            raise InputError(f"{path}: {key} must be {said}; got {shown(value)}")
    if key in SWITCHES and not isinstance(value, bool):
        raise InputError(f"{path}: {key} must be true or false; got {value!r}")
    if key in TEXTS and not isinstance(value, str):
        raise InputError(f"{path}: {key} must be a text; got {shown(value)}")
    return value


def _beside(path: Path, value: str) -> str:
    """TABLE:COLUMN with the table taken from beside the YAML file, if it lies there."""
    table, colon, column = value.rpartition(":")
    if table and not Path(table).is_absolute() and (path.parent / table).is_file():
        return f"{path.parent / table}{colon}{column}"
    return value


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def check_code(settings: Any, path: Path, trust_code: bool, instead: str = "") -> None:
    """Refuse settings of a file that have code run which neither contralens nor an argument of the command names.

    Raises:
        InputError: one line that names what would be run and the flag that allows it.
    """
    if not trust_code and (found := list(settings_that_run(settings))):
        raise InputError(
            f"{path} would have code run ({'; '.join(found)}): allow it with --trust-code (trust_code=True) if you "
            f"trust the file{instead}"
        )


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds; raises `InputError` where there is none or it cannot be read."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no {what} {path}") from None
    except RecursionError as e:
        raise InputError(f"cannot read {path}: it is nested too deeply") from e
    except (OSError, ValueError, OverflowError, yaml.YAMLError) as e:
        raise InputError(f"cannot read {path}: {' '.join(str(e).split())}") from e


def known_keys(given: Any, keys: Sequence[str], where: Any) -> None:
    """Refuse what is no mapping, or has another key than `keys`; `where` begins the error.

    >>> known_keys({"tilte": "x"}, ("title",), "mine.yaml")
    Traceback (most recent call last):
        ...
    contralens.errors.InputError: mine.yaml: unknown key 'tilte'; did you mean title? (known: title)
    """
    if not isinstance(given, Mapping):
        raise InputError(f"{where} must hold `name: value` lines; got {type(given).__name__}")
    for key in given:
        if key not in keys:
            raise InputError(f"{where}: unknown key {key!r}{nearest(str(key), keys)} (known: {', '.join(keys)})")


def merge(config: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the file, overridden by the flags that were given (not None, not an empty list)."""
    return {**config, **{key: value for key, value in flags.items() if value not in (None, [], ())}}
