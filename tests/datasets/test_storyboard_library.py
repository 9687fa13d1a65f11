"""Storyboard videos as files: what is on disk is what was rendered."""

import json
from pathlib import Path

import av
import numpy as np
import pytest

from vidsift.datasets.storyboard.library import CAPTIONS_FILE, SHEET_FILE, write_library
from vidsift.datasets.storyboard.render import render_at, render_frames
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.datasets.storyboard.world import FPS, SECONDS
from vidsift.errors import DataError
from vidsift.video import Geometry, Span, read_frames, sample_times


def test_the_files_hold_the_videos_and_captions_that_were_drawn(tmp_path: Path) -> None:
    story = draw_set(1, 2)
    paths = write_library(story, tmp_path)
    assert [path.name for path in paths] == ["story-00000.mp4", "story-00001.mp4"]
    for path, video in zip(paths, story.videos, strict=True):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(shown) == SECONDS * FPS
        for number in (0, 17, 59):
            picture = shown[number][2::4, 2::4].astype(int)
            assert np.abs(picture - render_at(video, number)).mean() < 6
    lines = [json.loads(line) for line in (tmp_path / CAPTIONS_FILE).read_text().splitlines()]
    assert len(lines) == 10
    assert set(lines[0]) == {"video", "text", "start", "end", "kind"}
    assert lines[7]["text"] == story.captions[7].text
    assert lines[7]["video"] == "story-00001.mp4"
    assert {line["kind"] for line in lines} <= {"scene", "pair", "whole"}
    assert (tmp_path / SHEET_FILE).read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob("*.part"))


def test_the_reader_gives_a_model_the_frames_that_it_was_trained_on(tmp_path: Path) -> None:
    story = draw_set(2, 1)
    path = write_library(story, tmp_path)[0]
    frames = read_frames(path, sample_times(Span(0.0, SECONDS), 12), Geometry(64))
    rendered = render_frames(story.videos[0])
    assert np.abs(frames.pixels.astype(int) - rendered).mean() < 6
    for got, want in zip(frames.pixels.astype(int), rendered, strict=True):
        nearest = min(range(12), key=lambda k: np.abs(got - rendered[k]).mean())
        assert np.abs(got - want).mean() <= np.abs(got - rendered[nearest]).mean() + 0.5


def test_rendering_again_gives_the_same_bytes(tmp_path: Path) -> None:
    story = draw_set(4, 1)
    first, second = (write_library(story, tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_smaller_library_is_not_written_over_a_larger_one(tmp_path: Path) -> None:
    write_library(draw_set(1, 2), tmp_path)
    with pytest.raises(DataError, match=r"story-00001\.mp4"):
        write_library(draw_set(2, 1), tmp_path)
