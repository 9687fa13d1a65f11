"""The plain values of the index: what is stored for a clip and what a search returns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vidsift.errors import QueryError
from vidsift.index.confidence import LEVELS, Level
from vidsift.video.types import Cue

FileStatus = Literal["ok", "partial", "failed"]
Channel = Literal["pictures", "words"]
ScanKind = Literal["exact", "compressed", "ivf"]
ScanSetting = Literal["auto", "exact", "compressed", "ivf"]
Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClipVectors:
    """What the model says about one clip, as the index keeps it.

    coarse: [D] float32 unit norm.  frames: [F, D] int8, real frames first, zero rows behind them.
    scales: [F] float32, one per frame, so that ``frames[f] * scales[f]`` restores the vector.
    times: [F] float64 seconds on the file's clock (zero behind the real frames).  count: real frames.
    """

    coarse: Floats
    frames: npt.NDArray[np.int8]
    scales: Floats
    times: npt.NDArray[np.float64]
    count: int


@dataclass(frozen=True)
class ClipRecord:
    """One clip of a file on its way into the store; start and end in seconds of the file.

    parts: what the model's method needs of a clip beside its vectors (`vidsift.index.reranking`).
    cues: what is said in it.
    """

    clip_id: str
    start: float
    end: float
    vectors: ClipVectors
    thumbnail: bytes
    metadata: dict[str, Any]
    parts: bytes = b""
    cues: tuple[Cue, ...] = ()


@dataclass(frozen=True)
class FileRecord:
    """One file as the store knows it; `fingerprint` is empty when the file could not be read at all.

    A failed file has a record (so that it is not tried again until it changes) and no clips.
    subtitles: of what the words of its clips are (`vidsift.video.subtitles.Subtitles.mark`); None where
    nobody has looked.  subtitles_error: why some of them could not be read.
    """

    path: str
    fingerprint: str
    size: int
    mtime_ns: int
    duration: float
    status: FileStatus
    error: str
    clips: int
    subtitles: str | None = None
    subtitles_error: str = ""

    @property
    def problem(self) -> str:
        """All that is wrong with the file; empty when nothing is."""
        return "; ".join(part for part in (self.error, self.subtitles_error) if part)


@dataclass(frozen=True)
class Moment:
    """The best-matching interval of a clip: start, end and the time of the best frame, in file seconds."""

    start: float
    end: float
    best: float

    def to_dict(self) -> dict[str, float]:
        return {"start": self.start, "end": self.end, "best": self.best}


@dataclass(frozen=True)
class Place:
    """A clip of a file: path as in `Hit`, seconds."""

    path: str
    start: float
    end: float

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "start": self.start, "end": self.end}


def _no_thumbnail(clip_id: str) -> bytes:
    raise LookupError(f"no store to read the thumbnail of clip {clip_id} from")


@dataclass(frozen=True)
class Hit:
    """One answer: the file, the clip in it (`start`, `end` in seconds) and the moment inside the clip.

    `path` is absolute; bytes of a file name that are not UTF-8 are kept as surrogates (os.fsdecode), so
    the path opens the file. `thumbnail` is read from the store on first use. The moment may go on in the
    next clips. `alike`: near-duplicates of the clip, such as copies and other encodings of the same pictures.
    `channels`: what found it, "pictures", "words" or both. `cue`: what is said, if words found it; the moment
    is then there. `score` is that of the pictures, whatever found the clip, and so is `confidence`: the
    probability that this is what was asked for, and `level`, its name ("strong", "likely", "weak", or "none":
    nothing relevant); None for a query that is not one sentence, and in an index that no `vidsift index` has
    calibrated.
    """

    path: str
    score: float
    start: float
    end: float
    moment: Moment
    metadata: dict[str, Any]
    clip_id: str
    confidence: float | None = None
    level: Level | None = None
    alike: tuple[Place, ...] = ()
    load_thumbnail: Callable[[str], bytes] = field(default=_no_thumbnail, repr=False, compare=False)
    channels: tuple[Channel, ...] = ("pictures",)
    cue: Cue | None = None

    @property
    def thumbnail(self) -> bytes:
        """The clip's middle frame as JPEG bytes."""
        return self.load_thumbnail(self.clip_id)

    def to_dict(self) -> dict[str, Any]:
        """The hit in the shape of `search --json`."""
        return {
            "path": self.path,
            "score": self.score,
            "start": self.start,
            "end": self.end,
            "moment": self.moment.to_dict(),
            "channels": list(self.channels),
            "cue": None if self.cue is None else asdict(self.cue),
            "metadata": self.metadata,
            "confidence": self.confidence,
            "level": self.level,
            "alike": [place.to_dict() for place in self.alike],
        }


@dataclass(frozen=True)
class Partial:
    """What a search over shards went without: the numbers of those that did not answer, of how many; and how
    many clips were searched, of how many."""

    missing: tuple[int, ...]
    shards: int
    searched: int
    clips: int

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "missing": list(self.missing)}


@dataclass(frozen=True)
class SearchResult:
    """The hits, best first, and where the time went (milliseconds: encode, recall, rerank, and words where
    they were looked through).

    partial: None for an answer out of the whole index.
    """

    query: str
    hits: list[Hit]
    took_ms: dict[str, float]
    partial: Partial | None = None

    @property
    def relevant(self) -> bool | None:
        """Whether any hit is more than the nearest of what is not there; None where that is not known."""
        levels = [hit.level for hit in self.hits]
        if None in levels or not levels:
            return None
        found = any(hit.level != "none" or "words" in hit.channels for hit in self.hits)
        return found or (None if self.partial else False)

    def sure_enough(self, least: Level) -> list[Hit]:
        """The hits of a level and of those above; and what words found, which is said however it looks.

        Raises QueryError where levels are not known.
        """
        if any(hit.level is None for hit in self.hits):
            raise QueryError(
                "level: how sure the answers are is not known; ask with one sentence, of an index that "
                "`vidsift index` has brought up to date"
            )
        enough = LEVELS[: LEVELS.index(least) + 1]
        return [hit for hit in self.hits if hit.level in enough or "words" in hit.channels]

    def to_dict(self) -> dict[str, Any]:
        """The result in the shape of `search --json`; it has `partial` only where something is missing."""
        missing = {} if self.partial is None else {"partial": self.partial.to_dict()}
        hits = [hit.to_dict() for hit in self.hits]
        known = {"query": self.query, "took_ms": self.took_ms, "relevant": self.relevant}
        return {**known, **missing, "hits": hits}


def file_key(path: str) -> str:
    """The key of a file: a hash of the path's bytes, so that any name is a safe key (32 hex digits)."""
    return hashlib.blake2b(os.fsencode(path), digest_size=16).hexdigest()


def quantise(
    coarse: Floats, frames: Floats, mask: npt.NDArray[np.bool_], times: npt.NDArray[np.float64]
) -> ClipVectors:
    """Turn a clip's vectors into what is stored: int8 frames with one scale each, real frames first.

    coarse: [D].  frames: [F, D].  mask: [F] bool, True on real frames.  times: [F] seconds.
    """
    count = int(mask.sum())
    real = frames[mask].astype(np.float32)
    scales = np.zeros(len(mask), dtype=np.float32)
    quantised = np.zeros(frames.shape, dtype=np.int8)
    kept_times = np.zeros(len(mask), dtype=np.float64)
    if count:
        peaks = np.abs(real).max(axis=1)
        scales[:count] = peaks / 127
        safe = np.where(peaks > 0, scales[:count], 1)
        quantised[:count] = np.rint(real / safe[:, None]).astype(np.int8)
        kept_times[:count] = times[mask]
    return ClipVectors(coarse.astype(np.float32), quantised, scales, kept_times, count)


def is_under(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it; both absolute and normalised."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
