"""What Prometheus is told."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_MS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Measures:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vidsift_requests", "Requests, by route and status.", ("route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "vidsift_request_seconds", "Time of a request.", ("route",), buckets=_MS, registry=self._registry
        )
        self._stages = Histogram(
            "vidsift_search_seconds",
            "Time of a search, by stage: encode, recall, words, rerank.",
            ("stage",),
            buckets=_MS,
            registry=self._registry,
        )

        self._partial = Counter(
            "vidsift_partial_answers", "Searches that shards were missing in.", registry=self._registry
        )

    def watch(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """Tell a number that is looked up whenever it is asked for."""
        Gauge(f"vidsift_{name}", meaning, registry=self._registry).set_function(value)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def search(self, took_ms: dict[str, float], partial: bool) -> None:
        """Count a search."""
        self._partial.inc(partial)
        for stage, ms in took_ms.items():
            self._stages.labels(stage).observe(ms / 1e3)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
