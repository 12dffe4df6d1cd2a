"""What answers and request bodies of the explorer's server have in common."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import Response

from contralens.errors import InputError
from contralens.explorer.values import dumps

NEVER = {"cache-control": "no-store"}
LARGEST_NOTE = 32 << 10


class TooLarge(InputError):
    """A request body beyond what is read: 413."""


def as_json(value: Any, headers: dict[str, str] | None = None) -> Response:
    return Response(dumps(value), media_type="application/json", headers=headers or NEVER)


def shape(model: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": model}}


async def body(request: Request, most: int) -> bytes:
    """The body, unless it is larger than `most` bytes; a larger one is not read to its end."""
    told = request.headers.get("content-length", "0")
    data = bytearray()
    if told.isdigit() and int(told) <= most:
        async for chunk in request.stream():
            data += chunk
            if len(data) > most:
                break
        else:
            return bytes(data)
    raise TooLarge(f"at most {most / 2**20:g} MB are read" if most >= 2**20 else f"at most {most} bytes are read")


async def json_body(request: Request) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise InputError("send JSON, with the content type application/json")
    return await body(request, LARGEST_NOTE)
