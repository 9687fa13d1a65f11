"""The application: routes, page, and what becomes of errors."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

import vidsift
from vidsift.errors import IndexStateError, QueryError, ShardsError, SourceError, VidsiftError
from vidsift.index import Index
from vidsift.server import schema
from vidsift.server.api import make_router
from vidsift.server.guard import Guard
from vidsift.server.jobs import Jobs
from vidsift.server.library import ChangedError, Library, UnknownError
from vidsift.server.measures import Measures
from vidsift.server.settings import ServerSettings
from vidsift.video.errors import VideoError

PAGE = Path(__file__).resolve().parent / "page"


def create_app(settings: ServerSettings, open_index: Callable[[str], Index] = Index.open) -> FastAPI:
    """The service over one index, which is opened here.

    open_index: opens it, if it is to be searched otherwise.
    Raises IndexNotFoundError, IndexStateError, ModelNotFoundError when it cannot be searched.
    """
    patience = settings.deadline if settings.shards else None
    library = Library(settings.index, settings.searches, open_index, patience)
    measures = Measures()

    def allowed() -> list[str]:
        return [*library.index.config.roots, *(str(path.resolve()) for path in settings.libraries)]

    jobs = Jobs(settings.index, allowed)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(
        title="vidsift",
        version=vidsift.__version__,
        summary="Find videos, and the moment inside a video, from a sentence.",
        # The documentation pages of FastAPI load from elsewhere; the schema itself is here.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        lifespan=lifespan,
    )
    app.include_router(make_router(settings, library, jobs, measures))
    measures.watch("clips", "Clips that can be found.", lambda: len(library.index))
    measures.watch("videos", "Videos that can be found.", lambda: len(library.index.arrays.paths))
    measures.watch("jobs_open", "Indexing jobs that are queued or running.", jobs.open)

    @app.get("/healthz", tags=["service"])
    def alive() -> schema.Health:
        """The process answers."""
        return schema.Health(status="ok")

    @app.get("/readyz", tags=["service"], responses={503: {"model": schema.ErrorAnswer}})
    def ready() -> schema.Health:
        """The index is open and can be asked."""
        len(library.index)
        return schema.Health(status="ready")

    @app.get("/metrics", tags=["service"], response_class=Response)
    def metrics() -> Response:
        """For Prometheus."""
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", StaticFiles(directory=PAGE), name="static")
    _handle_errors(app)
    app.add_middleware(Guard, settings=settings, measures=measures)
    return app


def _handle_errors(app: FastAPI) -> None:
    def refuse(code: int, text: str) -> JSONResponse:
        return JSONResponse({"error": text}, code)

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> JSONResponse:
        first: Any = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return refuse(422, f"{place}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def _(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(UnknownError)
    async def _(_: Request, error: UnknownError) -> JSONResponse:
        return refuse(404, f"{error}: the index has nothing of that name")

    @app.exception_handler(ChangedError)
    async def _(_: Request, error: ChangedError) -> JSONResponse:
        return refuse(409, str(error))

    @app.exception_handler(VideoError)
    async def _(_: Request, error: VideoError) -> JSONResponse:
        return refuse(400, str(error))

    @app.exception_handler(VidsiftError)
    async def _(_: Request, error: VidsiftError) -> JSONResponse:
        if isinstance(error, QueryError | SourceError):
            return refuse(400, str(error))
        logging.getLogger("vidsift.server").error("%s", error)
        if isinstance(error, ShardsError):
            return refuse(503, str(error))
        if isinstance(error, IndexStateError):
            return refuse(503, "the index cannot be used as asked at the moment: " + _short(error))
        return refuse(500, "something went wrong here; the service's log says what")


def _short(error: IndexStateError) -> str:
    return "another process is writing it" if "another process" in str(error) else "see the service's log"
