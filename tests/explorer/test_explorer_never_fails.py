"""No request and no content of a file makes the explorer fail: thousands of either, drawn by hypothesis."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from coloured import ColourNet, draw_discs, to_pixels
from damaging import damage
from explorer_serving import HTTP, Eyes, rich_run, serving
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from older import as_older
from starlette.testclient import TestClient

import contralens
from contralens.explorer.app import create_app
from contralens.explorer.search import Finder

HOST = "http://127.0.0.1:8000"
QUICK = settings(
    deadline=None, database=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
LOOKED_AT = [
    "/api/runs", "/api/runs/run/index", "/api/runs/run/neurons?sort=score&descending=true&limit=5",
    "/api/runs/run/neurons?q=red&within=score:0:1", "/api/runs/run/neurons/0", "/api/runs/run/neurons/2",
    "/api/runs/run/map?method=pca", "/api/runs/run/map?method=umap", "/api/runs/run/audit",
    "/api/compare?a=run&b=run&scorer_b=semanticlens", "/api/runs/run/images/0.jpg",
    "/api/runs/run/pictures?images=0,1,2", "/api/runs/run/search?text=red", "/api/runs/run/notes",
]  # fmt: skip


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has all that can be added to one, and notes beside it."""
    home = tmp_path_factory.mktemp("rich")
    run = rich_run(draw_discs(tmp_path_factory.mktemp("pictures"), 40), home / "run")
    contralens.audit(
        run, {"expected": ["red", "blue"], "spurious": ["green"]}, fakes=20, sample=0, encoder=Eyes(),
        target=contralens.target(ColourNet(), "relu", preprocess=to_pixels),
    )  # fmt: skip
    (home / "run.notes.jsonl").touch()
    return home


def asked(run: Path) -> Iterator[TestClient]:
    app = create_app([run], finder=Finder(load=lambda name: Eyes()))
    yield TestClient(app, base_url=HOST)  # raises what would be a 500


def files_of(home: Path) -> list[str]:
    kinds = (".json", ".parquet", ".safetensors", ".jsonl")
    return [str(p.relative_to(home)) for p in sorted(home.rglob("*")) if p.suffix in kinds and p.name != "labels.json"]


@pytest.mark.slow
def test_no_content_of_a_file_is_a_failure(rich: Path, tmp_path: Path) -> None:
    names, answers = itertools.count(), {200: 0, 404: 0, 422: 0, 503: 0}

    @settings(QUICK, max_examples=40)
    @given(st.data())
    def look(data: st.DataObject) -> None:
        home = shutil.copytree(rich, tmp_path / str(next(names)))
        if data.draw(st.integers(0, 3)):  # else the digests tell, whatever the damage
            as_older(home / "run")
        how = data.draw(damage(home / data.draw(st.sampled_from(files_of(home)))))
        for client in asked(home / "run"):
            for path in LOOKED_AT:
                answer = client.get(path)
                assert answer.status_code in answers, (how, path, answer.text)
                answers[answer.status_code] += 1
                if answer.status_code == 503:
                    assert "\n" not in answer.json()["error"], how
        shutil.rmtree(home)

    look()
    assert answers[503] > 20, "some damage is such that the run cannot be read"
    assert answers[200] > 200, "and some leaves the rest to be shown"


@pytest.mark.parametrize("line", [b'{"kind":"note","id":"a","time":"","text":"x","neuron":1e999}', b"[" * 100_000,
                                  b'{"kind":"note","id":"a","time":"","text":"x","neuron":' + b"9" * 5000 + b"}",
                                  b'"note"', b"1e999", b"null", b"\xff\xfe", b'{"kind":[]}'])  # fmt: skip
def test_a_line_of_notes_that_is_none_is_passed_over(line: bytes, rich: Path, tmp_path: Path) -> None:
    home = shutil.copytree(rich, tmp_path / "home")
    good = b'{"kind":"note","id":"b","time":"","text":"kept","neuron":1}'
    (home / "run.notes.jsonl").write_bytes(line + b"\n" + good + b"\n")
    for client in asked(home / "run"):
        assert client.get("/api/runs").json()["runs"][0]["notes"] == 1
        told = client.get("/api/runs/run/notes").json()
        assert [note["text"] for note in told["notes"]] == ["kept"]
        assert told["problems"] == ["line 1 of run.notes.jsonl is damaged and was skipped"]


WORDS = st.one_of(
    st.sampled_from(["", "run", "0", "1", "-1", "csp", "red", "score", "true", "nan", "inf", "1e999", "9" * 20,
                     "9" * 5000, "score:0:1", "score:nan:", "a:b:c", "::", "x" * 3000, "\x00", "é", "\U0001f600", "١٢",
                     "0,1,2", ",".join(["0"] * 401), "..", "%00", "'; --", "1.5", "0x1", "1_000", "umap"]),
    st.text(max_size=20), st.integers().map(str), st.floats().map(str),
)  # fmt: skip
LIKELY = {"run": "run", "a": "run", "b": "run", "scorer": "csp", "scorer_a": "csp", "scorer_b": "csp", "text": "red",
          "sort": "score", "within": "score:0:1", "method": "pca", "images": "0,1"}  # fmt: skip
HEADERS = st.sampled_from([
    {"origin": "http://["}, {"origin": "null"}, {"origin": HOST}, {"origin": "http://[::1"}, {"origin": "\\\\"},
    {"origin": "//127.0.0.1:8000"}, {"sec-fetch-site": "x"}, {"if-none-match": '"'}, {"accept-encoding": "gzip"},
    {"content-type": "application/json"}, {"content-type": "image/png"}, {"content-type": "x" * 200},
    {"content-length": "1"}, {"cookie": "contralens-token=\"\\777"}, {"authorization": "Bearer \xff"},
])  # fmt: skip
BODIES = st.one_of(
    st.binary(max_size=60), st.sampled_from([b"", b"null", b"[]", b"[" * 20_000, b"\xff\xd8\xff", b"BM" + b"\xff" * 60,
                                             b"RIFF", b"GIF89a" + b"\xff" * 9, b"\x89PNG\r\n\x1a\n" + b"\x00" * 40]),
    st.fixed_dictionaries({}, optional={
        "neuron": st.sampled_from([0, 1, -1, 10**20, 1.5, None, "0", True]), "text": st.text(max_size=8) | st.none(),
        "kind": st.sampled_from(["note", "tag", "label", "x", 1]), "id": st.text(max_size=5), "more": st.none(),
    }).map(lambda body: json.dumps(body).encode()),
)  # fmt: skip


@st.composite
def requests(draw: Any, described: dict[str, Any]) -> tuple[str, str, dict[str, str], bytes]:
    """A request after the OpenAPI document, some of it right and some of it anything."""
    path = draw(st.sampled_from(sorted(described["paths"])))
    method = draw(st.sampled_from(sorted(described["paths"][path])))
    query = []
    for given_ in described["paths"][path][method].get("parameters", []):
        name = given_["name"]
        value = LIKELY.get(name, "1") if draw(st.integers(0, 5)) else draw(WORDS)
        if given_["in"] == "path":
            path = path.replace("{" + name + "}", quote(value, safe="", errors="replace"))
        elif draw(st.integers(0, 2)) == 0 or given_.get("required"):
            query.append(f"{quote(name)}={quote(value, errors='replace')}")
    if draw(st.integers(0, 9)) == 0:
        query.append(quote(draw(WORDS), errors="replace"))
    headers = draw(HEADERS) if draw(st.integers(0, 3)) == 0 else {}
    body = draw(BODIES) if method == "post" else b""
    if method == "post" and "content-type" not in headers and draw(st.booleans()):
        kind = "image/png" if path.endswith("search") else "application/json"
        headers = {**headers, "content-type": kind}
    return method, f"{path}?{'&'.join(query)}"[:60_000], headers, body


@pytest.mark.slow
@pytest.mark.parametrize(("token", "requests_sent"), [(None, 1000), ("secret", 300)])
def test_no_request_is_a_failure(token: str | None, requests_sent: int, rich: Path, tmp_path: Path) -> None:
    home = shutil.copytree(rich, tmp_path / "home")
    app = create_app([home / "run"], finder=Finder(load=lambda name: Eyes()), token=token)
    client = TestClient(app, base_url=HOST, follow_redirects=False)
    if token:
        client.headers["authorization"] = f"Bearer {token}"
    described = client.get("/openapi.json").json()
    answers: dict[int, int] = {}

    @settings(QUICK, max_examples=requests_sent)
    @example(("get", "/api/runs/run/neurons?offset=99999999999999999999", {}, b""))
    @example(("get", "/api/runs", {"origin": "http://["}, b""))
    @example(("get", "/api/runs/run/pictures?images=" + "9" * 4400, {}, b""))
    @given(requests(described))
    def ask(request: tuple[str, str, dict[str, str], bytes]) -> None:
        method, path, headers, body = request
        raw = {key: value.encode("latin-1") for key, value in headers.items()}
        answer = client.request(method, path, headers=raw, content=body)
        answers[answer.status_code] = answers.get(answer.status_code, 0) + 1
        assert answer.status_code < 500 or answer.status_code == 503, request

    ask()
    assert {200, 403, 404, 422} <= answers.keys()
    assert answers[200] > requests_sent / 10
    assert client.get("/api/runs").status_code == 200


def test_what_breaks_off_is_nobodys_failure(rich: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Over a real connection: uploads that end early, heads that are none, and after each the next is answered."""
    heads = [
        "POST /api/runs/run/search HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
        "Content-Length: 900\r\n\r\nPNG",
        "POST /api/runs/run/notes HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        "Content-Length: 900\r\n\r\n{{",
        "POST /api/runs/run/notes HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        "Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        "GET /api/runs HTTP/1.1\r\nHost: {host}\r\nOrigin: http://[\r\n\r\n",
        "GET /api/runs HTTP/1.1\r\nHost: [\r\n\r\n", "GET  HTTP/9\r\n\r\n", "\r\n\r\n\x00", "",
    ]  # fmt: skip
    with serving([rich / "run"]) as address:
        host = urlsplit(address).netloc
        for head in heads:
            with socket.create_connection(host.split(":")) as s:  # type: ignore[arg-type]
                s.sendall(head.format(host=host).encode())
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(65536):
                        pass
            assert HTTP.get(f"{address}/api/runs").status_code == 200
        time.sleep(0.2)
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err, said.err
