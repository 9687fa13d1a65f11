"""Shards as a Ray Serve application: started, asked within a deadline, watched, moved to new versions.

Serve restarts a shard that dies, on a machine that is there. What Serve does not know is which version of the
index a shard has loaded: so every shard is looked at twice a second, told what to load, and asked only for
what it holds. A shard that does not answer is left alone until it answers such a look.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from types import TracebackType
from typing import Any

from vidsift.errors import IndexStateError, ServiceError
from vidsift.index.config import read_config
from vidsift.index.lock import being_written
from vidsift.index.sharded import Question, newest_snapshot, shared_folder, snapshot_in
from vidsift.index.versions import table_version
from vidsift.ray_session import INSTALL, connect
from vidsift.server.shard import Report, ShardServer, build_arrays

log = logging.getLogger(__name__)

LOOK_EVERY = 0.5
"""Seconds between two looks at the shards; an answer to one may take as long as a search."""

ABSENT = 10.0
"""Seconds that a move to a new version waits for a shard which does not answer."""

START, TELL = 600.0, 30.0
"""Seconds that shards may take to load, and after which it is told what they wait for."""

_MANY = 64


class RayShards:
    """The shards of an index on the Ray cluster at `address`, or on a Ray of this process' own; see
    `vidsift.index.sharded.Shards`. A context manager: at its end the application is taken down.

    Raises ServiceError without Ray or when the shards do not start, EngineError without the cluster.
    """

    def __init__(
        self, folder: str | os.PathLike[str], count: int, deadline: float, address: str | None
    ) -> None:
        if count < 1 or not deadline > 0:
            raise ServiceError(f"at least one shard and a deadline above 0 s, not {count} and {deadline:g} s")
        if find_spec("ray") is None:
            raise ServiceError(f"shards run on Ray, which is not installed: {INSTALL}")
        try:
            from ray import serve
        except ImportError as error:
            raise ServiceError(f"shards run on Ray Serve, which is not installed: {INSTALL}") from error
        self.folder, self.count, self.deadline = shared_folder(folder), count, deadline
        self._config = read_config(self.folder)
        self._serve: Any = serve
        self._app = f"vidsift-{self._config.index_id[:12]}"
        self._changed = threading.Condition()
        self._held: dict[int, frozenset[str]] = dict.fromkeys(range(count), frozenset())
        self._answered: dict[int, float] = {}
        self._said: dict[int, str] = {}
        self._build: Any = None
        self._ended = threading.Event()
        # One for the index and one for every shard, so that none waits for another that does not answer.
        watched = [self._follow, *(partial(self._look, number) for number in range(count))]
        self._watchers = [threading.Thread(target=self._watch, args=(one,), daemon=True) for one in watched]
        for name in ("ray", "ray.serve"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        # Each shard reserves a core, whether there are as many or not.
        self._owned = connect(address, count + 1) == "started"
        try:
            self._snapshot = self._wanted = self._first_snapshot()
            self._handles = self._deploy()
            for watcher in self._watchers:
                watcher.start()
            self._wait()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RayShards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def snapshot(self) -> str:
        """What all shards hold."""
        return self._snapshot

    def up(self, snapshot: str | None = None) -> list[int]:
        """The shards that can be asked (about another snapshot than the present one)."""
        return [n for n, held in self._held.items() if (snapshot or self._snapshot) in held]

    def ask(self, snapshot: str, questions: Mapping[int, Question], seconds: float) -> dict[int, Any]:
        """As `Shards.ask`; those known not to be there are only waited for when no other is."""
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self.up(snapshot), seconds)
            up = self.up(snapshot)
        there = {n: (snapshot, *one) for n, one in questions.items() if n in up}
        answers = self._call("ask", there, max(until - time.monotonic(), 0))
        with self._changed:
            self._held |= dict.fromkeys(there.keys() - answers.keys(), frozenset())
        return {number: one for number, one in answers.items() if one is not None}

    def close(self) -> None:
        """Take the application down; and Ray, where it is this process' own."""
        import ray

        self._ended.set()
        for watcher in self._watchers:
            if watcher.is_alive():
                watcher.join()
        if ray.is_initialized():
            if self._owned:
                ray.shutdown()  # and with it everything that runs there
            else:
                self._serve.delete(self._app)

    def _first_snapshot(self) -> str:
        wanted = self._find_wanted()
        if wanted is None:
            import ray

            self._start_build()
            try:
                ray.get(self._build)
            except ray.exceptions.RayError as error:
                raise ServiceError(f"{self.folder}: search arrays cannot be made: {_said(error)}") from error
            wanted = newest_snapshot(self.folder, self._config.index_id)
        if wanted is None:
            raise ServiceError(
                f"{self.folder}: search arrays cannot be written there, where shards read them"
            )
        return wanted

    def _find_wanted(self) -> str | None:
        """The snapshot that shards should hold: the table's, or the newest, while its arrays are not made."""
        version = table_version(self.folder)
        found = snapshot_in(self.folder, self._config.index_id, version)
        if found is None and not being_written(self.folder):
            self._start_build()
        return found or newest_snapshot(self.folder, self._config.index_id)

    def _start_build(self) -> None:
        import ray

        if self._build is not None:
            if not ray.wait([self._build], timeout=0)[0]:
                return
            try:
                ray.get(self._build)
            except ray.exceptions.RayError as error:
                log.warning("%s: search arrays were not made: %s", self.folder, _said(error))
        self._build = ray.remote(num_cpus=0)(build_arrays).remote(self.folder)

    def _deploy(self) -> list[Any]:
        serve = self._serve
        options = {
            "num_replicas": 1,
            "max_ongoing_requests": _MANY,
            "health_check_period_s": 1,
            "health_check_timeout_s": 5,
            "graceful_shutdown_timeout_s": 2,
            "ray_actor_options": {"num_cpus": 1},
        }
        serve.start(proxy_location="Disabled")
        bound: list[Any] = []
        for number in reversed(range(self.count)):
            deployment = serve.deployment(ShardServer).options(name=f"shard-{number}", **options)
            # An application has one entrance: the first shard, which knows of the others.
            others = bound if number == 0 else []
            bound.append(deployment.bind(self.folder, self._config.index_id, number, self.count, *others))
        serve.run_many(
            [serve.RunTarget(bound[-1], name=self._app, route_prefix=None)],
            wait_for_applications_running=False,
        )
        return [serve.get_deployment_handle(f"shard-{n}", self._app) for n in range(self.count)]

    def _wait(self) -> None:
        until = time.monotonic() + START
        with self._changed:
            while not self._changed.wait_for(lambda: len(self.up()) == self.count, TELL):
                if time.monotonic() > until:
                    raise ServiceError(f"not all shards have started: {self._state()}")
                log.warning("shards are still starting: %s", self._state())

    def _state(self) -> str:
        found = self._serve.status().applications.get(self._app)
        states = (
            []
            if found is None
            else [f"{name}: {one.status} {one.message}".strip() for name, one in found.deployments.items()]
        )
        return "; ".join([*states, *(f"shard {n + 1}: {text}" for n, text in self._said.items() if text)])

    def _watch(self, look: Callable[[], None]) -> None:
        while not self._ended.wait(LOOK_EVERY):
            try:
                look()
            except Exception:
                log.exception("the shards cannot be looked at")

    def _follow(self) -> None:
        """See what the index has come to, and move on to it when all shards have."""
        try:
            self._wanted = self._find_wanted() or self._snapshot
        except IndexStateError as error:
            log.warning("shards stay at %s: %s", self._snapshot, error)
        with self._changed:
            now = time.monotonic()
            waited = [n for n, answered in self._answered.items() if now - answered < ABSENT]
            if waited and all(self._wanted in self._held[n] for n in waited):
                self._snapshot = self._wanted

    def _look(self, number: int) -> None:
        """See what a shard holds, and tell it what is wanted."""
        told = {number: (self._wanted, self._snapshot)}
        report: Report | None = self._call("look", told, self.deadline).get(number)
        with self._changed:
            self._held[number] = frozenset() if report is None else frozenset(report.held)
            self._changed.notify_all()
        if report is None:
            return
        self._answered[number] = time.monotonic()
        if report.trouble and report.trouble != self._said.get(number):
            log.warning("shard %d of %d: %s", number + 1, self.count, report.trouble)
        self._said[number] = report.trouble

    def _call(self, method: str, arguments: Mapping[int, tuple[Any, ...]], seconds: float) -> dict[int, Any]:
        """What shards return, all called at once; those that do not in time, or break, are left out."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        until = time.monotonic() + seconds
        waiting = {n: getattr(self._handles[n], method).remote(*given) for n, given in arguments.items()}
        answers: dict[int, Any] = {}
        for number, response in waiting.items():
            try:
                answers[number] = response.result(timeout_s=max(until - time.monotonic(), 0.001))
            except TimeoutError:
                response.cancel()
                log.info("shard %d of %d did not answer in %.2f s", number + 1, self.count, seconds)
            except (RayError, RayServeException) as error:
                log.warning("shard %d of %d: %s", number + 1, self.count, _said(error))
        return answers


def _said(error: Exception) -> str:
    """An error of Ray in one line; of a shard's own, the last one of its trace."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[-1] if 'Traceback' in str(error) else lines[0]:.300}"
