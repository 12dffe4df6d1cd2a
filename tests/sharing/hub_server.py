"""A server on the loopback that speaks as much of the Hugging Face Hub as its real client needs to push and pull.

Repositories live in memory; every commit keeps its own files, so that an older revision can be pulled. All files ride
in the commit: the real Hub takes large and binary ones by its Xet storage, which this server does not speak.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from loopback import served

TOKEN = "hf_loopback_token_4711"


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, Any]] = {}
        """By OWNER/NAME: how it was created, and commits as (oid, {path: bytes}), the newest last."""
        self.calls: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def files(self, repo: str, revision: str = "main") -> tuple[str, dict[str, bytes]]:
        commits = self.repos[repo]["commits"]
        if revision == "main":
            return commits[-1]
        return next(c for c in commits if c[0] == revision)


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.route()

    do_POST = do_PUT = do_HEAD = do_GET

    def route(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        with self.server.lock:
            self.server.calls.append(f"{self.command} {path}")
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.say({"error": "Invalid username or password."}, 401)
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/validate-yaml":
                return self.say({"errors": [], "warnings": []})
            for pattern, act in self.ROUTES:
                if found := re.fullmatch(pattern, path):
                    if found["repo"] not in self.server.repos:
                        break
                    return act(self, found.groupdict(), body)
        return self.say({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")

    def create(self, body: dict[str, Any]) -> None:
        repo = "/".join(filter(None, [body.get("organization"), body["name"]]))
        assert body["type"] == "dataset"
        url = f"{self.server.url}/datasets/{repo}"
        if repo in self.server.repos:
            return self.say({"error": "You already created this dataset repo", "url": url}, 409)
        self.server.repos[repo] = {"created": body, "commits": [("0" * 40, {})]}
        return self.say({"url": url, "id": repo, "name": repo})

    def preupload(self, at: dict[str, str], body: bytes) -> None:
        files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]]
        self.say({"files": files})

    def commit(self, at: dict[str, str], body: bytes) -> None:
        files = dict(self.server.files(at["repo"])[1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                files.pop(value["path"])
        oid = hashlib.sha1(body).hexdigest()
        self.server.repos[at["repo"]]["commits"].append((oid, files))
        url = f"{self.server.url}/datasets/{at['repo']}/commit/{oid}"
        self.say({"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def about(self, at: dict[str, str], body: bytes) -> None:
        revision = at.get("revision") or "main"
        if self.unknown(at["repo"], revision):
            return None
        oid, files = self.server.files(at["repo"], revision)
        siblings = [{"rfilename": name} for name in files]
        private = self.server.repos[at["repo"]]["created"].get("visibility") == "private"
        return self.say(
            {"_id": "1", "id": at["repo"], "sha": oid, "private": private, "tags": [], "siblings": siblings}
        )

    def unknown(self, repo: str, revision: str) -> bool:
        """Whether there is no such revision; then that is the answer."""
        there = revision == "main" or revision in [c[0] for c in self.server.repos[repo]["commits"]]
        if not there:
            self.say({"error": f"Invalid rev id: {revision}"}, 404, X_Error_Code="RevisionNotFound")
        return not there

    def tree(self, at: dict[str, str], body: bytes) -> None:
        if self.unknown(at["repo"], at["revision"]):
            return
        files = self.server.files(at["repo"], at["revision"])[1]
        self.say(
            [{"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()} for n, d in files.items()]
        )

    def resolve(self, at: dict[str, str], body: bytes) -> None:
        oid, files = self.server.files(at["repo"], at["revision"])
        if at["path"] not in files:
            return self.say({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
        data = files[at["path"]]
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.say(data, kind="application/octet-stream", X_Repo_Commit=oid, ETag=etag)

    REPO = r"(?P<repo>[^/]+/[^/]+)"
    ROUTES = (
        (rf"/api/datasets/{REPO}/preupload/main", preupload),
        (rf"/api/datasets/{REPO}/commit/main", commit),
        (rf"/api/datasets/{REPO}/tree/(?P<revision>[^/]+)(?:/.*)?", tree),
        (rf"/api/datasets/{REPO}(?:/revision/(?P<revision>[^/]+))?", about),
        (rf"/datasets/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    )

    def say(self, value: Any, status: int = 200, kind: str = "application/json", **headers: str) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def hub() -> AbstractContextManager[Hub]:
    return served(Hub())
