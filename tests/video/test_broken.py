"""What cannot be read is refused at once with a reason; what breaks midway is used up to there, and said."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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

GEOMETRY = Geometry(32)
LIMIT = 5.0  # seconds: far more than any refusal takes, far less than a hang


def read_all(path: Path) -> Any:
    """Read a file as the indexer does: (reader, clips)."""
    reader = read_clips(path, frames_per_clip=6, geometry=GEOMETRY, segmentation=SegmentConfig())
    return reader, list(reader)


def refusal(path: Path) -> str:
    """The reason for which every entrance refuses the file, soon."""
    began = time.monotonic()
    reasons = set()
    for entrance in (probe, read_all, lambda p: read_frames(p, [0.0], GEOMETRY)):
        with pytest.raises(VideoError) as caught:
            entrance(path)
        assert caught.value.path == path
        assert str(caught.value) == f"{path}: {caught.value.reason}"
        reasons.add(caught.value.reason)
    assert time.monotonic() - began < LIMIT
    assert len(reasons) == 1
    return reasons.pop()


@pytest.fixture(scope="module")
def film(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Films of eight seconds in several containers, made once."""
    folder = tmp_path_factory.mktemp("films")

    def get(ext: str, codec: str = "libx264", **more: Any) -> Path:
        path = folder / f"{codec}-{'-'.join(map(str, more.values()))}.{ext}".replace("{", "").replace("}", "")
        if not path.exists():
            tools.make_video(path, codec=codec, frames=200, **{"gop": 25, "size": (160, 96), **more})
        return path

    return get


def damaged(source: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Copy a file with its bytes changed."""
    change(np.fromfile(source, np.uint8)).tofile(target)
    return target


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").touch()
    assert refusal(tmp_path / "x.mp4") == "is empty (0 bytes)"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").mkdir()
    assert refusal(tmp_path / "x.mp4") == "is a directory"


def test_a_missing_file_and_a_dangling_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert refusal(tmp_path / "x.mp4") == refusal(tmp_path / "link.mp4") == "No such file or directory"


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.mp4")
    assert refusal(tmp_path / "x.mp4") == "is not a regular file"


def test_a_device_is_refused() -> None:
    assert refusal(Path("/dev/zero")) == "is not a regular file"


def test_a_file_without_permission_is_refused(
    film: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.mp4"
    shutil.copy(film("mp4"), path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root may read everything: let the system refuse as it would others

        def refuse(*_: Any, **__: Any) -> Any:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("vidsift.video.container.open", refuse, raising=False)
    assert refusal(path) == "Permission denied"


@pytest.mark.parametrize("size", [1, 100, 50_000])
def test_random_bytes_are_refused(size: int, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(np.random.default_rng(size).bytes(size))
    refusal(tmp_path / "x.mp4")


def test_text_and_still_pictures_are_no_videos(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "x.mp4").write_text("\x1b[31mnot a film\n" * 200)
    refusal(tmp_path / "x.mp4")
    for kind in ("png", "jpeg"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / "still.mp4", kind)
        refusal(tmp_path / "still.mp4")


def test_a_playlist_cannot_reach_other_files(film: Any, tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:8\n#EXTINF:8,\n{film('ts')}\n#EXT-X-ENDLIST\n"
    )
    refusal(tmp_path / "x.mp4")
    (tmp_path / "y.mp4").write_text(f"ffconcat version 1.0\nfile '{film('mp4')}'\n")
    refusal(tmp_path / "y.mp4")


def write_sound(path: Path, cover: bool) -> Path:
    """A second of sound, with or without a cover picture."""
    import av

    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as container:
        sound = container.add_stream("libmp3lame" if path.suffix == ".mp3" else "aac", rate=44100)
        picture = None
        if cover:
            picture = container.add_stream("png", rate=1)
            picture.width = picture.height = 32
            picture.pix_fmt = "rgb24"
            picture.disposition = av.stream.Disposition.attached_pic
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 200, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
            container.mux(picture.encode())
        for number in range(40):
            part = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), format="fltp", layout="stereo")
            part.sample_rate, part.pts = 44100, number * 1024
            container.mux(sound.encode(part))
        container.mux(sound.encode())
    return path


@pytest.mark.parametrize("name", ["x.mp3", "x.m4a", "x.mp4"])
@pytest.mark.parametrize("cover", [False, True])
def test_sound_is_no_video_even_with_a_cover_picture(name: str, cover: bool, tmp_path: Path) -> None:
    reason = refusal(write_sound(tmp_path / name, cover))
    assert "has no video stream" in reason
    assert ("cover picture" in reason) == cover


def test_an_unknown_codec_is_refused(film: Any, tmp_path: Path) -> None:
    data = film("mp4").read_bytes()
    assert b"avc1" in data
    (tmp_path / "x.mp4").write_bytes(data.replace(b"avc1", b"zzz9"))
    refusal(tmp_path / "x.mp4")
    mkv = film("mkv").read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ")
    (tmp_path / "x.mkv").write_bytes(mkv)
    refusal(tmp_path / "x.mkv")


def test_a_film_cut_before_its_index_is_refused(film: Any, tmp_path: Path) -> None:
    refusal(damaged(film("mp4"), tmp_path / "x.mp4", lambda b: b[: len(b) // 2]))


def test_the_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a b.mp4", "is empty")))
    assert (str(error), error.path, error.reason) == ("a b.mp4: is empty", Path("a b.mp4"), "is empty")


FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
CUTTABLE: dict[str, dict[str, Any]] = {
    "faststart mp4": {"ext": "mp4", "container_options": {"movflags": "faststart"}},
    "b-frames": {
        "ext": "mp4",
        "container_options": {"movflags": "faststart"},
        "options": {"bf": "3", "b_strategy": "0", "b-pyramid": "normal"},
    },
    "fragmented mp4": {"ext": "mp4", "container_options": FRAGMENTS},
    "mov": {"ext": "mov", "container_options": {"movflags": "faststart"}, "codec": "mpeg4"},
    "hevc": {"ext": "mp4", "container_options": {"movflags": "faststart"}, "codec": "libx265"},
    "mkv": {"ext": "mkv"},
    "webm": {"ext": "webm", "codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "avi": {"ext": "avi", "codec": "mpeg4"},
    "ts": {"ext": "ts", "codec": "mpeg2video"},
}


@pytest.mark.parametrize("kind", CUTTABLE)
@pytest.mark.parametrize("share", [0.31, 0.47, 0.62, 0.93])
def test_a_film_cut_short_is_used_up_to_the_cut(
    kind: str, share: float, film: Any, tools: Any, tmp_path: Path
) -> None:
    whole = film(**CUTTABLE[kind])
    _, clips = read_all(whole)
    cut = damaged(whole, tmp_path / f"x{whole.suffix}", lambda b: b[: int(len(b) * share)])
    reader, kept = read_all(cut)
    assert reader.problem is not None
    assert "cut short" in reader.problem
    assert f"kept the first {reader.info.duration:.2f} s" in reader.problem
    assert reader.info.duration == pytest.approx(share * clips[0].span.end, abs=2.0)
    assert kept[0].span == Span(0.0, reader.info.duration)
    assert kept[0].frames.problem == reader.problem
    assert probe(cut).problem is not None
    # What is kept is what the whole film shows at those times.
    times = sample_times(kept[0].span, 6)
    original = read_frames(whole, times, GEOMETRY)
    assert original.problem is None
    assert np.array_equal(kept[0].frames.pixels, original.pixels)
    assert np.array_equal(kept[0].frames.times, original.times)


@pytest.mark.parametrize("kind", ["faststart mp4", "mkv", "hevc", "webm"])
@pytest.mark.parametrize("fill", [0, 255, None])
def test_a_hole_in_the_middle_is_found_although_sampling_jumps_over_it(
    kind: str, fill: int | None, film: Any, tmp_path: Path
) -> None:
    whole = film(**CUTTABLE[kind])

    def punch(data: np.ndarray) -> np.ndarray:
        at, length = int(len(data) * 0.55), len(data) // 12
        noise = np.random.default_rng(3).integers(0, 256, length)
        data[at : at + length] = noise if fill is None else fill
        return data

    broken = damaged(whole, tmp_path / f"x{whole.suffix}", punch)
    reader = read_clips(broken, frames_per_clip=1, geometry=GEOMETRY, segmentation=SegmentConfig())
    clips = list(reader)
    assert reader.problem is not None
    assert reader.info.duration == pytest.approx(0.55 * 8, abs=0.6)
    assert clips[-1].span.end == reader.info.duration
    assert len(clips) == 1


@pytest.mark.parametrize("seed", range(4))
def test_sprinkled_bit_flips_are_reported(seed: int, film: Any, tmp_path: Path) -> None:
    whole = film(**CUTTABLE["faststart mp4"])

    def sprinkle(data: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng(seed)
        places = rng.integers(len(data) // 5, len(data), 200)
        data[places] ^= (1 << rng.integers(0, 8, 200)).astype(np.uint8)
        return data

    reader, clips = read_all(damaged(whole, tmp_path / "x.mp4", sprinkle))
    assert reader.problem is not None
    assert clips
    assert clips[-1].span.end == reader.info.duration <= 8.0


def test_a_checksum_that_does_not_match_is_reported_and_all_is_kept(film: Any, tmp_path: Path) -> None:
    whole = film("mkv")

    def flip(data: np.ndarray) -> np.ndarray:
        data[len(data) // 2] ^= 1
        return data

    reader, clips = read_all(damaged(whole, tmp_path / "x.mkv", flip))
    assert reader.problem is not None
    assert clips[-1].span.end > 3.9


def test_times_after_the_break_are_masked(film: Any, tmp_path: Path) -> None:
    whole = film(**CUTTABLE["faststart mp4"])
    cut = damaged(whole, tmp_path / "x.mp4", lambda b: b[: len(b) // 2])
    frames = read_frames(cut, [7.0, 0.5], GEOMETRY)
    assert frames.mask.tolist() == [False, True]
    assert not frames.pixels[0].any()
    assert frames.problem is not None


def test_a_break_met_in_a_long_film_ends_its_clips_there(film: Any, tmp_path: Path) -> None:
    whole = film(**CUTTABLE["faststart mp4"])
    cut = damaged(whole, tmp_path / "x.mp4", lambda b: b[: int(len(b) * 0.7)])
    config = SegmentConfig("windows", min_seconds=0.5, max_seconds=2.0)
    reader = read_clips(cut, frames_per_clip=3, geometry=GEOMETRY, segmentation=config)
    clips = list(reader)
    assert clips[0].span.start == 0
    assert all(a.span.end == b.span.start for a, b in pairwise(clips))
    assert clips[-1].span.end == reader.info.duration
    assert all(clip.frames.times[-1] < clip.span.end for clip in clips)


@pytest.mark.parametrize("kind", CUTTABLE)
def test_a_whole_film_has_no_problem(kind: str, film: Any) -> None:
    reader, clips = read_all(film(**CUTTABLE[kind]))
    assert reader.problem is None
    assert len(clips) == 1
    assert reader.info.duration == pytest.approx(8.0, abs=0.05)


@pytest.mark.parametrize(
    "name", ["a b.mp4", "ünï-映画.mp4", "-x.mp4", "a:b.mp4", "%d.mp4", "é" * 100 + ".mp4", "no_extension"]
)
def test_odd_file_names_are_read(
    name: str, film: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(film("mp4"), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert probe(name).frames == 200
    assert probe(str(tmp_path / name)).frames == 200


def test_a_name_that_is_not_utf8_is_read(film: Any, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe.mp4"
    shutil.copy(film("mp4"), name)
    assert probe(os.fsdecode(name)).frames == 200


def test_what_is_kept_ends_before_the_first_frame_that_was_lost() -> None:
    from fractions import Fraction

    from vidsift.video.packets import PacketTable

    # Decoding order I P B B P: when the file breaks at the second B, the P shown after it has been decoded.
    pts = np.array([0, 3, 1, 2, 5])
    yes = np.ones(5, bool)
    table = PacketTable(
        time_base=Fraction(1, 10),
        pts=pts,
        dts=np.arange(5),
        size=np.full(5, 100),
        duration=np.ones(5, np.int64),
        shown=yes,
        entry=pts == 0,
        open_entry=~yes,
        skippable=True,
        counted=False,
        fps=10.0,
        claimed=0.6,
        usable=5,
    )
    assert table.end == pytest.approx(0.6)
    assert table.cut(3, "broken").end == pytest.approx(0.2)
    assert table.cut(4, "broken").end == pytest.approx(0.4)
