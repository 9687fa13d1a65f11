"""Experts describe clips, say when they are not available, and are kept in stores that refuse to go stale."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vidsift.datasets.corpus import Caption, Corpus, Video
from vidsift.datasets.pairs import PairSet, StoryClips, file_pairs, story_pairs
from vidsift.datasets.storyboard import channels
from vidsift.datasets.storyboard.library import write_video
from vidsift.errors import DataError, RecipeError
from vidsift.experts import EXPERTS, open_expert
from vidsift.experts.audio import Audio
from vidsift.experts.motion import GRID, SIDE, flow
from vidsift.experts.opening import Means
from vidsift.experts.store import extract_expert, store_name
from vidsift.video import Geometry
from vidsift.video.sound import RATE

MEANS = Means("clip-tiny", 4)


@pytest.fixture(scope="module")
def pairs() -> PairSet:
    return story_pairs("test", 12, 4, Geometry(64), channels=True)


@pytest.mark.parametrize("kind", list(EXPERTS))
def test_every_expert_keeps_its_promise(kind: str, pairs: PairSet, tmp_path: Path) -> None:
    source = open_expert(kind, MEANS)
    store = extract_expert(source, pairs, tmp_path / kind)
    feature, mask = np.asarray(store.open("feature")), np.asarray(store.open("mask"))
    shape = (source.tokens, source.dim) if source.tokens else (source.dim,)
    assert feature.shape == (12, *shape)
    assert np.isfinite(feature).all()
    assert mask.any()
    assert not feature[~mask].any()
    there = mask.reshape(12, -1).any(1)
    # Clips differ, so features do.
    assert len(np.unique(feature.reshape(12, -1)[there], axis=0)) == there.sum()
    for number in range(12):
        found = source.extract(pairs.clips, number)
        assert (found is not None) == there[number]


def test_words_and_sound_are_available_where_the_data_has_them(pairs: PairSet) -> None:
    assert isinstance(pairs.clips, StoryClips)
    videos = pairs.clips.videos
    has = {
        "audio": [channels.sound(v) is not None for v in videos],
        "speech": [bool(channels.speech(v)) for v in videos],
        "ocr": [channels.written(v) is not None for v in videos],
    }
    for kind, expected in has.items():
        source = open_expert(kind, MEANS)
        assert [source.extract(pairs.clips, n) is not None for n in range(len(videos))] == expected
    silent = story_pairs("test", 2, 4, Geometry(64))
    for kind in has:
        assert open_expert(kind, MEANS).extract(silent.clips, 0) is None


def test_files_give_what_their_world_gives(pairs: PairSet, tmp_path: Path) -> None:
    assert isinstance(pairs.clips, StoryClips)
    video = next(v for v in pairs.clips.videos if channels.sound(v) is not None and channels.speech(v))
    path = tmp_path / "v.mp4"
    write_video(video, path, with_channels=True)
    corpus = Corpus((Video(path),), (Caption(0, "a video", 1, tmp_path),))
    files = file_pairs("files", corpus, 4, Geometry(64), "stop").clips
    world = StoryClips((video,), 4, 64, channels=True)
    for kind, least in (("appearance", 0.9), ("speech", 0.999), ("audio", 0.9)):
        source = open_expert(kind, MEANS)
        ours, theirs = source.extract(files, 0), source.extract(world, 0)
        assert ours is not None
        assert theirs is not None
        count = min(np.atleast_2d(ours).shape[0], np.atleast_2d(theirs).shape[0])
        a, b = (np.atleast_2d(x)[:count].ravel() for x in (ours, theirs))
        assert np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b) > least, kind


@pytest.mark.parametrize(("dx", "dy"), [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.5), (0.7, -0.7)])
def test_flow_points_where_things_move(dx: float, dy: float) -> None:
    rows, columns = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)

    def scene(shift_x: float, shift_y: float) -> np.ndarray:
        x, y = columns - shift_x, rows - shift_y
        return (0.5 + 0.25 * np.sin(x / 6) + 0.25 * np.cos(y / 6)).astype(np.float32)

    cells = GRID * GRID
    found = flow(scene(0, 0), scene(dx, dy))
    assert np.median(found[:cells]) == pytest.approx(dx, abs=0.25)
    assert np.median(found[cells : 2 * cells]) == pytest.approx(dy, abs=0.25)
    still = flow(scene(0, 0), scene(0, 0))
    np.testing.assert_allclose(still, 0, atol=1e-6)


def test_the_louder_band_is_where_the_tone_is() -> None:
    time = np.arange(2 * RATE) / RATE
    bands = []
    for pitch in (300.0, 3000.0):
        rows = Audio().describe((0.5 * np.sin(2 * math.pi * pitch * time)).astype(np.float32))
        assert rows.shape == (4, Audio.dim)
        bands.append(int(rows[1, : Audio.dim // 2].argmax()))
    assert bands[0] < bands[1]


def test_a_store_of_another_expert_is_refused(pairs: PairSet, tmp_path: Path) -> None:
    folder = store_name(tmp_path, pairs, "appearance:clip-tiny")
    assert folder.name == "storyboard-test-12-channels_appearance-clip-tiny"
    extract_expert(open_expert("colour", MEANS), pairs, folder)
    with pytest.raises(DataError, match="made of something else"):
        extract_expert(open_expert("motion", MEANS), pairs, folder)


def test_a_bad_file_stops_or_is_not_available(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.mp4", tmp_path / "bad.mp4"
    write_video(load_video(), good)
    write_video(load_video(), bad)
    corpus = Corpus((Video(good), Video(bad)), tuple(Caption(n, "x", 1, tmp_path) for n in (0, 1)))
    pairs = file_pairs("files", corpus, 4, Geometry(64), "stop")
    bad.write_bytes(good.read_bytes()[:300])
    source = open_expert("colour", MEANS)
    with pytest.raises(DataError, match=r"bad\.mp4.*on_bad=skip"):
        extract_expert(source, pairs, tmp_path / "a")
    store = extract_expert(source, pairs, tmp_path / "b", on_bad="skip")
    assert np.asarray(store.open("mask")).tolist() == [True, False]


def load_video() -> object:
    from vidsift.datasets.storyboard.splits import load_split

    return load_split("test", 1).videos[0]


def test_unknown_experts_are_refused_with_a_suggestion() -> None:
    with pytest.raises(RecipeError, match="did you mean 'motion'"):
        open_expert("motions", MEANS)
    with pytest.raises(RecipeError, match="colour takes no model"):
        open_expert("colour:clip-tiny", MEANS)


def test_video_and_audio_models_of_transformers_are_experts(pairs: PairSet, tmp_path: Path) -> None:
    from transformers import (
        VideoMAEConfig,
        VideoMAEModel,
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    VideoMAEModel(VideoMAEConfig(image_size=32, patch_size=16, num_frames=4, **small)).save_pretrained(
        tmp_path / "video"
    )
    wav = Wav2Vec2Config(
        conv_dim=(16, 16), conv_stride=(5, 4), conv_kernel=(10, 8), num_feat_extract_layers=2, **small
    )
    Wav2Vec2Model(wav).save_pretrained(tmp_path / "audio")
    Wav2Vec2FeatureExtractor(sampling_rate=RATE).save_pretrained(tmp_path / "audio")
    motion = open_expert(f"motion:{tmp_path / 'video'}", MEANS)
    assert (motion.dim, motion.tokens) == (16, 0)
    found = motion.extract(pairs.clips, 0)
    assert found is not None
    assert found.shape == (16,)
    audio = open_expert(f"audio:{tmp_path / 'audio'}", MEANS)
    number = next(n for n in range(12) if pairs.clips.sound(n) is not None)
    heard = audio.extract(pairs.clips, number)
    assert heard is not None
    assert heard.shape == (audio.tokens, 16)
    assert motion.identity(pairs.clips) != audio.identity(pairs.clips)


def test_what_an_ocr_reads_of_files_becomes_words_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "v.mp4"
    write_video(load_video(), path)
    corpus = Corpus((Video(path),), (Caption(0, "a video", 1, tmp_path),))
    clips = file_pairs("files", corpus, 4, Geometry(64), "stop").clips
    source = open_expert("ocr", MEANS)
    seen: list[tuple[int, ...]] = []

    def engine(picture: np.ndarray) -> SimpleNamespace:
        seen.append(picture.shape)
        return SimpleNamespace(txts=("red star", "car") if len(seen) % 2 else None)

    monkeypatch.setattr("vidsift.experts.words._load_ocr", lambda: engine)
    found = source.extract(clips, 0)
    assert seen == [(640, 640, 3)] * 4
    assert found is not None
    # Lines that stay on are read once: BOS, three words, EOS.
    assert found.shape == (5, source.dim)


def test_without_an_ocr_the_way_to_one_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "v.mp4"
    write_video(load_video(), path)
    corpus = Corpus((Video(path),), (Caption(0, "a video", 1, tmp_path),))
    clips = file_pairs("files", corpus, 4, Geometry(64), "stop").clips
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(DataError, match=r"pip install 'vidsift\[ocr\]'"):
        open_expert("ocr", MEANS).extract(clips, 0)
