"""The coarse scan and the rerank of 100, at 10,000, 100,000 and a million clips: time, recall, bytes.

Clustered synthetic vectors of 512 dimensions (5,000 Gaussians on the sphere; a query is a noisy copy of a
vector), 12 int8 frame vectors a clip, memory-mapped and warm. One thread, one query at a time. Recall is
against the exact fp32 order. "exact": fp16, every vector; "compressed": 4-bit codes pick what is scored.
"""

from __future__ import annotations

import argparse
import mmap
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from _report import spread, write
from vidsift.index.rerank import announce_rows, rerank
from vidsift.index.scan import Scan, build_codes, new_exact

D, FRAMES, K, QUERIES = 512, 12, 100, 60
Floats = npt.NDArray[np.float32]


def clustered(count: int, seed: int, centres: Floats) -> Floats:
    rng = np.random.default_rng(seed)
    found = np.empty((count, D), np.float32)
    for start in range(0, count, 50_000):
        rows = slice(start, min(start + 50_000, count))
        size = found[rows].shape
        found[rows] = centres[rng.integers(len(centres), size=size[0])]
        found[rows] += rng.standard_normal(size, np.float32) * np.float32(0.7 / np.sqrt(D))
        found[rows] /= np.linalg.norm(found[rows], axis=1, keepdims=True)
    return found


def timed(work: Any, queries: Floats) -> tuple[list[float], list[Any]]:
    """Milliseconds of every query after five, and all results."""
    spent, found = [], []
    for query in queries:
        began = time.perf_counter()
        found.append(work(query))
        spent.append(1000 * (time.perf_counter() - began))
    return spent[5:], found


def measure(count: int, folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((5_000, D)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = clustered(count, 1, centres)
    noise = rng.standard_normal((QUERIES, D)).astype(np.float32) * np.float32(0.7 / np.sqrt(D))
    queries = vectors[rng.integers(count, size=QUERIES)] + noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    truth = [np.argsort(-(vectors @ query), kind="stable")[:K] for query in queries]
    began = time.perf_counter()
    exact = new_exact(D)
    exact.add(vectors)
    seconds = {"exact": time.perf_counter() - began}
    began = time.perf_counter()
    codes = build_codes(exact, from_clips=0)
    seconds["compressed"] = time.perf_counter() - began
    del vectors
    rows = []
    for kind, scan in (("exact", Scan(exact)), ("compressed", Scan(exact, codes))):
        spent, found = timed(lambda query, scan=scan: scan.best(query, K)[1], queries)
        shares = {
            k: float(
                np.mean([len(np.intersect1d(f[:k], t[:k])) / k for f, t in zip(found, truth, strict=True)])
            )
            for k in (10, K)
        }
        rows.append(
            {
                "clips": count,
                "stage": f"scan, {kind}",
                "seeds": [1],
                "ms": spread(spread_of(spent)),
                "p95": round(float(np.percentile(spent, 95)), 3),
                "recall@10": shares[10],
                "recall@100": shares[K],
                "bytes/clip": 2 * D + (D // 8 if kind == "compressed" else 0),
                "build seconds": round(seconds[kind], 1),
            }
        )
    rows.append(reranked(count, folder, queries, truth))
    return rows


def spread_of(spent: list[float]) -> list[float]:
    """The quartiles: what a report's spread of single queries should show."""
    return [float(np.percentile(spent, p)) for p in (25, 50, 75)]


def reranked(count: int, folder: Path, queries: Floats, short: list[npt.NDArray[np.int64]]) -> dict[str, Any]:
    """The rerank of each query's best 100 from a memory-mapped file, its pages in memory."""
    path = folder / f"{count}.i8"
    block = np.random.default_rng(3).integers(-127, 128, (10_000, FRAMES, D), np.int8)
    with path.open("wb") as stream:
        for _ in range(0, count, 10_000):
            stream.write(block.tobytes())
    with path.open("rb") as stream:
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    memory.madvise(mmap.MADV_RANDOM)
    frames = np.frombuffer(memory, np.int8).reshape(-1, FRAMES, D)[:count]
    scales, counts = np.full((K, FRAMES), 1 / 700, np.float32), np.full(K, FRAMES, np.int32)
    spent = []
    for round_ in range(2):  # the first brings the pages in
        for query, rows in zip(queries, short, strict=True):
            began = time.perf_counter()
            announce_rows(memory, 0, FRAMES * D, rows)
            rerank(query, frames[rows], scales, counts, 0.1)
            if round_:
                spent.append(1000 * (time.perf_counter() - began))
    return {
        "clips": count,
        "stage": "rerank of 100",
        "seeds": [3],
        "ms": spread(spread_of(spent)),
        "p95": round(float(np.percentile(spent, 95)), 3),
        "bytes/clip": FRAMES * (D + 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for count in asked.clips:
            rows += measure(count, Path(name))
            print(*rows[-3:], sep="\n", flush=True)
    lines = [
        "| clips | stage | ms, median (quartiles) | p95 | recall@10 | recall@100 | bytes/clip | build, s |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ms = row["ms"]
        cells = [
            f"{row['clips']:,}",
            row["stage"],
            f"{ms['median']:.2f} ({ms['min']:.2f} to {ms['max']:.2f})",
        ]
        cells += [f"{row['p95']:.2f}"]
        cells += [f"{row[key]:.3f}" if key in row else "" for key in ("recall@10", "recall@100")]
        cells += [f"{row['bytes/clip']:,}", str(row.get("build seconds", ""))]
        lines.append(f"| {' | '.join(cells)} |")
    most = max(asked.clips)
    by = {row["stage"]: row for row in rows if row["clips"] == most}
    whole = by["scan, compressed"]["ms"]["median"] + by["rerank of 100"]["ms"]["median"]
    assert __doc__ is not None
    write(
        "search",
        headline={
            f"{most:,} clips, compressed scan and rerank of 100, one thread": f"{whole:.1f} ms",
            "its recall@100": f"{by['scan, compressed']['recall@100']:.3f}",
            "times faster than the exact scan": (
                f"{by['scan, exact']['ms']['median'] / by['scan, compressed']['ms']['median']:.1f}"
            ),
        },
        rows=rows,
        packages=("faiss-cpu", "numpy"),
        text="\n".join([__doc__.strip(), "", *lines]),
    )


if __name__ == "__main__":
    main()
