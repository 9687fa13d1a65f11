"""Moments count as found when they overlap the truth enough, among the first k."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.evaluation.localisation import interval_iou, moment_recall

SPAN = st.tuples(st.integers(0, 20), st.integers(1, 20)).map(lambda p: (p[0], p[0] + p[1]))


@given(SPAN, SPAN)
def test_iou_agrees_with_counting_seconds(a: tuple[int, int], b: tuple[int, int]) -> None:
    first, second = set(range(*a)), set(range(*b))
    assert interval_iou(a, b) == pytest.approx(len(first & second) / len(first | second))
    assert interval_iou(a, b) == interval_iou(b, a)
    assert interval_iou(a, a) == 1.0


def test_recall_looks_at_the_first_k_only() -> None:
    predicted = [[(8, 9), (0, 4)], [(0, 2)], []]
    truth = [(0, 4), (0, 4), (0, 4)]
    assert moment_recall(predicted, truth, k=1, iou=0.5) == (pytest.approx(100 / 3), 3)
    assert moment_recall(predicted, truth, k=2, iou=0.5) == (pytest.approx(200 / 3), 3)
    assert moment_recall(predicted, truth, k=2, iou=0.7)[0] == pytest.approx(100 / 3)


def test_what_is_no_interval_finds_nothing() -> None:
    assert interval_iou((3, 3), (3, 3)) == 0.0
    assert interval_iou((np.nan, 5), (0, 5)) == 0.0
    assert interval_iou((4, 2), (0, 5)) == 0.0


@pytest.mark.parametrize("wrong", [{"k": 0}, {"iou": 0.0}, {"iou": 1.5}])
def test_settings_without_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="k must be at least 1"):
        moment_recall([[(0, 1)]], [(0, 1)], **wrong)  # type: ignore[arg-type]
