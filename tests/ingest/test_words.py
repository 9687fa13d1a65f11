"""Subtitles beside and in real files reach the index, and follow when they change; pictures stay."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.subtitles.subtitle import SubtitleSet

from vidsift.index import Index
from vidsift.index.store import Store
from vidsift.ingest import index_paths, remove_paths
from vidsift.video import SegmentConfig, VideoError, read_clips
from vidsift.video.subtitles import Subtitles, TextTrack, read_subtitles, subtitles_of
from vidsift.video.types import Cue, Geometry

SRT = "1\n00:00:00,200 --> 00:00:00,900\n{}\n\n"
HEADER = b"[Script Info]\r\nScriptType: v4.00+\r\n\r\n[Events]\r\nFormat: Layer, Start, End, Style, Text\r\n"
SAID = [Cue(0.2, 0.9, "hello world"), Cue(1.0, 2.5, "happy zebras dance")]


def with_track(path: Path, codec: str, cues: Sequence[Cue] = SAID, first: float = 0.0) -> None:
    """Three seconds of video with a track of text.  first: where the container's clock begins."""
    with av.open(str(path), "w") as out:
        video, words = out.add_stream("libx264", rate=10), out.add_stream(codec)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        video.time_base = Fraction(1, 1000)
        video.options = {"preset": "ultrafast", "threads": "1", "bf": "0"}
        words.codec_context.subtitle_header = HEADER
        words.codec_context.time_base = words.time_base = Fraction(1, 1000)
        for number, cue in enumerate(cues):
            event = f"{number},0,Default,,0,0,0,,{cue.text}".encode()
            length = round(1000 * (cue.end - cue.start))
            packet = words.codec_context.encode_subtitle(SubtitleSet.create(event, 0, length, pts=0))
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = round(1000 * (first + cue.start))
            packet.duration = length
            out.mux(packet)
        for number in range(30):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 8 * number, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(1000 * first) + 100 * number, Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode())


@pytest.fixture
def talk(tmp_path: Path, model, video) -> SimpleNamespace:
    """A folder with one silent video, and `sync()`."""
    lib, index = tmp_path / "lib", tmp_path / "index"
    lib.mkdir()
    video(lib / "talk.mp4", 1)

    def sync(workers: int = 0):
        return index_paths(lib, index, model, workers=workers)

    def words() -> dict[str, tuple[str | None, str | None]]:
        """File name -> the words of its first clip, and where they are from."""
        store = Store.open(str(index), model.fingerprint())
        rows = store.rows(list(store.files())).sort_by("clip").to_pylist()
        found: dict[str, tuple[str | None, str | None]] = {}
        for row in rows:
            found.setdefault(os.path.relpath(row["path"], lib), (row["words"], row["subtitles"]))
        return found

    return SimpleNamespace(lib=lib, index=index, sync=sync, words=words, model=model)


@pytest.mark.parametrize(("codec", "suffix"), [("mov_text", ".mp4"), ("srt", ".mkv"), ("ass", ".mkv")])
def test_a_track_is_read_with_the_packets_of_the_file(tmp_path, monkeypatch, codec, suffix):
    path = tmp_path / f"talk{suffix}"
    with_track(path, codec)
    assert read_subtitles(path) == SAID
    assert subtitles_of(path) == Subtitles(tuple(SAID), "inside")

    def twice(*args):
        raise AssertionError("the file was opened again for its words")

    monkeypatch.setattr("vidsift.video.subtitles.open_video", twice)
    reader = read_clips(path, frames_per_clip=2, geometry=Geometry(16), segmentation=SegmentConfig())
    assert reader.subtitles == Subtitles(tuple(SAID), "inside")
    reader.close()


def test_the_clock_of_a_track_begins_with_the_first_frame(tmp_path):
    path = tmp_path / "late.mkv"
    with_track(path, "srt", first=7.5)
    found = subtitles_of(path).cues
    assert [(cue.start, cue.end) for cue in found] == [
        (pytest.approx(c.start), pytest.approx(c.end)) for c in SAID
    ]
    reader = read_clips(path, frames_per_clip=2, geometry=Geometry(16), segmentation=SegmentConfig())
    assert [cue.start for cue in reader.subtitles.cues] == pytest.approx([cue.start for cue in SAID])
    reader.close()


def test_a_sidecar_comes_goes_and_changes_and_no_picture_is_encoded_again(talk):
    with_track(talk.lib / "inside.mp4", "mov_text")
    talk.sync(workers=1)
    inside = "hello world\nhappy zebras dance"
    assert talk.words() == {"talk.mp4": (None, ""), "inside.mp4": (inside, "inside")}
    seen, index = talk.model.clips, Index.open(talk.index)
    assert index.has_words

    def after(added: int = 0, updated: int = 0, partial: int = 0, workers: int = 0):
        report = talk.sync(workers)
        assert (report.added, report.updated, len(report.partial)) == (added, updated, partial)
        assert report.updated + report.unchanged == 2
        assert talk.model.clips == seen
        index.refresh()
        return talk.words()

    beside = talk.lib / "talk.en.srt"
    beside.write_text(SRT.format("Good morning"))
    words, mark = after(updated=1, workers=1)["talk.mp4"]
    assert (words, mark.split()[0]) == ("Good morning", ".en.srt")
    version = index.version
    after()
    assert index.version == version, "nothing has changed"
    beside.write_text(SRT.format("Good night, all"))
    assert after(updated=1)["talk.mp4"][0] == "Good night, all"
    (talk.lib / "talk.srt").write_text(SRT.format("first of all"))
    (talk.lib / "inside.vtt").write_text("WEBVTT\n\n00:00.500 --> 00:01.500\nfrom beside\n\n")
    changed = after(updated=2)
    assert changed["talk.mp4"][0] == "first of all", "the one without a language counts"
    assert changed["inside.mp4"][0] == "from beside"
    (talk.lib / "talk.srt").write_bytes(b"\x00\x01\x02" * 50)
    os.unlink(talk.lib / "inside.vtt")
    changed = after(updated=2, partial=1)
    assert changed["talk.mp4"][0] is None
    assert changed["inside.mp4"] == (inside, "inside")
    told = after(partial=1)
    assert told == changed, "told again, and not tried again"
    assert "talk.srt: " in index.info()["partial"][0]["reason"]
    os.unlink(talk.lib / "talk.srt")
    beside.unlink()
    assert after(updated=1)["talk.mp4"] == (None, "")
    assert index.info()["partial"] == []


def test_broken_subtitles_cost_the_words_only(talk, video):
    (talk.lib / "talk.srt").write_bytes(b"\x00\x01\x02" * 50)
    with_track(talk.lib / "spoilt.mp4", "mov_text")
    os.mkfifo(talk.lib / "spoilt.srt")
    report = talk.sync(workers=1)
    assert (report.added, report.failed) == (2, [])
    reasons = {os.path.basename(problem.path): problem.reason for problem in report.partial}
    assert reasons["talk.mp4"].startswith("talk.srt: holds no subtitles")
    assert reasons["spoilt.mp4"] == "spoilt.srt: is not a regular file"
    assert len(Index.open(talk.index)) == 2
    assert talk.sync().partial == report.partial


def test_what_breaks_the_reader_of_words_is_told_once_and_not_tried_again(talk, monkeypatch):
    talk.sync()

    def breaks(*args):
        raise RuntimeError("of all things")

    (talk.lib / "talk.srt").write_text(SRT.format("fine"))
    monkeypatch.setattr("vidsift.ingest.reading.subtitles_of", breaks)
    report = talk.sync()
    assert [problem.reason for problem in report.partial] == ["the reader broke: RuntimeError: of all things"]
    monkeypatch.undo()
    assert talk.sync().partial == report.partial
    assert talk.words()["talk.mp4"][0] is None
    (talk.lib / "talk.srt").write_text(SRT.format("fine now"))
    assert talk.sync().partial == []
    assert talk.words()["talk.mp4"][0] == "fine now"


def test_a_damaged_packet_of_a_track_is_told_and_passed_over(talk, monkeypatch):
    with_track(talk.lib / "spoilt.mp4", "mov_text")
    take, taken = TextTrack.take, []

    def first_is_damaged(track: TextTrack, packet: av.Packet) -> None:
        said = packet.size > 2  # between lines mp4 has packets that say nothing
        spoilt = SimpleNamespace(size=9, pts=0, duration=1, time_base=packet.time_base, decode=refuse)
        take(track, spoilt if said and not taken else packet)
        taken.extend([packet] * said)

    def refuse() -> None:
        raise av.InvalidDataError(1, "Invalid data found")

    monkeypatch.setattr(TextTrack, "take", first_is_damaged)
    report = talk.sync()
    assert report.added == 2
    assert [problem.reason for problem in report.partial] == [
        "its subtitles cannot be decoded: Invalid data found"
    ]
    assert talk.words()["spoilt.mp4"] == ("happy zebras dance", "inside")


def test_words_go_with_a_renamed_file_and_copies_have_their_own(talk):
    (talk.lib / "talk.srt").write_text(SRT.format("first"))
    talk.sync()
    (talk.lib / "sub").mkdir()
    shutil.move(talk.lib / "talk.mp4", talk.lib / "sub" / "name.mp4")
    shutil.move(talk.lib / "talk.srt", talk.lib / "sub" / "name.srt")
    report = talk.sync()
    assert (report.renamed, report.updated) == (1, 0)
    assert talk.words()["sub/name.mp4"][0] == "first"
    shutil.copy(talk.lib / "sub" / "name.mp4", talk.lib / "copy.mp4")
    (talk.lib / "copy.srt").write_text(SRT.format("second one"))
    assert talk.sync().added == 1
    assert {name: words for name, (words, _) in talk.words().items()} == {
        "sub/name.mp4": "first",
        "copy.mp4": "second one",
    }
    assert talk.model.clips == 1
    index = Index.open(talk.index)
    remove_paths(talk.lib / "sub", talk.index)
    assert index.refresh()
    assert index.has_words


def test_an_index_that_is_older_than_words_gets_them_by_indexing_again(talk):
    with_track(talk.lib / "inside.mp4", "mov_text")
    talk.sync()
    store = Store.open(str(talk.index), talk.model.fingerprint())
    store._table.drop_columns(["words", "cue_times", "subtitles", "subtitles_error"])
    seen = talk.model.clips
    (talk.lib / "talk.srt").write_text(SRT.format("late"))
    report = talk.sync()
    assert (report.updated, report.unchanged) == (2, 0)
    assert talk.words() == {
        "talk.mp4": ("late", talk.words()["talk.mp4"][1]),
        "inside.mp4": ("hello world\nhappy zebras dance", "inside"),
    }
    assert talk.model.clips == seen
    assert talk.sync().unchanged == 2


def test_words_are_cut_where_clips_are(talk, tmp_path):
    with_track(talk.lib / "inside.mp4", "mov_text")
    index = tmp_path / "cut"
    cutting = SegmentConfig("windows", 0.5, 1.0)
    index_paths(talk.lib / "inside.mp4", index, talk.model, workers=0, segmentation=cutting)
    store = Store.open(str(index), talk.model.fingerprint())
    rows = store.rows(list(store.files())).sort_by("clip").to_pylist()
    assert [row["words"] for row in rows] == ["hello world", "happy zebras dance", None]
    assert [json.loads(row["cue_times"] or "[]") for row in rows] == [[0.2, 0.9], [1.0, 2.5], []]


def test_a_file_that_is_too_large_for_subtitles_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vidsift.video.subtitles.MOST_BYTES", 10)
    (tmp_path / "a.srt").write_text(SRT.format("long"))
    with pytest.raises(VideoError, match=r"a\.srt.*too large"):
        read_subtitles(tmp_path / "a.mp4")


def test_subtitles_of_another_video_are_not_taken_for_a_language(tmp_path):
    for name in ("talk.mp4", "talk.2.mp4", "talk.2.srt"):
        (tmp_path / name).write_text(SRT.format(name))
    assert subtitles_of(tmp_path / "talk.2.mp4").cues[0].text == "talk.2.srt"
    with pytest.raises(VideoError):
        read_subtitles(tmp_path / "talk.mp4")
