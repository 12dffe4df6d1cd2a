"""Arguments of a network in a target's name, "timm:vit_small_patch16_224?img_size=384&in_chans=1"."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from contralens.errors import InputError

_WORDS = {"true": True, "false": False, "none": None, "null": None}


def split_arguments(rest: str, scheme: str) -> tuple[str, dict[str, Any]]:
    """The name without its arguments, and the arguments: numbers, true, false, none, tuples and texts.

    Raises:
        InputError: what follows the "?" is not KEY=VALUE, or a key comes twice.

    >>> split_arguments("vit_small_patch16_224?img_size=384&global_pool=avg&dynamic_img_size=true", "timm")
    ('vit_small_patch16_224', {'img_size': 384, 'global_pool': 'avg', 'dynamic_img_size': True})
    """
    name, mark, text = rest.rpartition("?")
    if not mark or Path(rest).expanduser().exists():
        return rest, {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        pairs = []
    if not pairs or any(not key.isidentifier() for key, _ in pairs):
        raise InputError(f"{scheme}:{rest}: write arguments as NAME?KEY=VALUE&KEY=VALUE, e.g. ?in_chans=1&img_size=384")
    arguments = {key: _value(value) for key, value in pairs}
    if len(arguments) < len(pairs):
        raise InputError(f"{scheme}:{rest} gives an argument twice")
    return name, arguments


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | tuple | list | str) else text


def told(arguments: dict[str, Any]) -> str:
    """Arguments for a note.

    >>> told({"in_chans": 1, "global_pool": "avg"})
    'in_chans=1, global_pool=avg'
    """
    return ", ".join(f"{key}={value}" for key, value in arguments.items())
