"""How well moments are found: recall at k of intervals that overlap the true one enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Spans = NDArray[np.float64]


def interval_iou(first: ArrayLike, second: ArrayLike) -> Spans:
    """Intersection over union of intervals [..., 2] in seconds; 0 where an interval is empty or not a number.

    Shapes are broadcast.
    """
    a, b = np.broadcast_arrays(np.asarray(first, np.float64), np.asarray(second, np.float64))
    shared = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    # Lengths, not outer bounds: intervals that lie apart have a gap that neither covers.
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - np.maximum(shared, 0)
    good = (shared > 0) & (union > 0)
    return np.where(good, shared / np.where(good, union, 1.0), 0.0)


def moment_recall(
    predicted: Sequence[ArrayLike], truth: ArrayLike, k: int = 1, iou: float = 0.5
) -> tuple[float, int]:
    """R@k at an IoU, in percent, and the number of queries.

    predicted: for each query its intervals [n, 2] in seconds, best first; none at all is a miss.
    truth: [T, 2].  A query counts when one of its first k intervals overlaps the true one by at least `iou`.
    """
    right = np.asarray(truth, np.float64)
    if len(predicted) != len(right):
        raise ValueError(f"{len(predicted)} predictions for {len(right)} queries")
    if not len(right):
        raise ValueError("no queries to evaluate")
    if k < 1 or not 0 < iou <= 1:
        raise ValueError(f"k must be at least 1 and iou in (0, 1], got k={k}, iou={iou}")
    hits = 0
    for found, true in zip(predicted, right, strict=True):
        first = np.asarray(found, np.float64).reshape(-1, 2)[:k]
        hits += bool(len(first)) and bool((interval_iou(first, true) >= iou).any())
    return 100.0 * hits / len(right), len(right)
