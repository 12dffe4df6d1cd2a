"""`openai:MODEL@URL`: any server with OpenAI's chat completions, through the openai client.

The client repeats a question after 408, 409, 429, 5xx, a timeout or a lost connection, as long as Retry-After says or
with growing pauses. On top of that an answer must arrive whole within the time limit, however slowly the server drips,
and within `LARGEST` bytes. The key comes from the environment, stays in the client, and is cut out of every text that a
server sends back.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from contralens.checks import require
from contralens.errors import InputError
from contralens.proposing.proposers import ProposerError, Reply, Request

OPENAI = "https://api.openai.com/v1"
LARGEST = 4 * 2**20
"""Bytes of an answer; longer ones are cut off and count as an error."""
OWN_KEY = "CONTRALENS_API_KEY"
"""Environment variable with the key for servers other than OpenAI's."""
_DROPPABLE = ("response_format", "temperature", "max_tokens", "max_completion_tokens")


def load(
    rest: str, *, workers: int = 4, timeout: float = 120.0, retries: int = 4, key_env: str | None = None
) -> OpenAIProposer:
    """The loader of "openai:": MODEL@URL, or MODEL alone for $OPENAI_BASE_URL or OpenAI itself.

    Args:
        rest: what follows "openai:".
        workers: questions in progress at once.
        timeout: seconds for one attempt, from sending to the last byte.
        retries: further attempts after 429, 5xx, a timeout or a lost connection.
        key_env: environment variable that holds the key. By default $OPENAI_API_KEY for OpenAI's own servers and
            $CONTRALENS_API_KEY for all others, so that a key never goes to a server that it is not for.
    """
    model, at, url = rest.rpartition("@http")
    model, url = (model, f"http{url}") if at else (rest, os.environ.get("OPENAI_BASE_URL") or OPENAI)
    parts = urlsplit(url)
    if not model or not parts.hostname:
        raise InputError(f"openai:{_bare(rest)} is not MODEL@URL, e.g. openai:qwen2.5-vl@http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            f"the URL of openai:{model} holds more than scheme, host and path; "
            f"put the key into the environment variable {OWN_KEY}, never into the URL"
        )
    if workers < 1 or timeout <= 0 or retries < 0:
        raise InputError(
            f"`workers` and `timeout` must be above 0, `retries` 0 or more; got {workers}, {timeout}, {retries}"
        )
    theirs = parts.hostname == "api.openai.com" or not at
    variable = key_env or ("OPENAI_API_KEY" if theirs else OWN_KEY)
    key = os.environ.get(variable, "").strip()
    if not key and (key_env or parts.hostname == "api.openai.com"):
        raise InputError(f"the environment variable {variable} holds no key for {parts.hostname}")
    return OpenAIProposer(model, url, key, workers, timeout, retries)


def _bare(text: str) -> str:
    return text.rpartition("@")[2] if "://" in text else text


class OpenAIProposer:
    """One model behind one URL; made by `load`."""

    batch = 1

    def __init__(self, model: str, url: str, key: str, workers: int, timeout: float, retries: int) -> None:
        openai = require("openai", "openai")
        self.name = f"openai:{model}@{url}"
        self.fingerprint = f"{self.name} temperature 0"
        self.model, self.url, self.workers = model, url, workers
        self._key, self._timeout, self._openai = key, timeout, openai
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=url,
            max_retries=retries,
            timeout=timeout,
            http_client=_guarded(openai, timeout)(timeout=timeout, follow_redirects=False),
        )
        self._lock = threading.Lock()
        self._without: set[str] = set()
        self._reached = False

    def ask(self, requests: Sequence[Request]) -> list[Reply | ProposerError]:
        """One answer or error per question; each is asked on its own."""
        return [self._ask(request) for request in requests]

    def _ask(self, request: Request) -> Reply | ProposerError:
        openai = self._openai
        while True:
            settings = self._settings(request)
            try:
                reply = self._send(request, settings)
                self._reached = True
                return reply
            except ProposerError as e:
                return self._error(str(e), charged=True)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as e:
                self._reached = True
                if not self._drop(str(e), settings):
                    return self._error(f"the server refused the question: {e.status_code} {_message(e)}")
            except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as e:
                return self._error(
                    f"the server refused access or does not have the model: {e.status_code} {_message(e)}", True
                )
            except openai.APIStatusError as e:
                self._reached = True
                return self._error(f"the server failed: {e.status_code} {_message(e)}")
            except openai.APITimeoutError:
                return self._error(f"no answer within {self._timeout:g} s", charged=True)
            except openai.APIConnectionError as e:
                return self._error(f"no connection to {self.url}: {e.__cause__ or e}", not self._reached)
            except _Stopped as e:
                self._reached = True
                return self._error(str(e), charged=True)
            except Exception as e:
                if type(e).__module__.split(".")[0] not in (
                    "openai",
                    "httpx",
                    "httpx2",
                    "httpcore",
                    "httpcore2",
                    "h11",
                ):
                    raise
                return self._error(f"the connection broke: {type(e).__name__}: {e}", charged=True)

    def _error(self, message: str, fatal: bool = False, charged: bool = False) -> ProposerError:
        return ProposerError(self._scrub(message), fatal, charged)

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text

    def _drop(self, complaint: str, sent: Collection[str]) -> bool:
        """Leave out, from now on, a setting of those sent that the server does not know; False if it names none."""
        complaint = complaint.lower().replace("json_schema", "response_format")
        with self._lock:
            for name in _DROPPABLE:
                if name in complaint and name in sent:
                    self._without.add(name)
                    return True
        return False

    def _settings(self, request: Request) -> dict[str, Any]:
        limit = "max_completion_tokens" if self.url.startswith(OPENAI) else "max_tokens"
        if limit in self._without:
            limit = "max_tokens" if limit != "max_tokens" else "max_completion_tokens"
        shape = {"name": "concepts", "strict": True, "schema": dict(request.schema)}
        settings = {
            limit: request.max_tokens,
            "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": shape},
        }
        return {name: value for name, value in settings.items() if name not in self._without}

    def _send(self, request: Request, settings: dict[str, Any]) -> Reply:
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {
                "type": "image_url",
                "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(part).decode()},
            }
            for part in request.parts
        ]
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        if request.bad:
            messages += [
                {"role": "assistant", "content": request.bad[0] or "(empty)"},
                {"role": "user", "content": request.bad[1]},
            ]
        headers = {"Accept-Encoding": "identity", **({"Idempotency-Key": request.key} if request.key else {})}
        answer = self._client.chat.completions.with_streaming_response.create(
            model=self.model, messages=messages, extra_headers=headers, **settings
        )
        body = bytearray()
        with answer as response:
            for piece in response.iter_bytes():
                body += piece
                if len(body) > LARGEST:
                    raise _Stopped(f"the answer is longer than {LARGEST // 2**20} MiB")
        return self._read(bytes(body))

    def _read(self, body: bytes) -> Reply:
        try:
            value = json.loads(body)
            message = value["choices"][0]["message"]
            content = message.get("content")
            if isinstance(content, list):
                content = "".join(p.get("text", "") for p in content if isinstance(p, dict))
            if content is None:
                content = ""
            if not isinstance(content, str):
                raise TypeError
            usage = value.get("usage")
            usage = usage if isinstance(usage, dict) else {}
            tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            served = value.get("model")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            start = self._scrub(body[:80].decode("utf-8", "replace"))
            raise ProposerError(f"what the server sent is not a chat completion: {start!r}...") from None
        counts = [t if isinstance(t, int) and not isinstance(t, bool) and t >= 0 else None for t in tokens]
        return Reply(self._scrub(content), counts[0], counts[1], self._scrub(str(served or ""))[:200])


class _Stopped(Exception):
    """An answer that is too long or too slow."""


def _message(error: Any) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:300]


def _guarded(openai: Any, timeout: float) -> Any:
    """The client's own HTTP client, with bodies that end at `timeout` seconds and `LARGEST` bytes whatever is sent."""

    class Guarded(openai.DefaultHttpxClient):  # type: ignore[misc]
        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            deadline = time.monotonic() + timeout
            response = super().send(request, stream=True, **options)
            library = sys.modules[type(response).__module__.partition(".")[0]]
            response.stream = _limited(library.SyncByteStream, response.stream, deadline, timeout)
            if not stream:
                response.read()
            return response

    return Guarded


def _limited(base: Any, inner: Any, deadline: float, timeout: float) -> Any:
    class Limited(base):  # type: ignore[misc]
        def __iter__(self) -> Iterator[bytes]:
            size = 0
            for piece in inner:
                size += len(piece)
                if size > LARGEST:
                    raise _Stopped(f"the answer is longer than {LARGEST // 2**20} MiB")
                if time.monotonic() > deadline:
                    raise _Stopped(f"no whole answer within {timeout:g} s")
                yield piece

        def close(self) -> None:
            inner.close()

    return Limited()
