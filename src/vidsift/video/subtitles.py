"""Words that come with a file: subtitles beside it (.srt, .vtt, .ass) or in it, read by FFmpeg."""

from __future__ import annotations

import codecs
import html
import io
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.stream import Stream
from av.subtitles.subtitle import AssSubtitle

from vidsift.video.container import TIMEOUT, StrPath, only, open_video, say
from vidsift.video.errors import VideoError
from vidsift.video.types import Cue

# Suffix -> FFmpeg's name of the format.
SUFFIXES = {".srt": "srt", ".vtt": "webvtt", ".ass": "ass", ".ssa": "ass"}
# Days of talk take a few megabytes; what is larger is something else.
MOST_BYTES = 32 << 20
_MARKUP = re.compile(r"\{[^}]*\}|<[^>]*>")
_BREAKS = re.compile(r"\\[Nnh]")


@dataclass(frozen=True)
class Subtitles:
    """The cues that come with a video, in the order of time.

    mark: where they are from, and in which state that was (`sidecar_mark`); "inside" for the file's own
    track, "" for none.  problem: why there may be more than could be read.
    """

    cues: tuple[Cue, ...] = ()
    mark: str = ""
    problem: str = ""


class TextTrack:
    """The first track of text in a container, decoded from packets that somebody demultiplexes anyway.

    problem: why some of it could not be.  Tracks of pictures of words (DVD, Blu-ray) hold no text.
    """

    def __init__(self, container: InputContainer) -> None:
        tracks = [stream for stream in container.streams.subtitles if _is_text(stream)]
        self.stream: Stream | None = tracks[0] if tracks else None
        self.index = tracks[0].index if tracks else -1
        self.problem = ""
        self._cues: list[Cue] = []

    def take(self, packet: Any) -> None:
        """Decode a packet of this track; one that is broken is noted and passed over."""
        if packet.size == 0 or packet.pts is None or packet.time_base is None:
            return
        start = float(packet.pts * packet.time_base)
        end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        try:
            for part in packet.decode():
                if isinstance(part, AssSubtitle) and (text := plain(part.dialogue)):
                    self._cues.append(Cue(start, end, text))
        except (av.FFmpegError, OSError, ValueError) as error:
            self.problem = self.problem or f"its subtitles cannot be decoded: {say(error)}"

    def cues(self, start: float = 0.0) -> list[Cue]:
        """What was taken so far, in the order of time, on a clock that is 0 at `start` of the container's."""
        moved = [Cue(cue.start - start, cue.end - start, cue.text) for cue in self._cues]
        return sorted(moved, key=lambda cue: (cue.start, cue.end))


def _is_text(stream: Any) -> bool:
    context = getattr(stream, "codec_context", None)
    return context is not None and bool(context.codec.text_sub)


def read_subtitles(path: StrPath) -> list[Cue]:
    """The cues of a video in the order of time: of the first subtitle file beside it, else of the file's own
    first text track; none where there is neither.

    Beside `talk.mp4` may lie `talk.srt`, or with a language, `talk.en.srt`.
    Raises VideoError, naming the file, for subtitles that cannot be read.
    """
    for beside in sidecars(path):
        return _read_file(beside)
    with open_video(path) as (container, video):
        first = float((video.start_time or 0) * (video.time_base or 0))
        return _cues(path, container, first)


def subtitles_of(path: StrPath, track: TextTrack | None = None, start: float = 0.0) -> Subtitles:
    """What `read_subtitles` reads, with its mark; what cannot be read is a problem, not an error.

    track: the file's own track, if its packets have been read already, and where its video starts on the
    container's clock, seconds; without it the file is read for its track when nothing lies beside it.
    """
    mark = sidecar_mark(path)
    if not mark and track is not None:
        cues = tuple(track.cues(start))
        return Subtitles(cues, "inside" if cues else "", track.problem)
    try:
        cues = tuple(read_subtitles(path))
        return Subtitles(cues, mark or ("inside" if cues else ""))
    except VideoError as error:
        name = f"{printable_name(error.path)}: " if mark else ""
        return Subtitles((), mark, f"{name}{error.reason}")


def sidecar_mark(path: StrPath) -> str:
    """Which subtitle file counts beside a video, in which state: what its name has behind the video's, its
    size and its time stamp; "" where there is none."""
    for beside in sidecars(path):
        tail = printable_name(beside)[len(printable_name(Path(path).stem)) :]
        try:
            status = beside.stat()
        except OSError:  # a link that leads nowhere, say: reading it tells the reason
            return f"{tail} ?"
        return f"{tail} {status.st_size} {status.st_mtime_ns}"
    return ""


def printable_name(path: StrPath) -> str:
    """A file's name as text in UTF-8, other bytes escaped."""
    return os.fsencode(os.path.basename(path)).decode("utf-8", "backslashreplace")


def sidecars(path: StrPath) -> list[Path]:
    """Subtitle files beside a video, that without a language first, then by name."""
    folder, name = os.path.split(path)
    try:
        found = _listed(folder or ".", os.stat(folder or ".").st_mtime_ns)
    except OSError:  # a folder that cannot be listed shows nothing beside its files
        return []
    stem = os.path.splitext(name)[0]
    return [Path(folder, beside) for beside in found.get(stem, ())]


@lru_cache(maxsize=8)
def _listed(folder: str, changed: int) -> dict[str, tuple[str, ...]]:
    """Subtitle files of a folder by the names of videos that they may belong to; read once per change."""
    found: dict[str, list[str]] = {}
    names = os.listdir(folder)
    words = [name for name in names if name.lower().endswith(tuple(SUFFIXES))]
    others = {os.path.splitext(name)[0] for name in set(names) - set(words)} if words else set()
    for name in sorted(words, key=lambda n: (n.count("."), n)):
        stem = name.rpartition(".")[0]
        # `talk.2.srt` is of `talk.2.mp4`, where that is there, and not of `talk.mp4` in a language "2".
        owners = {stem} if stem in others else {stem, stem.rpartition(".")[0]}
        for owner in owners - {""}:
            found.setdefault(owner, []).append(name)
    return {owner: tuple(files) for owner, files in found.items()}


def _read_file(path: Path) -> list[Cue]:
    try:
        status = path.stat()
        # A pipe would be waited for.
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "is not a regular file")
        if status.st_size > MOST_BYTES:
            raise VideoError(path, f"is too large for subtitles ({status.st_size:,} bytes)")
        text = _decode(path.read_bytes())
        if not text.strip():
            return []
        stream = io.BytesIO(text.encode("utf-8"))
        with av.open(stream, "r", format=SUFFIXES[path.suffix.lower()], timeout=TIMEOUT) as container:
            cues = _cues(path, container)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(path, f"cannot be read as subtitles: {say(error)}") from error
    if not cues:
        raise VideoError(path, "holds no subtitles that can be read; mend it or move it away")
    return cues


def _decode(content: bytes) -> str:
    """Text in UTF-8 or UTF-16; what is neither is taken for the commonest of the older encodings."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


def _cues(path: StrPath, container: InputContainer, first: float = 0.0) -> list[Cue]:
    track = TextTrack(container)
    if track.stream is None:
        return []
    only(container, track.stream)
    try:
        for packet in container.demux(track.stream):
            track.take(packet)
    except av.FFmpegError as error:
        raise VideoError(path, f"its subtitles cannot be decoded: {say(error)}") from error
    if track.problem:
        raise VideoError(path, track.problem)
    return track.cues(first)


def plain(dialogue: bytes) -> str:
    """A cue's words without markup, on one line."""
    text = _MARKUP.sub(" ", _BREAKS.sub(" ", dialogue.decode("utf-8", "replace")))
    return " ".join(html.unescape(text).split())


def cues_between(cues: Sequence[Cue], start: float, end: float) -> tuple[Cue, ...]:
    """The cues between two times: those of which more than half is inside."""
    return tuple(cue for cue in cues if start <= (cue.start + cue.end) / 2 < end)


def words_between(cues: Sequence[Cue], start: float, end: float) -> str:
    """What is said between two times, a cue counting if more than half of it is inside."""
    return " ".join(cue.text for cue in cues_between(cues, start, end))
