"""Fitting and measuring confidence: right answers against what is found when there is nothing to find.

Every caption of a validation set is asked twice: of the whole gallery, and of the gallery without its own
clip, where nothing is what it asks for, though much may be like it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidsift.index.confidence import Background

Scores = NDArray[np.floating]

KEEP = 0.95
"""Right answers that the limit of relevance keeps, at least."""


@dataclass(frozen=True)
class Fit:
    """The curve of a model (`vidsift.index.confidence`), and what it does where it was fitted: the share of
    right answers that the limit keeps, and of queries without an answer that it turns down."""

    slope: float
    coarse_slope: float
    offset: float
    least: float
    kept: float
    turned_down: float


def best_scores(scores: Scores, coarse: Scores, clip_of: NDArray[np.int64]) -> tuple[Scores, Scores]:
    """Score and coarse score, [N, 2], of the best clips: of the captions whose best clip is their own, and of
    all captions without their own clip.

    scores, coarse: [T, V].  clip_of: [T], the clip of each caption.
    """
    rows = np.arange(len(clip_of))
    found = scores.argmax(1)
    without = scores.astype(np.float64)
    without[rows, clip_of] = -np.inf
    other = without.argmax(1)
    both = [np.stack([scores[rows, at], coarse[rows, at]], 1) for at in (found, other)]
    return both[0][found == clip_of], both[1]


def fit_curve(right: Scores, wrong: Scores, background: Background, keep: float = KEEP) -> Fit:
    """Fit confidence to the best hits [N, 2] of right answers and of queries without one, both weighing the
    same.

    Logistic regression of the two distances from the background, by Newton's method; a slight pull of the
    slopes towards 1 and 0 keeps them finite where the two kinds can be told apart without error.
    """
    if not len(right) or not len(wrong):
        raise ValueError("a curve needs right answers and queries without one")
    x = np.concatenate([background.distances(right), background.distances(wrong)])
    y = np.concatenate([np.ones(len(right)), np.zeros(len(wrong))])
    share = np.where(y == 1, 0.5 / len(right), 0.5 / len(wrong))
    design = np.concatenate([x, np.ones((len(x), 1))], 1)
    pull, start = np.array([1e-3, 1e-3, 0.0]), np.array([1.0, 0.0, 0.0])
    found = np.array([1.0, 0.0, -float(np.median(x[:, 0]))])
    for _ in range(100):
        p = _sigmoid(design @ found)
        slope = design.T @ (share * (p - y)) + pull * (found - start)
        bend = (design * (share * p * (1 - p))[:, None]).T @ design + np.diag(pull + 1e-9)
        step = np.linalg.solve(bend, slope)
        # Newton's steps overshoot where the kinds are far apart.
        step *= min(1.0, 2.0 / float(np.abs(step).max() + 1e-12))
        found -= step
        if np.abs(step).max() < 1e-9:
            break
    sure = _sigmoid(design @ found)
    right_sure, wrong_sure = sure[: len(right)], sure[len(right) :]
    least = float(np.quantile(right_sure, 1 - keep, method="lower"))
    kept, down = float(np.mean(right_sure >= least)), float(np.mean(wrong_sure < least))
    return Fit(float(found[0]), float(found[1]), float(found[2]), least, kept, down)


def trade_off(right: Scores, wrong: Scores, keeps: Sequence[float]) -> list[tuple[float, float]]:
    """For every share of right answers to keep, that of queries without an answer turned down."""
    return [(keep, float(np.mean(wrong < np.quantile(right, 1 - keep, method="lower")))) for keep in keeps]


def calibration_error(probabilities: Scores, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error: how far the mean confidence of a bin is from its share of right answers,
    over bins of equal width, weighed by their sizes (Guo et al., ICML 2017)."""
    at = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        float(np.mean(at == b)) * abs(float(probabilities[at == b].mean() - right[at == b].mean()))
        for b in np.unique(at)
    ]
    return float(sum(gaps))


def _sigmoid(x: Scores) -> Scores:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))
