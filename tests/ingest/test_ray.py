"""Many machines: the index that Ray makes is the local engine's, whatever dies on the way.

The cluster is real (several raylets, each with workers of its own) and all of it on this machine.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pytest
import torch

from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_video
from vidsift.errors import EngineError, VidsiftError
from vidsift.index import Index
from vidsift.ingest import Progress, index_paths
from vidsift.video import SegmentConfig

pytest.importorskip("ray", reason="the extra vidsift[ray] is not installed")
pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(600)]

FILES, RENDERED = 500, 10
SHORT = SegmentConfig("windows", 0.5, 2.0)

# Decoding processes of the cluster meet files that end them, or the Ray worker that they belong to.
DEADLY = """
import os, signal, sys
if "vidsift.ingest.worker" in " ".join(sys.orig_argv):
    from vidsift.ingest import worker
    read = worker.read_file
    def read_file(path, settings):
        for event in read(path, settings):
            yield event
            if path.endswith("crash.mp4") and type(event).__name__ == "Clip":
                os.kill(os.getpid(), signal.SIGSEGV)
            if path.endswith("killer.mp4"):
                os.kill(os.getppid(), signal.SIGKILL)
    worker.read_file = read_file
"""


def put_copy(content: bytes, path: Path, number: int) -> None:
    """The same video as a file of its own: with a box that readers pass over, and fingerprints do not."""
    path.write_bytes(content + b"\x00\x00\x00\x10free%08d" % number)


def first_second(path: Path) -> bytes:
    """The beginning of a video as a video."""
    out = io.BytesIO()
    with av.open(str(path)) as source, av.open(out, "w", format="mp4") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None and packet.dts * packet.time_base < 1:
                packet.stream = stream
                target.mux(packet)
    return out.getvalue()


def fill(folder: Path, files: int, rendered: int) -> Path:
    """Storyboard videos, few of them rendered, each many times over; one file that is none.

    Every tenth has all six seconds, the others only the first: reading is what a test waits for.
    """
    folder.mkdir()
    whole = folder.parent / "rendered.mp4"
    for index, video in enumerate(load_split("test", videos=rendered).videos):
        write_video(video, whole)
        content, start = whole.read_bytes(), first_second(whole)
        for number in range(index, files, rendered):
            longer = number // rendered % 10 == 0
            put_copy(content if longer else start, folder / f"{number:03}.mp4", number)
    (folder / "none.mp4").write_bytes(b"garbage" * 100)
    return folder


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A cluster of two machines with one core each, on which some files are deadly."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            add_machine(made, tmp_path / "site", "sitecustomize.py", DEADLY)
        yield made
    finally:
        made.shutdown()


def add_machine(cluster: Any, first: Path, name: str, code: str) -> None:
    """A machine with one core that imports from the folder `first` before all others: this file, too."""
    (first / name).parent.mkdir(parents=True, exist_ok=True)
    (first / name).write_text(code)
    path = os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    cluster.add_node(num_cpus=1, env_vars=environment, object_store_memory=100 << 20)


def table_of(index: Path | str, below: Path) -> pa.Table:
    opened = Index.open(index)
    files = [path for path in opened.files() if path.startswith(f"{below}/")]
    return opened._store().rows(files).sort_by([("path", "ascending"), ("clip", "ascending")])


def workers_of(cluster: str) -> dict[str, int]:
    """Process ids of Ray workers that this test's raylets started, by what they are doing."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            title = (entry / "cmdline").read_bytes().partition(b"\0")[0].decode()
            parent = next(
                line.split()[1] for line in (entry / "status").read_text().splitlines() if line[:5] == "PPid:"
            )
            raylet = Path("/proc", parent, "cmdline").read_bytes().decode()
        except (OSError, StopIteration):
            continue
        if title.startswith("ray::") and cluster in raylet:
            found[title] = int(entry.name)
    return found


def test_what_dies_on_the_way_changes_no_clip(tmp_path, cluster, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr("vidsift.ingest.pipeline.COMMIT_SECONDS", 0.3)
    monkeypatch.setattr("vidsift.ingest.ray_engine.ATTEMPTS", 2)
    library = fill(tmp_path / "library", FILES, RENDERED)
    deadly = tmp_path / "deadly"
    deadly.mkdir()
    for number, name in enumerate(("crash.mp4", "killer.mp4"), FILES):
        put_copy((library / "000.mp4").read_bytes(), deadly / name, number)
    killed: list[str] = []

    def kill(progress: Progress) -> None:
        # Once in the middle: a worker that reads, and one that encodes.
        if progress.committed >= FILES // 4 and len(killed) < 2:
            for title, process in workers_of(cluster.address).items():
                kind = "encode" if "Encoder" in title else "read"
                if ("read_group" in title or "Encoder" in title) and kind not in killed:
                    os.kill(process, signal.SIGKILL)
                    killed.append(kind)

    local = index_paths(library, tmp_path / "local", "vidsift-tiny", workers=2, segmentation=SHORT)
    report = index_paths(
        [library, deadly],
        tmp_path / "ray",
        "vidsift-tiny",
        segmentation=SHORT,
        engine="ray",
        address=cluster.address,
        progress=kill,
    )
    assert sorted(killed) == ["encode", "read"]
    clips = FILES + 2 * FILES // 10  # three of every longer file
    assert (local.added, local.clips) == (FILES, clips)
    assert (report.added, report.clips) == (FILES + 1, clips + 1)
    told = {Path(problem.path).name: problem.reason for problem in [*report.failed, *report.partial]}
    assert set(told) == {"none.mp4", "crash.mp4", "killer.mp4"}
    assert told["none.mp4"] == local.failed[0].reason
    assert told["crash.mp4"] == "the decoder crashed (exit code -11); kept the first 2.0 s"
    assert told["killer.mp4"].startswith("lost 2 times with the worker that had it")
    one, other = table_of(tmp_path / "local", library), table_of(tmp_path / "ray", library)
    assert one.num_rows == clips + 1
    assert one.equals(other)

    add_machine(cluster, tmp_path / "other", "vidsift/__init__.py", "__version__ = '9.9'\n")
    with pytest.raises(
        EngineError, match=r"has vidsift 9\.9, the indexer vidsift .* the same on all machines"
    ):
        index_paths(deadly, tmp_path / "ray", engine="ray", address=cluster.address)


WRITER = """
import sys
from vidsift.ingest import pipeline
from vidsift.video import SegmentConfig
pipeline.COMMIT_SECONDS = 0.0
library, index, address = sys.argv[1:]
cut = SegmentConfig("windows", 0.5, 2.0)
pipeline.index_paths(library, index, "vidsift-tiny", segmentation=cut, engine="ray", address=address)
"""


def test_an_index_in_object_storage_survives_its_writer_and_a_worker(tmp_path, cluster, storage):
    torch.set_num_threads(1)
    library, index = fill(tmp_path / "library", 60, 6), f"{storage.new_bucket()}/index"
    local = index_paths(library, tmp_path / "local", "vidsift-tiny", workers=2, segmentation=SHORT)
    command = [sys.executable, "-c", WRITER, library, index, cluster.address]
    writer = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    commits = 0

    def die(method: str, path: str) -> int | None:
        nonlocal commits
        if method != "PUT" or "clips.lance/_versions/" not in path:
            return None
        commits += 1
        if commits < 4:  # the empty table, and two times some files
            return None
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        return 503

    storage.hook = die
    assert writer.wait(300) == -signal.SIGKILL, "killed when the data had arrived, before the commit"
    storage.hook = None
    one, other = table_of(tmp_path / "local", library), table_of(index, library)
    kept = set(other["path"].to_pylist())
    assert 0 < len(kept) < 61
    assert other.equals(one.filter(pa.array([path in kept for path in one["path"].to_pylist()])))

    killed: list[str] = []

    def kill(progress: Progress) -> None:
        # While clips are on their way: a worker that encodes, once.
        if progress.clips and not killed:
            for title, process in workers_of(cluster.address).items():
                if "Encoder" in title and not killed:
                    os.kill(process, signal.SIGKILL)
                    killed.append(title)

    report = index_paths(library, index, engine="ray", address=cluster.address, progress=kill)
    assert len(killed) == 1
    assert (report.unchanged + report.added, report.clips) == (local.added, local.clips)
    assert one.equals(table_of(index, library))


def start(*arguments: object) -> subprocess.Popen[str]:
    """The program, in a process group of its own, as a terminal starts it."""
    pipe = subprocess.PIPE
    code = "from vidsift.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, process_group=0)


def test_without_an_address_ray_is_started_here_and_says_nothing(tmp_path):
    library = fill(tmp_path / "library", 6, 3)
    command = (
        "index",
        library,
        "-i",
        tmp_path / "ray",
        "-m",
        "vidsift-tiny",
        "-q",
        "--json",
        "--engine",
        "ray",
    )
    reports, version = [], None
    for _ in range(2):
        program = start(*command)
        out, said = program.communicate(timeout=300)
        assert program.returncode == 1
        assert said.splitlines() == [f"vidsift: failed: {library / 'none.mp4'}: {reports_reason(out)}"]
        reports.append(json.loads(out))
        assert version in (None, Index.open(tmp_path / "ray").version)
        version = Index.open(tmp_path / "ray").version
    first, second = reports
    assert (first["added"], first["clips"], second["unchanged"], second["clips"]) == (6, 6, 6, 6)
    assert first["failed"] == second["failed"]
    assert {name: stage["clips"] for name, stage in first["stages"].items()} == dict.fromkeys(
        ("decode", "encode", "commit"), 6
    )
    assert all(stage["seconds"] > 0 for stage in first["stages"].values())
    assert second["stages"] == {}
    assert second["seconds"] < 5  # no Ray was started for nothing


def reports_reason(out: str) -> str:
    return json.loads(out)["failed"][0]["reason"]


def test_ctrl_c_keeps_finished_files_and_leaves_no_process(tmp_path):
    library = fill(tmp_path / "library", FILES, 1)
    program = start("index", library, "-i", tmp_path / "ray", "-m", "vidsift-tiny", "--engine", "ray")
    deadline = time.monotonic() + 300
    while not committed(tmp_path / "ray"):
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(program.pid, signal.SIGINT)
    _, said = program.communicate(timeout=120)
    assert program.returncode == 3
    assert said.splitlines()[-1].endswith(
        "what was finished is kept, and the same command goes on from there"
    )
    assert 0 < committed(tmp_path / "ray") < FILES
    assert not [entry for entry in group_of(program.pid) if entry != program.pid]


def committed(index: Path) -> int:
    try:
        return len(Index.open(index).files())
    except VidsiftError:
        return 0


def group_of(group: int) -> list[int]:
    """Processes of a group that live."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = entry.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(int(entry.parent.name))
    return found
