"""Shards as processes: what one takes for a query, and small clusters that are asked at the same time."""

from __future__ import annotations

import heapq
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

SHORT, TAU = 100, 0.1
CORES = len(os.sched_getaffinity(0))
Queries = npt.NDArray[np.float32]


def serve(folder: str, mine: Connection) -> None:
    """Answer (number, query [D], kind, picked) until None comes.

    An answer is (number, seconds of a core for the scan, for the rerank).  kind: `exact` scores every vector,
    `coded` those that the codes pick.  The first message is the process's anonymous memory with everything
    open, in bytes.
    """
    import faiss

    from vidsift.index.derived import open_newest
    from vidsift.index.rerank import rerank
    from vidsift.index.scan import Scan

    faiss.omp_set_num_threads(1)
    arrays = open_newest(folder, "bench")
    assert arrays is not None
    scans = {"coded": arrays.scan, "exact": Scan(arrays.scan.exact, None, arrays.scan.scale)}
    mine.send(_anonymous())
    while (asked := mine.recv()) is not None:
        number, query, kind, picked = asked
        began = time.process_time()
        rows = scans[kind].best(query, SHORT, picked=picked)[1]
        scanned = time.process_time()
        rerank(query, arrays.frames_of(rows), arrays.scales[rows], arrays.counts[rows], TAU)
        mine.send((number, scanned - began, time.process_time() - scanned))


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("the kernel does not say how much anonymous memory a process has")


class Shards:
    """Some shards, each a process that answers one query after the other; a context that ends them."""

    def __init__(self, folders: Sequence[Path]) -> None:
        # One thread each; and not forked: with libraries and memory of its own, as on another machine.
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.processes = []
        for folder in folders:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(str(folder), theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)
        self.anonymous = [int(pipe.recv()) for pipe in self.pipes]

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            process.join()

    def alone(
        self,
        shard: int,
        queries: Queries,
        kind: str,
        picked: int | None = None,
        pauses: Sequence[float] | None = None,
    ) -> dict[str, Any]:
        """What queries take that one shard answers while nothing else runs, each [Q] seconds.

        `scan` and `rerank` are of a core, `whole` is what whoever asks waits.  pauses: seconds to wait before
        every query; by default one follows the other.
        """
        pipe = self.pipes[shard]
        found = np.empty((len(queries), 3))
        for number, query in enumerate(queries):
            if pauses is not None:
                time.sleep(pauses[number])
            began = time.perf_counter()
            pipe.send((number, query, kind, picked))
            _, scan, rerank = pipe.recv()
            found[number] = scan, rerank, time.perf_counter() - began
        return dict(zip(("scan", "rerank", "whole"), found.T, strict=True))

    def together(self, shards: int, queries: Queries, kind: str) -> npt.NDArray[np.float64]:
        """Seconds until the last of the first so many shards has answered, one query after the other, [Q]."""
        found = np.empty(len(queries))
        for number, query in enumerate(queries):
            began = time.perf_counter()
            for pipe in self.pipes[:shards]:
                pipe.send((number, query, kind, None))
            for pipe in self.pipes[:shards]:
                pipe.recv()
            found[number] = time.perf_counter() - began
        return found

    def under_load(
        self,
        groups: Sequence[Sequence[int]],
        queries: Queries,
        arrivals: npt.NDArray[np.float64],
        kind: str,
        hedge_after: float | None = None,
    ) -> tuple[npt.NDArray[np.float64], float]:
        """Queries at given seconds, each to one replica of every group in turn, and with `hedge_after` to the
        next one when no answer has come by then.

        Returns the seconds until every group has answered [Q], and requests sent for each that was asked.
        """
        due = [
            (at, number, g, True) for number, at in enumerate(arrivals.tolist()) for g in range(len(groups))
        ]
        heapq.heapify(due)
        done = np.full((len(arrivals), len(groups)), np.inf)
        group_of = {self.pipes[r]: g for g, replicas in enumerate(groups) for r in replicas}
        open_, sent = 0, 0
        began = time.perf_counter()
        while True:
            now = time.perf_counter() - began
            while due and due[0][0] <= now:
                at, number, g, first = heapq.heappop(due)
                if first or not np.isfinite(done[number, g]):
                    replica = groups[g][(number + (not first)) % len(groups[g])]
                    self.pipes[replica].send((number, queries[number % len(queries)], kind, None))
                    open_, sent = open_ + 1, sent + 1
                    if first and hedge_after is not None:
                        heapq.heappush(due, (at + hedge_after, number, g, False))
            if not due and not open_:
                break
            pause = max(0.0, due[0][0] - (time.perf_counter() - began)) if due else None
            for pipe in wait(list(group_of), pause):
                assert isinstance(pipe, Connection)
                number = pipe.recv()[0]
                g = group_of[pipe]
                done[number, g] = min(done[number, g], time.perf_counter() - began)
                open_ -= 1
        return done.max(1) - arrivals, sent / done.size
