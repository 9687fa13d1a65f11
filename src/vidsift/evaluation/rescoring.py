"""Transductive rescoring: scores that look at many queries at once, which a search engine cannot do.

Figures with any of it belong in a column of their own, never beside plain single-query figures. Each
function is for one direction: what is normalised over is the side that asks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidsift.evaluation.metrics import Scores

Floats = NDArray[np.float64]
_BLOCK = 256
QB_TEMPERATURE = 1 / 20
"""QB-Norm's beta of 20 on cosines."""


def dual_softmax(scores: ArrayLike, temperature: float = 1.0) -> Floats:
    """Weigh every score by how much of its clip's attention the text gets (CAMoE, 2021; EERCF's `cal_new`).

    scores: [T, V], rows = texts.  Returns T * x * softmax over texts (x / temperature), [T, V].
    """
    x = np.asarray(scores, np.float64)
    weights = np.exp((x - x.max(axis=0, keepdims=True)) / temperature)
    return np.asarray(len(x) * x * weights / weights.sum(axis=0, keepdims=True), np.float64)


def column_logsumexp(scores: Scores, temperature: float) -> Floats:
    """log sum over texts of exp(x / temperature) for every clip, [V], in blocks."""
    total = np.full(scores.clips, -np.inf)
    for start in range(0, scores.texts, _BLOCK):
        x = scores.rows(np.arange(start, min(start + _BLOCK, scores.texts))).astype(np.float64) / temperature
        top = np.maximum(x.max(axis=0), total)
        total = top + np.log(np.exp(x - top).sum(axis=0) + np.exp(total - top))
    return total


def dual_softmax_texts(scores: Scores, temperature: float = 1.0) -> Scores:
    """Dual softmax for texts that rank clips: weights are a softmax over all texts of the test."""
    whole = column_logsumexp(scores, temperature)

    def rows(numbers: NDArray[np.int64]) -> Floats:
        x = scores.rows(numbers).astype(np.float64)
        return np.asarray(scores.texts * x * np.exp(x / temperature - whole), np.float64)

    return Scores(scores.texts, scores.clips, rows)


def dual_softmax_clips(scores: Scores, temperature: float = 1.0) -> Scores:
    """Dual softmax for clips that rank texts: weights are a softmax over all clips of the test."""

    def rows(numbers: NDArray[np.int64]) -> Floats:
        x = scores.rows(numbers).astype(np.float64)
        weights = np.exp((x - x.max(axis=1, keepdims=True)) / temperature)
        return np.asarray(scores.clips * x * weights / weights.sum(axis=1, keepdims=True), np.float64)

    return Scores(scores.texts, scores.clips, rows)


def qb_norm_texts(scores: Scores, bank: Scores, temperature: float = QB_TEMPERATURE) -> Scores:
    """QB-Norm with the dynamic inverted softmax (Bogolin et al., CVPR 2022) for texts that rank clips.

    scores: cosines of T texts and V clips.  bank: of other (training) texts and the same clips.
    A text whose best clip is the best of some bank text has its scores divided by how much the bank likes
    each clip; other texts keep theirs.
    """
    if bank.clips != scores.clips:
        raise ValueError(f"the bank ranks {bank.clips} clips, the test {scores.clips}")
    popular = np.zeros(scores.clips, bool)
    for start in range(0, bank.texts, _BLOCK):
        popular[bank.rows(np.arange(start, min(start + _BLOCK, bank.texts))).argmax(axis=1)] = True
    whole = column_logsumexp(bank, temperature)

    def rows(numbers: NDArray[np.int64]) -> Floats:
        x = scores.rows(numbers).astype(np.float64)
        # exp(x / t - whole), which only its order matters of, in logarithms.
        normed = x / temperature - whole
        return np.where(popular[x.argmax(axis=1)][:, None], normed, x)

    return Scores(scores.texts, scores.clips, rows)
