"""Many processes as one batch: a gather that gradients pass, and gradients averaged."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidsift.errors import TrainingError

# The others wait while the leader fills caches or validates. One that dies is noticed at once all the same.
_PATIENCE = timedelta(days=2)


@dataclass(frozen=True)
class World:
    """This process among all that train together, on one machine or on several.

    local_rank: among those of its machine.  waiting: the group (gloo) in which they wait for each other.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    local_rank: int = 0
    waiting: Any = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here.  Raises TrainingError when one is gone."""
        if self.size > 1:
            with _among_others():
                dist.barrier(group=self.waiting)

    def once_a_machine(self, work: Callable[[], object]) -> None:
        """Have the leader do `work`, then one process of every other machine: one that sees the leader's
        folders finds it done, another makes files of its own."""
        if self.leads:
            work()
        self.wait()
        if self.local_rank == 0 and not self.leads:
            work()
        self.wait()

    def agree(self, said: Mapping[str, object]) -> None:
        """Raise TrainingError, naming what differs, unless all processes say the same."""
        if self.size == 1:
            return
        found: list[Any] = [None] * self.size
        with _among_others():
            dist.all_gather_object(found, dict(said), group=self.waiting)
        differing = [name for name in said if any(other[name] != found[0][name] for other in found)]
        if differing:
            raise TrainingError(
                f"the processes of this run do not have the same {' and '.join(differing)}: start them with "
                "one recipe over the same data"
            )

    def leaders_file(self, path: Path) -> Path | io.BytesIO | None:
        """A file of the leader's for everyone, None where it has none; other machines need not see it.

        Raises TrainingError when another process has such a file and the leader has not.
        """
        if self.size == 1:
            return path if path.exists() else None
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        own = path.stat().st_size if path.exists() else -1
        with _among_others():
            dist.all_gather(sizes, torch.tensor([own]), group=self.waiting)
        if int(sizes[0]) < 0:
            if any(int(size) >= 0 for size in sizes):
                raise TrainingError(
                    f"{path}: another machine than that of rank 0 has this file, so the ranks are not those "
                    "of the run it is of; give every machine the --node-rank it had"
                )
            return None
        content = torch.empty(int(sizes[0]), dtype=torch.uint8)
        if self.leads:
            content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        with _among_others():
            dist.broadcast(content, 0, group=self.waiting)
        return path if self.leads else io.BytesIO(content.numpy().tobytes())

    def take_leaders(self, weights: Iterable[Tensor]) -> None:
        """Give all processes the leader's weights."""
        if self.size > 1:
            with _among_others(), torch.no_grad():
                for weight in weights:
                    dist.broadcast(weight, 0)


@contextmanager
def _among_others() -> Iterator[None]:
    """Around whatever is done with other processes: says what it means when they do not answer."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise TrainingError(
            f"another process of this run has ended or cannot be reached; what it said tells why ({reason}). "
            "The same commands on all machines go on from the last checkpoint"
        ) from error


@contextmanager
def joined() -> Iterator[World]:
    """The processes that torchrun started (its environment variables say so), or this one alone.

    One CUDA device per process where there are any, over nccl; else gloo.
    """
    cuda = torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device="cuda" if cuda else "cpu")
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = f"cuda:{local}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(local)
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("nccl" if cuda else "gloo")
    try:
        waiting = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield World(dist.get_rank(), dist.get_world_size(), device, local, waiting)
    finally:
        if ours:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All processes' rows, in order of rank; backward gives every process the summed gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world, ctx.rows = world, len(x)
        parts = [torch.empty_like(x) for _ in range(world.size)]
        with _among_others():
            dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
        with _among_others():
            dist.all_reduce(whole)
        start = ctx.world.rank * ctx.rows
        return whole[start : start + ctx.rows], None


def gather(x: Tensor, world: World) -> Tensor:
    """Rows of all processes, [world * B, ...]; x: [B, ...], of the same shape everywhere.

    Each process then computes the same loss; with `average_gradients` afterwards every parameter gets the
    gradient of one process with the whole batch, whether it lies before the gather or behind it.
    """
    if world.size == 1:
        return x
    if x.dtype == torch.bool:
        return gather(x.to(torch.uint8), world).bool()
    found: Tensor = _Gather.apply(x, world)  # type: ignore[no-untyped-call]
    return found


def average_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Replace every gradient by its mean over processes."""
    if world.size == 1:
        return
    with _among_others():
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world.size
