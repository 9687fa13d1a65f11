"""The gradient of a step is that of the whole batch, in chunks and over processes, noise included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from vidsift.training.distributed import World, average_gradients, gather
from vidsift.training.loop import _Run
from vidsift.training.setup import prepare
from vidsift.training.step import Batch, StepRunner, chunk_for, saved_bytes


class Folder:
    """A run folder without a past."""

    checkpoint = Path("/nonexistent/checkpoint.pt")
    path = Path("/nonexistent")


def make_run(recipe: Any) -> _Run:
    return _Run(recipe, Folder(), prepare(recipe, World()), World())  # type: ignore[arg-type]


def gradients(run: _Run, chunk: int | None, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    run.model.train()
    run.model.zero_grad(set_to_none=True)
    torch.manual_seed(5)
    run.runner.chunk = chunk
    loss = run.runner(batch)["loss"]
    return loss, {name: p.grad.clone() for name, p in run.trained if p.grad is not None}


METHODS = {
    "teachclip": {"layers": 1},
    "xclip": {"layers": 1},
    "eercf": {"layers": 1},
    "xpool": {"dropout": 0.0},
    "vidsift": {"layers": 1},
}


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "end to end"])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_chunks_are_those_of_the_whole_batch(
    make_recipe: Any, method: str, cached: bool
) -> None:
    rates = {} if cached else {"lr": {"vision": 1e-4}}
    recipe = make_recipe(
        method, method={"name": method, "settings": METHODS[method]}, optimiser=rates, batch=6
    )
    run = make_run(recipe)
    batch = run._batch(0)
    loss, whole = gradients(run, None, batch)
    assert (batch.pictures.pixels is None) == cached
    for chunk in (1, 4):
        again, parts = gradients(run, chunk, batch)
        assert again == pytest.approx(loss, rel=1e-5)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("method", ["xpool", "ts2net"])
def test_noise_is_the_same_in_both_passes_of_a_chunk(
    make_recipe: Any, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"dropout": 0.5} if method == "xpool" else {"layers": 1, "samples": 10}
    run = make_run(make_recipe(method, method={"name": method, "settings": settings}, batch=6))
    seen: list[Tensor] = []
    encode = StepRunner.encode

    def noted(self: StepRunner, *parts: Any) -> Any:
        found = encode(self, *parts)
        seen.append(found[1].frames.detach())
        return found

    monkeypatch.setattr(StepRunner, "encode", noted)
    gradients(run, 2, run._batch(0))
    assert len(seen) == 6
    for first, second in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(first, second)
    if method == "ts2net":  # its noise lies in the features
        gradients(run, 2, run._batch(0))
        torch.manual_seed(6)
        run.runner(run._batch(0))
        assert not torch.equal(seen[0], seen[-1])


def test_a_memory_budget_gives_the_largest_chunk_that_fits(make_recipe: Any) -> None:
    run = make_run(make_recipe(optimiser={"lr": {"vision": 1e-4}}))
    batch = run._batch(0)
    rows = slice(0, 4)
    four = saved_bytes(
        run.model, lambda: run.runner.encode(batch.texts.select(rows), batch.pictures.select(rows))
    )
    assert four > 1 << 20
    assert chunk_for(run.runner, batch, 1.05 * four / 2**30) == 4
    assert chunk_for(run.runner, batch, 1e-9) == 1
    assert chunk_for(run.runner, batch, 100.0) is None


def _process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    world = World(rank, 2)
    inside, behind, x = _problem()
    mine = gather(x[rank * 3 : rank * 3 + 3] @ inside, world)
    _loss(mine, behind).backward()
    average_gradients([inside, behind], world)
    torch.save([inside.grad, behind.grad], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _problem() -> tuple[torch.nn.Parameter, torch.nn.Parameter, Tensor]:
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(s, generator=generator) for s in ((4, 5), (5, 5), (6, 4))]
    return torch.nn.Parameter(parts[0]), torch.nn.Parameter(parts[1]), parts[2]


def _loss(features: Tensor, behind: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(features @ behind @ features.T, torch.arange(6))


def test_two_processes_have_the_gradient_of_one_before_and_behind_the_gather(tmp_path: Path) -> None:
    inside, behind, x = _problem()
    _loss(x @ inside, behind).backward()
    # Forked, because a test module has no name under which another process could import it.
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    for rank in range(2):
        for got, expected in zip(
            torch.load(tmp_path / f"{rank}.pt"), (inside.grad, behind.grad), strict=True
        ):
            torch.testing.assert_close(got, expected)
