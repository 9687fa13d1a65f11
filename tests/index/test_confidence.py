"""From scores to confidences: the background, the curve, the levels, and what a search says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.evaluation.confidence import best_scores, calibration_error, fit_curve, trade_off
from vidsift.index.confidence import Background, confidence, level
from vidsift.index.rerank import RerankWeights
from vidsift.models.background import background_of, draw_background, read_background, write_background


def normal(seed: int, count: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, size=(count, 2))


def test_the_background_is_the_normal_law_under_what_the_library_answers():
    best = 3 + 0.5 * normal(0, 4000)
    found = Background.of(best, 10)
    assert (found.median, found.spread) == pytest.approx((3, 0.5), abs=0.05)
    # A third of the sentences happen to be answered by the library: they move it little.
    answered = best.copy()
    answered[::4] += 10
    moved = Background.of(answered, 10)
    assert abs(moved.median - 3) < 0.4
    assert moved.spread < 1


def test_scores_that_tell_nothing_make_no_background():
    assert Background.of(np.ones((50, 2)), 10) is None
    assert Background.of(normal(0, 1), 10) is None


def test_a_background_serves_libraries_of_about_its_size():
    found = Background.of(normal(0, 100), 100)
    assert [found.serves(clips) for clips in (80, 95, 100, 109, 120)] == [False, True, True, True, False]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.001, 1e6))
def test_confidence_is_a_probability_that_rises_with_the_score(score, coarse, more):
    background = Background(0.0, 1.0, 0.0, 1.0, 128, 10)
    low, high = (confidence(s, coarse, background, RerankWeights()) for s in (score, score + more))
    assert 0 <= low <= high <= 1


def test_levels_are_named_by_confidence_and_the_models_limit():
    curve = replace(RerankWeights(), least=0.2)
    assert [level(p, curve) for p in (0.1, 0.2, 0.5, 0.95)] == ["none", "weak", "likely", "strong"]
    assert level(0.6, replace(curve, least=0.7)) == "none"


def test_a_curve_is_fitted_and_keeps_what_it_was_asked_to():
    background = Background.of(normal(0, 500), 10)
    right, wrong = normal(1, 400, mean=4.0), normal(2, 400)
    fit = fit_curve(right, wrong, background, keep=0.9)
    curve = replace(
        RerankWeights(), slope=fit.slope, coarse_slope=fit.coarse_slope, offset=fit.offset, least=fit.least
    )
    sure = np.array([confidence(*both, background, curve) for both in right.tolist()])
    unsure = np.array([confidence(*both, background, curve) for both in wrong.tolist()])
    assert 0.9 <= np.mean(sure >= fit.least) == fit.kept <= 0.91
    assert np.mean(unsure < fit.least) == pytest.approx(fit.turned_down, abs=0.01)
    assert fit.turned_down > 0.95
    truth = np.arange(800) < 400
    assert calibration_error(np.concatenate([sure, unsure]), truth) < 0.05
    assert calibration_error(np.full(800, 0.99), truth) == pytest.approx(0.49)
    # Kinds that can be told apart without error give finite numbers, too.
    apart = fit_curve(normal(1, 50, mean=100.0), normal(2, 50), background)
    assert np.isfinite([apart.slope, apart.coarse_slope, apart.offset]).all()
    with pytest.raises(ValueError, match="right answers"):
        fit_curve(right[:0], wrong, background)


def test_best_scores_are_those_of_right_answers_and_of_a_gallery_without_them():
    scores = np.array([[5.0, 1.0, 2.0], [0.0, 3.0, 4.0]])
    right, wrong = best_scores(scores, scores / 10, np.array([0, 1]))
    assert right.tolist() == [[5.0, 0.5]], "the second caption finds another clip"
    assert wrong.tolist() == [[2.0, 0.2], [4.0, 0.4]]


def test_the_trade_off_falls_as_more_is_kept():
    points = trade_off(normal(1, 300, mean=2.0)[:, 0], normal(2, 300)[:, 0], (0.5, 0.9, 1.0))
    assert [keep for keep, _ in points] == [0.5, 0.9, 1.0]
    down = [down for _, down in points]
    assert down == sorted(down, reverse=True)
    assert 0.9 < down[0] <= 1


def test_background_sentences_are_kept_with_a_model(tmp_path):
    captions = ["a red ball ", "a blue ball", "a red ball", "  ", "two\nlines"]
    drawn = draw_background(captions)
    assert sorted(drawn) == ["a blue ball", "a red ball"]
    assert draw_background([f"ball {n}" for n in range(1000)]) == draw_background(
        [f"ball {n}" for n in range(1000)]
    )
    write_background(tmp_path, drawn)
    assert read_background(tmp_path) == drawn
    assert read_background(tmp_path / "elsewhere") == ()


def test_a_model_without_its_own_takes_those_of_everyday_videos():
    class Model:
        background = ()

    found = background_of(Model())
    assert len(found) == len(set(found)) == 128
