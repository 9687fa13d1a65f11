"""What a large index costs, as formulas: lines through measurements, and simulations of the slowest shard."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PERCENTILES = (50, 95, 99)


def fit(terms: Floats, values: Floats) -> Floats:
    """Coefficients >= 0 of the least squares of relative errors.  terms: [N, K].  values: [N], positive.

    Costs only add up: of the subsets of terms whose coefficients all come out positive the best one is taken.
    """
    rows = terms / values[:, None]
    best, error = np.zeros(terms.shape[1]), np.inf
    for size in range(1, min(terms.shape) + 1):
        for chosen in combinations(range(terms.shape[1]), size):
            found = np.linalg.lstsq(rows[:, chosen], np.ones(len(rows)), rcond=None)[0]
            rest = float(np.square(rows[:, chosen] @ found - 1).sum())
            if (found >= 0).all() and rest < error:
                best, error = np.zeros(terms.shape[1]), rest
                best[list(chosen)] = found
    return best


@dataclass(frozen=True)
class Law:
    """A cost as a sum of terms of some sizes, with fitted coefficients.  error: the fit's, relative."""

    terms: Callable[..., Sequence[float]]
    coefficients: Floats
    error: float

    @classmethod
    def through(
        cls, terms: Callable[..., Sequence[float]], points: Sequence[Sequence[float]], values: Sequence[float]
    ) -> Law:
        """The law that fits values measured at some points."""
        rows, measured = np.array([terms(*point) for point in points], float), np.array(values, float)
        found = fit(rows, measured)
        return cls(terms, found, float(np.sqrt(np.square(rows @ found / measured - 1).mean())))

    def __call__(self, *point: float) -> float:
        return float(np.dot(self.terms(*point), self.coefficients))


def linear(clips: float) -> tuple[float, float]:
    """So much whatever the size, and so much a clip."""
    return 1.0, clips


@dataclass(frozen=True)
class Scans:
    """Milliseconds of both scans.  exact: of clips.  coded: of clips, and of clips that the codes pick."""

    exact: Law
    coded: Law

    @classmethod
    def through(
        cls,
        clips: Sequence[int],
        exact: Sequence[float],
        picks: Sequence[tuple[int, int]],
        coded: Sequence[float],
    ) -> Scans:
        """The laws that fit best."""
        return cls(
            Law.through(linear, [(n,) for n in clips], exact),
            Law.through(lambda n, p: (1.0, n, p), picks, coded),
        )


def percentiles(values: Floats) -> list[float]:
    """p50, p95 and p99."""
    return [float(p) for p in np.percentile(values, PERCENTILES)]


def slowest(services: Floats, shards: int, rng: np.random.Generator, draws: int = 20_000) -> Floats:
    """Latencies of a fan-out to idle shards: the greatest of as many independent draws from `services`."""
    return np.asarray(rng.choice(services, (draws, shards)).max(1))


def on_cores(services: Floats, cores: int) -> Floats:
    """When the last of S shards is done that start together on fewer cores and share them fairly.

    services: [Q, S] seconds that each would take alone.  Returns [Q].
    """
    ordered = np.sort(services, axis=1)
    steps = np.diff(ordered, axis=1, prepend=0.0)
    running = np.arange(services.shape[1], 0, -1)
    found: Floats = (steps * np.maximum(1.0, running / cores)).sum(1)
    return found


@dataclass(frozen=True)
class Answered:
    """latency: [Q] seconds.  sent: requests for every query that was asked (more than 1 by hedging)."""

    latency: Floats
    sent: float


def replicas_answer(
    arrivals: Floats, services: Floats, rng: np.random.Generator, replicas: int, hedge_after: float | None
) -> Answered:
    """A shard's answers where each replica does one query after the other, and queries go to them in turn.

    arrivals: [Q] rising seconds.  services: what service times are drawn from, independently.
    hedge_after: the query is asked once more, of the next replica, when no answer has come by then; the first
    answer counts, and nothing is called back.
    """
    free = [0.0] * replicas
    done = np.full(len(arrivals), np.inf)
    drawn = rng.choice(services, 2 * len(arrivals)).tolist()
    turn = int(rng.integers(replicas))
    events = [(t, query, (query + turn) % replicas, True) for query, t in enumerate(arrivals.tolist())]
    sent = 0
    while events:
        now, query, replica, first = heapq.heappop(events)
        free[replica] = max(now, free[replica]) + drawn[sent]
        done[query] = min(done[query], free[replica])
        sent += 1
        if first and hedge_after is not None and done[query] > now + hedge_after:
            heapq.heappush(events, (now + hedge_after, query, (replica + 1) % replicas, False))
    return Answered(done - arrivals, sent / len(arrivals))


def fan_out(
    services: Floats,
    shards: int,
    load: float,
    rng: np.random.Generator,
    replicas: int = 2,
    hedged: bool = False,
    queries: int = 2_000,
) -> tuple[Floats, float]:
    """Every query goes to all shards at the same time; queries come at random (Poisson).

    load: share of the time that a replica works without hedging.  hedged: after the p95 of one shard's
    answers.  Returns the latencies of each shard [S, Q] and requests sent for each that was asked.
    """
    rate = load * replicas / float(services.mean())
    arrivals = np.cumsum(rng.exponential(1 / rate, queries))
    if not hedged:
        return _in_turn(arrivals, services, shards, rng, replicas), 1.0
    after = float(np.percentile(_in_turn(arrivals, services, 1, rng, replicas), 95))
    found = [replicas_answer(arrivals, services, rng, replicas, after) for _ in range(shards)]
    return np.stack([one.latency for one in found]), float(np.mean([one.sent for one in found]))


def _in_turn(
    arrivals: Floats, services: Floats, shards: int, rng: np.random.Generator, replicas: int
) -> Floats:
    """What `replicas_answer` says of many shards without hedging, [S, Q], all shards at once."""
    drawn = rng.choice(services, (len(arrivals), shards))
    own, turn = np.arange(shards), rng.integers(replicas, size=shards)
    free, done = np.zeros((shards, replicas)), np.empty((len(arrivals), shards))
    for query, now in enumerate(arrivals.tolist()):
        replica = (query + turn) % replicas
        done[query] = np.maximum(now, free[own, replica]) + drawn[query]
        free[own, replica] = done[query]
    found: Floats = (done - arrivals[:, None]).T
    return found
