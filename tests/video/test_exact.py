"""The frames that are read are those of decoding everything and picking, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidsift.video import Geometry, Span, probe, read_frames, sample_times
from vidsift.video import reader as reader_module

GEOMETRY = Geometry(32)
_X264 = {"preset": "veryfast", "bf": "3", "b_strategy": "0"}
_X265 = "log-level=none:bframes=3:"
_VPX = {"deadline": "realtime", "cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}
# name: (encoder, container, options)
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "h264": ("libx264", "mp4", {"bf": "0"}),
    "h264-b": ("libx264", "mp4", _X264),
    "h264-pyramid-mkv": ("libx264", "mkv", {**_X264, "b-pyramid": "strict"}),
    "h264-open": ("libx264", "mp4", {**_X264, "x264-params": "open-gop=1:scenecut=0"}),
    "h264-open-ts": ("libx264", "ts", {**_X264, "x264-params": "open-gop=1:scenecut=0"}),
    "h264-refresh": ("libx264", "mp4", {"bf": "2", "x264-params": "intra-refresh=1"}),
    "h264-slices-ts": ("libx264", "ts", {**_X264, "x264-params": "slices=3:ref=4:weightp=2"}),
    "hevc-open": ("libx265", "mp4", {"x265-params": _X265 + "open-gop=1"}),
    "hevc-closed-mkv": ("libx265", "mkv", {"x265-params": _X265 + "open-gop=0"}),
    "hevc-layers": ("libx265", "mp4", {"x265-params": _X265 + "temporal-layers=3"}),
    "vp9": ("libvpx-vp9", "webm", _VPX),
    "vp8": ("libvpx", "webm", _VPX),
    "mpeg4": ("mpeg4", "mp4", {"bf": "0"}),
    "mpeg4-b-mkv": ("mpeg4", "mkv", {"bf": "2"}),
    "mpeg2-b-ts": ("mpeg2video", "ts", {"bf": "2"}),
    "mpeg4-avi": ("mpeg4", "avi", {"bf": "0"}),
    "ffv1": ("ffv1", "mkv", {}),
}


@pytest.fixture(scope="module")
def films(tools: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes each film once, with its plain decoding."""
    made: dict[tuple[str, int], Any] = {}
    folder = tmp_path_factory.mktemp("films")

    def film(kind: str, gop: int) -> Any:
        if (kind, gop) not in made:
            codec, ext, options = KINDS[kind]
            path = folder / f"{kind}-{gop}.{ext}"
            tools.make_video(path, codec=codec, gop=gop, options=options, frames=50)
            made[kind, gop] = path, tools.Reference(path, GEOMETRY)
        return made[kind, gop]

    return film


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(gop=st.sampled_from([5, 13, 18, 60]), data=st.data())
def test_any_times_of_any_codec_give_the_frames_of_a_full_decode(
    kind: str, gop: int, data: st.DataObject, films: Any, tools: Any
) -> None:
    path, reference = films(kind, gop)
    grid = data.draw(
        st.one_of(
            st.integers(1, 20).map(lambda n: sample_times(Span(0.0, 2.0), n)),
            st.lists(st.floats(-0.5, 2.5), min_size=1, max_size=6),
            st.lists(st.sampled_from(reference.times), min_size=1, max_size=6),
        )
    )
    tools.assert_exact(path, grid, reference, GEOMETRY)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=30),
    n=st.integers(1, 12),
    start=st.integers(0, 900),
)
def test_variable_frame_rates_and_late_starts_keep_real_times(
    gaps: list[int], n: int, start: int, tools: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("vfr") / "v.mkv"
    stamps = [start, *(start + int(s) for s in np.cumsum(gaps))]
    tools.make_video(path, frames=len(stamps), stamps=stamps, options=_X264)
    info = probe(path)
    assert info.start_time == pytest.approx(start / 1000)
    reference = tools.Reference(path, GEOMETRY)
    assert reference.times == [(s - start) / 1000 for s in stamps]
    tools.assert_exact(path, sample_times(Span(0, info.duration), n), reference, GEOMETRY)


def test_container_seeks_do_not_change_a_frame(
    films: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sought = []
    original = reader_module.Source._seek
    monkeypatch.setattr(reader_module, "SEEK_BYTES", 0)
    monkeypatch.setattr(
        reader_module.Source, "_seek", lambda self, row: sought.append(found := original(self, row)) or found
    )
    for kind in ("h264-open", "h264-open-ts", "hevc-closed-mkv", "vp9", "mpeg4-b-mkv"):
        path, reference = films(kind, 5)
        tools.assert_exact(path, sample_times(Span(0.0, 2.0), 4), reference, GEOMETRY)
    assert any(found is not None and found[0] > 0 for found in sought)


def test_only_what_the_wanted_frames_depend_on_is_decoded(
    films: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = films("h264-b", 12)
    seen: list[Any] = []
    original = reader_module.Source.decode

    def counting(self: Any, stretches: Any, wanted: Any = None) -> Any:
        for frame in original(self, stretches, wanted):
            seen.append(frame.pts)
            yield frame

    monkeypatch.setattr(reader_module.Source, "decode", counting)
    read_frames(path, [0.0, 1.0], GEOMETRY)
    assert 2 <= len(set(seen)) <= 10, "of 50 frames"


@pytest.mark.parametrize("kind", KINDS)
def test_the_fast_way_finds_every_frame_by_itself(
    kind: str, films: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def straight(*_: Any) -> Any:
        raise AssertionError("everything was decoded")

    monkeypatch.setattr(reader_module, "_pick_straight", straight)
    for gop in (5, 13, 18):
        path, reference = films(kind, gop)
        for time in reference.times[:: 3 if gop == 5 else 1]:
            tools.assert_exact(path, [time], reference, GEOMETRY)


def test_a_frame_that_does_not_come_out_is_found_by_decoding_everything(
    films: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reference = films("h264-b", 12)
    original = reader_module.Source.decode

    def forgetful(self: Any, stretches: Any, wanted: Any = None) -> Any:
        for frame in original(self, stretches, wanted):
            if wanted is None:
                yield frame

    monkeypatch.setattr(reader_module.Source, "decode", forgetful)
    tools.assert_exact(path, sample_times(Span(0.0, 2.0), 7), reference, GEOMETRY)


def test_avi_with_b_frames_is_read_in_display_order(tools: Any, tmp_path: Any) -> None:
    path = tools.make_video(tmp_path / "b.avi", options=_X264, frames=30)
    reference = tools.Reference(path, GEOMETRY, counted_at=25)
    tools.assert_exact(path, sample_times(Span(0.0, 1.2), 9), reference, GEOMETRY)


def test_a_stream_without_timestamps_is_read_at_its_rate(tools: Any, tmp_path: Any) -> None:
    path = tools.make_video(tmp_path / "raw.h264", options=_X264, frames=30)
    reference = tools.Reference(path, GEOMETRY, counted_at=probe(path).fps)
    tools.assert_exact(path, sample_times(Span(0.0, probe(path).duration), 5), reference, GEOMETRY)


def test_a_file_that_begins_inside_a_group_of_pictures_starts_at_its_first_whole_frame(
    tools: Any, tmp_path: Any
) -> None:
    import av

    whole = tools.make_video(tmp_path / "w.ts", gop=12, options=_X264, frames=40)
    path = tmp_path / "late.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for number, packet in enumerate(source.demux(stream)):
            if packet.size and number >= 5:
                packet.stream = copy
                target.mux(packet)
    reference = tools.Reference(path, GEOMETRY)
    tools.assert_exact(path, sample_times(Span(0.0, 1.0), 5), reference, GEOMETRY)


@given(start=st.floats(0, 1e4), length=st.floats(0.01, 1e4), n=st.integers(1, 64))
def test_sample_times_are_midpoints_of_equal_intervals(start: float, length: float, n: int) -> None:
    times = sample_times(Span(start, start + length), n)
    assert len(times) == n
    edges = np.linspace(start, start + length, n + 1)
    assert np.allclose(times, (edges[1:] + edges[:-1]) / 2, rtol=1e-9, atol=1e-6)
