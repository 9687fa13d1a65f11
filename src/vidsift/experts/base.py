"""What every expert does: a clip becomes one vector or a set of them, or is not available."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import Clips

Findings = NDArray[np.float32]


class ExpertSource(Protocol):
    """One source of features.

    name: as it was asked for, unique within a model.  dim: of a vector.  tokens: the most vectors of a clip;
    0 for an expert that gives exactly one.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    def identity(self, clips: Clips) -> dict[str, Any]:
        """Everything besides the clips themselves that the features depend on, as plain values."""

    def extract(self, clips: Clips, number: int) -> Findings | None:
        """Features of one clip: [dim], or [n, dim] with n <= tokens; None if there is nothing to go by.

        Raises VideoError for a file that cannot be read.
        """


def spread(rows: Findings, most: int) -> Findings:
    """At most `most` rows, evenly over all of them."""
    if len(rows) <= most:
        return rows
    found: Findings = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    return found
