"""Flags of commands, from the record of the job's settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from contralens.errors import InputError
from contralens.settings.kinds import PYTHON
from contralens.settings.record import Settings, flag_of, help_of, read, settings_of

Command = Callable[..., None]
Given = Mapping[str, Any]
"""Settings that were given as flags, by name, as they were written."""


def with_flags(
    record: type[Settings], *, only: Collection[str] = (), without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Gives a command the flags of a record; its parameter `given` gets what was given, the others stay its own.

    Args:
        record: of the job.
        only: names of the settings that the command takes; by default all that are not only for Python.
        without: names of those that it does not take.
    """
    names = [n for n, s in settings_of(record).items() if s.kind is not PYTHON and n not in without]
    names = [n for n in names if not only or n in only]

    def around(command: Command) -> Command:
        @functools.wraps(command)
        def inner(**every: Any) -> None:
            flags = {name: every.pop(name) for name in names}
            command({name: value for name, value in flags.items() if value not in (None, [])}, **every)

        own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "given"]
        first = [p for p in own if p.default is p.empty]
        rest = [p for p in own if p.default is not p.empty]
        shape = [*first, *(_flag(record, name) for name in names), *rest]
        inner.__signature__ = inspect.Signature(shape)  # type: ignore[attr-defined]
        inner.__annotations__ = {p.name: p.annotation for p in shape}
        return inner

    return around


def _flag(record: type[Settings], name: str) -> inspect.Parameter:
    setting = settings_of(record)[name]
    long, kind = f"--{flag_of(name, setting)}", setting.kind
    says: Any
    if not kind.metavar:
        names, says = [setting.flag if "/" in setting.flag else f"{long}/--no-{long[2:]}"], bool | None
    else:
        short = [setting.flag] if setting.flag[1:2].isalpha() else []
        names, says = [long, *short], list[str] | None if kind.many else str | None
    option: Any = typer.Option(*names, help=help_of(record, name), metavar=kind.metavar or None)
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[says, option]
    )


def settings_from(
    record: type[Settings], given: Given, needed: Collection[str] = (), *, config: Path | None = None, trust_code: bool
) -> dict[str, Any]:
    """Keyword arguments from flags and, where flags leave them open, from a file of settings.

    Raises:
        InputError: one of them is wrong, one of `needed` is missing, or the file names code that it may not name.
    """
    from contralens.config import check_code, merge, read_config

    file = read_config(config) if config else {}
    settings = merge(file, read(record, given))
    if config:
        check_code(
            {key: value for key, value in file.items() if settings[key] is value}, config, trust_code,
            ", or give it as an argument of the command",
        )  # fmt: skip
    for name in needed:
        if name not in settings:
            raise InputError(f"--{name} is missing; --help says what it takes")
    return {name: value for name, value in settings.items() if name in settings_of(record)}
