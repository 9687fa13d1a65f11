"""Means over seeds with their 95% intervals (Student's t)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

# Student's t at 97.5% by degrees of freedom.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Estimate:
    """Mean over seeds and half of its 95% interval (Student's t)."""

    mean: float
    half: float
    seeds: int

    @property
    def text(self) -> str:
        return f"{self.mean:.1f} ± {self.half:.1f}"

    @property
    def shows(self) -> bool:
        return abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one number per seed."""
    if len(values) < 2:
        return Estimate(mean(values), float("inf"), len(values))
    return Estimate(mean(values), _T[len(values) - 1] * stdev(values) / len(values) ** 0.5, len(values))
