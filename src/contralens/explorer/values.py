"""Numbers and names as JSON and SQL hold them."""

from __future__ import annotations

import json
import math
from typing import Any

from contralens.errors import InputError


class NotThere(InputError):
    """What was asked for does not exist: 404."""


def dumps(value: Any) -> bytes:
    """JSON without NaN, which no browser reads; halves of characters are shown as "?"."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(errors="replace")


def image_number(value: Any) -> int:
    return -1 if value is None or value < 0 else int(value)


def number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.7g}")


def short(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.5g}")


def plain(value: Any) -> Any:
    if isinstance(value, float):
        return number(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def range_of(text: str) -> tuple[str, tuple[float | None, float | None]]:
    """`COLUMN:LOW:HIGH` taken apart.

    >>> range_of("score:0.2:")
    ('score', (0.2, None))
    """
    parts = text.rsplit(":", 2)
    try:
        name, low, high = parts
        return name, (float(low) if low else None, float(high) if high else None)
    except ValueError:
        raise InputError(f"`within` is written COLUMN:LOW:HIGH, a bound may be empty; got {text!r}") from None
