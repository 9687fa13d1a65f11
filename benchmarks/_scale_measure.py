"""What the cost model is fitted to and checked against: index folders of synthetic clips of several sizes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from _scale_plan import usual
from _scale_shards import Queries, Shards

FILES = {"codes": "codes.faiss", "vectors": "scan.faiss", "frames": "frames.i8"}


def build(folder: Path, clips: int) -> float:
    """Make the search arrays of an index over synthetic clips, as one of millions keeps them (int8 and codes
    whatever the size); seconds of a core that it took."""
    from two_stages import Table
    from vidsift.index import scan
    from vidsift.index.building import build_derived

    scan.INT8_FROM = 0
    folder.mkdir(parents=True)
    began = time.process_time()
    build_derived(str(folder), "bench", cast(Any, Table(clips)), setting="compressed")
    return time.process_time() - began


def draw_queries(folder: Path, count: int, seed: int) -> Queries:
    """Noisy copies of vectors of an index, [Q, D] unit norm."""
    from vidsift.index.derived import open_newest

    arrays = open_newest(str(folder), "bench")
    assert arrays is not None
    rng = np.random.default_rng(seed)
    found = arrays.scan.vectors(rng.integers(len(arrays), size=count))
    noise = rng.standard_normal(found.shape).astype(np.float32)
    found = found + noise * np.float32(0.7 / np.sqrt(found.shape[1]))
    return cast(Queries, found / np.linalg.norm(found, axis=1, keepdims=True))


def sizes_of(folder: Path) -> dict[str, int]:
    """Bytes of the arrays: what is scanned (`codes`), scored (`vectors`), reranked (`frames`), the rest."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {kind: sum(p.stat().st_size for p in files if p.name == name) for kind, name in FILES.items()}
    return found | {"rest": sum(p.stat().st_size for p in files) - sum(found.values())}


def measure(folder: Path, clips: int, queries: int, keep: bool) -> dict[str, Any]:
    """Build an index, ask it, and say what it took: bytes, seconds of building, seconds of queries by scan.

    keep: the folder stays.
    """
    row: dict[str, Any] = {"clips": clips, "build_s": build(folder, clips)}
    row["bytes"] = sizes_of(folder)
    asked = draw_queries(folder, queries, seed=7)
    with Shards([folder]) as shard:
        row["anonymous"] = shard.anonymous[0]
        shard.alone(0, asked, "exact")  # brings everything into memory
        row["exact"] = shard.alone(0, asked, "exact")
        # Where more than half of the clips would be picked the scan is the exact one.
        picks = [p for p in (usual(clips) // 2, usual(clips), 2 * usual(clips)) if 2 * p <= clips]
        row["coded"] = {picked: shard.alone(0, asked, "coded", picked) for picked in picks}
    if not keep:
        shutil.rmtree(folder)
    return row


def copies(folder: Path, count: int) -> list[Path]:
    """An index and copies of it, so that shards share no page of memory."""
    found = [folder]
    for number in range(1, count):
        found.append(folder.with_name(f"{folder.name}-{number}"))
        shutil.copytree(folder, found[-1])
    return found


def table(folder: Path, commits: int = 6) -> dict[str, float]:
    """The table itself, written in full commits of synthetic clips without pictures: bytes a clip, seconds of
    CPU a clip, clips a commit, and files that one leaves."""
    from two_stages import FRAMES, D, unit
    from vidsift.index.store import Store
    from vidsift.index.types import ClipRecord, ClipVectors, FileRecord
    from vidsift.ingest.pipeline import COMMIT_CLIPS

    rng = np.random.default_rng(2)
    folder.mkdir()
    store = Store.create(str(folder), D, FRAMES, "bench")
    places, spent = [_files(folder)], 0.0
    for commit in range(commits):
        rows = []
        for clip in range(COMMIT_CLIPS):
            frames = rng.integers(-127, 128, (FRAMES, D)).astype(np.int8)
            scales = np.full(FRAMES, 1 / 1700, np.float32)
            times = np.arange(FRAMES, dtype=np.float64) + 0.5
            coarse = unit(rng.standard_normal(D, np.float32))
            path = f"/videos/{commit * COMMIT_CLIPS + clip:07}.mp4"
            record = FileRecord(path, path, 1, 1, 12.0, "ok", "", 1)
            vectors = ClipVectors(coarse, frames, scales, times, FRAMES)
            rows.append((record, [ClipRecord(path[:32].rjust(32), 0.0, 12.0, vectors, b"", {})]))
        began = time.process_time()
        store.replace_files(rows, known=False)
        spent += time.process_time() - began
        places.append(_files(folder))
    clips = commits * COMMIT_CLIPS
    return {
        "bytes_per_clip": (places[-1][1] - places[0][1]) / clips,
        "cpu_s_per_clip": spent / clips,
        "clips_per_commit": COMMIT_CLIPS,
        "files_per_commit": (places[-1][0] - places[0][0]) / commits,
    }


def _files(folder: Path) -> tuple[int, int]:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
