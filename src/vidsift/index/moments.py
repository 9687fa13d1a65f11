"""From the relevance of each frame to the moment that a hit shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidsift.index.types import Moment

HEIGHT = 0.5
"""A frame belongs to the moment while it keeps this share of the peak's height over the clip's base."""

LEAST_DROP = 0.02
"""Differences of cosine below this are noise: they never end a moment."""


def level_of(relevance: npt.NDArray[np.float32]) -> float:
    """What a frame's relevance has to reach to belong to the moment; infinite for a clip without frames."""
    if len(relevance) == 0:
        return float("inf")
    peak, base = float(relevance.max()), float(relevance.min())
    return peak - max(HEIGHT * (peak - base), LEAST_DROP)


def find_moment(
    relevance: npt.NDArray[np.float32], times: npt.NDArray[np.float64], start: float, end: float
) -> Moment:
    """The contiguous interval around the best frame in which relevance stays high.

    relevance: [F] cosine of each real frame with the sentence.  times: [F] ascending, seconds.
    start, end: the clip, seconds.

    Cosines of a dual encoder sit in a narrow band that differs from model to model, so height is measured
    over the clip's least relevant frame: a frame belongs to the moment while its cosine is at least
    ``peak - max(HEIGHT * (peak - base), LEAST_DROP)`` (`level_of`). The interval ends half way to the first
    frame that does not belong, or at the clip's end. A flat curve gives the whole clip.
    """
    if len(relevance) == 0:
        return Moment(start, end, (start + end) / 2)
    best = int(np.argmax(relevance))
    inside = relevance >= level_of(relevance)
    first = last = best
    while first > 0 and inside[first - 1]:
        first -= 1
    while last + 1 < len(inside) and inside[last + 1]:
        last += 1
    left = start if first == 0 else float(times[first - 1] + times[first]) / 2
    right = end if last == len(inside) - 1 else float(times[last] + times[last + 1]) / 2
    instant = min(max(float(times[best]), start), end)
    return Moment(min(max(left, start), instant), max(min(right, end), instant), instant)
