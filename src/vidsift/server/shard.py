"""What runs in the process of a shard: the arrays of a part of an index, in the versions that are in use."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

THREADS = 4
"""Questions that a shard works on at the same time."""

KEPT = 15.0
"""Seconds that a version is kept for after it was last named: searches of it may be on their way."""


@dataclass(frozen=True)
class Report:
    """What a shard says when it is looked at: snapshots that it holds; what is wrong with the one wanted."""

    held: tuple[str, ...]
    trouble: str = ""


class ShardServer:
    """Shard `number` of `count` of the index in `folder`. It is told what to load, and does so by itself."""

    def __init__(self, folder: str, index_id: str, number: int, count: int, *others: Any) -> None:
        import faiss

        # One core for a question: others are answered beside it.
        faiss.omp_set_num_threads(1)
        self._folder, self._index_id, self._number, self._count = folder, index_id, number, count
        self._answering = ThreadPoolExecutor(THREADS, "answer")
        self._loader = ThreadPoolExecutor(1, "load")
        self._loading: asyncio.Future[Any] | None = None
        self._held: dict[str, Any] = {}
        self._named: dict[str, float] = {}
        self._trouble = ""

    async def ask(self, snapshot: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """What `vidsift.index.shards.Shard` answers; None when this snapshot is not held (any more)."""
        shard = self._held.get(snapshot)
        if shard is None:
            return None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._answering, getattr(shard, method), *arguments)

    async def look(self, wanted: str, using: str) -> Report:
        """Be told which snapshots are needed; what is wanted is loaded in the background."""
        now = time.monotonic()
        self._named |= {wanted: now, using: now}
        for snapshot in [s for s in self._held if now - self._named[s] > KEPT]:
            del self._held[snapshot]
        if wanted not in self._held and (self._loading is None or self._loading.done()):
            loop = asyncio.get_running_loop()
            self._loading = loop.run_in_executor(self._loader, self._load, wanted)
        return Report(tuple(self._held), self._trouble)

    def _load(self, snapshot: str) -> None:
        from vidsift.index.derived import DAMAGE, FOLDER, load_derived
        from vidsift.index.sharded import snapshot_of, version_of
        from vidsift.index.shards import Shard, split_rows

        path = os.path.join(self._folder, FOLDER, str(version_of(snapshot)))
        try:
            arrays = load_derived(path, self._index_id)
            if snapshot_of(arrays) != snapshot:
                raise ValueError("these are other arrays than those that are wanted")
            shard = Shard(arrays, *split_rows(len(arrays), self._count)[self._number])
        except DAMAGE as error:
            self._trouble = f"{path}: cannot be loaded ({error})"
            log.warning("%s", self._trouble)
            return
        self._held[snapshot], self._trouble = shard, ""


def build_arrays(folder: str) -> None:
    """Make the arrays of the table as it is now, on whichever machine of the cluster this runs."""
    from vidsift.index.building import build_derived
    from vidsift.index.config import read_config
    from vidsift.index.store import Store

    config = read_config(folder)
    store = Store.open(folder, config.model.fingerprint)
    build_derived(folder, config.index_id, store, setting=config.scan)
