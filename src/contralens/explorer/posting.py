"""What pages may ask the server to write: notes, tags, corrected labels, and labels tested."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from contralens.explorer import overview, shapes
from contralens.explorer.jobs import Jobs
from contralens.explorer.replies import as_json, json_body, shape
from contralens.explorer.search import LONGEST_TEXT
from contralens.explorer.shelf import Shelf
from contralens.explorer.values import NotThere


class NewNote(BaseModel):
    """What POST notes takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    neuron: Annotated[int, Field(ge=0, lt=2**31)]
    kind: str
    text: str


class ToTest(BaseModel):
    """What POST verify takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    neuron: Annotated[int, Field(ge=0, lt=2**31)]
    label: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT)]


class OldNote(BaseModel):
    """What POST notes/remove takes."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str


def noting(app: FastAPI, shelf: Shelf) -> None:
    @app.get("/api/runs/{run}/notes", responses=shape(shapes.Notes), summary="Notes, tags and corrected labels")
    def notes(run: str) -> Response:
        shelf.run(run)
        return as_json(shelf.notebooks[run].read())

    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": NewNote.model_json_schema()}}}}

    @app.post("/api/runs/{run}/notes", responses=shape(shapes.Note), summary="Add one", openapi_extra=body)
    async def add(run: str, request: Request) -> Response:
        new = NewNote.model_validate_json(await json_body(request))

        def write() -> shapes.Note:
            opened = shelf.run(run)
            name = overview.named(opened, [new.neuron]).get(new.neuron, (None,))[0]
            if name is None:
                raise NotThere(f"run {run} has no neuron {new.neuron}")
            note = shelf.notebooks[run].add(new.neuron, name, new.kind, new.text)
            shelf.noted(run)
            return note

        return as_json(await run_in_threadpool(write))

    gone = {"requestBody": {"required": True, "content": {"application/json": {"schema": OldNote.model_json_schema()}}}}

    @app.post("/api/runs/{run}/notes/remove", responses=shape(shapes.Notes), summary="Delete a note",
              openapi_extra=gone)  # fmt: skip
    async def remove(run: str, request: Request) -> Response:
        old = OldNote.model_validate_json(await json_body(request))

        def write() -> shapes.Notes:
            shelf.run(run)
            shelf.notebooks[run].remove(old.id)
            shelf.noted(run)
            return shelf.notebooks[run].read()

        return as_json(await run_in_threadpool(write))


def testing(app: FastAPI, shelf: Shelf, jobs: Jobs) -> None:
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": ToTest.model_json_schema()}}}}

    @app.get("/api/runs/{run}/verify", responses=shape(shapes.Testing), summary="Progress of the last experiment")
    def testing(run: str) -> Response:
        shelf.run(run)
        return as_json({"job": jobs.of(run)})

    @app.post("/api/runs/{run}/verify", responses=shape(shapes.Testing), summary="Test a label",
              openapi_extra=body)  # fmt: skip
    async def verify(run: str, request: Request) -> Response:
        asked = ToTest.model_validate_json(await json_body(request))
        return as_json({"job": await run_in_threadpool(lambda: jobs.start(shelf.run(run), asked.neuron, asked.label))})
