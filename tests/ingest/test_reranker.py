"""A short list is rescored by any method whose clip features the index keeps; anything else is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidsift.errors import ModelMismatchError, QueryError
from vidsift.index import Index
from vidsift.index.reranking import read_texts, rescore
from vidsift.ingest import index_paths
from vidsift.ingest.encode import encode_clip
from vidsift.ingest.reading import Clip
from vidsift.models import ClipShape, RetrievalModel, build_word_tokenizer, list_methods, new_clip_model
from vidsift.models.base import SearchWeights
from vidsift.video import SegmentConfig, read_clips

SHAPE = ClipShape(32, 16, 64, 2, 64, 2, 64, 16)
QUERY = "a red ball runs"


def make(method: str, seed: int = 0, **settings: Any) -> RetrievalModel:
    torch.manual_seed(seed)
    tokenizer = build_word_tokenizer(["a", "red", "ball", "runs"])
    model = new_clip_model(tokenizer, SHAPE, method=method, frames_per_clip=4, **settings).eval()
    with torch.no_grad():  # away from initial values that are zero or the identity
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


@pytest.fixture
def library(tmp_path: Path, video: Callable[..., Any]) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    for seed, frames in enumerate((12, 30, 1, 50)):  # one of them has fewer frames than the model takes
        video(folder / f"{seed}.mp4", seed=seed, frames=frames)
    return folder


@pytest.mark.parametrize("method", list_methods())
def test_every_method_rescores_by_its_own_similarity(method: str, library: Path, tmp_path: Path) -> None:
    model = make(method)
    index_paths(library, tmp_path / "index", model, workers=0)
    index = Index.open(tmp_path / "index")
    assert set(index.model.parts) == model.index_parts
    found = {Path(h.path).name: h for h in index.search(QUERY, reranker=model, collapse=False).hits}
    assert len(found) == 4
    assert all(hit.confidence is None for hit in found.values()), "calibrated for another score"
    expected = {}
    with torch.inference_mode():
        text = model.encode_text(*model.tokenize([QUERY]))
        for path in library.iterdir():
            reader = read_clips(
                path, frames_per_clip=4, geometry=model.preprocess.geometry, segmentation=SegmentConfig()
            )
            (clip,) = list(reader)
            clips = model.encode_video(
                torch.from_numpy(clip.frames.pixels)[None], torch.from_numpy(clip.frames.mask)[None]
            )
            expected[path.name] = float(model.similarity(text, clips)[0, 0])
    names = sorted(expected)
    got, want = ([scores[n] for n in names] for scores in ({n: h.score for n, h in found.items()}, expected))
    # Frame vectors are kept as int8, recalled ones as fp16.
    spread = max(1.0, float(np.abs(want).max()))
    assert np.allclose(got, want, atol=0.02 * spread)
    for hit in found.values():
        assert hit.start <= hit.moment.start <= hit.moment.best <= hit.moment.end <= hit.end


def test_a_model_that_scores_padding_is_not_indexed(library: Path, tmp_path: Path) -> None:
    model = make("xclip", legacy=True)
    with pytest.raises(ModelMismatchError, match=r"legacy mode.*without --legacy"):
        index_paths(library, tmp_path / "index", model, workers=0)


@pytest.mark.parametrize("method", ["xclip", "ts2net", "xpool", "eercf", "vidsift"])
def test_clips_with_gaps_among_their_frames_are_rescored_as_they_were(method: str) -> None:
    model = make(method)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    mask = np.array([True, False, True, False])
    record = encode_clip(model, Clip(0.0, 1.0, pixels, np.arange(4.0), mask, b""), "id")
    kept = record.vectors
    assert kept.count == 2
    coarse = np.asarray(kept.coarse, np.float32)[None]
    counts = np.array([kept.count])
    scores, relevance = rescore(
        model,
        read_texts(model, [QUERY])[0],
        coarse,
        kept.frames[None],
        kept.scales[None],
        counts,
        [record.parts],
    )
    order = np.argsort(~mask, kind="stable")
    with torch.inference_mode():
        clips = model.encode_video(torch.from_numpy(pixels[order])[None], torch.from_numpy(mask[order])[None])
        text = model.encode_text(*model.tokenize([QUERY]))
        expected = float(model.similarity(text, clips)[0, 0])
    assert scores[0] == pytest.approx(expected, abs=0.02 * max(1.0, abs(expected)))
    assert relevance[0].sum() == pytest.approx(1.0, abs=1e-3)
    assert not relevance[0, 2:].any()


def test_a_model_tuned_to_its_own_score_reranks_by_it_unasked(library: Path, tmp_path: Path) -> None:
    model = make("vidsift")
    model.search = SearchWeights(own_score=True)
    index_paths(library, tmp_path / "index", model, workers=0)
    index = Index.open(tmp_path / "index")
    own = index.search(QUERY, reranker=model).to_dict()["hits"]
    assert index.search(QUERY, model).to_dict()["hits"] == own
    by_vector = index.search(model.encode_queries([QUERY])[0])
    assert by_vector.hits[0].score != own[0]["score"]


def test_an_index_says_which_parts_a_reranker_misses(library: Path, tmp_path: Path) -> None:
    index_paths(library, tmp_path / "index", make("meanp"), workers=0)
    index = Index.open(tmp_path / "index")
    with pytest.raises(ModelMismatchError, match="needs gram, keys, values of every clip"):
        index.search(QUERY, reranker=make("xpool"))


def test_features_of_another_model_are_not_rescored(library: Path, tmp_path: Path) -> None:
    index_paths(library, tmp_path / "index", make("meanp"), workers=0)
    index = Index.open(tmp_path / "index")
    with pytest.raises(ModelMismatchError, match="fingerprint"):
        index.search(QUERY, make("meanp"), reranker=make("meanp", seed=1))


def test_a_reranker_needs_a_sentence(library: Path, tmp_path: Path) -> None:
    model = make("meanp")
    index_paths(library, tmp_path / "index", model, workers=0)
    with pytest.raises(QueryError, match="a sentence, not a vector"):
        Index.open(tmp_path / "index").search(np.ones(64), reranker=model)
