"""Intervals cover what they should, and pairing sees a difference that two intervals would hide."""

from __future__ import annotations

import numpy as np
import pytest

from vidsift.evaluation.intervals import intervals, paired


def test_an_interval_lies_around_its_figure_and_shrinks_with_the_number_of_queries() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (100, 1600):
        found = np.where(rng.random(count) < 0.4, 1.0, 20.0)
        low, high = intervals(found, np.arange(count))["r1"]
        assert low <= 100 * np.mean(found == 1) <= high
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.25)


def test_95_percent_of_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        found = np.where(rng.random(300) < 0.3, 1.0, 9.0)
        low, high = intervals(found, np.arange(300), resamples=400)["r1"]
        held += low <= 30.0 <= high
    assert 180 <= held <= 199


def test_captions_of_one_clip_are_not_independent_evidence() -> None:
    rng = np.random.default_rng(2)
    found = np.repeat(np.where(rng.random(100) < 0.5, 1.0, 9.0), 10)
    alone = intervals(found, np.arange(1000))["r1"]
    together = intervals(found, np.repeat(np.arange(100), 10))["r1"]
    assert together[1] - together[0] > 2.5 * (alone[1] - alone[0])


def test_the_same_seed_gives_the_same_interval() -> None:
    found = np.arange(1.0, 40.0)
    assert intervals(found, np.arange(39), seed=3) == intervals(found, np.arange(39), seed=3)


def test_a_run_does_not_differ_from_itself() -> None:
    found = np.random.default_rng(3).integers(1, 30, 200).astype(float)
    same = paired(found, found, np.arange(200))["r1"]
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert same.p == 1.0


def test_pairing_sees_a_small_but_steady_difference() -> None:
    rng = np.random.default_rng(4)
    first = np.where(rng.random(1000) < 0.5, 1.0, 9.0)
    second = first.copy()
    second[np.flatnonzero(first > 1)[:20]] = 1.0  # two points better, never worse
    a, b = intervals(first, np.arange(1000))["r1"], intervals(second, np.arange(1000))["r1"]
    assert a[1] > b[0]  # the intervals overlap
    difference = paired(first, second, np.arange(1000))["r1"]
    assert difference.value == pytest.approx(2.0)
    assert difference.low > 0
    assert difference.p < 0.01


def test_chance_differences_have_large_p_values() -> None:
    rng = np.random.default_rng(5)
    small = 0
    for _ in range(100):
        first, second = (np.where(rng.random(200) < 0.4, 1.0, 9.0) for _ in range(2))
        small += paired(first, second, np.arange(200), resamples=300)["r1"].p < 0.05
    assert small <= 12


def test_runs_of_different_sizes_are_not_paired() -> None:
    with pytest.raises(ValueError, match="3 and 2 queries"):
        paired(np.ones(3), np.ones(2), np.arange(3))
