"""The storyboard's sound, speech and writing: repeatable, and in its files as in the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidsift.datasets.storyboard import channels
from vidsift.datasets.storyboard.library import write_library, write_video
from vidsift.datasets.storyboard.splits import draw_set, load_split
from vidsift.datasets.storyboard.world import SECONDS, StoryVideo
from vidsift.video import Geometry, probe, read_frames
from vidsift.video.sound import RATE, read_sound
from vidsift.video.subtitles import read_subtitles, words_between

VIDEOS = load_split("test", 60).videos


def rich() -> StoryVideo:
    """A video that has all three."""
    return next(
        v for v in VIDEOS if channels.sound(v) is not None and channels.speech(v) and channels.written(v)
    )


def test_most_videos_have_each_channel_and_some_have_not() -> None:
    for has in (channels.sound, channels.speech, channels.written):
        share = np.mean([has(video) is not None and len(has(video)) > 0 for video in VIDEOS])
        assert 0.5 < share < 0.95
    again = load_split("test", 60).videos
    np.testing.assert_array_equal(channels.sound(rich()), channels.sound(rich()))
    assert [channels.speech(v) for v in again] == [channels.speech(v) for v in VIDEOS]


def test_a_file_sounds_reads_and_speaks_as_the_world_says(tmp_path: Path) -> None:
    video, path = rich(), tmp_path / "rich.mp4"
    write_video(video, path, with_channels=True)
    assert probe(path).audio_streams == 1
    heard, meant = read_sound(path, 0.0, SECONDS), channels.sound(video)
    assert heard is not None
    assert meant is not None
    assert abs(len(heard) - len(meant)) < 0.1 * RATE
    # AAC keeps the spectrum, not the samples.
    assert np.corrcoef(spectrum(heard), spectrum(meant))[0, 1] > 0.9
    cues = [(cue.start, cue.end, cue.text) for cue in read_subtitles(path)]
    assert cues == [(pytest.approx(a), pytest.approx(b), text) for a, b, text in channels.speech(video)]
    start, end, text = channels.speech(video)[0]
    assert words_between(read_subtitles(path), start, end) == text
    plain = tmp_path / "plain.mp4"
    write_video(video, plain)
    assert read_sound(plain, 0.0, SECONDS) is None
    assert read_subtitles(plain) == []
    times = [scene.start_seconds + 0.3 for scene in video.scenes]
    with_words, without = (read_frames(p, times, Geometry(256)).pixels for p in (path, plain))
    labels = channels.written(video)
    assert labels is not None
    changed = np.abs(with_words.astype(int) - without)[:, :, -13:].mean((1, 2, 3)) > 10
    assert changed.tolist() == [bool(label) for label in labels]


def spectrum(wave: np.ndarray) -> np.ndarray:
    """Mean power in 100 bands."""
    power = np.abs(np.fft.rfft(wave[: round(5.5 * RATE)]))
    return np.log(1e-3 + power[: len(power) // 100 * 100].reshape(100, -1).mean(1))


def test_a_library_without_channels_leaves_no_old_subtitles(tmp_path: Path) -> None:
    story = draw_set(5, 4)
    write_library(story, tmp_path, with_channels=True)
    assert list(tmp_path.glob("*.srt"))
    write_library(story, tmp_path)
    assert not list(tmp_path.glob("*.srt"))


def test_a_part_of_a_track_is_that_part(tmp_path: Path) -> None:
    video, path = rich(), tmp_path / "rich.mp4"
    write_video(video, path, with_channels=True)
    whole, part = read_sound(path, 0.0, SECONDS), read_sound(path, 2.0, 3.5)
    assert whole is not None
    assert part is not None
    assert abs(len(part) - 1.5 * RATE) <= 1024
    middle = part[2048:-2048]
    lags = [
        np.corrcoef(middle, whole[2 * RATE + 2048 + lag :][: len(middle)])[0, 1] for lag in range(-64, 65)
    ]
    assert max(lags) > 0.95
    assert read_sound(path, 100.0, 101.0) is None
