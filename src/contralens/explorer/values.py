"""Numbers and names as JSON and SQL hold them."""

from __future__ import annotations

import json
import math
from typing import Any

from contralens.checks import InputError


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
