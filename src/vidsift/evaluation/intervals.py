"""How sure a figure is: bootstrap intervals of one run, and paired comparison of two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidsift.evaluation.metrics import RECALLS, Ranks

RESAMPLES = 2000
_CHUNK = 200
_NAMES = tuple(f"r{k}" for k in RECALLS)


@dataclass(frozen=True)
class Difference:
    """A figure of one run less that of another, on the same queries.

    low, high: 95% bootstrap interval.  p: two-sided p-value of a sign-flip test of "no difference".
    """

    value: float
    low: float
    high: float
    p: float


def _by_cluster(values: NDArray[np.float64], clusters: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
    """Sums [C, ...] and sizes [C] of every cluster."""
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.zeros((number.max() + 1, values.shape[1]))
    np.add.at(sums, number, values)
    return sums, np.bincount(number).astype(np.float64)


def _table(found: Ranks) -> NDArray[np.float64]:
    """[T, 5]: hits at 1, 5, 10 and 50 in percent, and the rank."""
    hits = [100.0 * (found <= k) for k in RECALLS]
    return np.stack([*hits, found], axis=1)


def intervals(
    found: Ranks, clusters: NDArray[np.int64], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, tuple[float, float]]:
    """95% percentile bootstrap intervals of the recalls, their sum, their geometric mean, and the mean rank.

    found: [T] ranks.  clusters: [T] what is drawn together: the captions of one clip are not independent,
    so whole clips are drawn (for clips that rank texts every clip is one).
    """
    sums, sizes = _by_cluster(_table(found), clusters)
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        times = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), count).astype(np.float64)
        draws.append((times @ sums) / (times @ sizes)[:, None])
    drawn = np.concatenate(draws)
    r1, r5, r10 = drawn[:, 0], drawn[:, 1], drawn[:, 2]
    figures = dict(zip((*_NAMES, "mnr"), drawn.T, strict=True))
    figures |= {"sum": r1 + r5 + r10, "geometric": np.cbrt(r1 * r5 * r10)}
    return {name: _interval(values) for name, values in figures.items()}


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def paired(
    first: Ranks,
    second: Ranks,
    clusters: NDArray[np.int64],
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict[str, Difference]:
    """Compare two runs query by query: recalls and mean rank of the second less those of the first.

    Both [T], in the same order.  clusters: as for `intervals`; the test flips the sign of whole clusters.
    Raises ValueError for different numbers of queries.
    """
    if len(first) != len(second):
        raise ValueError(f"the runs have {len(first)} and {len(second)} queries and cannot be paired")
    sums, sizes = _by_cluster(_table(second) - _table(first), clusters)
    total = sizes.sum()
    observed = sums.sum(0) / total
    rng = np.random.default_rng(seed)
    drawn, flipped = [], []
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        times = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), count).astype(np.float64)
        drawn.append((times @ sums) / (times @ sizes)[:, None])
        signs = rng.choice([-1.0, 1.0], (count, len(sizes)))
        flipped.append(signs @ sums / total)
    samples, null = np.concatenate(drawn), np.concatenate(flipped)
    found = {}
    for place, name in enumerate((*_NAMES, "mnr")):
        value = float(observed[place])
        beyond = np.count_nonzero(np.abs(null[:, place]) >= abs(value) - 1e-12)
        found[name] = Difference(value, *_interval(samples[:, place]), p=(1 + beyond) / (1 + resamples))
    return found
