"""The server: each page has a JSON twin under /api, described by /openapi.json; the pages themselves are static."""

from __future__ import annotations

import contextlib
import gzip
import struct
from collections.abc import AsyncIterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import FastAPI, Query, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from contralens import __version__
from contralens.data.card import draw, png
from contralens.errors import ContralensError, InputError, RunError
from contralens.explorer import audit_pages, cards, layers_page, overview, pages, shapes
from contralens.explorer.guard import Guard
from contralens.explorer.jobs import Jobs, Tester
from contralens.explorer.partners import Matcher, Partners
from contralens.explorer.posting import noting, testing
from contralens.explorer.replies import NEVER, TooLarge, as_json, body, shape
from contralens.explorer.search import LARGEST_UPLOAD, Finder, Unavailable
from contralens.explorer.shelf import Shelf
from contralens.explorer.values import NotThere, dumps, range_of

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
FOREVER = {"cache-control": "private, max-age=31536000, immutable"}
MOST_PICTURES = 400
THREADS = 8
"""Requests worked on at once; the others wait. More would only share the same disk and cores."""
ERRORS: dict[int | str, dict[str, Any]] = {
    404: {"model": shapes.Gone, "description": "No such run, neuron or picture."},
    422: {"model": shapes.Gone, "description": "The request is invalid."},
    503: {"model": shapes.Gone, "description": "The run cannot be read now, or search is off."},
}


def create_app(
    runs: Sequence[str | Path],
    *,
    read_only: bool = False,
    host: str = "127.0.0.1",
    token: str | None = None,
    finder: Finder | None = None,
    trust_code: bool = False,
    tester: Tester | None = None,
    matcher: Matcher | None = None,
) -> Any:
    """The explorer of some run folders as an ASGI application.

    Args:
        runs: run folders; one that cannot be read is reported on the page, the others are shown.
        read_only: load no encoder, write no notes and put no label to the test.
        host: where the server is bound; decides which Host headers are answered.
        token: what a request must carry, in the URL at first, then as a cookie, or as a bearer token.
        finder: what loads encoders; by default `contralens.encoder`, when first asked for.
        tester: what puts a label to the test; by default nothing does.
        matcher: what pairs the neurons of runs of different layers or networks; by default nothing does.
        trust_code: let runs that were not made here name encoders that run code or open files.
    """
    shelf = Shelf(runs, writable=not read_only, trust_code=trust_code)
    search = finder or Finder(read_only)

    @contextlib.asynccontextmanager
    async def few_threads(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        yield

    app = FastAPI(
        lifespan=few_threads,
        title="contralens explorer",
        version=__version__,
        description="What every page of the explorer shows, as JSON.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    _errors(app)
    _browsing(app, shelf, search)
    _comparing(app, shelf, Partners(matcher, trust_code))
    _picturing(app, shelf)
    _searching(app, shelf, search)
    noting(app, shelf)
    testing(app, shelf, Jobs(tester, read_only, trust_code))
    _pages(app)
    app.add_middleware(Guard, host=host, token=token)
    return app


def _errors(app: FastAPI) -> None:
    codes = {NotThere: 404, RunError: 503, Unavailable: 503, TooLarge: 413}

    async def told(_: Request, error: Exception) -> Response:
        code = next((c for kind, c in codes.items() if isinstance(error, kind)), 422)
        return JSONResponse({"error": str(error)}, code, headers=NEVER)

    async def invalid(_: Request, error: Exception) -> Response:
        first = error.errors()[0] if isinstance(error, (RequestValidationError, ValidationError)) else {}
        where = ".".join(str(p) for p in first.get("loc", ()) if p not in ("query", "path", "body"))
        return JSONResponse({"error": f"{where}: {first.get('msg', 'not valid')}"}, 422, headers=NEVER)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=NEVER)

    async def gone(_: Request, __: Exception) -> Response:
        return Response(status_code=400)  # nobody is there to read it

    app.add_exception_handler(ContralensError, told)
    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(ValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


Gamma = Annotated[float | None, Query(ge=0, le=1, description="0: positives alone; 1: all shared with contrasts gone.")]
Several = Annotated[str, Query(max_length=5000, pattern=r"^[0-9]{1,10}(,[0-9]{1,10})*$")]
Number = Annotated[int, PathParameter(ge=-(2**31), lt=2**31)]
Most = Annotated[int, Query(ge=1, le=1000)]
Within = Annotated[list[str] | None, Query(description="COLUMN:LOW:HIGH, repeatable; a bound may be empty.")]


def _browsing(app: FastAPI, shelf: Shelf, search: Finder) -> None:
    @app.get("/api/runs", responses=shape(shapes.RunList), summary="The runs, and what is missing")
    def runs() -> Response:
        return as_json(shelf.list(search.why_not()))

    @app.get("/api/runs/{run}/index", responses=shape(shapes.Index), summary="All neurons of a run in columns")
    def index(run: str, request: Request) -> Response:
        opened = shelf.run(run)
        plain = overview.remembered(opened, "index", lambda: dumps(overview.index(opened)))
        tag = f'"{opened.stamp}{opened.noted}"'
        headers = {"cache-control": "private, no-cache", "etag": tag, "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        local = request.client is not None and request.client.host in ("127.0.0.1", "::1")
        if "gzip" in request.headers.get("accept-encoding", "") and not local:
            packed = overview.remembered(opened, "index.gz", lambda: gzip.compress(plain, 5))
            return Response(packed, media_type="application/json", headers={**headers, "content-encoding": "gzip"})
        return Response(plain, media_type="application/json", headers=headers)

    @app.get("/api/runs/{run}/neurons", responses=shape(shapes.Rows), summary="Neurons, filtered and sorted")
    def neurons(
        run: str,
        scorer: str | None = None,
        q: Annotated[str, Query(max_length=400, description="Part of a label or a name.")] = "",
        status: str | None = None,
        verified: Annotated[Literal["verified", "refuted", "untested"] | None, Query()] = None,
        sort: str = "neuron",
        descending: bool = False,
        within: Within = None,
        offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        limit: Most = 100,
    ) -> Response:  # fmt: skip
        ranges = dict(range_of(text) for text in within or [])
        return as_json(
            overview.rows(shelf.run(run), scorer, q, status, verified, ranges, sort, descending, offset, limit)
        )

    @app.get("/api/runs/{run}/neurons/{neuron}", responses=shape(shapes.Detail), summary="All about one neuron")
    def neuron(run: str, neuron: Number) -> Response:
        return as_json(pages.detail(shelf.run(run), neuron))

    @app.get("/api/runs/{run}/map", responses=shape(shapes.Plane), summary="Neurons as points")
    def plane(run: str, method: Annotated[Literal["umap", "pca"] | None, Query()] = None) -> Response:
        return as_json(pages.plane(shelf.run(run), method))

    @app.get("/api/runs/{run}/audit", responses=shape(shapes.Audit), summary="Expected and spurious neurons")
    def audit(run: str) -> Response:
        opened = shelf.run(run)
        found = overview.remembered(opened, "audit", lambda: dumps(audit_pages.page(opened)))
        return Response(found, media_type="application/json", headers=NEVER)

    @app.get("/api/layers", responses=shape(shapes.Layers), summary="All layers of a network side by side")
    def layers() -> Response:
        return Response(layers_page.live(shelf), media_type="application/json", headers=NEVER)


def _comparing(app: FastAPI, shelf: Shelf, partners: Partners) -> None:
    @app.get("/api/match", responses=shape(shapes.Matched), summary="Which neuron of one run is which of another")
    def match(a: str, b: str) -> Response:
        return as_json(partners.of(shelf.run(a), shelf.run(b)))

    @app.get("/api/compare", responses=shape(shapes.Comparison), summary="Two runs or scorers side by side")
    def compare(
        a: str, b: str, scorer_a: str | None = None, scorer_b: str | None = None, changed: bool = True
    ) -> Response:
        one, other = shelf.run(a), shelf.run(b)
        return as_json(pages.compare(one, other, partners.of(one, other), scorer_a, scorer_b, changed))


def _picturing(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/api/runs/{run}/images/{image}.jpg", response_class=Response, summary="One thumbnail",
             responses={200: {"content": {"image/jpeg": {}}}})  # fmt: skip
    def image(run: str, image: Number, v: str | None = None) -> Response:
        blob = shelf.run(run).pictures.get(image)
        if blob is None:
            raise NotThere(f"run {run} holds no picture {image}; only images that exemplars name are kept")
        return Response(blob, media_type="image/jpeg", headers=FOREVER if v else {"cache-control": "no-cache"})

    @app.get("/api/runs/{run}/pictures", response_class=Response, summary="Several thumbnails in one answer",
             description="For each image number in `images`, in that order: its length in bytes (uint32, little "
             "endian, 0 for none), then the JPEG.",
             responses={200: {"content": {"application/octet-stream": {}}}})  # fmt: skip
    def pictures(run: str, images: Several) -> Response:
        wanted = [int(i) for i in images.split(",")]
        if len(wanted) > MOST_PICTURES:
            raise InputError(f"at most {MOST_PICTURES} pictures at once; got {len(wanted)}")
        found = shelf.run(run).pictures.many(wanted)
        blobs = [found[i] or b"" for i in wanted]
        body = b"".join(struct.pack("<I", len(b)) + b for b in blobs)
        return Response(body, media_type="application/octet-stream", headers=NEVER)

    @app.get("/api/runs/{run}/neurons/{neuron}/card.png", response_class=Response, summary="One neuron to share",
             description="1200 by 630 pixels: exemplars above contrasts, the label before and after contrast.",
             responses={200: {"content": {"image/png": {}}}})  # fmt: skip
    def card(run: str, neuron: Number, dark: bool = False) -> Response:
        opened = shelf.run(run)
        made = png(draw(cards.card_of(opened, pages.detail(opened, neuron)), dark))
        return Response(made, media_type="image/png", headers=NEVER)


def _searching(app: FastAPI, shelf: Shelf, search: Finder) -> None:
    @app.get("/api/runs/{run}/search", responses=shape(shapes.Hits), summary="Words to neurons")
    def words(
        run: str, text: Annotated[str, Query(max_length=2000)], gamma: Gamma = None, limit: Most = 60
    ) -> Response:
        opened = shelf.run(run)
        return as_json(search.text(opened, text, opened.gamma if gamma is None else gamma, limit))

    @app.post("/api/runs/{run}/search", responses={**shape(shapes.Hits), 413: {"model": shapes.Gone}},
              summary="A picture to neurons",
              openapi_extra={"requestBody": {"required": True, "content": {
                  "image/*": {"schema": {"type": "string", "format": "binary"}}}}})  # fmt: skip
    async def picture(run: str, request: Request, gamma: Gamma = None, limit: Most = 60) -> Response:
        kind = request.headers.get("content-type", "")
        if not kind.startswith("image/"):
            raise InputError("send the picture as the body, with its content type, e.g. image/jpeg")
        why = search.why_not()
        if why:
            raise Unavailable(f"search by words or pictures is off: {why}")
        data = await body(request, LARGEST_UPLOAD)

        def found() -> shapes.Hits:
            opened = shelf.run(run)
            return search.picture(opened, data, opened.gamma if gamma is None else gamma, limit)

        return as_json(await run_in_threadpool(found))


def _pages(app: FastAPI) -> None:
    """The built files, read and compressed once; a path is looked up among their names and never on the disk."""
    built = {p.name: p.read_bytes() for p in files("contralens.explorer").joinpath("static").iterdir() if p.is_file()}
    packed = {name: gzip.compress(data, 9, mtime=0) for name, data in built.items()}

    def answer(name: str, request: Request) -> Response:
        if name not in built:
            raise HTTPException(404, "There is nothing at this address.")
        headers = {
            "cache-control": "no-cache",
            "content-type": KINDS.get(Path(name).suffix, "text/plain"),
            "vary": "accept-encoding",
        }
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(packed[name], headers={**headers, "content-encoding": "gzip"})
        return Response(built[name], headers=headers)

    @app.get("/", include_in_schema=False)
    def home(request: Request) -> Response:
        return answer("index.html", request)

    @app.get("/{name}", include_in_schema=False)
    def file(name: str, request: Request) -> Response:
        return answer(name, request)
