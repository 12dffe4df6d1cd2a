"""Settings of a run from a YAML file; flags given on the command line go before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from contralens.checks import nearest
from contralens.data.trust import settings_that_run
from contralens.errors import InputError
from contralens.settings.label import LabelCommand
from contralens.settings.record import keys, read

SETTINGS = tuple(dict.fromkeys(keys(LabelCommand).values()))
"""The settings of all commands; a file may hold any of them, whichever command reads it."""


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a YAML file, as keyword arguments of `contralens.label`; unknown ones are refused by name."""
    content = read_yaml(path, "config file")
    if not isinstance(content, Mapping):
        raise InputError(f"{path} must hold settings as `name: value` lines; got {type(content).__name__}")
    return read(LabelCommand, content, f"{path}: ", path.parent)


def check_code(settings: Any, path: Path, trust_code: bool, instead: str = "") -> None:
    """Refuse settings of a file that have code run which neither contralens nor an argument of the command names.

    Raises:
        InputError: one line that names what would be run and the flag that allows it.
    """
    if not trust_code and (found := list(settings_that_run(settings))):
        raise InputError(
            f"{path} names code to run ({'; '.join(found)}): allow it with --trust-code (trust_code=True) if you "
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
