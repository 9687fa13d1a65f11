"""Ranks count every query once, and ties neither create nor lose one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vidsift.evaluation.metrics import ranks, retrieval_metrics

MATRICES = arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(-3, 3))


def naive(row: np.ndarray, target: int) -> float:
    """The mean rank of the target over all orders of its ties."""
    better = sum(score > row[target] for score in row)
    same = sum(score == row[target] for score in row)
    return float(np.mean([better + position for position in range(1, same + 1)]))


@given(MATRICES, st.data())
def test_ranks_agree_with_counting(scores: np.ndarray, data: st.DataObject) -> None:
    target = [data.draw(st.integers(0, scores.shape[1] - 1)) for _ in scores]
    assert ranks(scores, target).tolist() == [naive(r, t) for r, t in zip(scores, target, strict=True)]


@given(MATRICES, st.data())
def test_ranks_follow_a_permutation_of_the_clips(scores: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(scores.shape[1])))
    target = np.zeros(len(scores), int)
    moved = np.full(len(scores), order.index(0))
    assert np.array_equal(ranks(scores, target), ranks(scores[:, order], moved))


@given(MATRICES)
def test_ranks_ignore_a_monotone_rescaling(scores: np.ndarray) -> None:
    target = np.zeros(len(scores), int)
    assert np.array_equal(ranks(scores, target), ranks(np.exp(scores / 3), target))


def test_constant_scores_are_worth_chance() -> None:
    found = retrieval_metrics(ranks(np.ones((4, 100)), np.arange(4)))
    assert found.r1 == found.r10 == 0
    assert found.mdr == 50.5


def test_a_target_that_scores_nan_ranks_last_and_stays_in_the_denominator() -> None:
    scores = np.array([[np.nan, 1.0, 0.0], [0.0, np.nan, 1.0]])
    assert ranks(scores, [0, 2]).tolist() == [3, 1]
    assert retrieval_metrics(ranks(scores, [0, 2])).queries == 2


def test_no_queries_is_an_error_not_a_perfect_score() -> None:
    with pytest.raises(ValueError, match="no queries"):
        retrieval_metrics(np.zeros(0))
