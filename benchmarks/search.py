"""The coarse scan and the rerank of 100, from 10,000 to four million clips: time, recall, bytes.

The share of bandwidth is that of reading every vector once as fast as one core reads memory here (a product
of two long vectors), measured in the same run; scans by codes do not read every vector.
Clustered synthetic vectors of 512 dimensions (5,000 Gaussians on the sphere; a query is a noisy copy of a
vector), 12 int8 frame vectors a clip, memory-mapped and warm. One thread, one query at a time. Recall is
against the exact fp32 order. "exact": every vector; "compressed": 4-bit codes pick what is scored; "ivf":
these codes lie in lists, and the nearest are looked through; both over what an index of that size keeps.
"far" queries are copies with four times the noise, between the clusters. Frame vectors are written, and
reranked, up to a million clips. 10 million clips are projected: bytes as they are, time as the last growth.
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
from vidsift.index.codes import build_codes
from vidsift.index.rerank import announce_rows, rerank
from vidsift.index.scan import INT8_FROM, Exact, Scan
from vidsift.index.types import ScanKind

D, FRAMES, K, QUERIES = 512, 12, 100, 60
# Up to so many clips frame vectors are written, and vectors kept in both precisions; from so many on there
# are lists as well.
LARGE = 1_000_000
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


def reading_speed() -> float:
    """Bytes a second at which one core reads memory: the best of some."""
    a, b = np.ones(1 << 27, np.float32), np.ones(1 << 27, np.float32)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - began)
    return 2 * a.nbytes / best


def measure(count: int, folder: Path, speed: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(7)
    centres = rng.standard_normal((5_000, D)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    vectors = clustered(count, 1, centres)
    near, far = (noisy(vectors, rng, noise) for noise in (0.7, 2.8))
    truth, far_truth = ([best_of(vectors, query) for query in asked] for asked in (near, far))
    seconds = {}
    scans: dict[str, Scan] = {}
    usual = "int8" if count >= INT8_FROM else "fp16"
    for precision, size in (("fp16", 0), ("int8", INT8_FROM)):
        if count > LARGE and precision != usual:
            continue
        began = time.perf_counter()
        exact = Exact(D, size)
        for start in range(0, count, 50_000):
            exact.add(vectors[start : start + 50_000])
        seconds[f"exact, {precision}"] = time.perf_counter() - began
        scans[f"exact, {precision}"] = exact.scan()
    del vectors
    base = scans[f"exact, {usual}"]
    kinds: list[ScanKind] = ["compressed"] if count < LARGE else ["compressed", "ivf"]
    for kind in kinds:
        began = time.perf_counter()
        scans[f"{kind}, {usual}"] = Scan.over(base.exact, build_codes(base.exact, kind), base.scale)
        seconds[f"{kind}, {usual}"] = time.perf_counter() - began
    rows = []
    for name, scan in scans.items():
        vector = D if scan.precision == "int8" else 2 * D
        codes = {"exact": 0, "compressed": D // 8, "ivf": D // 8 + 8}[scan.kind]
        spent, found = timed(lambda query, scan=scan: scan.best(query, K)[1], near)
        rows.append(
            {
                "clips": count,
                "stage": f"scan, {name}",
                "seeds": [1],
                "ms": spread(spread_of(spent)),
                "p95": round(float(np.percentile(spent, 95)), 3),
                "recall@10": shared(found, truth, 10),
                "recall@100": shared(found, truth, K),
                "far recall@100": shared([scan.best(query, K)[1] for query in far], far_truth, K),
                "bandwidth": round(count * vector / speed / spread_of(spent)[1] * 1e3, 3),
                "bytes/clip": vector + codes,
                "build seconds": round(seconds[name], 1),
            }
        )
    if count <= LARGE:
        rows.append(reranked(count, folder, near, truth))
    return rows


def noisy(vectors: Floats, rng: np.random.Generator, noise: float) -> Floats:
    """Queries: some of the vectors with so much noise (as long as `noise` times a vector)."""
    found = vectors[rng.integers(len(vectors), size=QUERIES)]
    found = found + rng.standard_normal(found.shape).astype(np.float32) * np.float32(noise / np.sqrt(D))
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), np.float32)


def best_of(vectors: Floats, query: Floats) -> npt.NDArray[np.int64]:
    """The rows of the best K, best first."""
    scores = vectors @ query
    some = np.argpartition(-scores, 2 * K)[: 2 * K]
    return some[np.lexsort((some, -scores[some]))][:K]


def shared(found: list[Any], truth: list[Any], k: int) -> float:
    """The mean share of the best `k` that was found."""
    return float(np.mean([len(np.intersect1d(f[:k], t[:k])) / k for f, t in zip(found, truth, strict=True)]))


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
    parser.add_argument("--clips", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 4_000_000])
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    speed = reading_speed()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        for count in asked.clips:
            rows += measure(count, Path(name), speed)
            print(*rows[-4:], sep="\n", flush=True)
    lines = [
        "| clips | stage | ms, median (quartiles) | p95 | recall@10 | recall@100 | far recall@100 "
        "| of bandwidth | bytes/clip | build, s |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ms = row["ms"]
        cells = [
            f"{row['clips']:,}",
            row["stage"],
            f"{ms['median']:.2f} ({ms['min']:.2f} to {ms['max']:.2f})",
        ]
        cells += [f"{row['p95']:.2f}"]
        shares = ("recall@10", "recall@100", "far recall@100")
        cells += [f"{row[key]:.3f}" if key in row else "" for key in shares]
        exact = row["stage"].startswith("scan, exact")
        cells += [
            f"{100 * row['bandwidth']:.0f}%" if exact else "",
            f"{row['bytes/clip']:,}",
            str(row.get("build seconds", "")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    most, largest = max(n for n in asked.clips if n <= LARGE), max(asked.clips)
    by = {(row["clips"], row["stage"].split(", ")[1]): row for row in rows if row["stage"].startswith("scan")}
    reranking = next(row for row in rows if row["clips"] == most and row["stage"].startswith("rerank"))
    codes, lists = by[most, "compressed"], by[largest, "ivf"]
    (fp16, int8) = (
        next(row for row in rows if row["clips"] == most and row["stage"] == f"scan, exact, {precision}")
        for precision in ("fp16", "int8")
    )
    whole = codes["ms"]["median"] + reranking["ms"]["median"]
    floor = 1e3 * most * D / speed
    growth = lists["ms"]["median"] / by[most, "ivf"]["ms"]["median"]
    further = growth ** (np.log(1e7 / largest) / np.log(largest / most)) if largest > most else 10
    kept = lists["bytes/clip"] + reranking["bytes/clip"]
    lines += [
        "",
        f"One core reads {speed / 1e9:.1f} GB/s here: {most:,} vectors in int8 take at least {floor:.1f} ms.",
        f"10,000,000 clips, projected: {10 * kept / 1e3:.0f} GB, of which "
        f"{10 * lists['bytes/clip'] / 1e3:.1f} GB are scanned; a scan by lists of "
        f"{further * lists['ms']['median']:.0f} ms on one core.",
    ]
    assert __doc__ is not None
    write(
        "search",
        headline={
            f"{most:,} clips, compressed scan and rerank of 100, one thread": f"{whole:.1f} ms",
            "its recall@100": f"{codes['recall@100']:.3f}",
            "times faster than the exact fp16 scan": f"{fp16['ms']['median'] / codes['ms']['median']:.1f}",
            "the exact int8 scan against reading its vectors once": (
                f"{int8['ms']['median'] / floor:.2f} times"
            ),
            f"{largest:,} clips, codes in lists (IVF) against codes in a row, ms": (
                f"{lists['ms']['median']:.1f} against {by[largest, 'compressed']['ms']['median']:.1f}"
            ),
            "recall@100 of both, for near and far queries": " and ".join(
                f"{row['recall@100']:.3f}, {row['far recall@100']:.3f}"
                for row in (lists, by[largest, "compressed"])
            ),
        },
        rows=rows,
        packages=("faiss-cpu", "numpy"),
        text="\n".join([__doc__.strip(), "", *lines]),
    )


if __name__ == "__main__":
    main()
