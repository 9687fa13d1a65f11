"""A typed client of the service, for Python programs.

with Client("http://127.0.0.1:8765") as client:
    for hit in client.search("a red ball rolls past a tree").hits:
        print(hit.path, hit.moment.start)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel

from vidsift.errors import VidsiftError
from vidsift.server import schema

Model = TypeVar("Model", bound=BaseModel)


class ClientError(VidsiftError):
    """The service refused, or did not answer.  status: of HTTP; 0 when there was no answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One connection pool to one service. Every refusal is raised as ClientError with the service's words."""

    def __init__(
        self, url: str = "http://127.0.0.1:8765", token: str | None = None, timeout: float = 60
    ) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=f"{url.rstrip('/')}/api/v1", headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def search(self, query: str | None = None, **asked: Any) -> schema.SearchAnswer:
        """Ask with a sentence, or `like=` a clip; the other fields are those of `schema.SearchRequest`."""
        body = schema.SearchRequest(query=query, **asked).model_dump(mode="json", exclude_none=True)
        return self._model(schema.SearchAnswer, "POST", "/search", json=body)

    def search_image(self, picture: bytes | str | os.PathLike[str], k: int = 20) -> schema.SearchAnswer:
        """Ask with a picture: a file, or its bytes."""
        content = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        return self._model(schema.SearchAnswer, "POST", "/search/image", params={"k": k}, content=content)

    def videos(self, page: int = 200) -> Iterator[schema.Video]:
        """All videos that can be found."""
        offset = 0
        while True:
            params = {"offset": offset, "limit": page}
            found = self._model(schema.VideoList, "GET", "/videos", params=params)
            yield from found.videos
            offset += page
            if offset >= found.total:
                return

    def video(self, video: str) -> schema.VideoDetails:
        """One video and its clips."""
        return self._model(schema.VideoDetails, "GET", f"/videos/{video}")

    def forget(self, video: str) -> None:
        """Take a video out of the index; the file stays."""
        self._ask("DELETE", f"/videos/{video}")

    def relevance(self, video: str, query: str) -> schema.Relevance:
        """How well each frame of a video answers a sentence."""
        return self._model(schema.Relevance, "GET", f"/videos/{video}/relevance", params={"q": query})

    def thumbnail(self, clip: str) -> bytes:
        """A clip's JPEG."""
        return self._ask("GET", f"/clips/{clip}/thumbnail").content

    def statistics(self) -> schema.Statistics:
        """What the index holds."""
        return self._model(schema.Statistics, "GET", "/stats")

    def index(self, *paths: str | os.PathLike[str]) -> schema.Job:
        """Start indexing paths of the service's machine."""
        body = {"paths": [os.fspath(path) for path in paths]}
        return self._model(schema.Job, "POST", "/jobs", json=body)

    def job(self, job: str) -> schema.Job:
        """A job as it is now."""
        return self._model(schema.Job, "GET", f"/jobs/{job}")

    def jobs(self) -> list[schema.Job]:
        """All jobs, the newest first."""
        return self._model(schema.JobList, "GET", "/jobs").jobs

    def cancel(self, job: str) -> schema.Job:
        """Cancel a job; what was finished stays."""
        return self._model(schema.Job, "DELETE", f"/jobs/{job}")

    def watch(self, job: str) -> Iterator[schema.Job]:
        """The job as it changes, until it is finished."""
        try:
            with self._http.stream("GET", f"/jobs/{job}/events", timeout=None) as events:
                if events.is_error:
                    events.read()
                    raise _refusal(events)
                for line in events.iter_lines():
                    if line.startswith("data: "):
                        yield schema.Job.model_validate_json(line[6:])
        except httpx.HTTPError as error:
            raise ClientError(0, f"{self._http.base_url}: {error}") from error

    def _model(self, model: type[Model], method: str, path: str, **options: Any) -> Model:
        return model.model_validate_json(self._ask(method, path, **options).content)

    def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ClientError(0, f"{self._http.base_url}: {error}") from error
        if answer.is_error:
            raise _refusal(answer)
        return answer


def _refusal(answer: httpx.Response) -> ClientError:
    try:
        said = str(json.loads(answer.content)["error"])
    except (ValueError, KeyError, TypeError):
        said = f"the service answered {answer.status_code}"
    return ClientError(answer.status_code, said)
