"""What an attacker, a broken disk or a crowd does to a real explorer on loopback."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pyarrow.parquet as pq
import pytest
from explorer_serving import HOSTILE, HTTP, CountedFinder, copied, serving
from patience import HUNG
from PIL import Image

from contralens.data.runs import Run
from contralens.explorer.search import LARGEST_UPLOAD

SECRET = "the-secret-beside-the-run"


def raw(url: str, head: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request with its bytes exactly as given: no client tidies the path."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=HUNG) as s:
        s.sendall(head.encode("latin-1") + body)
        data = b""
        while chunk := s.recv(65536):
            data += chunk
    return int(data.split(b" ", 2)[1]), data


def request(url: str, path: str, method: str = "GET", host: str | None = None, extra: str = "") -> tuple[int, bytes]:
    host = urlsplit(url).netloc if host is None else host
    return raw(url, f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\r\n")


@pytest.fixture(scope="module")
def home(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    copied(finished, home / "run")
    (home / "secret.txt").write_text(SECRET)
    return home


@pytest.fixture(scope="module")
def address(home: Path) -> Any:
    with serving([home / "run"]) as url:
        yield url


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e/secret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..%252fsecret.txt",
        "/..\\secret.txt",
        "/..%5csecret.txt",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/etc/passwd",
        "/static/../../secret.txt",
        "/explorer.js/../../../secret.txt",
        "/explorer.js%00.txt",
        "/api/runs/..%2fsecret.txt/index",
        "/api/runs/../secret.txt",
        "/api/runs/%2e%2e/index",
        "/api/runs/run%2f..%2f../index",
        "/api/runs/run/images/..%2f..%2fsecret.txt",
        "/api/runs/run/images/../../../secret.txt",
        "/api/runs/run/images/-1.jpg",
        "/api/runs/run/images/99999999999999999999.jpg",
        "/api/runs/run/neurons/99999999999999999999",
        "/api/runs/run/neurons/0%20OR%201=1",
        "/api/runs/run/neurons?sort=neuron%22;DROP%20TABLE%20labels;--",
        "/api/runs/run/neurons?within=score%22)%20OR%201=1--:0:1",
        "/api/runs/run/neurons?scorer=read_csv('/etc/passwd')",
        "/api/runs/run/pictures?images=../secret.txt",
        "/manifest.json",
        "/run/manifest.json",
    ],
)
def test_no_path_leads_out(address: str, path: str) -> None:
    status, data = request(address, path)
    assert status in (400, 404, 422), data[:300]
    assert SECRET.encode() not in data
    assert b"root:" not in data
    assert b"Traceback" not in data
    assert request(address, "/api/runs/run/neurons?limit=1")[0] == 200


def test_filters_are_values_and_never_sql(address: str) -> None:
    for text in ("' OR 1=1 --", "%", "_", "'; ATTACH '/etc/passwd'; --", "\x00", "é" * 300):
        answer = HTTP.get(f"{address}/api/runs/run/neurons", params={"q": text})
        assert answer.status_code == 200
        assert answer.json()["total"] == 0 or text == "_"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "evil.example:80", "", "localhost@evil.example", "10.0.0.1", "[::1"],
)  # fmt: skip
def test_other_host_names_get_no_answer(address: str, host: str) -> None:
    status, data = request(address, "/api/runs", host=host)
    assert status in (400, 421)
    assert b"manifest" not in data


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9999", "[::1]:80", "LOCALHOST."])
def test_names_of_this_machine_do(address: str, host: str) -> None:
    assert request(address, "/api/runs", host=host)[0] == 200


def test_two_hosts_or_none_are_refused(address: str) -> None:
    good = urlsplit(address).netloc
    assert request(address, "/api/runs", extra=f"Host: {good}\r\n")[0] in (400, 421)
    assert raw(address, "GET /api/runs HTTP/1.0\r\n\r\n")[0] in (400, 421)


def test_other_sites_cannot_write(address: str, home: Path) -> None:
    note = json.dumps({"neuron": 1, "kind": "note", "text": "from elsewhere"}).encode()
    url = f"{address}/api/runs/run/notes"
    kind = {"content-type": "application/json"}
    foreign = [{"origin": "http://evil.example"}, {"origin": "null"}]
    foreign += [{"sec-fetch-site": site} for site in ("cross-site", "same-site")]
    for headers in foreign:
        assert HTTP.post(url, content=note, headers={**kind, **headers}).status_code == 403
    assert HTTP.get(f"{address}/api/runs", headers={"origin": "http://evil.example"}).status_code == 403
    for plain in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        assert HTTP.post(url, content=note, headers={"content-type": plain}).status_code == 422
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"):
        assert request(address, "/api/runs", method)[0] in (400, 405)
    assert not (home / "run.notes.jsonl").exists()
    assert HTTP.post(url, content=note, headers={**kind, "origin": address}).status_code == 200
    (home / "run.notes.jsonl").unlink()


def test_every_answer_is_locked_down(address: str) -> None:
    for path in ("/", "/explorer.js", "/api/runs", "/api/runs/run/images/0.jpg", "/nothing", "/api/nothing"):
        headers = HTTP.get(address + path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_pages_name_no_other_host() -> None:
    for file in files("contralens.explorer").joinpath("static").iterdir():
        found = set(re.findall(r"https?://[^\s\"'`)<>\\]+", file.read_text(encoding="utf-8")))
        known = {u for u in found if re.match(r"http://www\.w3\.org/|https://react\.dev/errors/", u)}
        assert found == known, f"{file.name} names {found - known}"


def test_a_token_is_asked_for_beyond_loopback(finished: Run) -> None:
    assert finished.path
    with serving([finished.path], host="0.0.0.0", token="right") as url:
        assert HTTP.get(url).status_code == 401
        assert HTTP.get(f"{url}/api/runs?token=wrong").status_code == 401
        assert HTTP.get(f"{url}/api/runs", headers={"cookie": "contralens-token=wrong"}).status_code == 401
        assert HTTP.get(f"{url}/api/runs", headers={"authorization": "Bearer right"}).status_code == 200
        with httpx.Client(base_url=url) as client:
            first = client.get("/?token=right")
            assert (first.status_code, first.headers["location"]) == (303, "/")
            assert "HttpOnly" in first.headers["set-cookie"]
            assert "SameSite=Strict" in first.headers["set-cookie"]
            assert client.get("/api/runs").status_code == 200
        for path in ("//evil.example/?token=right", "/\\evil.example?token=right", "/%5cevil.example?token=right"):
            status, data = request(url, path)
            if status == 303:
                location = re.search(rb"location: (.*)\r", data)
                assert location
                assert re.match(rb"/[^/\\]", location[1]), location[1]
        assert request(url, "/api/runs?token=right", host="10.1.2.3")[0] == 200
        assert request(url, "/api/runs?token=right", host="evil.example")[0] == 421


def bomb(side: int) -> bytes:
    """A PNG whose header says side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


def search(address: str, data: Any, kind: str = "image/png") -> httpx.Response:
    return HTTP.post(f"{address}/api/runs/run/search", content=data, headers={"content-type": kind}, timeout=HUNG)


def jpeg() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((400, 400), 90).convert("RGB").save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"not a picture at all", 422),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", 422),
        (b"\xff\xd8\xff" + os.urandom(2000), 422),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 " + bytes(100), 422),
        (b"GIF89a\xff\xff\xff\xff" + bytes(20), 422),
        (bomb(60_000), 422),
        (jpeg()[:3000], 422),
        (b"\x89PNG\r\n\x1a\n" + bytes(LARGEST_UPLOAD), 413),
    ],
    ids=["empty", "text", "svg", "postscript", "noise", "webp", "gif", "bomb", "truncated", "oversize"],
)
def test_hostile_pictures_are_refused(address: str, data: bytes, status: int) -> None:
    answer = search(address, data)
    assert answer.status_code == status, answer.text
    assert len(answer.json()["error"].splitlines()) == 1
    assert search(address, jpeg(), "image/jpeg").status_code == 200


def test_a_body_without_end_is_cut_off(address: str) -> None:
    def endless() -> Any:
        for _ in range(400):
            yield bytes(100_000)

    with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError):  # closed in our face
        assert search(address, endless()).status_code == 413
    lying = "Content-Type: image/png\r\nContent-Length: 99999999999\r\n"
    assert request(address, "/api/runs/run/search", "POST", extra=lying)[0] == 413
    big = json.dumps({"neuron": 1, "kind": "note", "text": "x" * 40_000})
    headers = {"content-type": "application/json"}
    assert HTTP.post(f"{address}/api/runs/run/notes", content=big, headers=headers).status_code == 413


def test_a_hundred_clients_at_once(address: str) -> None:
    paths = [
        "/",
        "/api/runs/run/index",
        "/api/runs/run/neurons/7",
        "/api/runs/run/pictures?images=1,2,3,4,5,6,7,8",
        "/api/runs/run/map",
        "/api/runs/run/neurons?q=red&sort=score",
        "/api/runs/run/search?text=red",
    ]
    barrier = threading.Barrier(100)

    def client(i: int) -> list[int]:
        barrier.wait(30)
        return [HTTP.get(address + paths[(i + j) % len(paths)]).status_code for j in range(3)]

    with ThreadPoolExecutor(100) as pool:
        assert {status for own in pool.map(client, range(100)) for status in own} == {200}


def test_a_truncated_run_is_told_and_the_others_still_work(finished: Run, tmp_path: Path) -> None:
    names = ("labels.parquet", "exemplars.parquet", "thumbnails.parquet", "manifest.json")
    broken = []
    for name in names:
        run = copied(finished, tmp_path / name.replace(".", "-"))
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: len(data) // 2])
        broken.append(run)
    empty = tmp_path / "empty"
    empty.mkdir()
    vectors = copied(finished, tmp_path / "vectors")
    (vectors / "vectors.safetensors").write_bytes((vectors / "vectors.safetensors").read_bytes()[:500])
    good = copied(finished, tmp_path / "good")
    with serving([*broken, empty, vectors, good]) as url:
        told = {r["key"]: r for r in HTTP.get(f"{url}/api/runs").json()["runs"]}
        for name, run in zip(names, broken, strict=True):
            assert name in told[run.name]["problem"]
            answer = HTTP.get(f"{url}/api/runs/{run.name}/index")
            assert (answer.status_code, name in answer.json()["error"]) == (503, True)
        assert "not a whole run folder" in told["empty"]["problem"]
        assert told["vectors"]["problem"] is None
        assert any("vectors.safetensors" in m["why"] for m in told["vectors"]["missing"])
        assert HTTP.get(f"{url}/api/runs/vectors/neurons/3").json()["gamma"] is None
        assert HTTP.get(f"{url}/api/runs/good/neurons/3").json()["gamma"]


def test_a_run_may_be_written_again_or_cut_while_it_is_shown(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    with serving([run]) as url:
        stamp = HTTP.get(f"{url}/api/runs").json()["runs"][0]["stamp"]
        replace(finished, manifest={**finished.manifest, "seed": 1}).save(run)
        for _ in range(40):
            if (again := HTTP.get(f"{url}/api/runs").json()["runs"][0])["stamp"] != stamp:
                break
            threading.Event().wait(0.1)
        assert again["stamp"] != stamp
        assert again["problem"] is None
        assert HTTP.get(f"{url}/api/runs/run/neurons/7").status_code == 200
        for name in ("vectors.safetensors", "thumbnails.parquet"):
            os.truncate(run / name, 600)  # while the server holds them open
        seen = [HTTP.get(f"{url}/api/runs/run/neurons/{n}").status_code for n in range(10)]
        assert set(seen) <= {200, 422, 503}
        threading.Event().wait(0.7)
        assert "thumbnails.parquet is damaged" in HTTP.get(f"{url}/api/runs").json()["runs"][0]["problem"]
        finished.save(run, replace=True)
        threading.Event().wait(0.7)
        assert HTTP.get(f"{url}/api/runs").json()["runs"][0]["problem"] is None


def test_links_out_of_the_run_are_not_followed(finished: Run, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    pq.write_table(finished.labels, secret / "labels.parquet")
    run = copied(finished, tmp_path / "run")
    (run / "labels.parquet").unlink()
    (run / "labels.parquet").symlink_to(secret / "labels.parquet")
    other = copied(finished, tmp_path / "other")
    (other / "manifest.json").unlink()
    (other / "manifest.json").symlink_to("/etc/passwd")
    noted = copied(finished, tmp_path / "noted")
    target = tmp_path / "precious.txt"
    target.write_text("precious\n")
    (tmp_path / "noted.notes.jsonl").symlink_to(target)
    pipe = copied(finished, tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.notes.jsonl")
    with serving([run, other, noted, pipe]) as url:
        told = {r["key"]: r["problem"] for r in HTTP.get(f"{url}/api/runs", timeout=HUNG).json()["runs"]}
        assert "link out of the run" in told["run"]
        assert "link out of the run" in told["other"]
        assert "root:" not in json.dumps(told)
        answer = HTTP.post(f"{url}/api/runs/noted/notes", json={"neuron": 1, "kind": "note", "text": "x"})
        assert (answer.status_code, "link" in answer.json()["error"]) == (422, True)
        assert target.read_text() == "precious\n"
        assert HTTP.get(f"{url}/api/runs/noted/notes").json()["notes"] == []
        assert HTTP.get(f"{url}/api/runs/{pipe.name}/notes", timeout=HUNG).status_code == 200


def test_markup_arrives_as_text_only(hostile: Run) -> None:
    assert hostile.path
    with serving([hostile.path]) as url:
        for path in (
            "/api/runs",
            "/api/runs/evil/index",
            "/api/runs/evil/neurons/3",
            "/api/runs/evil/neurons?q=<script>",
        ):
            answer = HTTP.get(url + path)
            assert answer.headers["content-type"] == "application/json"
            assert HOSTILE in json.dumps(answer.json(), ensure_ascii=False).replace('\\"', '"')


def test_notes_are_appended_beside_the_run_and_never_inside(finished: Run, tmp_path: Path) -> None:
    run = copied(finished, tmp_path / "run")
    before = {p: p.read_bytes() for p in run.iterdir()}
    file = tmp_path / "run.notes.jsonl"
    with serving([run]) as url:
        notes = f"{url}/api/runs/run/notes"

        def add(i: int) -> int:
            kind = ("note", "tag", "label")[i % 3]
            note = {"neuron": i % 5, "kind": kind, "text": "<b>x</b>" if kind == "tag" else f"{HOSTILE} {i}"}
            return HTTP.post(notes, json=note, timeout=HUNG).status_code

        with ThreadPoolExecutor(12) as pool:
            assert set(pool.map(add, range(60))) == {200}
        first = file.read_bytes()
        assert len(first.splitlines()) == 60
        with file.open("ab") as f:
            f.write(b'{"id": "cut off in the midd')
        kept = HTTP.get(notes).json()
        assert (len(kept["notes"]), kept["problems"]) == (60, ["line 61 of run.notes.jsonl is damaged and was skipped"])
        assert HTTP.post(f"{notes}/remove", json={"id": kept["notes"][0]["id"]}).status_code == 200
        assert add(99) == 200
        assert file.read_bytes().startswith(first)
        assert len(HTTP.get(notes).json()["notes"]) == 60
        for bad in (
            {"neuron": 1, "kind": "poem", "text": "x"},
            {"neuron": 1, "kind": "note", "text": "  \x00 "},
            {"neuron": 1, "kind": "tag", "text": "x" * 61},
            {"neuron": "1", "kind": "note", "text": "x"},
            {"neuron": 1, "kind": "note", "text": "x", "id": "y"},
            {"kind": "note", "text": "x"},
            [],
        ):
            assert HTTP.post(notes, json=bad).status_code == 422
        assert HTTP.post(notes, json={"neuron": 10**12, "kind": "note", "text": "x"}).status_code in (404, 422)
        assert HTTP.post(f"{notes}/remove", json={"id": "nothing"}).status_code == 422
    assert {p: p.read_bytes() for p in run.iterdir()} == before
    with serving([run], read_only=True) as url:
        assert (
            HTTP.post(f"{url}/api/runs/run/notes", json={"neuron": 1, "kind": "note", "text": "x"}).status_code == 422
        )
        assert len(HTTP.get(f"{url}/api/runs/run/notes").json()["notes"]) == 60


def test_the_command_prints_its_address_and_answers(finished: Run) -> None:
    command = [sys.executable, "-m", "contralens", "explore", str(finished.path), "--no-browser", "--port", "0"]
    with subprocess.Popen([*command, "--read-only"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            found = re.search(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found
            assert HTTP.get(f"{found[0]}api/runs", timeout=HUNG).json()["runs"][0]["key"] == "run"
        finally:
            process.terminate()


def test_encoders_that_cannot_be_had_are_told(finished: Run) -> None:
    assert finished.path

    class Gone(CountedFinder):
        def __init__(self) -> None:
            super().__init__()

            def load(name: str) -> Any:
                from contralens.errors import InputError

                raise InputError("no weights here")

            self._load = load

    with serving([finished.path], finder=Gone()) as url:
        answer = HTTP.get(f"{url}/api/runs/run/search?text=red")
        assert (answer.status_code, "no weights here" in answer.json()["error"]) == (503, True)
