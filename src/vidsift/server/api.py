"""The routes under /api/v1."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

from vidsift.errors import QueryError
from vidsift.index import SearchResult
from vidsift.index.confidence import Level
from vidsift.index.fusion import named_channels
from vidsift.index.ranking import GroupBy
from vidsift.index.types import file_key
from vidsift.ingest import remove_paths
from vidsift.server import schema
from vidsift.server.guard import COOKIE, cookie_value
from vidsift.server.jobs import Jobs
from vidsift.server.library import Library, UnknownError, printable
from vidsift.server.measures import Measures
from vidsift.server.settings import ServerSettings

Identity = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": schema.ErrorAnswer} for code in (400, 401, 403, 404, 409, 413, 421, 422, 429, 500, 503)
}
_WATCH = 15.0
_TYPES = {".mkv": "video/x-matroska", ".ts": "video/mp2t", ".m2ts": "video/mp2t", ".mts": "video/mp2t"}


def make_router(settings: ServerSettings, library: Library, jobs: Jobs, measures: Measures) -> APIRouter:
    """All routes over one library."""
    router = APIRouter(prefix="/api/v1", responses=_REFUSALS)

    def answer(
        result: SearchResult, threshold: float | None = None, least: Level | None = None
    ) -> schema.SearchAnswer:
        measures.search(result.took_ms, result.partial is not None)
        good = result.hits if least is None else result.sure_enough(least)
        if threshold is not None:
            # What is said is said, however it looks.
            good = [hit for hit in good if hit.score >= threshold or "words" in hit.channels]
        missing = result.partial
        return schema.SearchAnswer(
            query=result.query,
            hits=[_hit(library, hit) for hit in good],
            took_ms=result.took_ms,
            relevant=result.relevant,
            clips=len(library.index) if missing is None else missing.searched,
            partial=None if missing is None else schema.Partial(**missing.to_dict()),
        )

    @router.post("/search", tags=["search"])
    def search(asked: schema.SearchRequest) -> schema.SearchAnswer:
        """Find the videos and moments that answer a sentence, or are like a clip."""
        if (asked.query is None) == (asked.like is None):
            raise QueryError("ask with one thing: query, or like")
        where = library.filter_for(asked.filters, asked.video)
        result = library.search(
            asked.query,
            asked.like,
            None,
            asked.k,
            asked.candidates,
            asked.group_by,
            where,
            asked.collapse,
            named_channels(asked.channels),
        )
        return answer(result, asked.threshold, asked.level)

    @router.get("/search", tags=["search"])
    def search_by_words(
        q: Annotated[str, Query(min_length=1, max_length=1000, description="The sentence.")],
        k: Annotated[int, Query(ge=1, le=200)] = 20,
        group_by: GroupBy = "video",
        channels: schema.Channels = "both",
    ) -> schema.SearchAnswer:
        """The same for a sentence alone: easy to try by hand."""
        where = library.filter_for(schema.Filters(), None)
        found = library.search(q, None, None, k, None, group_by, where, None, named_channels(channels))
        return answer(found)

    @router.post(
        "/search/image",
        tags=["search"],
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def search_by_image(
        request: Request,
        k: Annotated[int, Query(ge=1, le=200)] = 20,
        group_by: GroupBy = "video",
    ) -> schema.SearchAnswer:
        """Find what looks like a picture: its bytes are the body, as JPEG, PNG, WebP, ...."""
        content = await request.body()
        if not content:
            raise QueryError("the body is empty: send the picture's bytes")
        where = library.filter_for(schema.Filters(), None)
        result = await run_in_threadpool(library.search, None, None, content, k, None, group_by, where)
        return answer(result)

    @router.get("/videos", tags=["library"])
    def list_videos(
        offset: Annotated[int, Query(ge=0, le=2**40)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 50
    ) -> schema.VideoList:
        """The videos that can be found, in the order of their paths."""
        index = library.index
        order = library.catalogue(index).order
        shown = [_video(library, index, number) for number in order[offset : offset + limit]]
        return schema.VideoList(total=len(order), videos=shown)

    @router.get("/videos/{video}", tags=["library"])
    def video_details(video: Identity) -> schema.VideoDetails:
        """One video and its clips."""
        index = library.index
        number = library.number_of(index, video)
        rows = library.rows_of(index, video)
        parts = [
            schema.Clip(
                clip=(clip := index.arrays.clip_ids[row].decode()),
                start=float(index.arrays.spans[row, 0]),
                end=float(index.arrays.spans[row, 1]),
                thumbnail=f"/api/v1/clips/{clip}/thumbnail",
            )
            for row in rows.tolist()
        ]
        return schema.VideoDetails(**_video(library, index, number).model_dump(), parts=parts)

    @router.delete("/videos/{video}", tags=["library"], status_code=204)
    def forget_video(video: Identity) -> Response:
        """Take a video out of the index; the file stays. It comes back when its folder is indexed again."""
        remove_paths(library.path_of(library.index, video), library.folder)
        return Response(status_code=204)

    @router.get("/videos/{video}/relevance", tags=["search"])
    def frame_relevance(
        video: Identity, q: Annotated[str, Query(min_length=1, max_length=1000)]
    ) -> schema.Relevance:
        """How well each stored frame of a video answers a sentence."""
        if not q.strip():
            raise QueryError("the query is empty")
        times, values = library.relevance(video, q)
        return schema.Relevance(times=times, relevance=values)

    @router.get(
        "/videos/{video}/content",
        tags=["library"],
        response_class=FileResponse,
        responses={
            200: {"content": {"video/*": {"schema": {"type": "string", "format": "binary"}}}},
            206: {"description": "A part", "content": {"video/*": {"schema": {"type": "string"}}}},
            416: {"description": "No such part"},
        },
    )
    def video_content(video: Identity) -> FileResponse:
        """The bytes of a video, whole or by range; only while the file is the one that was indexed."""
        path, status = library.open_file(video)
        kind = _TYPES.get(os.path.splitext(path)[1].lower())
        return FileResponse(path, stat_result=status, media_type=kind, headers={"cache-control": "private"})

    @router.get(
        "/clips/{clip}/thumbnail",
        tags=["library"],
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def clip_thumbnail(clip: Identity) -> Response:
        """A clip's middle frame."""
        kept = {"cache-control": "private, max-age=86400, immutable"}
        return Response(library.thumbnail(clip), media_type="image/jpeg", headers=kept)

    @router.get("/stats", tags=["library"])
    def statistics() -> schema.Statistics:
        """What the index holds and how it is searched."""
        index = library.index
        allowed = {printable(str(path)) for path in (*index.config.roots, *settings.libraries)}
        return schema.Statistics(
            clips=len(index),
            files=len(index.arrays.paths),
            model=index.model.name,
            frames_per_clip=index.model.frames_per_clip,
            width=index.model.width,
            scan=index.arrays.scan.reason(index.config.picked, index.config.scan),
            version=index.version,
            words=index.has_words,
            folders=[printable(root) for root in index.config.roots],
            libraries=sorted(allowed),
        )

    @router.post("/jobs", tags=["jobs"], status_code=202)
    def start_job(asked: schema.JobRequest) -> schema.Job:
        """Index folders or files in the background; the index goes on answering."""
        return jobs.start(asked.paths)

    @router.get("/jobs", tags=["jobs"])
    def list_jobs() -> schema.JobList:
        """All jobs, the newest first."""
        return schema.JobList(jobs=jobs.all())

    @router.get("/jobs/{job}", tags=["jobs"])
    def job_details(job: Identity) -> schema.Job:
        """One job."""
        return _known(jobs.get(job), job)

    @router.delete("/jobs/{job}", tags=["jobs"])
    def cancel_job(job: Identity) -> schema.Job:
        """Cancel a job; files that are finished stay in the index."""
        return _known(jobs.cancel(job), job)

    @router.get(
        "/jobs/{job}/events",
        tags=["jobs"],
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    def job_events(job: Identity) -> StreamingResponse:
        """The job as it changes, as server-sent events, until it is finished."""
        _known(jobs.get(job), job)

        async def events() -> AsyncIterator[str]:
            seen: schema.Job | None = None
            while True:
                now = await run_in_threadpool(jobs.wait, job, seen, _WATCH)
                if now is None:
                    return
                yield f"data: {now.model_dump_json()}\n\n" if now != seen else ": still there\n\n"
                seen = now
                if now.state not in ("queued", "running"):
                    return
                await asyncio.sleep(0.1)

        return StreamingResponse(
            events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )

    @router.post("/login", tags=["service"], status_code=204)
    def login(asked: schema.Login) -> Response:
        """Have a browser remember the token in a cookie that scripts cannot read."""
        token = settings.token or ""
        if token and not hmac.compare_digest(asked.token.encode(), token.encode()):
            return JSONResponse({"error": "that is not the token"}, 401)
        done = Response(status_code=204)
        if token:
            done.set_cookie(COOKIE, cookie_value(token), httponly=True, samesite="strict", max_age=30 * 86400)
        return done

    return router


def _known(job: schema.Job | None, name: str) -> schema.Job:
    if job is None:
        raise UnknownError(name)
    return job


def _hit(library: Library, hit: Any) -> schema.Hit:
    video, shown = file_key(hit.path), library.shown(hit.path)
    return schema.Hit(
        video=video,
        name=os.path.basename(shown),
        path=shown,
        clip=hit.clip_id,
        score=hit.score,
        confidence=hit.confidence,
        level=hit.level,
        start=hit.start,
        end=hit.end,
        moment=schema.Moment(**hit.moment.to_dict()),
        channels=list(hit.channels),
        cue=None if hit.cue is None else schema.Cue(**asdict(hit.cue)),
        metadata=hit.metadata,
        alike=[
            schema.Alike(video=file_key(p.path), path=library.shown(p.path), start=p.start, end=p.end)
            for p in hit.alike
        ],
        thumbnail=f"/api/v1/clips/{hit.clip_id}/thumbnail",
        content=f"/api/v1/videos/{video}/content",
    )


def _video(library: Library, index: Any, number: int) -> schema.Video:
    arrays = index.arrays
    path = os.fsdecode(arrays.paths[number])
    rows = library.catalogue(index).rows_of(number)
    shown, video = library.shown(path), file_key(path)
    return schema.Video(
        video=video,
        name=os.path.basename(shown),
        path=shown,
        clips=len(rows),
        seconds=float(arrays.spans[rows, 1].max()),
        metadata=json.loads(arrays.metadata[int(rows[0])]),
        content=f"/api/v1/videos/{video}/content",
    )
