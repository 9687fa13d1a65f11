"""Means over seeds with their 95% intervals (Student's t)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

# A row's results by seed.
Results = dict[str, dict[int, dict[str, Any]]]
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
        return f"{self.mean:.1f} ± {self.half:.1f}" if math.isfinite(self.half) else f"{self.mean:.1f}"

    @property
    def shows(self) -> bool:
        return abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and interval of one number per seed."""
    if len(values) < 2:
        return Estimate(mean(values), float("inf"), len(values))
    return Estimate(mean(values), _T[len(values) - 1] * stdev(values) / len(values) ** 0.5, len(values))


def pick(result: dict[str, Any], where: str) -> float:
    """A number of a result by its path, `test.t2v.r1`."""
    node: Any = result
    for part in where.split("."):
        node = node[part]
    return float(node)


def of(results: Results, row: str, where: str) -> Estimate:
    """A number of a row over its seeds."""
    return estimate([pick(result, where) for result in results[row].values()])


def difference(results: Results, a: tuple[str, str], b: tuple[str, str]) -> Estimate | None:
    """a minus b, seed by seed; each is a row and a path.  None without two common seeds."""
    common = sorted(results.get(a[0], {}).keys() & results.get(b[0], {}).keys())
    if len(common) < 2:
        return None
    return estimate([pick(results[a[0]][s], a[1]) - pick(results[b[0]][s], b[1]) for s in common])
