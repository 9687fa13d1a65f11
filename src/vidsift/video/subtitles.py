"""Words that come with a file: subtitles beside it (.srt, .vtt, .ass) or in it, read by FFmpeg."""

from __future__ import annotations

import codecs
import html
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
from av.container import InputContainer
from av.subtitles.subtitle import AssSubtitle

from vidsift.video.container import TIMEOUT, StrPath, open_video, say
from vidsift.video.errors import VideoError

# Suffix -> FFmpeg's name of the format.
SUFFIXES = {".srt": "srt", ".vtt": "webvtt", ".ass": "ass", ".ssa": "ass"}
_MARKUP = re.compile(r"\{[^}]*\}|<[^>]*>")
_BREAKS = re.compile(r"\\[Nnh]")


@dataclass(frozen=True)
class Cue:
    """What is shown from `start` to `end` seconds."""

    start: float
    end: float
    text: str


def read_subtitles(path: StrPath) -> list[Cue]:
    """The cues of a video in the order of time: of the first subtitle file beside it, else of the file's own
    first text track; none where there is neither.

    Beside `talk.mp4` may lie `talk.srt`, or with a language, `talk.en.srt`.
    Raises VideoError, naming the file, for subtitles that cannot be read.
    """
    for beside in sidecars(path):
        return _read_file(beside)
    with open_video(path) as (container, _):
        return _cues(path, container)


def sidecars(path: StrPath) -> list[Path]:
    """Subtitle files beside a video, that without a language first, then by name."""
    video = Path(path)
    folder = video.parent
    found = _listed(folder, folder.stat().st_mtime_ns if folder.is_dir() else 0).get(video.stem, ())
    return [folder / name for name in found]


@lru_cache(maxsize=8)
def _listed(folder: Path, changed: int) -> dict[str, tuple[str, ...]]:
    """Subtitle files of a folder by the names of videos that they may belong to; read once per change."""
    found: dict[str, list[str]] = {}
    names = os.listdir(folder) if changed else []
    for name in sorted(names, key=lambda n: (n.count("."), n)):
        if name.lower().endswith(tuple(SUFFIXES)):
            stem = name.rpartition(".")[0]
            for owner in {stem, stem.rpartition(".")[0]} - {""}:
                found.setdefault(owner, []).append(name)
    return {owner: tuple(files) for owner, files in found.items()}


def _read_file(path: Path) -> list[Cue]:
    try:
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


def _cues(path: StrPath, container: InputContainer) -> list[Cue]:
    if not container.streams.subtitles:
        return []
    found = list(_decoded(path, container))
    return sorted(found, key=lambda cue: (cue.start, cue.end))


def _decoded(path: StrPath, container: InputContainer) -> Iterator[Cue]:
    try:
        for packet in container.demux(container.streams.subtitles[0]):
            if packet.pts is None or packet.time_base is None:
                continue
            start = float(packet.pts * packet.time_base)
            length = float((packet.duration or 0) * packet.time_base)
            for part in packet.decode():
                # Pictures of words (DVD, Blu-ray) hold no text.
                if isinstance(part, AssSubtitle) and (text := plain(part.dialogue)):
                    yield Cue(start, start + length, text)
    except av.FFmpegError as error:
        raise VideoError(path, f"its subtitles cannot be decoded: {say(error)}") from error


def plain(dialogue: bytes) -> str:
    """A cue's words without markup, on one line."""
    text = _MARKUP.sub(" ", _BREAKS.sub(" ", dialogue.decode("utf-8", "replace")))
    return " ".join(html.unescape(text).split())


def words_between(cues: list[Cue], start: float, end: float) -> str:
    """What is said between two times, a cue counting if more than half of it is inside."""
    inside = [c.text for c in cues if start <= (c.start + c.end) / 2 < end]
    return " ".join(inside)
