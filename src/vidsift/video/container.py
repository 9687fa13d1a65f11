"""Opening a file safely: what is not a readable video file becomes a VideoError, soon, never a hang."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import av
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from vidsift.video.errors import VideoError

StrPath = str | os.PathLike[str]

# Wall-clock limits of the demuxer for opening and for one read, seconds: generous for a slow disk, finite for
# a file that was made to keep a parser busy.
TIMEOUT = (30.0, 60.0)
# Demuxers that find "video" in text and in still pictures; "image2" and "*_pipe" are stills as well.
NOT_VIDEO = frozenset({"tty", "image2", "image2pipe", "bin", "xbin", "adf", "idf", "lavfi", "concat", "hls"})


def check_file(path: StrPath) -> int:
    """Return the size in bytes of a readable, non-empty regular file; raise VideoError for all else."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise VideoError(path, "is a directory")
        # Opening a FIFO or a device could block for ever, so they are refused before they are opened.
        if not stat.S_ISREG(status.st_mode):
            raise VideoError(path, "is not a regular file")
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        raise VideoError(path, getattr(error, "strerror", None) or str(error)) from error
    if status.st_size == 0:
        raise VideoError(path, "is empty (0 bytes)")
    return status.st_size


def say(error: Exception) -> str:
    """The human part of an FFmpeg or system error."""
    return str(getattr(error, "strerror", None) or error)


@contextmanager
def open_video(path: StrPath) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the file and choose its video stream; cover pictures and timed thumbnails are not video.

    Only the file itself may be read (no playlist, no network). Raises VideoError.
    """
    check_file(path)
    name = os.fsencode(os.path.abspath(path))
    handle = None
    try:
        try:
            # "file:" keeps names such as "a:b.mp4" or "-x.mp4" from being taken for something else.
            target = "file:" + name.decode("utf-8")
            container = av.open(
                target,
                "r",
                metadata_errors="replace",
                options={"protocol_whitelist": "file"},
                timeout=TIMEOUT,
            )
        except UnicodeDecodeError:
            handle = open(path, "rb")  # noqa: SIM115 - closed below, after the container
            container = av.open(handle, "r", metadata_errors="replace", timeout=TIMEOUT)
    except (av.FFmpegError, OSError, ValueError, UnicodeError) as error:
        if handle is not None:
            handle.close()
        raise VideoError(path, f"cannot be opened as a video: {say(error)}") from error
    try:
        yield container, _choose(path, container)
    finally:
        container.close()
        if handle is not None:
            handle.close()


def _choose(path: StrPath, container: InputContainer) -> VideoStream:
    names = set(container.format.name.split(","))
    if names & NOT_VIDEO or any(name.endswith("_pipe") for name in names):
        raise VideoError(path, f"is not a video (recognised as {container.format.name})")
    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    streams = [s for s in container.streams.video if not s.disposition & still]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams} - {"video"})) or "nothing"
        pictures = " and a cover picture" if container.streams.video else ""
        raise VideoError(path, f"has no video stream, only {kinds}{pictures}")
    streams.sort(key=lambda s: not s.disposition & Disposition.default)
    stream = streams[0]
    if getattr(stream, "codec_context", None) is None:
        raise VideoError(path, "its video codec is unknown to the decoder library")
    return stream


def only(container: InputContainer, stream: Stream) -> None:
    """Let the demuxer throw away all other streams."""
    for other in container.streams:
        other.discard = Discard.default if other.index == stream.index else Discard.all
