"""Real files through a real, tiny model: what is stored is what the model says, and what breaks is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vidsift.index import Index
from vidsift.ingest import index_paths
from vidsift.models import ClipShape, RetrievalModel, build_word_tokenizer, load_model, new_clip_model
from vidsift.video import SegmentConfig, read_clips

SHARED = Path(os.environ.get("VIDSIFT_SHARED", Path(__file__).parents[3] / "shared")) / "videos"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_word_tokenizer(["a", "red", "ball", "runs"])
    new_clip_model(tokenizer, ClipShape(32, 16, 64, 1, 64, 1, 16), frames_per_clip=4).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny(folder: str) -> RetrievalModel:
    return load_model(folder)


def test_what_is_stored_is_what_the_model_says(tmp_path, video, tiny):
    lib = tmp_path / "lib"
    lib.mkdir()
    cutting = SegmentConfig("windows", 0.5, 2.0)
    for i, frames in enumerate((10, 40, 55)):
        video(lib / f"{i}.mp4", seed=i, frames=frames)
    report = index_paths(lib, tmp_path / "index", tiny, workers=1, segmentation=cutting)
    assert (report.added, report.clips) == (3, 6)
    index = Index.open(tmp_path / "index")
    hits = {
        (Path(h.path).name, h.start): h for h in index.search("a red ball", tiny, 99, group_by="clip").hits
    }
    sentence = tiny.encode_queries(["a red ball"])[0]
    for i in range(3):
        geometry = tiny.preprocess.geometry
        reader = read_clips(lib / f"{i}.mp4", frames_per_clip=4, geometry=geometry, segmentation=cutting)
        for clip in reader:
            hit = hits.pop((f"{i}.mp4", clip.span.start))
            parts = tiny.encode_video_np(clip.frames.pixels[None], clip.frames.mask[None])
            relevance = parts["frames"][0] @ sentence
            gate = np.exp(relevance / tiny.search.temperature)
            pooled = gate @ parts["frames"][0]
            fine = float(sentence @ pooled / np.linalg.norm(pooled))
            coarse = float(parts["coarse"][0] @ sentence)
            weights = tiny.search
            expected = weights.coarse_weight * coarse + weights.fine_weight * fine
            assert hit.score == pytest.approx(expected, abs=5e-3)
            assert hit.end == clip.span.end
            assert hit.moment.best in clip.frames.times
            assert hit.start <= hit.moment.start <= hit.moment.best <= hit.moment.end <= hit.end
            assert hit.thumbnail == clip.thumbnail
            assert hit.metadata["codec"] == "h264"
            assert hit.metadata["width"] == 64
    assert not hits


def test_the_model_may_be_named_and_need_not_be_named_again(tmp_path, video, folder, monkeypatch):
    lib = tmp_path / "lib"
    lib.mkdir()
    video(lib / "a.mp4", seed=1)
    monkeypatch.chdir(Path(folder).parent)
    assert index_paths(lib, tmp_path / "index", Path(folder).name, workers=0).added == 1
    monkeypatch.chdir(tmp_path)
    assert Index.open(tmp_path / "index").model.name == folder
    monkeypatch.setattr("vidsift.models.load_model", lambda *_: pytest.fail("no work, no weights"))
    assert index_paths(lib, tmp_path / "index", workers=0).unchanged == 1
    monkeypatch.undo()
    video(lib / "b.mp4", seed=2)
    assert index_paths(lib, tmp_path / "index", workers=0).added == 1


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared sample files are not here")
def test_every_decodable_sample_is_indexed_and_every_other_one_named(tmp_path, tiny):
    report = index_paths(SHARED, tmp_path / "index", tiny)
    failed = {Path(problem.path).name: problem.reason for problem in report.failed}
    assert set(failed) == {
        *("audio_only.mp4", "bad_stsz.mp4", "garbage.mp4", "nasa_13013.mp4.audio.mp3", "zero.mp4")
    }
    assert "no video stream" in failed["audio_only.mp4"]
    assert "no video stream" in failed["nasa_13013.mp4.audio.mp3"]
    partial = {Path(problem.path).name: problem.reason for problem in report.partial}
    assert set(partial) == {"corrupted.mp4", "bitflip.mp4", "trunc_faststart.mp4"}
    assert all("kept" in reason for reason in partial.values())
    media = [p for p in SHARED.rglob("*") if p.suffix in {".mp4", ".mkv", ".mov", ".webm", ".mp3"}]
    assert report.added == len(media) - 5
    version = Index.open(tmp_path / "index").version
    again = index_paths(SHARED, tmp_path / "index", tiny)
    assert (again.unchanged, again.failed, again.partial) == (report.added, report.failed, report.partial)
    assert Index.open(tmp_path / "index").version == version
