"""The application: the page, its files, and JSON under `/api/`; what touches the model is a job."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from factedit.errors import FacteditError, first_line
from factedit.markup.frozen import form, lean, style
from factedit.safe import without_nan
from factedit.web import actions, asked
from factedit.web.first import FirstView
from factedit.web.jobs import Jobs, QueuedJob, TooMany
from factedit.web.session import RESULTS, Session
from factedit.web.told import page_state, records_of, results_of, suggestions

KINDS = {
    ".html": "text/html; charset=utf-8", ".txt": "text/plain; charset=utf-8", ".json": "application/json",
    ".js": "text/javascript", ".css": "text/css",
}  # fmt: skip
Wanted = TypeVar("Wanted", bound=BaseModel)


def make_app(session: Session, jobs: Jobs, first: FirstView | None = None) -> FastAPI:
    """Return the application for one model; `Guard` stands before it.

    Args:
        session: the model and its edits.
        jobs: the queue.
        first: told when a page is opened and when it has drawn its first view.
    """
    first = first or FirstView()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _errors(app, session)
    _pages(app, first)
    _state(app, session, jobs, first)
    _jobs(app, session, jobs)
    _posts(app, session, jobs)
    return app


def _errors(app: FastAPI, session: Session) -> None:
    def said(status: int, why: str) -> JSONResponse:
        return JSONResponse({"error": session.without_paths(why)}, status)

    @app.exception_handler(FacteditError)
    def _ours(_request: Request, error: Exception) -> JSONResponse:
        return said(429 if isinstance(error, TooMany) else 400, str(error))

    @app.exception_handler(RequestValidationError)
    def _fields(_request: Request, error: Exception) -> JSONResponse:
        return said(422, f"This was not understood: {first_line(error)}.")

    @app.exception_handler(HTTPException)
    def _http(_request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return said(status, "There is nothing at this address." if status == 404 else "This is not answered here.")


def _pages(app: FastAPI, first: FirstView) -> None:
    there = _static_files()

    @app.get("/")
    async def _index(request: Request) -> Response:
        first.opens()
        nonce: str = request.state.nonce
        page = there["index.html"].replace(b"{{nonce}}", nonce.encode())
        return Response(page, media_type=KINDS[".html"])

    @app.get("/static/{name}")
    async def _static(name: str) -> Response:
        if name not in there or name.endswith(".html"):
            raise HTTPException(404)
        return Response(there[name], media_type=KINDS["." + name.rpartition(".")[2]])


_SUFFIXES = {suffix[1:] for suffix in KINDS}


def _static_files() -> dict[str, bytes]:
    """What the page is made of by name, and the form that a view is saved in."""
    homes = files("factedit.markup") / "drawings", files("factedit.web") / "static"
    entries = [entry for home in homes for entry in home.iterdir() if entry.name.rpartition(".")[2] in _SUFFIXES]
    there = {entry.name: entry.read_bytes() for entry in entries}
    sheet = f"{style()}\n{lean(there['page.css'].decode())}"
    return there | {"frozen.txt": form(sheet).encode()}


def _state(app: FastAPI, session: Session, jobs: Jobs, first: FirstView) -> None:
    @app.get("/api/state")
    async def _state_now() -> dict[str, Any]:
        return page_state(session, jobs)

    @app.get("/api/suggestions")
    def _suggestions() -> dict[str, Any]:
        first.drawn()  # a page asks for these when its first view is drawn
        return suggestions()

    @app.get("/api/jobs/{name}")
    async def _job(name: str) -> JSONResponse:
        job = jobs.get(name)
        if job is None:
            return JSONResponse({"error": "This job is not remembered any more; ask again."}, 404)
        return JSONResponse(_told(session, job))

    @app.get("/api/results/{number}")
    def _results(number: int) -> JSONResponse:
        return JSONResponse(without_nan(results_of(session.folder(number, RESULTS))))


def _told(session: Session, job: QueuedJob) -> Any:
    """A job as the page is told of it: no path of this machine, and null for what JSON has no number for."""
    return without_nan(job.as_json() | {"error": session.without_paths(job.error)})


def _done(
    session: Session, job: QueuedJob, body: Wanted, action: Callable[[Session, QueuedJob, Wanted], dict[str, Any]]
) -> dict[str, Any]:
    """What a job gives; one that is cancelled ends before the next layer runs."""
    with session.stopping(job.check):
        return action(session, job, body)


def _jobs(app: FastAPI, session: Session, jobs: Jobs) -> None:
    def job_of(
        path: str, kind: type[Wanted], what: str, action: Callable[[Session, QueuedJob, Wanted], dict[str, Any]]
    ) -> None:
        def post(body: Any) -> dict[str, Any]:
            _ = session.model if path != "audit" else None  # refused here while there is none
            return {"job": jobs.add(what, lambda job: _done(session, job, body, action)).name}

        post.__annotations__["body"] = kind
        app.post(f"/api/{path}")(post)

    job_of("ask", asked.AskBody, "asking", actions.ask)
    job_of("trace", asked.TraceBody, "tracing", actions.trace)
    job_of("fall", asked.FallBody, "blurring the subject", actions.fall)
    job_of("known", asked.KnownBody, "looking for facts that the model knows", actions.known)
    job_of("averages", asked.AveragesBody, "tracing known facts", actions.averages)
    job_of("state", asked.StateBody, "reading a state", actions.state)
    job_of("touched", asked.FactBody, "looking for what is likely to be touched", actions.touched)
    job_of("edit", asked.FactBody, "editing", actions.edit)
    job_of("factors", asked.EditBody, "reading the factors", actions.factors)
    job_of("prove", asked.ProveBody, "proving", actions.prove)
    job_of("damage", asked.DamageBody, "asking true facts", actions.damage)
    job_of("undo", asked.EmptyBody, "taking everything back", actions.undo)
    job_of("export", asked.ExportBody, "exporting", actions.export)
    job_of("audit", asked.AuditBody, "auditing", actions.audit)
    job_of("puzzle", asked.PuzzleBody, "making a puzzle", actions.puzzle)
    job_of("puzzle-ask", asked.PuzzleAskBody, "asking one of the five", actions.puzzle_ask)
    job_of("puzzle-audit", asked.PuzzleAuditBody, "auditing one of the five", actions.puzzle_audit)


def _posts(app: FastAPI, session: Session, jobs: Jobs) -> None:
    @app.post("/api/puzzle-guess")
    def _guess(body: asked.PuzzleAuditBody) -> dict[str, Any]:
        return session.puzzles.of(body.seed).answer(body.which)

    @app.post("/api/switch")
    def _switch(body: asked.SwitchBody) -> dict[str, Any]:
        if session.stands_alone(session.switched(body.edit, body.on)):
            session.switch(body.edit, body.on)
            return {}
        return {"job": jobs.add("switching an edit", lambda job: actions.switch(session, job, body)).name}

    @app.post("/api/move")
    def _move(body: asked.MoveBody) -> dict[str, Any]:
        session.move(body.edit, body.by, body.past)
        return {}

    @app.post("/api/records")
    def _records(body: asked.RecordsBody) -> JSONResponse:
        return JSONResponse(without_nan(records_of(session.folder(body.results, RESULTS), body.row)))

    @app.post("/api/forget")
    def _forget(body: asked.EditBody) -> dict[str, Any]:
        session.forget(body.edit)
        return {}

    @app.post("/api/cancel")
    def _cancel(body: asked.JobBody) -> JSONResponse:
        job = jobs.cancel(body.job)
        if job is None:
            return JSONResponse({"error": "This job is not remembered any more."}, 404)
        return JSONResponse(_told(session, job))
