"""Transductive rescoring: scores that look at all queries at once, which a search engine cannot do.

Figures with any of it belong in a column of their own, never beside plain single-query figures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def dual_softmax(scores: ArrayLike, temperature: float = 1.0) -> NDArray[np.float64]:
    """Weigh every score by how much of its clip's attention the text gets (CAMoE, 2021; EERCF's `cal_new`).

    scores: [T, V], rows = texts.  Returns T * x * softmax over texts (x / temperature), [T, V].
    """
    x = np.asarray(scores, np.float64)
    weights = np.exp((x - x.max(axis=0, keepdims=True)) / temperature)
    return np.asarray(len(x) * x * weights / weights.sum(axis=0, keepdims=True), np.float64)
