"""Real HTTP servers that speak chat completions: one that truly looks at the pictures, one that is hostile."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from loopback import served
from PIL import Image


def read_question(body: dict[str, Any]) -> tuple[str, list[np.ndarray]]:
    """The text and the pictures (float RGB) of the user turn."""
    text, pictures = [], []
    for part in body["messages"][0]["content"]:
        if part["type"] == "text":
            text.append(part["text"])
        else:
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            with Image.open(io.BytesIO(base64.b64decode(data))) as image:
                pictures.append(np.asarray(image.convert("RGB"), np.float32))
    return "\n".join(text), pictures


def seen(picture: np.ndarray) -> list[str]:
    """What a picture shows, by its pixels: colours first, as they strike the eye first, then the texture."""
    spread = picture.max(2) - picture.min(2)
    inside = spread > 30
    strongest = picture.argmax(2)[inside]
    names = [("red", "green", "blue")[c] for c in range(3) if (strongest == c).mean() > 0.6]
    light = picture.max(2)
    both = inside[1:] & inside[:-1] & (np.roll(inside, -6, 0) & np.roll(inside, 6, 0))[1:]
    edges = (np.abs(np.diff(light, axis=0))[both] > 25).mean()
    return [*names, "striped" if edges > 0.04 else "plain"]


def look_and_answer(body: dict[str, Any]) -> str:
    """One picture: the most striking thing in it. Two: what the first has and the second has not."""
    pictures = read_question(body)[1]
    if len(pictures) == 1:
        found = seen(pictures[0])[:1]
    else:
        others = seen(pictures[1])
        found = [word for word in seen(pictures[0]) if word not in others]
    return json.dumps({"concepts": [f"{word} disc" for word in found] or ["nothing in particular"]})


def completion(text: str, model: str = "served-model") -> bytes:
    """A chat completion as servers send it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "created": 0, "model": model, "choices": [choice], "usage": usage}
    ).encode()


class Server(ThreadingHTTPServer):
    """Counts what it is asked; `answer(handler, body, how many times this question came before)` replies."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answer: Callable[[Any, dict[str, Any], int], None]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.lock = threading.Lock()
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.done: list[str] = []
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        key = hashlib.sha256(raw).hexdigest()
        body = json.loads(raw)
        with self.server.lock:
            before = self.server.asked[key]
            self.server.asked[key] += 1
            self.server.bodies.append(body)
            self.server.headers.append({k.lower(): v for k, v in self.headers.items()})
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
        try:
            assert self.path == "/v1/chat/completions"
            self.server.answer(self, body, before)
            with self.server.lock:
                self.server.done.append(self.headers.get("Idempotency-Key", ""))
        finally:
            with self.server.lock:
                self.server.at_once -= 1

    def reply(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def drop(self) -> None:
        """Hang up without a word."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


def serving(answer: Callable[[Any, dict[str, Any], int], None]) -> AbstractContextManager[Server]:
    """A server in a thread, on a free port of the loopback."""
    return served(Server(answer))


def looks(handler: Any, body: dict[str, Any], before: int) -> None:
    """The server that truly looks."""
    handler.reply(completion(look_and_answer(body)))


def slowly(seconds: float) -> Callable[[Any, dict[str, Any], int], None]:
    """The same, after a pause."""

    def answer(handler: Any, body: dict[str, Any], before: int) -> None:
        time.sleep(seconds)
        looks(handler, body, before)

    return answer
