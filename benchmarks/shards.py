"""Search by shards on Ray Serve against the search of one process: the same answers, time, a killed shard.

Clustered synthetic vectors as in `search.py` (512 dimensions, 5,000 Gaussians on the sphere; a query is a
noisy copy of a vector), 12 int8 frame vectors a clip (the clip's vector with noise), four clips a file.
Answers are the same when clips, order, scores and moments are, to the last bit. One query at a time; all
processes share this machine, so what shards cost is seen, not what more machines give. Then people ask
without a pause (and wait a tenth of a second when they are refused), and the process of one shard is killed
with SIGKILL; recovery is from then to when the first answer was asked for from which on all are whole.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import faiss
import numpy as np
import numpy.typing as npt

from _report import spread, write
from search import FRAMES, D, Floats, clustered, spread_of
from vidsift.errors import ShardsError
from vidsift.index import Index
from vidsift.index import derived as layout
from vidsift.index.codes import build_codes
from vidsift.index.config import ModelSpec, read_config
from vidsift.index.founding import create_files
from vidsift.index.rerank import RerankWeights
from vidsift.index.scan import Exact
from vidsift.index.sharded import ShardedIndex
from vidsift.index.types import SearchResult
from vidsift.index.versions import table_version
from vidsift.server.cluster import RayShards
from vidsift.video import SegmentConfig

PER_FILE, STEP = 4, 10_000


def make_index(folder: Path, clips: int, centres: Floats) -> Floats:
    """An index whose search arrays are made up (its table is empty, and never read); some of its vectors."""
    create_files(str(folder), ModelSpec("synthetic", "0" * 16, D, FRAMES), SegmentConfig(), RerankWeights())
    version = table_version(str(folder))
    path = folder / layout.FOLDER / str(version)
    path.mkdir(parents=True)
    rng = np.random.default_rng(3)
    noise = rng.integers(-60, 61, (STEP, FRAMES, D), np.int8)
    exact, some = Exact(D, clips), []
    with (path / layout.FRAMES).open("wb") as stream:
        for start in range(0, clips, STEP):
            vectors = clustered(min(STEP, clips - start), start + 1, centres)
            exact.add(vectors)
            some.append(vectors[:: max(1, clips // 2000)])
            peaks = np.rint(vectors * (60 / np.abs(vectors).max())).astype(np.int8)
            stream.write((peaks[:, None, :] + noise[: len(vectors)]).tobytes())
    codes = build_codes(exact.index, "compressed")
    faiss.write_index(exact.index, str(path / layout.SCAN))
    if codes is not None:
        faiss.write_index(codes, str(path / layout.CODES))
    rows = np.arange(clips)
    arrays: dict[str, npt.NDArray[Any]] = {
        "slots": rows,
        "scales": np.full((clips, FRAMES), 1 / 700, np.float32),
        "times": np.tile(np.arange(FRAMES, dtype=np.float32), (clips, 1)),
        "counts": np.full(clips, FRAMES, np.int32),
        "spans": np.stack([rows % PER_FILE * FRAMES, (rows % PER_FILE + 1) * FRAMES], 1).astype(np.float64),
        "file_of": (rows // PER_FILE).astype(np.int32),
        "clip_ids": np.array([b"%032x" % row for row in range(clips)], "S32"),
    }
    for name in layout.ARRAYS:
        np.save(path / f"{name}.npy", arrays[name])
    files = -(-clips // PER_FILE)
    layout.write_texts(str(path), "paths", [b"/videos/%08d.mp4" % file for file in range(files)])
    layout.write_texts(str(path), "metadata", [b"{}"] * clips)
    scan = exact.scan(codes)
    manifest = {
        "layout": layout.LAYOUT,
        "index": read_config(str(folder)).index_id,
        "version": version,
        "build": uuid4().hex,
        "clips": clips,
        "slots": clips,
        "files": files,
        "width": D,
        "frames": FRAMES,
        "scan": scan.kind,
        "scale": scan.scale,
        "trained": clips if codes is not None else 0,
    }
    (path / layout.MANIFEST).write_text(json.dumps(manifest))
    return np.concatenate(some)


def ask(index: Index, query: Floats, number: int) -> SearchResult:
    return index.search(query, k=20, group_by="clip" if number % 2 else "video")


def timed(index: Index, queries: Floats) -> tuple[list[float], list[SearchResult]]:
    """Milliseconds of every query when all that it reads is in memory, and the answers."""
    found = [ask(index, query, number) for number, query in enumerate(queries)]
    spent = []
    for number, query in enumerate(queries):
        began = time.perf_counter()
        ask(index, query, number)
        spent.append(1000 * (time.perf_counter() - began))
    return spent, found


def timings(stage: str, clips: int, spent: list[float]) -> dict[str, Any]:
    p95 = round(float(np.percentile(spent, 95)), 2)
    return {"clips": clips, "stage": stage, "seeds": [1], "ms": spread(spread_of(spent)), "p95": p95}


def process_of(folder: Path, shard: int) -> int:
    """The process of a shard."""
    name = f"ServeReplica:vidsift-{read_config(str(folder)).index_id[:12]}:shard-{shard}"
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                if name in (process / "cmdline").read_text():
                    return int(process.name)
            except OSError:
                continue
    raise SystemExit(f"{name} does not run")


def kill_under_load(
    index: ShardedIndex, victim: int, queries: Floats, people: int, seconds: float
) -> dict[str, Any]:
    """What people get while a shard, of which `victim` is the process, dies and comes back."""
    answers: list[tuple[float, float, str]] = []
    ended = threading.Event()

    def go_on(person: int) -> None:
        rng = np.random.default_rng(person)
        while not ended.is_set():
            number = int(rng.integers(len(queries)))
            began = time.monotonic()
            try:
                kind = "whole" if ask(index, queries[number], number).partial is None else "partial"
            except ShardsError:
                kind = "failed"
            answers.append((began, time.monotonic() - began, kind))
            if kind == "failed":
                ended.wait(0.1)

    threads = [threading.Thread(target=go_on, args=(person,)) for person in range(people)]
    for thread in threads:
        thread.start()
    time.sleep(seconds / 4)
    os.kill(victim, signal.SIGKILL)
    killed = time.monotonic()
    time.sleep(3 * seconds / 4)
    ended.set()
    for thread in threads:
        thread.join()
    last = max((began for began, _, kind in answers if kind != "whole"), default=killed)
    back = [began for began, _, kind in answers if kind == "whole" and began > last]
    counts = {kind: sum(one == kind for _, _, one in answers) for kind in ("whole", "partial", "failed")}
    return {
        "stage": "a shard killed under load",
        "seeds": [1],
        "people": people,
        **counts,
        "longest, s": round(max(took for _, took, _ in answers), 3),
        "recovery, s": round(min(back) - killed, 2) if back else None,
    }


def measure(asked: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((5_000, D)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    began = time.perf_counter()
    known = make_index(folder, asked.clips, centres)
    print(f"made {asked.clips:,} clips in {time.perf_counter() - began:.0f} s", flush=True)
    noise = rng.standard_normal((asked.queries, D)).astype(np.float32) * np.float32(0.7 / np.sqrt(D))
    queries: npt.NDArray[np.float32] = known[rng.integers(len(known), size=asked.queries)] + noise
    spent, alone = timed(Index.open(folder), queries)
    rows = [timings("one process", asked.clips, spent)]
    began = time.perf_counter()
    with RayShards(folder, asked.shards, asked.deadline, None) as shards:
        started = time.perf_counter() - began
        index = ShardedIndex.over(shards, folder)
        spent, found = timed(index, queries)
        same = sum(
            one.hits == other.hits and other.partial is None for one, other in zip(alone, found, strict=True)
        )
        rows.append(timings(f"{asked.shards} shards", asked.clips, spent))
        rows[-1] |= {"queries": len(queries), "same answers": same, "start, s": round(started, 1)}
        victim = process_of(folder, asked.shards - 1)
        rows.append(kill_under_load(index, victim, queries, asked.people, asked.seconds))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--people", type=int, default=3, help="who ask while a shard is killed")
    parser.add_argument("--seconds", type=float, default=40, help="of asking, in all")
    parser.add_argument("--deadline", type=float, default=2.0)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        rows = measure(asked, Path(name) / "index")
    one, many, killed = rows
    print(*rows, sep="\n", flush=True)
    lines = ["| clips | searched by | ms, median (quartiles) | p95 |", "|--:|---|--:|--:|"]
    for row in (one, many):
        ms = row["ms"]
        lines.append(
            f"| {row['clips']:,} | {row['stage']} | {ms['median']:.2f} ({ms['min']:.2f} to {ms['max']:.2f}) "
            f"| {row['p95']:.2f} |"
        )
    answers = killed["whole"] + killed["partial"] + killed["failed"]
    lines += [
        "",
        f"{killed['people']} people, deadline {asked.deadline:g} s, one of {asked.shards} shards killed: "
        f"{answers:,} answers, of which {killed['whole']:,} whole, {killed['partial']:,} partial and said "
        f"to be, {killed['failed']:,} refused; the longest took {killed['longest, s']:.2f} s; all whole "
        f"again {killed['recovery, s']} s after the kill. Shards had started in {many['start, s']:.1f} s.",
    ]
    assert __doc__ is not None
    write(
        "shards",
        headline={
            f"{asked.queries} queries of {asked.clips:,} clips on {asked.shards} shards, same answers": (
                f"{many['same answers']} of {many['queries']}"
            ),
            "one process, median": f"{one['ms']['median']:.1f} ms",
            f"{asked.shards} shards, median": f"{many['ms']['median']:.1f} ms",
            "a shard killed under load": (
                f"{killed['partial']} partial, {killed['failed']} refused, longest "
                f"{killed['longest, s']:.2f} s, whole after {killed['recovery, s']} s"
            ),
        },
        rows=rows,
        packages=("faiss-cpu", "numpy", "ray"),
        text="\n".join([__doc__.strip(), "", *lines]),
    )


if __name__ == "__main__":
    main()
