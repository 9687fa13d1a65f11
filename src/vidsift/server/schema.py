"""The shapes of requests and answers; they make the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Channels = Literal["pictures", "words", "both"]
JobState = Literal["queued", "running", "done", "failed", "cancelled"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Filters(_Strict):
    """Only some of the clips; the answers are the best among what is left."""

    paths: list[Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]] = (
        Field(default=[], max_length=100, description="Files, folders, or patterns like `*/2024/*`.")
    )
    after: Seconds | None = None
    before: Seconds | None = None
    shortest: Seconds | None = None
    longest: Seconds | None = None
    metadata: dict[str, str] = Field(default={}, max_length=20, examples=[{"codec": "h264"}])


class SearchRequest(_Strict):
    """One question: a sentence (`query`) or a clip of the index (`like`)."""

    query: Words | None = Field(default=None, examples=["a red ball rolls past a tree"])
    like: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None, description="A clip's id: find others like it."
    )
    k: int = Field(default=20, ge=1, le=200)
    candidates: int | None = Field(
        default=None, ge=1, le=10_000, description="Clips to rerank by their frames."
    )
    group_by: Literal["video", "moment", "clip"] = Field(
        default="video",
        description="The best of each video; several moments of a video; or clips as they are stored.",
    )
    collapse: bool | None = Field(
        default=None,
        description="Tell near-duplicates with the answer they are like; not for clips unless set.",
    )
    threshold: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="Leave out lower scores; what is found by words stays.",
    )
    level: Literal["strong", "likely", "weak"] | None = Field(
        default=None, description="Leave out what is less sure than this; what is found by words stays."
    )
    channels: Channels = Field(
        default="both",
        description="What to search: pictures, words (subtitles), or both fused by reciprocal rank.",
    )
    video: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = Field(
        default=None, description="Search inside this video only."
    )
    filters: Filters = Filters()


class Moment(BaseModel):
    start: float
    end: float
    best: float


class Cue(BaseModel):
    """What is said, from `start` to `end`."""

    start: float
    end: float
    text: str


class Alike(BaseModel):
    """A near-duplicate of an answer."""

    video: str
    path: str
    start: float
    end: float


class Hit(BaseModel):
    """A clip that answers, with the moment, which may go on in the next clips; seconds of its file."""

    video: str
    name: str
    path: str = Field(description="Below the folder that was indexed.")
    clip: str
    score: float = Field(description="Of the pictures, whichever channel found the clip.")
    confidence: float | None = Field(
        description="How probable it is that this is what was asked for; null where that is not known."
    )
    level: Literal["strong", "likely", "weak", "none"] | None = Field(description="The confidence's name.")
    start: float
    end: float
    moment: Moment
    channels: list[Literal["pictures", "words"]] = Field(description="What found it.")
    cue: Cue | None = Field(description="What is said there, if words found it; the moment begins with it.")
    metadata: dict[str, Any]
    alike: list[Alike] = Field(description="Copies and other encodings of the same pictures.")
    thumbnail: str = Field(description="Where the picture is, on this service.")
    content: str = Field(description="Where the video is, on this service.")


class Partial(BaseModel):
    """Shards of the index did not answer in time: the best may be among what they hold."""

    missing: list[int] = Field(description="Their numbers, from 0.")
    shards: int = Field(description="Of how many.")
    searched: int = Field(description="Clips that were searched.")
    clips: int = Field(description="Clips in the index.")


class SearchAnswer(BaseModel):
    query: str
    hits: list[Hit]
    took_ms: dict[str, float]
    relevant: bool | None = Field(
        description="False where all hits are only the nearest of what is not there; null: not known."
    )
    clips: int = Field(description="Clips that were searched.")
    partial: Partial | None = Field(description="What was missing; null for the whole index.")


class Clip(BaseModel):
    clip: str
    start: float
    end: float
    thumbnail: str


class Video(BaseModel):
    video: str
    name: str
    path: str
    clips: int
    seconds: float
    metadata: dict[str, Any]
    content: str


class VideoDetails(Video):
    parts: list[Clip]


class VideoList(BaseModel):
    total: int
    videos: list[Video]


class Relevance(BaseModel):
    """How well the frames of a video answer a sentence: cosines, at seconds of the file."""

    times: list[float]
    relevance: list[float]


class Statistics(BaseModel):
    clips: int
    files: int
    model: str
    frames_per_clip: int
    width: int
    scan: str
    version: int
    words: bool = Field(description="Whether subtitles came with any of the videos.")
    folders: list[str]
    libraries: list[str] = Field(description="Folders whose files may be indexed.")


class JobRequest(_Strict):
    paths: list[Annotated[str, StringConstraints(min_length=1, max_length=4096)]] = Field(
        min_length=1, max_length=100, examples=[["/videos/2024"]]
    )


class Progress(BaseModel):
    stage: str = "queued"
    done: int = 0
    total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    clips: int = 0
    seconds: float = 0.0
    seconds_left: float | None = None
    path: str = ""


class Job(BaseModel):
    id: str
    paths: list[str]
    state: JobState
    created: str
    progress: Progress
    error: str = ""
    report: dict[str, Any] | None = None


class JobList(BaseModel):
    jobs: list[Job]


class Login(_Strict):
    token: Annotated[str, StringConstraints(max_length=1000)]


class Health(BaseModel):
    status: str


class ErrorAnswer(BaseModel):
    """What every refusal looks like."""

    error: str
