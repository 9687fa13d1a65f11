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
from vidsift.ingest import index_paths
from vidsift.models import ClipShape, RetrievalModel, build_word_tokenizer, list_methods, new_clip_model
from vidsift.video import SegmentConfig, read_clips

SHAPE = ClipShape(32, 16, 64, 2, 64, 2, 64, 16)
QUERY = "a red ball runs"


def make(method: str, seed: int = 0) -> RetrievalModel:
    torch.manual_seed(seed)
    tokenizer = build_word_tokenizer(["a", "red", "ball", "runs"])
    model = new_clip_model(tokenizer, SHAPE, method=method, frames_per_clip=4).eval()
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
    found = {Path(h.path).name: h for h in index.search(QUERY, reranker=model).hits}
    assert len(found) == 4
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
