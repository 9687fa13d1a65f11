"""The indexer's view: a short file is one clip of exactly sampled frames with a thumbnail and an info."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidsift.video import (
    Geometry,
    SegmentConfig,
    Span,
    VideoError,
    probe,
    read_clips,
    read_frames,
    sample_times,
)


def test_a_short_file_is_one_clip_sampled_at_the_midpoints(tools: Any, tmp_path: Path) -> None:
    path = tools.make_video(tmp_path / "v.mp4", frames=60, size=(160, 90))
    geometry = Geometry(48)
    reader = read_clips(path, frames_per_clip=12, geometry=geometry, segmentation=SegmentConfig())
    (clip,) = list(reader)
    assert clip.span == Span(0.0, 2.4)
    assert clip.frames.pixels.shape == (12, 3, 48, 48)
    assert clip.frames.pixels.dtype == np.uint8
    assert clip.frames.times.dtype == np.float64
    assert clip.frames.mask.all()
    again = read_frames(path, sample_times(clip.span, 12), geometry)
    assert np.array_equal(clip.frames.pixels, again.pixels)
    assert np.array_equal(clip.frames.times, again.times)
    with Image.open(io.BytesIO(clip.thumbnail)) as thumbnail:
        assert (thumbnail.format, thumbnail.size) == ("JPEG", (160, 90))
    assert reader.info == probe(path)
    assert reader.problem is None


def test_more_frames_than_the_file_has_repeat_its_frames(tools: Any, tmp_path: Path) -> None:
    path = tools.make_video(tmp_path / "one.mp4", frames=1)
    (clip,) = read_clips(path, frames_per_clip=12, geometry=Geometry(32), segmentation=SegmentConfig())
    assert clip.span == Span(0.0, 0.04)
    assert clip.frames.times.tolist() == [0.0] * 12
    assert (clip.frames.pixels == clip.frames.pixels[0]).all()


def test_probe_tells_what_the_file_holds(tools: Any, tmp_path: Path) -> None:
    import av

    plain = tools.make_video(tmp_path / "plain.mp4", frames=50, fps=10, size=(120, 80))
    path = tmp_path / "v.mkv"
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        sound = target.add_stream("aac", rate=44100)
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
        silence.sample_rate, silence.pts = 44100, 0
        target.mux(sound.encode(silence))
        target.mux(sound.encode())
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    info = probe(path)
    assert (info.duration, info.fps, info.frames) == (5.0, 10.0, 50)
    assert (info.width, info.height, info.codec, info.pix_fmt) == (120, 80, "h264", "yuv420p")
    assert (info.audio_streams, info.subtitle_streams, info.rotation, info.start_time) == (1, 0, 0, 0.0)
    assert info.path == path
    assert info.problem is None


def test_times_may_come_in_any_order_and_twice(tools: Any, tmp_path: Path) -> None:
    path = tools.make_video(tmp_path / "v.mp4", frames=50)
    frames = read_frames(path, [1.5, 0.2, 1.5, -3.0, 99.0], Geometry(32))
    assert frames.times.tolist() == [1.48, 0.2, 1.48, 0.0, 1.96]
    assert read_frames(path, [], Geometry(32)).pixels.shape == (0, 3, 32, 32)


def test_the_plain_values_are_imported_without_the_decoder() -> None:
    program = (
        "import sys, vidsift.video as v; v.Span(0, 1); v.Geometry(2); v.SegmentConfig(); v.VideoError;"
        "assert 'av' not in sys.modules; assert 'PIL' not in sys.modules;"
        "v.probe, v.segment, v.read_clips; assert 'av' in sys.modules; assert callable(v.segment)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_titles_that_are_not_utf8_do_not_matter(tools: Any, tmp_path: Path) -> None:
    def title(stream: Any) -> None:
        stream.metadata["title"] = "XXXXXXXX"

    path = tools.make_video(tmp_path / "v.mkv", frames=10, prepare=title)
    data = path.read_bytes()
    assert b"XXXXXXXX" in data
    path.write_bytes(data.replace(b"XXXXXXXX", b"\xff\xfeXX\xe9XXX"))
    assert probe(path).frames == 10


def test_no_frames_per_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames_per_clip"):
        read_clips(tmp_path, frames_per_clip=0, geometry=Geometry(32), segmentation=SegmentConfig())


@pytest.mark.shared
def test_shared_files_are_read_refused_or_kept_in_part_as_they_should(shared: Path, tools: Any) -> None:
    refused = {"audio_only.mp4", "nasa_13013.mp4.audio.mp3", "bad_stsz.mp4", "garbage.mp4", "zero.mp4"}
    partial = {"corrupted.mp4": 2.9, "bitflip.mp4": 2.5, "trunc_faststart.mp4": 3.8}
    geometry = Geometry(48)
    seen = set()
    for path in sorted(p for p in shared.rglob("*") if p.is_file() and p.suffix != ".md"):
        seen.add(path.name)
        if path.name in refused:
            with pytest.raises(VideoError):
                probe(path)
            continue
        reader = read_clips(path, frames_per_clip=12, geometry=geometry, segmentation=SegmentConfig())
        (clip,) = list(reader)
        if path.name in partial:
            assert reader.problem is not None
            assert "kept" in reader.problem
            assert reader.info.duration == pytest.approx(partial[path.name], abs=0.1)
            continue
        assert reader.problem is None, path.name
        reference = tools.Reference(path, geometry)
        tools.assert_exact(path, sample_times(clip.span, 12), reference, geometry)
    assert refused | set(partial) <= seen
