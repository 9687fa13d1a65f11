"""Rescoring in blocks is rescoring of the whole matrix, and each direction normalises over its own side."""

from __future__ import annotations

import numpy as np

from vidsift.evaluation.metrics import Scores, rank_all
from vidsift.evaluation.rescoring import (
    dual_softmax,
    dual_softmax_clips,
    dual_softmax_texts,
    qb_norm_texts,
)

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(600, 20)) * 3
ALL = np.arange(600)


def test_texts_are_rescored_as_by_the_whole_matrix() -> None:
    assert np.allclose(dual_softmax_texts(Scores.of(MATRIX)).rows(ALL), dual_softmax(MATRIX), rtol=1e-9)


def test_clips_are_rescored_over_the_other_axis() -> None:
    assert np.allclose(dual_softmax_clips(Scores.of(MATRIX)).rows(ALL), dual_softmax(MATRIX.T).T, rtol=1e-9)


def test_a_hub_that_every_text_likes_is_pushed_down() -> None:
    """One clip is near everything; its own text keeps it, the others get theirs back."""
    scores = np.eye(12) * 6 + RNG.normal(size=(12, 12)) * 0.1
    scores[:, 0] += 7
    plain = rank_all(Scores.of(scores), np.arange(12), clips=False).text
    rescored = rank_all(dual_softmax_texts(Scores.of(scores)), np.arange(12), clips=False).text
    assert plain is not None
    assert rescored is not None
    assert np.count_nonzero(plain == 1) == 1
    assert np.count_nonzero(rescored == 1) >= 11


def test_qb_norm_touches_only_texts_whose_best_clip_the_bank_likes() -> None:
    scores = np.array([[0.5, 0.4, 0.1], [0.1, 0.2, 0.9]])
    bank = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.1]])
    found = qb_norm_texts(Scores.of(scores), Scores.of(bank)).rows(np.arange(2))
    # QB-Norm, eq. 4: exp(20 s) / sum over the bank of exp(20 s)
    inverted = np.exp(20 * scores) / np.exp(20 * bank).sum(0)
    assert np.allclose(np.exp(found[0]), inverted[0])
    assert found[0].argmax() == 1  # the hub loses
    assert np.array_equal(found[1], scores[1])
