"""Ranks and recalls that count every query exactly once, ties included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def ranks(scores: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """The 1-based rank of every query's target.

    scores: [T, V], rows = texts.  target: [T] column of the right clip.  A tie takes the mean of the ranks
    that it spans, so constant scores are worth chance. A query whose target scores NaN ranks last; NaN
    elsewhere never beats a number.
    """
    matrix = np.asarray(scores, np.float64)
    own = matrix[np.arange(len(matrix)), np.asarray(target, np.int64)]
    lost = np.isnan(own)
    better = (matrix > own[:, None]).sum(1)
    ties = (matrix == own[:, None]).sum(1) - 1
    found = 1 + better + ties / 2
    found[lost] = matrix.shape[1]
    return np.asarray(found, np.float64)


@dataclass(frozen=True)
class RetrievalMetrics:
    """Recall at k in percent, and the median and mean rank (1-based), over `queries` queries."""

    r1: float
    r5: float
    r10: float
    mdr: float
    mnr: float
    queries: int


def retrieval_metrics(found: NDArray[np.float64]) -> RetrievalMetrics:
    """Summarise the ranks of all queries."""
    if not len(found):
        raise ValueError("no queries to evaluate")
    r1, r5, r10 = (float(100 * np.mean(found <= k)) for k in (1, 5, 10))
    return RetrievalMetrics(r1, r5, r10, float(np.median(found)), float(found.mean()), len(found))
