"""The indexer is killed at random instants: what was committed stays, and the next run ends the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from vidsift.index import Index

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLS = 20

# Imports and the model's weights take seconds, so they are loaded once; every run is a fork of that process
# and does everything else itself. It is the fork, the process that indexes, that is killed.
SERVER = """
import json, os, sys
import torch
import vidsift.index.derived, vidsift.index.store, vidsift.ingest.encode
from vidsift.ingest import pipeline
from vidsift.models import load_model
from vidsift.video import SegmentConfig
torch.set_num_threads(1)
model = load_model(sys.argv[1])
pipeline.COMMIT_SECONDS = 0.02
vidsift.index.store.SMALL_FRAGMENTS = 6
for line in sys.stdin:
    lib, index = json.loads(line)
    pid = os.fork()
    if pid == 0:
        told = -1
        def tell(progress):
            global told
            if progress.committed > told:
                told = progress.committed
                os.write(1, b"committed %d\\n" % told)
        report = pipeline.index_paths(
            lib, index, model, workers=1, segmentation=SegmentConfig("windows", 0.5, 2.0), progress=tell
        )
        os.write(1, b"report %s\\n" % json.dumps(report.to_dict()).encode())
        os._exit(0)
    os.write(1, b"pid %d\\n" % pid)
    _, status = os.waitpid(pid, 0)
    os.write(1, b"ended %d\\n" % os.waitstatus_to_exitcode(status))
"""


class Indexer:
    """Runs the indexer in a process of its own, to its end or until it is killed."""

    def __init__(self, model: Path) -> None:
        pipe = subprocess.PIPE
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(model)], stdin=pipe, stdout=pipe, text=True, env=environment
        )

    def run(self, lib: Path, index: Path, kill_after: float | None = None) -> dict[str, Any]:
        """{"ended": exit code, "committed": files acknowledged, "report": or None, "seconds"}."""
        self.server.stdin.write(json.dumps([str(lib), str(index)]) + "\n")
        self.server.stdin.flush()
        began = time.monotonic()
        seen: dict[str, Any] = {"committed": 0, "report": None}
        timer = None
        while "ended" not in seen:
            word, _, value = self.server.stdout.readline().partition(" ")
            seen[word] = json.loads(value)
            if word == "pid" and kill_after is not None:
                timer = subprocess.Popen(
                    ["sh", "-c", f"sleep {kill_after:.3f}; kill -9 {seen['pid']}"],
                    stderr=subprocess.DEVNULL,
                )
        seen["seconds"] = time.monotonic() - began
        if timer is not None:
            timer.kill()
            timer.wait()
        return seen

    def close(self) -> None:
        self.server.stdin.close()
        self.server.wait(30)
        self.server.stdout.close()


def write_video(path: Path, seed: int, frames: int) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast", "threads": "1"})
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(frames):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(picture, 2 * i, axis=1), "rgb24")))
        out.mux(stream.encode())


def make_libraries(parent: Path) -> tuple[Path, Path]:
    """Two states of one library: thirty files, and the same after all that can happen to files."""
    one, two = parent / "one", parent / "two"
    for i in range(30):
        write_video(one / ("folder" if i % 3 else "a b") / f"{i:02}.mp4", i, 50 if i % 5 == 0 else 12)
    (one / "broken.mp4").write_bytes(b"no video" * 100)
    shutil.copytree(one, two)
    files = sorted(two.glob("folder/*.mp4"))
    for path in files[:3]:
        path.unlink()
    for i, path in enumerate(files[3:6]):
        write_video(path, 100 + i, 30)
    for i in range(3):
        write_video(two / "new" / f"{i}.mp4", 200 + i, 12)
    os.rename(two / "a b", two / "renamed")
    shutil.copy(files[8], two / "copy.mp4")
    os.utime(files[9], ns=(10**18, 10**18))
    files[10].write_bytes(files[10].read_bytes()[:900])
    (two / "broken.mp4").unlink()
    return one, two


def rows(index: Path) -> dict[str, list[dict[str, Any]]]:
    """Every row of the table by path, and the promise that no file is there in part."""
    if not (index / "index.json").exists():
        return {}
    opened = Index.open(index)
    assert len(opened.search(np.ones(opened.model.width), k=3).hits) == min(3, opened.info()["files"])
    files = opened.files()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in (
        opened._store().rows(list(files)).sort_by([("path", "ascending"), ("clip", "ascending")]).to_pylist()
    ):
        found.setdefault(row["path"], []).append(row)
    for path, record in files.items():
        assert len(found[path]) == max(record.clips, 1)
        assert [row["clip"] for row in found[path]] == list(range(len(found[path])))
    return found


def put(state: Path, lib: Path) -> None:
    shutil.rmtree(lib, ignore_errors=True)
    shutil.copytree(state, lib)


@pytest.fixture(scope="module")
def indexer(tmp_path_factory: pytest.TempPathFactory):
    import torch

    from vidsift.models import ClipShape, build_word_tokenizer, new_clip_model

    torch.manual_seed(0)
    shape = ClipShape(32, 16, 64, 1, 64, 1, 16)
    folder = tmp_path_factory.mktemp("model")
    new_clip_model(build_word_tokenizer(["a", "b"]), shape, frames_per_clip=4).eval().save_pretrained(folder)
    running = Indexer(folder)
    yield running
    running.close()


def test_killed_at_random_instants_nothing_committed_is_lost_and_the_end_is_the_same(indexer, tmp_path):
    rng = random.Random(20)
    states = make_libraries(tmp_path)
    lib, index = tmp_path / "lib", tmp_path / "index"
    expected, seconds = [], []
    for i, state in enumerate(states):
        put(state, lib)
        run = indexer.run(lib, tmp_path / f"reference{i}")
        assert run["ended"] == 0
        expected.append(rows(tmp_path / f"reference{i}"))
        seconds.append(run["seconds"])
    assert len(expected[0]) == 31
    assert len(expected[1]) == 31

    kills = 0
    while kills < KILLS:
        shutil.rmtree(index, ignore_errors=True)
        for phase, state in enumerate(states):
            put(state, lib)
            allowed = expected[: phase + 1]
            kills_here = 0
            while True:
                before = rows(index)
                # A few kills in a row, then a run that may end.
                limit = rng.uniform(0, 0.7 * seconds[phase]) if kills_here < 4 else None
                run = indexer.run(lib, index, limit)
                after = rows(index)
                for path, found in after.items():
                    assert any(found == target.get(path) for target in allowed), path
                right = sum(found == expected[phase].get(path) for path, found in after.items())
                was_right = sum(found == expected[phase].get(path) for path, found in before.items())
                assert right >= was_right + run["committed"]
                if run["ended"] == 0:
                    break
                assert run["ended"] == -signal.SIGKILL
                kills_here += 1
            kills += kills_here
            assert after == expected[phase]
            assert indexer.run(lib, index)["committed"] == 0, "and nothing is left to do"
    assert not list((index / "derived").glob("*.tmp"))
