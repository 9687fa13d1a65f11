"""At which times of a clip to look."""

from __future__ import annotations

from vidsift.video.types import Span


def sample_times(span: Span, n: int) -> list[float]:
    """Return the midpoints (seconds) of n equal intervals of the span, in order."""
    if n < 1:
        raise ValueError(f"sample_times needs n >= 1, got {n}")
    length = span.end - span.start
    return [span.start + length * (2 * i + 1) / (2 * n) for i in range(n)]
