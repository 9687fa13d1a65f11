"""How far a run is, for a progress bar."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands: steps (or rows) done, of how many, in a stage; the smoothed loss, if any."""

    step: int
    steps: int
    stage: str
    loss: float | None


Report = Callable[[TrainProgress], None]


class Smooth:
    """An exponential mean of the loss, which single batches would make unreadable."""

    def __init__(self, keep: float = 0.98) -> None:
        self.keep = keep
        self.value: float | None = None

    def add(self, loss: float) -> float:
        """Take one more loss in; returns the mean."""
        self.value = loss if self.value is None else self.keep * self.value + (1 - self.keep) * loss
        return self.value
