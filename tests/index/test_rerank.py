"""Text-gated scores and moments, against plain definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.index.moments import LEAST_DROP, find_moment
from vidsift.index.rerank import rerank
from vidsift.index.types import quantise


def by_definition(sentence, frames, tau):
    cosine = frames @ sentence
    gate = np.exp(cosine / tau)
    pooled = (gate / gate.sum()) @ frames
    return sentence @ (pooled / np.linalg.norm(pooled))


@given(seed=st.integers(0, 10_000), counts=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_fine_scores_are_those_of_the_definition_on_the_stored_frames(seed, counts):
    rng = np.random.default_rng(seed)
    sentence = rng.normal(size=8).astype(np.float32)
    sentence /= np.linalg.norm(sentence)
    vectors = rng.normal(size=(len(counts), 5, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    stored = [
        quantise(v[0], v, np.arange(5) < n, np.arange(5.0)) for v, n in zip(vectors, counts, strict=True)
    ]
    frames = np.stack([s.frames for s in stored])
    scales = np.stack([s.scales for s in stored])
    fine, relevance = rerank(sentence, frames, scales, np.array(counts), 0.1)
    for i, n in enumerate(counts):
        restored = (frames[i] * scales[i][:, None])[:n]
        expected = by_definition(sentence, restored, 0.1) if n else 0.0
        assert fine[i] == pytest.approx(expected, abs=1e-5)
        assert relevance[i, :n] == pytest.approx(restored @ sentence, abs=1e-5)
        assert np.isneginf(relevance[i, n:]).all()


@given(seed=st.integers(0, 10_000))
def test_int8_frames_restore_to_within_half_a_step(seed):
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(6, 32)).astype(np.float32)
    mask = rng.random(6) < 0.7
    stored = quantise(frames[0], frames, mask, np.arange(6.0))
    n = int(mask.sum())
    assert stored.count == n
    error = np.abs(stored.frames[:n] * stored.scales[:n, None] - frames[mask])
    assert (error <= stored.scales[:n, None] * 0.5001).all()
    assert not stored.frames[n:].any()
    assert (stored.times[:n] == np.flatnonzero(mask)).all()


def moment(relevance, times=None, start=0.0, end=None):
    relevance = np.array(relevance, np.float32)
    times = np.arange(len(relevance)) + 0.5 if times is None else np.array(times, np.float64)
    return find_moment(relevance, times, start, len(relevance) if end is None else end)


def test_a_moment_is_the_peak_and_what_stays_above_half_its_height():
    found = moment([0.1, 0.1, 0.28, 0.3, 0.22, 0.1])
    assert (found.start, found.end, found.best) == (2.0, 5.0, 3.5)


def test_a_moment_does_not_jump_over_a_gap_to_another_peak():
    found = moment([0.29, 0.1, 0.1, 0.3, 0.1])
    assert (found.start, found.end, found.best) == (3.0, 4.0, 3.5)


def test_a_flat_curve_is_one_moment_the_whole_clip():
    found = moment([0.20, 0.20 + LEAST_DROP / 2, 0.20], start=0.0, end=3.0)
    assert (found.start, found.end, found.best) == (0.0, 3.0, 1.5)


def test_a_moment_at_an_edge_reaches_the_end_of_the_clip():
    assert moment([0.3, 0.1, 0.1], times=[11, 13, 15], start=10, end=16).start == 10
    assert moment([0.1, 0.1, 0.3], times=[11, 13, 15], start=10, end=16).end == 16


def test_one_frame_stands_for_the_whole_clip_and_no_frame_for_its_middle():
    assert moment([0.3], times=[1.0], start=0, end=4).to_dict() == {"start": 0, "end": 4, "best": 1.0}
    assert moment([], times=[], start=2, end=4).to_dict() == {"start": 2, "end": 4, "best": 3}


@given(
    curve=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
    gaps=st.lists(st.floats(0, 5), min_size=12, max_size=12),
)
def test_a_moment_lies_in_its_clip_and_holds_its_best_frame(curve, gaps):
    times = np.cumsum(gaps[: len(curve)])
    end = float(times[-1]) + 1
    found = find_moment(np.array(curve, np.float32), times, 0.0, end)
    assert 0 <= found.start <= found.best <= found.end <= end
    assert found.best == times[int(np.argmax(np.array(curve, np.float32)))]


def test_the_short_list_is_scored_as_the_models_score_it():
    torch = pytest.importorskip("torch")
    from vidsift.models import text_gated_score

    rng = np.random.default_rng(3)
    sentence, vectors = rng.normal(size=32).astype("f4"), rng.normal(size=(20, 6, 32)).astype("f4")
    sentence /= np.linalg.norm(sentence)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    mask = np.arange(6) < rng.integers(1, 7, 20)[:, None]
    stored = [quantise(v[0], v, m, np.arange(6.0)) for v, m in zip(vectors, mask, strict=True)]
    frames, scales = np.stack([s.frames for s in stored]), np.stack([s.scales for s in stored])
    fine, _ = rerank(sentence, frames, scales, mask.sum(1), 0.1)
    parts = [torch.from_numpy(x) for x in (vectors, sentence[None], mask)]
    expected = text_gated_score(*parts, temperature=0.1)[0].numpy()
    assert fine == pytest.approx(expected, abs=0.01)
    assert np.corrcoef(fine, expected)[0, 1] > 0.9999
