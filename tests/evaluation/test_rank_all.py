"""Ranking in blocks gives what counting in the whole matrix gives, both ways and by both conventions."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.evaluation import legacy_metrics as legacy
from vidsift.evaluation import metrics
from vidsift.evaluation.metrics import Scores, rank_all, retrieval_metrics

Case = tuple[np.ndarray, np.ndarray]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Scores [T, V] with ties and NaN, and the clip of every text; some clips have no text."""
    texts, clips = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    value = (
        st.one_of(st.integers(-2, 2).map(float), st.just(np.nan))
        if draw(st.booleans())
        else st.integers(-2, 2)
    )
    scores = np.array(draw(st.lists(value, min_size=texts * clips, max_size=texts * clips)), float)
    owner = draw(st.lists(st.integers(0, clips - 1), min_size=texts, max_size=texts))
    return scores.reshape(texts, clips), np.array(owner)


def rank(own: float, others: list[float]) -> float:
    """1 + rivals above + half of those level; a NaN loses against everything."""
    if np.isnan(own):
        return 1.0 + len(others)
    return 1 + sum(x > own for x in others) + sum(x == own for x in others) / 2


def naive(scores: np.ndarray, clip_of: np.ndarray) -> tuple[list[float], list[float], list[float]]:
    texts = [
        rank(row[c], [x for v, x in enumerate(row) if v != c]) for row, c in zip(scores, clip_of, strict=True)
    ]
    captions, groups = [], []
    for clip in np.unique(clip_of):
        column = scores[:, clip]
        best = max((x for x in column[clip_of == clip] if not np.isnan(x)), default=np.nan)
        captions.append(rank(best, list(column[clip_of != clip])))
        rivals = []
        for other in np.unique(clip_of):
            if other != clip:
                real = [x for x in column[clip_of == other] if not np.isnan(x)]
                rivals.append(max(real, default=np.nan))
        groups.append(rank(best, rivals))
    return texts, captions, groups


@given(cases(), st.integers(1, 5), st.sampled_from([0, 3, 10_000]))
def test_blocks_agree_with_counting_everything(case: Case, block: int, room: int) -> None:
    scores, clip_of = case
    # Whether all possible rivals of the first pass are kept, some of them, or none.
    with patch.object(metrics, "_KEPT", room):
        found = rank_all(Scores.of(scores), clip_of, block=block)
    texts, captions, groups = naive(scores, clip_of)
    assert found.text is not None
    assert found.among_captions is not None
    assert found.among_groups is not None
    assert found.text.tolist() == texts
    assert found.among_captions.tolist() == captions
    assert found.among_groups.tolist() == groups
    assert found.nan == np.isnan(scores).sum()


@given(cases(), st.randoms())
def test_the_order_of_texts_and_clips_changes_no_rank(case: Case, random: object) -> None:
    scores, clip_of = case
    texts, clips = list(range(len(scores))), list(range(scores.shape[1]))
    random.shuffle(texts)  # type: ignore[attr-defined]
    random.shuffle(clips)  # type: ignore[attr-defined]
    before = rank_all(Scores.of(scores), clip_of)
    moved = np.array([clips.index(c) for c in clip_of])[texts]
    after = rank_all(Scores.of(scores[texts][:, clips]), moved)
    assert after.text is not None
    assert before.text is not None
    assert after.text.tolist() == before.text[texts].tolist()
    for name in ("among_captions", "among_groups"):
        assert sorted(getattr(after, name)) == sorted(getattr(before, name))


@given(cases())
def test_a_monotone_rescaling_changes_no_rank(case: Case) -> None:
    scores, clip_of = case
    before, after = rank_all(Scores.of(scores), clip_of), rank_all(Scores.of(np.exp(scores / 3)), clip_of)
    for name in ("text", "among_captions", "among_groups"):
        assert np.array_equal(getattr(before, name), getattr(after, name))


def test_no_more_than_a_block_is_asked_for_at_once() -> None:
    asked: list[int] = []
    whole = np.random.default_rng(0).normal(size=(90, 30)).astype(np.float32)

    def rows(numbers: np.ndarray) -> np.ndarray:
        asked.append(len(numbers))
        return whole[numbers]

    rank_all(Scores(90, 30, rows), np.repeat(np.arange(30), 3), block=12)
    assert max(asked) == 12
    # One caption per clip, then every caption once.
    assert sum(asked) == 30 + 90
    asked.clear()
    with patch.object(metrics, "_KEPT", 0):
        rank_all(Scores(90, 30, rows), np.repeat(np.arange(30), 3), block=12)
    assert (max(asked), sum(asked)) == (12, 30 + 2 * 90)


@pytest.mark.parametrize("captions", [1, 3])
def test_without_ties_the_two_official_conventions_are_reproduced(captions: int) -> None:
    """CE ranks among all captions, CLIP4Clip's family among groups."""
    clip_of = np.repeat(np.arange(8), captions)
    scores = np.random.default_rng(1).normal(size=(len(clip_of), 8)) + 2 * (clip_of[:, None] == np.arange(8))
    found = rank_all(Scores.of(scores), clip_of)
    assert found.among_captions is not None
    assert found.among_groups is not None
    ce = legacy.ce_v2t(scores)
    assert retrieval_metrics(found.among_captions).r1 == pytest.approx(ce["R1"])
    groups = legacy.xpool_v2t(legacy.by_video(scores, [captions] * 8))
    assert retrieval_metrics(found.among_groups).r1 == pytest.approx(groups["R1"])
    assert retrieval_metrics(found.among_groups).mnr == pytest.approx(groups["MeanR"])


def test_among_groups_is_never_harder_than_among_captions() -> None:
    clip_of = np.repeat(np.arange(10), 4)
    scores = np.random.default_rng(2).normal(size=(40, 10))
    found = rank_all(Scores.of(scores), clip_of)
    assert found.among_groups is not None
    assert (found.among_groups <= found.among_captions).all()
