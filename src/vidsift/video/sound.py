"""A file's audio track as a mono waveform."""

from __future__ import annotations

import logging

import av
import numpy as np
from numpy.typing import NDArray

from vidsift.video.container import StrPath, open_video, say
from vidsift.video.errors import VideoError

log = logging.getLogger(__name__)

RATE = 16_000
Waveform = NDArray[np.float32]


def read_sound(path: StrPath, start: float, end: float, rate: int = RATE) -> Waveform | None:
    """The sound from `start` to `end` seconds, mono, float32 at `rate` a second, in -1..1.

    Returns None for a file without an audio track, or whose track has nothing in that span. Damage within
    the track shortens what is returned, and is logged. Raises VideoError for a file that cannot be opened.
    """
    with open_video(path) as (container, _):
        if not container.streams.audio or end <= start:
            return None
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        pieces: list[Waveform] = []
        first: float | None = None
        try:
            if start > 0:
                container.seek(int(start * av.time_base), backward=True)
            for frame in container.decode(stream):
                if frame.time is None or frame.time >= end:
                    if frame.time is None:
                        continue
                    break
                if frame.time + frame.samples / frame.sample_rate <= start:
                    continue
                first = frame.time if first is None else first
                frame.pts = None  # the resampler would fill gaps by them
                pieces += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            pieces += [out.to_ndarray()[0] for out in resampler.resample(None)]
        except av.FFmpegError as error:
            if not pieces:
                raise VideoError(path, f"its audio track cannot be decoded: {say(error)}") from error
            log.warning("%s: its audio track breaks off: %s", path, say(error))
    if first is None or not pieces:
        return None
    sound = np.concatenate(pieces)
    skipped = round((start - first) * rate)
    # A track that begins later than the clip leaves silence before it.
    sound = sound[skipped:] if skipped >= 0 else np.concatenate([np.zeros(-skipped, np.float32), sound])
    return np.ascontiguousarray(sound[: round((end - start) * rate)], np.float32)
