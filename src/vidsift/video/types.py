"""The plain values that the video package takes and returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Float64Array = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class VideoInfo:
    """What one file holds. `duration` is what can be read; `claimed_duration` what its headers promise.

    duration: seconds from the first frame's start to the last frame's end. start_time: seconds, the
    timestamp that the container gives the first frame (0 on our clock). width, height: pixels as displayed,
    after rotation and with the pixel aspect applied. rotation: degrees clockwise (0, 90, 180, 270) that the
    decoded picture must be turned; `mirrored` says that it is flipped left to right before that turn.
    sample_aspect: pixel width / pixel height before rotation. problem: why only a part of the file can be
    read and what that part is, as far as could be told without decoding it all; None when nothing was found.
    """

    path: Path
    duration: float
    start_time: float
    fps: float
    frames: int
    width: int
    height: int
    codec: str
    pix_fmt: str
    container: str
    rotation: int
    mirrored: bool
    sample_aspect: float
    audio_streams: int
    subtitle_streams: int
    claimed_duration: float | None
    problem: str | None


@dataclass(frozen=True)
class Geometry:
    """The square picture a model wants.

    "crop": the shorter side becomes `size`, then the centre is cut out. "squash": both sides become `size`.
    """

    size: int
    mode: Literal["crop", "squash"] = "crop"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Geometry.size must be at least 1, got {self.size}")
        if self.mode not in ("crop", "squash"):
            raise ValueError(f"Geometry.mode must be 'crop' or 'squash', got {self.mode!r}")


@dataclass(frozen=True)
class Span:
    """Seconds [start, end) on the file's presentation clock, whose first frame is at 0."""

    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds from start to end."""
        return self.end - self.start


@dataclass(frozen=True)
class SegmentConfig:
    """How long files are cut into clips; a file no longer than `max_seconds` is always one clip.

    "shots": at shot boundaries, shots shorter than `min_seconds` joined to a neighbour, longer than
    `max_seconds` cut in equal parts. "windows": equal parts no longer than `max_seconds`. "whole": never cut.
    """

    mode: Literal["shots", "windows", "whole"] = "shots"
    min_seconds: float = 3.0
    max_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.mode not in ("shots", "windows", "whole"):
            raise ValueError(f"SegmentConfig.mode must be 'shots', 'windows' or 'whole', got {self.mode!r}")
        if not 0 < self.min_seconds <= self.max_seconds:
            raise ValueError(
                "SegmentConfig needs 0 < min_seconds <= max_seconds, "
                f"got {self.min_seconds} and {self.max_seconds}"
            )


@dataclass(frozen=True)
class Cue:
    """What is said (or shown as words) from `start` to `end` seconds, on one line."""

    start: float
    end: float
    text: str


@dataclass(frozen=True)
class Frames:
    """Sampled pictures: pixels uint8 [F, 3, S, S] RGB, times float64 [F], mask bool [F].

    times are the timestamps of the frames shown, not the times asked for. Where the mask is False (no frame
    could be read) pixels and time are 0. problem: why the file could only be read in part, or None.
    """

    pixels: UInt8Array
    times: Float64Array
    mask: BoolArray
    problem: str | None


@dataclass(frozen=True)
class ClipFrames:
    """One clip of a file: where it lies, its sampled frames, and a JPEG of the middle one, uncropped."""

    span: Span
    frames: Frames
    thumbnail: bytes
