"""Many processes as one batch: a gather that gradients pass, and gradients averaged."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()


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
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if ours:
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    """All processes' rows, in order of rank; backward gives every process the summed gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, world: World) -> Tensor:
        ctx.world, ctx.rows = world, len(x)
        parts = [torch.empty_like(x) for _ in range(world.size)]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].contiguous().clone()
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
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world.size
