"""Files to clips of model-sized frames: `read_clips` to index, `read_frames` for chosen times, `probe`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np

from vidsift.video.container import StrPath
from vidsift.video.file import VideoFile
from vidsift.video.picture import PictureMaker
from vidsift.video.reader import BrokenPacketError
from vidsift.video.sample import sample_times
from vidsift.video.segmentation import segment_file
from vidsift.video.subtitles import Subtitles
from vidsift.video.thumbnail import jpeg
from vidsift.video.types import (
    ClipFrames,
    Float64Array,
    Frames,
    Geometry,
    SegmentConfig,
    Span,
    UInt8Array,
    VideoInfo,
)


def probe(path: StrPath) -> VideoInfo:
    """Say what a video file holds. Reads all of the file, decodes its first picture. Raises VideoError."""
    with VideoFile(path) as file:
        return file.info


def read_frames(path: StrPath, times: Sequence[float], geometry: Geometry) -> Frames:
    """Read the frames on screen at `times` (seconds, any order, first frame at 0), exactly.

    That is the last frame whose timestamp is not later; the first frame for earlier times, the last for later
    ones. In a file that breaks, the mask is False for times after the break. Raises VideoError.
    """
    with VideoFile(path) as file:
        shown: dict[int, tuple[float, UInt8Array]] = {}
        maker = PictureMaker()
        wanted = np.asarray(times, np.float64)
        while True:
            inside = wanted < file.table.end if file.table.problem else np.ones(len(wanted), bool)
            rows = file.table.rows_at(wanted)
            need = [row for row in dict.fromkeys(rows[inside].tolist()) if row not in shown]
            try:
                for row, time, frame in file.frames(need):
                    shown[row] = time, maker.model(frame, file.turn, geometry)
                break
            except BrokenPacketError:
                continue
        side = geometry.size
        pixels = np.zeros((len(wanted), 3, side, side), np.uint8)
        stamps = np.zeros(len(wanted), np.float64)
        for slot in np.flatnonzero(inside):
            stamps[slot], pixels[slot] = shown[int(rows[slot])]
        return Frames(pixels, stamps, inside, file.problem)


def read_clips(
    path: StrPath,
    *,
    frames_per_clip: int,
    geometry: Geometry,
    segmentation: SegmentConfig,
    thumbnail_side: int = 320,
) -> ClipReader:
    """Open a file for reading clip by clip; raises VideoError at once when nothing can be decoded."""
    return ClipReader(
        path,
        frames_per_clip=frames_per_clip,
        geometry=geometry,
        segmentation=segmentation,
        thumbnail_side=thumbnail_side,
    )


class ClipReader:
    """The clips of one file, in order, in bounded memory; iterate once.

    `problem` says why only a part of the file could be read and what was kept; it is final after iteration,
    as is `info`. Files longer than `max_seconds` in mode "shots" are decoded twice, once to find the shots.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        frames_per_clip: int,
        geometry: Geometry,
        segmentation: SegmentConfig,
        thumbnail_side: int = 320,
    ) -> None:
        if frames_per_clip < 1:
            raise ValueError(f"frames_per_clip must be at least 1, got {frames_per_clip}")
        self._frames_per_clip = frames_per_clip
        self._geometry = geometry
        self._segmentation = segmentation
        self._thumbnail_side = thumbnail_side
        self._file = VideoFile(path)

    @property
    def info(self) -> VideoInfo:
        """What the file holds, as far as is known by now."""
        return self._file.info

    @property
    def subtitles(self) -> Subtitles:
        """The cues beside the file or in it; costs no further pass over the file."""
        return self._file.subtitles

    @property
    def problem(self) -> str | None:
        """Why the file can only be read in part, and what was kept, as far as is known by now."""
        return self._file.problem

    def close(self) -> None:
        """Close the file; iterating to the end does it as well."""
        self._file.close()

    def __iter__(self) -> Iterator[ClipFrames]:
        try:
            spans = deque(segment_file(self._file, self._segmentation))
            while spans:
                try:
                    yield from self._sweep(spans)
                except BrokenPacketError:
                    end = self._file.table.end
                    kept = [Span(span.start, min(span.end, end)) for span in spans if span.start < end]
                    spans = deque(kept)
        finally:
            self._file.close()

    def _sweep(self, spans: deque[Span]) -> Iterator[ClipFrames]:
        """Yield the clips of `spans`, taking each away, in one pass; raises BrokenPacketError at a break."""
        count, side = self._frames_per_clip, self._geometry.size
        plan = [self._file.table.rows_at(np.array(sample_times(span, count))) for span in spans]
        needed_by: dict[int, list[tuple[int, int]]] = {}
        for clip, rows in enumerate(plan):
            for slot, row in enumerate(rows.tolist()):
                needed_by.setdefault(row, []).append((clip, slot))
        waiting = [len(rows) for rows in plan]
        partly: dict[int, tuple[UInt8Array, Float64Array]] = {}
        thumbnails: dict[int, bytes] = {}
        maker = PictureMaker()
        following = 0
        for row, time, frame in self._file.frames(list(needed_by)):
            picture = maker.model(frame, self._file.turn, self._geometry)
            for clip, slot in needed_by[row]:
                if clip not in partly:
                    partly[clip] = np.empty((count, 3, side, side), np.uint8), np.empty(count, np.float64)
                partly[clip][0][slot], partly[clip][1][slot] = picture, time
                waiting[clip] -= 1
                if slot == count // 2:
                    whole = maker.whole(frame, self._file.turn, self._thumbnail_side)
                    thumbnails[clip] = jpeg(whole)
            while following < len(plan) and not waiting[following]:
                pixels, times = partly.pop(following)
                frames = Frames(pixels, times, np.ones(count, bool), self.problem)
                yield ClipFrames(spans.popleft(), frames, thumbnails.pop(following))
                following += 1
