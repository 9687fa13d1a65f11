"""The Ray engine: a stream of files through tasks and actors of a cluster, put back in order here."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from vidsift.errors import EngineError
from vidsift.ingest.decode import usable_cores
from vidsift.ingest.plan import Work
from vidsift.ingest.ray_stages import Encoder, Job, Trouble, Unseen, read_group, unpack
from vidsift.ingest.reading import Done, Failed
from vidsift.ingest.results import Lost, Results
from vidsift.ray_session import INSTALL, connect

GROUP_FILES, GROUP_BYTES = 16, 64 << 20
"""A reading task takes so many files, or so many bytes of them: starting a task costs some milliseconds."""

BLOCK_BYTES = 4 << 20
"""Clips travel between machines in blocks of about this size ..."""

WAITING_BYTES = 32 << 20
"""... and about so much of them may wait for each reader and each encoder."""

CORES = 4
"""The most cores of an encoding actor: more, and a clip's dozen frames do not keep them busy."""

ATTEMPTS = 3
"""A file is given up when it was lost so many times with its worker."""


def check_installed() -> None:
    """EngineError when Ray is not there; it is not imported for that."""
    if find_spec("ray") is None or find_spec("pandas") is None:
        raise EngineError(f"engine 'ray' needs Ray: {INSTALL}")


def results(works: Sequence[Work], job: Job, address: str | None, workers: int | None) -> Results:
    """Read and encode the files on the cluster at `address`, or on a Ray of our own on this machine.

    workers: files that are read at the same time, in the whole cluster; None takes one a core.
    A worker that is lost costs a second reading of what it had at hand, from the file's beginning.
    Raises EngineError when there is no such cluster, or a machine of it cannot do its part.
    """
    ray = _import_ray()
    with _connected(address) as own:
        nodes = _checked_nodes(ray, job)
        layout = plan_layout(nodes, workers, job.device, _own_threads() if own else CORES)
        waiting = list(range(len(works)))
        for attempt in range(ATTEMPTS):
            # What was lost is read file by file: one that ends its worker takes no other with it again.
            groups = make_groups(works, waiting, layout.readers) if attempt == 0 else [[i] for i in waiting]
            order = Order()
            try:
                for table in _stream(ray, works, groups, job, layout.for_groups(len(groups))):
                    for file, number, _, event in unpack(table):
                        for ready in order.take(file, number, event):
                            yield works[file], _judged(works[file], ready)
            except ray.exceptions.RayError as error:
                raise EngineError(
                    f"the Ray cluster broke off: {str(error).strip().splitlines()[-1]}"
                ) from error
            waiting = [file for file in waiting if file not in order.ended]
            if not waiting:
                return
        for file in waiting:
            yield works[file], Lost(f"lost {ATTEMPTS} times with the worker that had it (out of memory?)")


@dataclass(frozen=True)
class Layout:
    """How a cluster is shared out: readers, encoders, and the cores and GPUs of one encoder.

    Readers and encoders each get as many cores as there are, at half a Ray CPU a core, as on one machine:
    whoever is ahead waits, and leaves its cores to the others.
    """

    readers: int
    encoders: int
    cores: int
    gpus: int

    def for_groups(self, count: int) -> Layout:
        """The same for little work: nobody is started who would get none."""
        return replace(self, readers=min(self.readers, count), encoders=min(self.encoders, count))


def plan_layout(
    nodes: Sequence[dict[str, float]], workers: int | None, device: str | None, cores: int = CORES
) -> Layout:
    """The layout for machines with these resources (as Ray names them), `cores` at most for an encoder.

    Raises EngineError when there is nothing to work on.
    """
    having = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not having:
        raise EngineError("the Ray cluster offers no CPU")
    readers = workers or sum(having)
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" and not gpus:
        raise EngineError("device 'cuda': the Ray cluster offers no GPU")
    if gpus and device in (None, "cuda"):
        return Layout(readers, gpus, 1, 1)
    each = min(cores, *having)
    return Layout(readers, sum(count // each for count in having), each, 0)


def make_groups(works: Sequence[Work], files: Iterable[int], readers: int) -> list[list[int]]:
    """Files for one reading task each: small ones together, but enough groups for all readers."""
    files = list(files)
    most = min(GROUP_FILES, math.ceil(len(files) / (4 * readers)))
    groups: list[list[int]] = []
    held = 0
    for file in files:
        size = works[file].file.size
        if not groups or len(groups[-1]) >= most or held + size > GROUP_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += size
    return groups


@dataclass
class Order:
    """Puts the events of every file in order, each once, whichever way they come; `ended`: files that are
    complete."""

    ended: set[int] = field(default_factory=set)
    _early: dict[int, dict[int, Any]] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)

    def take(self, file: int, number: int, event: Any) -> list[Any]:
        """The events that are ready, now that this one is here."""
        if file in self.ended:
            return []
        if isinstance(event, Trouble):
            return [event]
        early, following = self._early.setdefault(file, {}), self._next.get(file, 0)
        if number >= following:
            early[number] = event
        ready = []
        while following in early:
            ready.append(early.pop(following))
            following += 1
        self._next[file] = following
        if ready and isinstance(ready[-1], Done | Failed | Unseen):
            self.ended.add(file)
            del self._early[file], self._next[file]
        return ready


def _judged(work: Work, event: Any) -> Any:
    """The event itself, unless it says that a machine does not do its part."""
    if isinstance(event, Trouble):
        raise EngineError(f"{event.machine}: {event.reason}")
    if isinstance(event, Unseen):
        if os.path.exists(work.file.path):
            raise EngineError(
                f"{event.machine}: cannot open {work.file.path} ({event.reason}), which is there on the "
                "indexing machine; mount it at the same path on all machines"
            )
        return Failed(event.reason)
    return event


def _stream(
    ray: Any, works: Sequence[Work], groups: Sequence[Sequence[int]], job: Job, layout: Layout
) -> Iterator[pa.Table]:
    """Tables of events, as they come out of the actors."""
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    files = ray.data.from_arrow([_named(works, group) for group in groups])
    context = files.context
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES
    context.execution_options.resource_limits = context.execution_options.resource_limits.copy(
        object_store_memory=WAITING_BYTES * (layout.readers + layout.encoders)
    )
    # A task or block that fails for good is no reason to end the run: its files are asked for again.
    context.max_errored_blocks = -1
    with warnings.catch_warnings():
        # Ray 2.64 will not take limits of retries here; pyproject.toml asks for an earlier one.
        warnings.simplefilter("ignore")
        records = _staged(files, job, layout, ActorPoolStrategy, TaskPoolStrategy)
    yield from records.iter_batches(batch_size=None, batch_format="pyarrow")


def _staged(files: Any, job: Job, layout: Layout, actors: Any, tasks: Any) -> Any:
    events = files.map_batches(
        read_group,
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"job": job},
        compute=tasks(layout.readers),
        num_cpus=0.5,
        max_retries=1,
    )
    return events.map_batches(
        Encoder,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_kwargs={"job": job, "threads": None if layout.gpus else layout.cores},
        compute=actors(size=layout.encoders),
        num_cpus=0.5 * layout.cores,
        num_gpus=layout.gpus,
        max_task_retries=1,
    )


def _named(works: Sequence[Work], group: Sequence[int]) -> pa.Table:
    return pa.table(
        {
            "file": pa.array(group, pa.int64()),
            "path": pa.array([os.fsencode(works[file].file.path) for file in group], pa.binary()),
            "fingerprint": pa.array([works[file].fingerprint for file in group], pa.string()),
        }
    )


@contextmanager
def _connected(address: str | None) -> Iterator[bool]:
    """A connection to Ray; yields whether it is to a Ray of our own, which ends with the block."""
    import ray

    cores = usable_cores()
    connection = connect(address, cores, 4 * WAITING_BYTES * cores)
    try:
        yield connection == "started"
    finally:
        if connection != "was there":
            ray.shutdown()


def _import_ray() -> Any:
    """Ray with Ray Data, kept from talking (`vidsift.ray_session`)."""
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it calls Ray Data's own actors an error
    import ray
    import ray.data

    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    return ray


def _own_threads() -> int:
    import torch

    return min(CORES, torch.get_num_threads())


def _checked_nodes(ray: Any, job: Job) -> list[dict[str, float]]:
    """The resources of the machines that are there; EngineError where our version is not installed."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # A function inside a function travels as code: it has to run where vidsift is missing.
    def version() -> str:
        try:
            import vidsift
        except ImportError as error:
            return f"no vidsift ({error})"
        return f"vidsift {vidsift.__version__}"

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    ask = ray.remote(num_cpus=0, max_retries=1)(version)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in nodes
    ]
    for node, answer in zip(nodes, asked, strict=True):
        found = ray.get(answer)
        if found != f"vidsift {job.version}":
            raise EngineError(
                f"{node['NodeManagerHostname']}: has {found}, the indexer vidsift {job.version}; install the "
                "same on all machines of the cluster"
            )
    return [node["Resources"] for node in nodes]
