"""Video files to frames: probe, exact and fast sampling, segmentation, thumbnails."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vidsift.video.errors import VideoError
from vidsift.video.sample import sample_times
from vidsift.video.types import ClipFrames, Frames, Geometry, SegmentConfig, Span, VideoInfo

if TYPE_CHECKING:
    from vidsift.video.clips import ClipReader, probe, read_clips, read_frames
    from vidsift.video.segmentation import segment

__all__ = [
    "ClipFrames",
    "ClipReader",
    "Frames",
    "Geometry",
    "SegmentConfig",
    "Span",
    "VideoError",
    "VideoInfo",
    "probe",
    "read_clips",
    "read_frames",
    "sample_times",
    "segment",
]


def __getattr__(name: str) -> Any:
    """Load FFmpeg only when something that reads files is asked for: plain values are cheap to import."""
    if name in ("ClipReader", "probe", "read_clips", "read_frames"):
        return getattr(import_module("vidsift.video.clips"), name)
    if name == "segment":
        return import_module("vidsift.video.segmentation").segment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
