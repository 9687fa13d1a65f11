"""Decoding processes: the same events as decoding here, and no file that can stop the run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from vidsift.ingest import index_paths
from vidsift.ingest.decode import DecodePool, default_workers, read_here, worker_command
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Clip, Done, Event, Failed, Opened, ReadSettings
from vidsift.ingest.walk import Candidate
from vidsift.video import Geometry, SegmentConfig

SETTINGS = ReadSettings(3, Geometry(16), SegmentConfig())


def works(paths: Iterable[Path]) -> list[Work]:
    return [Work(Candidate(str(path), 1, 1, (0, 0), False), "print", False) for path in paths]


def by_file(events: Iterable[tuple[Work, Event]]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = {}
    for work, event in events:
        found.setdefault(work.file.path, []).append(event)
    return found


def same(one: Event, other: Event) -> bool:
    if not isinstance(one, Clip) or not isinstance(other, Clip):
        return one == other
    arrays = [(one.pixels, other.pixels), (one.times, other.times), (one.mask, other.mask)]
    rest = (one.start, one.end, one.thumbnail) == (other.start, other.end, other.thumbnail)
    return rest and all(np.array_equal(a, b) for a, b in arrays)


def test_workers_give_the_events_that_decoding_here_gives(tmp_path, video):
    for i in range(5):
        video(tmp_path / f"{i}.mp4", seed=i)
    (tmp_path / "bad.mp4").write_bytes(b"garbage" * 100)
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff.mp4"))
    video(tmp_path / "x.mp4", seed=9)
    os.rename(tmp_path / "x.mp4", odd)
    todo = works([*(tmp_path / f"{i}.mp4" for i in range(5)), tmp_path / "bad.mp4", tmp_path / "no.mp4", odd])
    here = by_file(read_here(todo, SETTINGS))
    there = by_file(DecodePool(todo, SETTINGS, workers=2).events())
    assert set(here) == set(there) == {work.file.path for work in todo}
    for path, events in here.items():
        assert len(events) == len(there[path])
        assert all(map(same, events, there[path]))
    assert [type(event) for event in here[str(odd)]] == [Opened, Clip, Done]
    assert [type(event) for event in here[str(tmp_path / "bad.mp4")]] == [Failed]


WORKER = """
import os, sys, time
from vidsift.ingest import worker
from vidsift.ingest.reading import Opened, Done, Failed
def read_file(path, settings):
    name = os.path.basename(path)
    if name == "hang":
        time.sleep(600)
    if name == "crash":
        os.kill(os.getpid(), 11)
    print("a library that talks")
    yield Opened(1.0)
    if name == "late crash":
        os._exit(3)
    yield Done(1.0, None, {"pid": os.getpid()})
worker.read_file = read_file
worker.main()
"""


def test_a_file_that_hangs_or_crashes_the_decoder_costs_that_file_only():
    names = ["a", "crash", "b", "hang", "c", "late crash", "d"]
    pool = DecodePool(
        works(map(Path, names)), SETTINGS, workers=1, silence=4.0, command=[sys.executable, "-c", WORKER]
    )
    began = time.monotonic()
    found = by_file(pool.events())
    assert time.monotonic() - began < 30
    for name in "abcd":
        assert isinstance(found[name][-1], Done)
    assert found["crash"] == [Failed("the decoder crashed (exit code -11)")]
    assert found["late crash"] == [Opened(1.0), Failed("the decoder crashed (exit code 3)")]
    (hung,) = found["hang"]
    assert "no sign of life" in hung.reason


def test_leaving_early_ends_the_workers():
    pool = DecodePool(
        works(Path(f"{i}") for i in range(50)), SETTINGS, workers=2, command=[sys.executable, "-c", WORKER]
    )
    events = pool.events()
    pids = set()
    for _, event in events:
        if isinstance(event, Done):
            pids.add(event.metadata["pid"])
            break
    events.close()
    assert pids
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_workers_go_when_their_parent_is_killed():
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, time\n"
         f"p = subprocess.Popen({[sys.executable, '-c', WORKER]!r}, stdin=subprocess.PIPE)\n"
         "print(p.pid, flush=True)\ntime.sleep(600)"],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_worker_starts_without_the_heavy_packages():
    heavy = "print(sorted({'torch', 'lancedb', 'transformers', 'faiss', 'pyarrow'} & set(sys.modules)))"
    code = worker_command()[-1].replace("main()", heavy)
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_number_of_workers_makes_no_difference_to_the_index(tmp_path, video, model):
    from vidsift.index import Index

    model.preprocess.geometry = Geometry(4)
    lib = tmp_path / "lib"
    lib.mkdir()
    for i in range(6):
        video(lib / f"{i}.mp4", seed=i)
    tables = []
    for workers in (0, 1, 3):
        folder = tmp_path / f"index{workers}"
        assert index_paths(lib, folder, model, workers=workers).added == 6
        index = Index.open(folder)
        tables.append(index._store().rows(list(index.files())).sort_by("path"))
    assert tables[0].num_rows == 6
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_a_script_without_a_main_guard_can_index(tmp_path, video):
    """The four lines of Python that a newcomer types must not start themselves again in a worker."""
    video(tmp_path / "a.mp4", seed=1)
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from vidsift.ingest.decode import DecodePool\n"
        "from vidsift.ingest.plan import Work\n"
        "from vidsift.ingest.reading import ReadSettings\n"
        "from vidsift.ingest.walk import Candidate\n"
        "from vidsift.video import Geometry, SegmentConfig\n"
        "print('once')\n"
        f"work = Work(Candidate({str(tmp_path / 'a.mp4')!r}, 1, 1, (0, 0), False), 'p', False)\n"
        "pool = DecodePool([work], ReadSettings(3, Geometry(16), SegmentConfig()), 1)\n"
        "print([type(event).__name__ for _, event in pool.events()])\n"
    )
    out = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["once", "['Opened', 'Clip', 'Done']"]


def test_there_is_always_a_worker():
    assert 1 <= default_workers() <= 8


@pytest.mark.parametrize("workers", [-1])
def test_a_negative_number_of_workers_is_refused(tmp_path, model, workers):
    with pytest.raises(ValueError, match="workers"):
        index_paths(tmp_path, tmp_path / "index", model, workers=workers)
