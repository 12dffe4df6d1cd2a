"""What several commands read off the command line."""

from __future__ import annotations

from contralens.checks import InputError


def indices(text: str, also: str = "") -> list[int]:
    """Numbers and ranges separated by commas; `also` names what else could have been given.

    >>> indices("1,4-6")
    [1, 4, 5, 6]
    """
    out: list[int] = []
    try:
        for part in text.split(","):
            low, dash, high = part.strip().partition("-")
            out += range(int(low), int(high) + 1) if dash else [int(low)]
    except ValueError:
        raise InputError(f"--neurons must be {also}indices such as 0,5,10-20; got {text!r}") from None
    return out


def prices(text: str) -> tuple[float, float]:
    """Prices per million tokens, in and out.

    >>> prices("2.5/10")
    (2.5, 10.0)
    """
    try:
        into, out = (float(part) for part in text.split("/"))
    except ValueError:
        raise InputError(f"--price is tokens in and out per million, e.g. 2.5/10; got {text!r}") from None
    return into, out
