"""A file's clips: one for a short file; a long one is cut at shots, or in equal windows, or not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from vidsift.video.container import StrPath
from vidsift.video.file import VideoFile
from vidsift.video.reader import Source
from vidsift.video.shots import find_cuts
from vidsift.video.types import SegmentConfig, Span, VideoInfo


def segment(path_or_info: StrPath | VideoInfo, config: SegmentConfig) -> list[Span]:
    """Return the file's clips: ascending, without gaps, together the whole readable duration.

    Only files longer than `config.max_seconds` are decoded for it, and only in mode "shots". Raises
    VideoError.
    """
    path = path_or_info.path if isinstance(path_or_info, VideoInfo) else path_or_info
    with VideoFile(path) as file:
        return segment_file(file, config)


def segment_file(file: VideoFile, config: SegmentConfig) -> list[Span]:
    """Like `segment`, over an open file."""
    duration = file.table.end
    if config.mode == "whole" or duration <= config.max_seconds:
        return [Span(0.0, duration)]
    cuts: list[float] = []
    if config.mode == "shots":
        # Shots need no exact pixels: without the deblocking filter this pass costs about a tenth less.
        with Source(file.path, file.table, strict=False, options={"skip_loop_filter": "all"}) as source:
            cuts = find_cuts(source)
    return spans_from_cuts(cuts, duration, config)


def spans_from_cuts(cuts: Sequence[float], duration: float, config: SegmentConfig) -> list[Span]:
    """Join what is shorter than `min_seconds` to a neighbour, cut what is longer than `max_seconds`.

    No span is longer than `max_seconds`; equal parts of a long shot may fall below `min_seconds` when the two
    limits are closer than a factor of two.
    """
    edges = [0.0]
    for cut in cuts:
        if cut - edges[-1] >= config.min_seconds and duration - cut >= config.min_seconds:
            edges.append(cut)
    edges.append(duration)
    spans: list[Span] = []
    for start, end in pairwise(edges):
        # The tolerance keeps 120 s / 60 s at two parts when the duration carries a rounding error.
        parts = max(1, math.ceil((end - start) / config.max_seconds - 1e-9))
        inner = [start + (end - start) * i / parts for i in range(parts)] + [end]
        spans += [Span(a, b) for a, b in pairwise(inner)]
    return spans
