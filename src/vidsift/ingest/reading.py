"""One file to a stream of small events; the same whether it runs here or in a worker process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt

from vidsift.ingest.sources import fetching
from vidsift.video import Geometry, SegmentConfig, VideoError, VideoInfo, read_clips
from vidsift.video.address import is_address
from vidsift.video.subtitles import Subtitles, cues_between, subtitles_of
from vidsift.video.types import Cue


@dataclass(frozen=True)
class ReadSettings:
    """What a reader has to know of the model and the index."""

    frames_per_clip: int
    geometry: Geometry
    segmentation: SegmentConfig


@dataclass(frozen=True)
class WordsOnly:
    """In place of ReadSettings: nothing but the file's subtitles is wanted."""


@dataclass(frozen=True)
class Opened:
    """The file is a video of about this many seconds; 0 as long as it is being fetched.

    subtitles: of what its words are (`Subtitles.mark`).  subtitles_problem: why some cannot be read.
    """

    duration: float
    subtitles: str = ""
    subtitles_problem: str = ""


@dataclass(frozen=True)
class Clip:
    """One clip: seconds, pixels uint8 [F, 3, S, S], times [F], mask [F], JPEG, what is said in it."""

    start: float
    end: float
    pixels: npt.NDArray[np.uint8]
    times: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    thumbnail: bytes
    cues: tuple[Cue, ...] = ()


@dataclass(frozen=True)
class Done:
    """The file has been read, in `seconds` of work; `problem` says what of it could not be."""

    duration: float
    problem: str | None
    metadata: dict[str, Any]
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Failed:
    """Nothing (more) can be read, for this reason.

    again: it is not the file's fault, so it is tried again at the next run; no clip came before.
    """

    reason: str
    again: bool = False
    seconds: float = field(default=0.0, compare=False)


Event = Opened | Clip | Done | Failed | Subtitles


def _timed(
    read: Callable[[str, ReadSettings | WordsOnly], Iterator[Event]],
) -> Callable[[str, ReadSettings | WordsOnly], Iterator[Event]]:
    """Note in a file's last event how long was worked on it, without the time that nobody asked for more."""

    @wraps(read)
    def timed(path: str, settings: ReadSettings | WordsOnly) -> Iterator[Event]:
        events, spent = read(path, settings), 0.0
        while True:
            began = time.perf_counter()
            event = next(events, None)
            spent += time.perf_counter() - began
            if event is None:
                return
            yield replace(event, seconds=spent) if isinstance(event, Done | Failed) else event

    return timed


@_timed
def read_file(path: str, settings: ReadSettings | WordsOnly) -> Iterator[Event]:
    """Yield Opened, then clips, then Done; or Failed at any point, which ends it. Never raises.

    With WordsOnly: Subtitles, then Done. A file at an address is fetched first; meanwhile Opened says again
    and again that this goes on.
    """
    if not is_address(path):
        yield from _read(path, settings)
        return
    try:
        with fetching(path) as (local, arriving):
            for _ in arriving:
                yield Opened(0.0)
            yield from _read(local, settings)
    except Exception as error:  # noqa: BLE001 - whatever one file does to the reader, the run goes on
        yield Failed(f"cannot be fetched: {getattr(error, 'strerror', None) or error}", again=True)


def _read(path: str, settings: ReadSettings | WordsOnly) -> Iterator[Event]:
    try:
        if isinstance(settings, WordsOnly):
            yield subtitles_of(path)
            yield Done(0.0, None, {})
            return
        reader = read_clips(
            path,
            frames_per_clip=settings.frames_per_clip,
            geometry=settings.geometry,
            segmentation=settings.segmentation,
        )
        words = reader.subtitles
        yield Opened(reader.info.duration, words.mark, words.problem)
        for clip in reader:
            frames, span = clip.frames, clip.span
            said = cues_between(words.cues, span.start, span.end)
            yield Clip(span.start, span.end, frames.pixels, frames.times, frames.mask, clip.thumbnail, said)
        yield Done(reader.info.duration, reader.problem, _facts(reader.info))
    except VideoError as error:
        yield Failed(error.reason)
    except Exception as error:  # noqa: BLE001 - whatever one file does to the reader, the run goes on
        yield Failed(f"the reader broke: {type(error).__name__}: {error}")


def _facts(info: VideoInfo) -> dict[str, Any]:
    return {
        "width": info.width,
        "height": info.height,
        "fps": round(info.fps, 3) if math.isfinite(info.fps) else 0.0,
        "codec": info.codec,
        "audio_streams": info.audio_streams,
        "subtitle_streams": info.subtitle_streams,
    }
