"""Subtitles beside a file come first, in any usual encoding and format; broken ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidsift.datasets.storyboard.library import write_video
from vidsift.datasets.storyboard.splits import load_split
from vidsift.video import VideoError
from vidsift.video.subtitles import Cue, read_subtitles, sidecars, words_between

SRT = "1\n00:00:00,500 --> 00:00:01,500\n{}\n\n"


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "talk.mp4"
    write_video(load_split("test", 1).videos[0], path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("talk.srt", SRT.format("Hello <i>world</i>\nsecond line").encode(), "Hello world second line"),
        ("talk.srt", SRT.format("{\\an8}café").encode("cp1252"), "café"),
        ("talk.srt", SRT.format("café").encode("utf-8-sig"), "café"),
        ("talk.srt", SRT.replace("\n", "\r\n").format("two").encode(), "two"),
        ("talk.de.srt", SRT.format("Hallo").encode(), "Hallo"),
        ("talk.vtt", b"WEBVTT\n\n00:00.500 --> 00:01.500\nHello &amp; bye\n\n", "Hello & bye"),
    ],
)
def test_what_lies_beside_a_video_is_read(video: Path, name: str, content: bytes, text: str) -> None:
    (video.parent / name).write_bytes(content)
    assert read_subtitles(video) == [Cue(0.5, 1.5, text)]


def test_only_files_of_that_video_count(video: Path) -> None:
    for name in ("talk.srt", "talk.en.srt", "talk2.srt", "talk.txt", "other.srt"):
        (video.parent / name).write_text(SRT.format(name))
    assert [path.name for path in sidecars(video)] == ["talk.srt", "talk.en.srt"]
    (video.parent / "talk.srt").unlink()
    assert [path.name for path in sidecars(video)] == ["talk.en.srt"]


def test_broken_subtitles_are_named_and_empty_ones_say_nothing(video: Path) -> None:
    (video.parent / "talk.srt").write_bytes(b"\x00\x01\x02" * 50)
    with pytest.raises(VideoError, match=r"talk\.srt"):
        read_subtitles(video)
    (video.parent / "talk.srt").write_bytes(b"")
    assert read_subtitles(video) == []


def test_a_cue_belongs_where_most_of_it_is() -> None:
    cues = [Cue(0, 2, "a"), Cue(1.5, 4.5, "b"), Cue(6, 7, "c")]
    assert words_between(cues, 0, 2) == "a"
    assert words_between(cues, 2, 5) == "b"
    assert words_between(cues, 0, float("inf")) == "a b c"
