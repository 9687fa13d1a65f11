"""Two machines that share no folder train as one process does; when one dies, the other says so and ends."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from vidsift.errors import TrainingError
from vidsift.training.distributed import World
from vidsift.training.folder import METRICS, MODEL
from vidsift.training.loop import train

# What runs in place of `vidsift` on a machine that is lost: it dies, launcher and all, after three steps.
DYING = """
import os, signal
from vidsift.cli import main
from vidsift.training import loop
read = loop._Run._batch
def die(run, step):
    if step == 3:
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return read(run, step)
loop._Run._batch = die
main()
"""
VIDSIFT = (str(Path(sys.executable).parent / "vidsift"),)


def logged(folder: Path, key: str) -> dict[int, Any]:
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if key in row}


class Machine:
    """A launcher of its own in a folder of its own, which holds the recipe and whatever a run leaves."""

    def __init__(self, rank: int, folder: Path, recipe: Any) -> None:
        folder.mkdir()
        self.rank, self.folder = rank, folder
        (folder / "recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")))

    def start(self, port: int, program: tuple[str, ...] = VIDSIFT) -> Machine:
        launch = ["-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={self.rank}"]
        launch += [f"--rdzv-endpoint=127.0.0.1:{port}", "--nproc-per-node=1", "--no-python"]
        with (self.folder / "said").open("w") as out, (self.folder / "complained").open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, *launch, *program, "train", "recipe.yaml", "--out", "run", "--json", "-q"],
                cwd=self.folder,
                stdout=out,
                stderr=err,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        return self

    def ends(self) -> int:
        try:
            return self.process.wait(timeout=200)
        finally:
            self.process.terminate()  # a launcher that hangs ends its processes with itself


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.long
@pytest.mark.system
def test_two_machines_train_as_one_process_and_go_on_after_one_died(make_recipe: Any, tmp_path: Path) -> None:
    # X-Pool has parameters before the gather and behind it.
    changes: dict[str, Any] = {"method": {"name": "xpool", "settings": {"dropout": 0.0}}}
    alone = train(make_recipe("xpool", **changes), tmp_path / "alone")
    recipe = make_recipe("xpool", **changes, features={"folder": "features"})
    first, second = machines = [Machine(rank, tmp_path / f"machine{rank}", recipe) for rank in range(2)]

    port = free_port()
    first.start(port)
    second.start(port, (sys.executable, "-c", DYING))
    assert second.ends() == -signal.SIGKILL
    assert first.ends() > 0
    complained = (first.folder / "complained").read_text()
    assert "another process of this run has ended or cannot be reached" in complained
    assert max(logged(first.folder / "run", "loss")) == 3

    port = free_port()
    for machine in machines:
        machine.start(port)
    for machine in machines:
        assert machine.ends() == 0, (machine.folder / "complained").read_text()
    run = first.folder / "run"
    assert [json.loads(line)["step"] for line in (run / METRICS).read_text().splitlines()].count(0) == 1
    for key in ("loss", "gradient"):
        assert logged(run, key) == pytest.approx(logged(tmp_path / "alone", key), rel=1e-3, abs=1e-6)
    assert logged(run, "validation") == logged(tmp_path / "alone", "validation")
    said = json.loads((first.folder / "said").read_text())["validation"]
    # Fitted to scores, which differ in their last bits as losses do; all else counts ranks.
    assert said.pop("confidence") == pytest.approx(alone.pop("confidence"), rel=1e-3)
    assert said == alone
    # Each has made its cache, one writes the run.
    assert (run / MODEL).is_dir()
    assert (second.folder / "said").read_text() == ""
    assert sorted(path.name for path in second.folder.iterdir()) == [
        *("complained", "features", "recipe.yaml", "said")
    ]


def _process(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    world, own = World(rank, 2), Path(folder, str(rank))
    own.mkdir()
    seen: list[object] = []
    world.once_a_machine(lambda: seen.append((own.parent / "0" / "done").exists()) or (own / "done").touch())
    seen.append(world.leaders_file(own / "state"))
    if rank == 0:
        (own / "state").write_bytes(b"what the leader knows")
    found = world.leaders_file(own / "state")
    seen.append(found.read() if isinstance(found, io.BytesIO) else found)
    world.agree({"recipe": 1, "data": 2})
    for wrong in (
        lambda: world.agree({"recipe": 1, "data": rank}),
        lambda: world.leaders_file(own / ("other" if rank == 0 else "done")),
    ):
        with pytest.raises(TrainingError) as caught:
            wrong()
        seen.append(str(caught.value))
    (own / "seen").write_text(repr(seen))
    dist.destroy_process_group()


def test_what_the_leader_has_reaches_a_machine_that_does_not_see_its_folder(tmp_path: Path) -> None:
    # Forked, because a test module has no name under which another process could import it.
    mp.start_processes(_process, (str(tmp_path),), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    leader, other = ((tmp_path / str(rank) / "seen").read_text() for rank in range(2))
    assert leader.startswith(f"[False, None, {tmp_path / '0' / 'state'!r}, ")
    assert other.startswith("[True, None, b'what the leader knows', ")
    for said in (leader, other):
        assert "do not have the same data: start them with one recipe" in said
        assert "give every machine the --node-rank it had" in said
