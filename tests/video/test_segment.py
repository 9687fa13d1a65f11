"""Long files are cut at their shots, within limits, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.video import Geometry, SegmentConfig, Span, probe, read_clips, sample_times, segment
from vidsift.video.segmentation import spans_from_cuts

SIZE = (96, 54)


def scene(seed: int, frames: int, pan: int) -> Iterator[np.ndarray]:
    """A textured scene in its own colours that pans by `pan` pixels a frame, with an object crossing it."""
    rng = np.random.default_rng(seed)
    width, height = SIZE
    blocks = rng.integers(0, 90, (height // 6 + 1, width // 3, 3)) + rng.integers(0, 160, 3)
    wall = blocks.repeat(6, 0).repeat(6, 1)[:height]
    colour = rng.integers(0, 256, 3)
    for number in range(frames):
        picture = np.roll(wall, -pan * number, axis=1)[:, :width].copy()
        x = number * 2 % (width - 16)
        picture[20:36, x : x + 16] = colour
        yield np.clip(picture, 0, 255).astype(np.uint8)


def film(lengths: list[int], seed: int) -> Iterator[np.ndarray]:
    """Scenes of `lengths` frames, some still, some panning, one after the other."""
    for number, length in enumerate(lengths):
        yield from scene(seed * 100 + number, length, pan=number % 3)


def matched(found: list[float], real: list[float], within: float) -> int:
    """How many of `found` lie within `within` seconds after a real cut, each used once."""
    left = list(real)
    hits = 0
    for time in found:
        near = [cut for cut in left if -1e-6 <= time - cut <= within]
        if near:
            left.remove(near[0])
            hits += 1
    return hits


def test_hard_cuts_are_found_and_pans_are_not_taken_for_cuts(tools: Any, tmp_path: Path) -> None:
    config = SegmentConfig("shots", min_seconds=0.5, max_seconds=20)
    found_all = real_all = hits = 0
    for seed in range(3):
        rng = np.random.default_rng(seed)
        lengths = rng.integers(20, 90, 14).tolist()
        path = tools.make_video(
            tmp_path / f"{seed}.mp4", frames=film(lengths, seed), fps=20, gop=250, options={"bf": "3"}
        )
        real = (np.cumsum(lengths)[:-1] / 20).tolist()
        found = [span.start for span in segment(path, config)][1:]
        found_all, real_all, hits = (
            found_all + len(found),
            real_all + len(real),
            hits + matched(found, real, 0.3),
        )
    assert hits / real_all >= 0.95, "recall"
    assert hits / found_all >= 0.95, "precision"


@pytest.mark.parametrize("mode", ["shots", "windows", "whole"])
def test_a_file_within_the_limit_is_one_clip(mode: Any, tools: Any, tmp_path: Path) -> None:
    path = tools.make_video(tmp_path / "s.mp4", frames=film([20, 20, 20], 1), fps=20)
    assert segment(path, SegmentConfig(mode, 0.5, 3.0)) == [Span(0.0, 3.0)]


@given(
    cuts=st.lists(st.floats(0.01, 500), max_size=40, unique=True).map(sorted),
    duration=st.floats(0.05, 600),
    least=st.floats(0.1, 30),
    factor=st.floats(2, 50),
)
def test_spans_cover_the_film_without_gaps_and_keep_the_limits(
    cuts: list[float], duration: float, least: float, factor: float
) -> None:
    config = SegmentConfig("shots", least, least * factor)
    spans = spans_from_cuts([cut for cut in cuts if cut < duration], duration, config)
    assert spans[0].start == 0
    assert spans[-1].end == duration
    assert all(a.end == b.start for a, b in pairwise(spans))
    assert all(span.length <= config.max_seconds * (1 + 1e-6) for span in spans)
    if duration > least:
        assert all(span.length >= least * (1 - 1e-6) for span in spans)


def test_windows_are_equal_and_whole_is_whole(tools: Any, tmp_path: Path) -> None:
    path = tools.make_video(tmp_path / "s.mp4", frames=film([100], 1), fps=20)
    assert segment(path, SegmentConfig("windows", 0.5, 2.0)) == [
        Span(0.0, 5 / 3),
        Span(5 / 3, 10 / 3),
        Span(10 / 3, 5.0),
    ]
    assert segment(probe(path), SegmentConfig("whole", 0.5, 2.0)) == [Span(0.0, 5.0)]


def test_every_clip_of_a_long_film_has_the_exact_frames(tools: Any, tmp_path: Path) -> None:
    geometry = Geometry(32)
    path = tools.make_video(
        tmp_path / "l.mp4", frames=film([60, 45, 70, 35], 5), fps=20, gop=40, options={"bf": "3"}
    )
    reference = tools.Reference(path, geometry)
    config = SegmentConfig("shots", min_seconds=0.5, max_seconds=2.5)
    clips = list(read_clips(path, frames_per_clip=5, geometry=geometry, segmentation=config))
    assert [clip.span for clip in clips] == segment(path, config)
    assert len(clips) >= 5
    for clip in clips:
        for slot, time in enumerate(sample_times(clip.span, 5)):
            stamp, pixels = reference.at(time)
            assert clip.frames.times[slot] == stamp
            assert np.array_equal(clip.frames.pixels[slot], pixels)


def test_memory_stays_bounded_for_a_film_of_an_hour(tools: Any, tmp_path: Path) -> None:
    def hour() -> Iterator[np.ndarray]:
        for number in range(360):
            yield from [np.full((54, 96, 3), number * 37 % 256, np.uint8)] * 10

    path = tools.make_video(tmp_path / "hour.mkv", frames=hour(), fps=1, gop=30)
    geometry = Geometry(224)
    one_clip = 12 * 3 * 224 * 224
    tracemalloc.start()
    try:
        reader = read_clips(path, frames_per_clip=12, geometry=geometry, segmentation=SegmentConfig())
        count, last = 0, 0.0
        for clip in reader:
            assert clip.span.start == last
            assert clip.span.length <= 60
            count, last = count + 1, clip.span.end
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert last == pytest.approx(3600, abs=1)
    assert count >= 60
    assert peak < 6 * one_clip, f"{peak / one_clip:.1f} clips' worth of memory for {count} clips"


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"mode": "scenes"}, {"min_seconds": 0.0}, {"min_seconds": 61.0}):
        with pytest.raises(ValueError, match="SegmentConfig"):
            SegmentConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Geometry"):
        Geometry(0)
