"""What is before every request: which host it was meant for, who may ask, and what a browser may do with it."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _place(origin: str) -> str | None:
    """Host and port of an origin, None where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


class Guard:
    """ASGI middleware: Host and Origin checked, token asked for where one is set, security headers on every answer.

    A page elsewhere can make a browser send requests here, and a name that an attacker owns can be pointed at this
    machine (DNS rebinding); neither gets an answer. Bound beyond loopback, plain addresses are accepted as hosts too:
    an address cannot be rebound, and the token still decides.
    """

    def __init__(self, app: App, host: str, token: str | None) -> None:
        self.app, self.token = app, token
        self.open = not is_loopback(host)
        self.hosts = {"localhost", host.strip("[]").lower()}
        if self.open:
            self.hosts |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self.cookie = "contralens-token"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", []),
                    *((k.encode(), v.encode()) for k, v in HEADERS.items()),
                ]
            await send(message)

        status, why, extra = self._judge(scope)
        if status is None:
            await self.app(scope, receive, guarded)
            return
        body = why.encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *extra]
        headers.append((b"content-length", str(len(body)).encode()))
        await guarded({"type": "http.response.start", "status": status, "headers": headers})
        await guarded({"type": "http.response.body", "body": body})

    def _judge(self, scope: Scope) -> tuple[int | None, str, list[tuple[bytes, bytes]]]:
        headers: dict[str, list[str]] = {}
        for key, value in scope["headers"]:
            headers.setdefault(key.decode("latin-1"), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._known(hosts[0]):
            return 421, "This explorer does not accept that host name.\n", []
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "Only GET, HEAD and POST.\n", [(b"allow", b"GET, HEAD, POST")]
        origins = headers.get("origin", [])
        if any(_place(origin) != hosts[0].lower() for origin in origins):
            return 403, "Requests from other sites are refused.\n", []
        sites = headers.get("sec-fetch-site", ["same-origin"])
        if scope["method"] == "POST" and any(site not in ("same-origin", "none") for site in sites):
            return 403, "Requests from other sites are refused.\n", []
        if self.token is None:
            return None, "", []
        return self._admit(scope, headers)

    def _admit(self, scope: Scope, headers: dict[str, list[str]]) -> tuple[int | None, str, list[tuple[bytes, bytes]]]:
        """The token, from the URL (then kept as a cookie and taken out of the address), a cookie or a header."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        given = [value for key, value in query if key == "token"]
        if given and self._right(given[0]):
            rest = urlencode([(k, v) for k, v in query if k != "token"])
            path = "/" + quote(str(scope["path"]).lstrip("/"))
            if scope["method"] == "GET" and not path.startswith("/api/"):
                where = (path + (f"?{rest}" if rest else "")).encode("ascii", "ignore")
                cookie = f"{self.cookie}={given[0]}; Path=/; HttpOnly; SameSite=Strict".encode()
                return 303, "", [(b"location", where), (b"set-cookie", cookie)]
            return None, "", []
        bearer = [v[7:] for v in headers.get("authorization", []) if v.lower().startswith("bearer ")]
        jar: SimpleCookie = SimpleCookie()
        for line in headers.get("cookie", []):
            try:
                jar.load(line)
            except CookieError:
                continue
        kept = [jar[self.cookie].value] if self.cookie in jar else []
        if any(self._right(value) for value in (*bearer, *kept)):
            return None, "", []
        return 401, "This explorer requires a token: open the address that it printed at the start.\n", []

    def _right(self, value: str) -> bool:
        return hmac.compare_digest(value.encode(), (self.token or "").encode())

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            _ = urlsplit(f"//{host}").port
        except ValueError:
            return False
        if any(c in host for c in "/@\\? #") or not name:
            return False
        if name in self.hosts:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or self.open
