"""What a two-stage search loses, and to what; cold pages; and whole queries over a million clips.

Clustered synthetic clips: 12 frame vectors around a clip's own centre, the coarse vector their mean; a query
is a noisy copy of one frame, so that the frames answer it better than the coarse vector does. The truth is
the exhaustive fp32 ranking of all clips by the final score (half coarse, half text-gated). Every row changes
one thing more: what is lost between two rows is lost to that. One thread.

End to end: a real index folder over a million clips, asked with sentences that a ViT-B/32-shaped text tower
(random weights) encodes; the arrays are warm. Cold: the short list's pages are dropped from memory first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from _report import spread, write
from _shapes import random_model
from vidsift.index import Index
from vidsift.index.building import build_derived
from vidsift.index.codes import build_codes
from vidsift.index.config import IndexConfig, ModelSpec
from vidsift.index.derived import Derived
from vidsift.index.rerank import RerankWeights, rerank
from vidsift.index.scan import Exact
from vidsift.models import RetrievalModel, load_model
from vidsift.models.compiled import write_compiled
from vidsift.video import SegmentConfig

D, FRAMES, TOP, TAU = 512, 12, 10, 0.1
Floats = npt.NDArray[np.float32]


def unit(x: Floats) -> Floats:
    found: Floats = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return found


def draw(count: int, queries: int) -> tuple[Floats, Floats, Floats]:
    """Coarse [N, D] and frame vectors [N, F, D] of clips, and queries [Q, D]."""
    rng = np.random.default_rng(1)
    centres = unit(rng.standard_normal((5_000, D), np.float32))
    frames = np.empty((count, FRAMES, D), np.float32)
    step = 5_000
    for start in range(0, count, step):
        part = frames[start : start + step]
        own = centres[rng.integers(len(centres), size=len(part))]
        own = unit(own + rng.standard_normal(own.shape, np.float32) * np.float32(0.7 / np.sqrt(D)))
        part[:] = own[:, None] + rng.standard_normal(part.shape, np.float32) * np.float32(0.6 / np.sqrt(D))
        part[:] = unit(part)
    asked = frames[rng.integers(count, size=queries), rng.integers(FRAMES, size=queries)]
    asked = unit(asked + rng.standard_normal(asked.shape, np.float32) * np.float32(0.8 / np.sqrt(D)))
    return unit(frames.mean(1)), frames, asked


def fine_scores(query: Floats, frames: Floats) -> Floats:
    """The text-gated score of clips in fp32, block by block."""
    found = []
    for start in range(0, len(frames), 10_000):
        part = frames[start : start + 10_000]
        ones = np.ones(part.shape[:2], np.float32)
        counts = np.full(len(part), FRAMES)
        found.append(rerank(query, cast(Any, part), ones, counts, TAU)[0])
    return np.concatenate(found)


def quantised(frames: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    scales = np.abs(frames).max(-1) / 127
    return np.round(frames / scales[..., None]).astype(np.int8), scales.astype(np.float32)


def losses(count: int, queries: int) -> list[dict[str, Any]]:
    """recall@10 against the exhaustive fp32 ranking, one change after the other."""
    coarse, frames, asked = draw(count, queries)
    rows16 = Exact(D)
    rows16.add(coarse)
    exact = rows16.index
    codes = build_codes(exact, "compressed")
    both = faiss.IndexRefine(codes, exact)
    small, scales = quantised(frames)
    names = (
        "all clips, int8 frames",
        "best 100 by exact fp32 coarse, fp32 frames",
        "best 100 by the fp16 scan, fp32 frames",
        "best 100 by the compressed scan, fp32 frames",
        "best 100 by the compressed scan, int8 frames: the search",
    )
    shares: dict[str, list[float]] = {name: [] for name in names}
    first: dict[str, list[bool]] = {name: [] for name in names}
    coarse_only: list[float] = []
    for query in asked:
        plain = coarse @ query
        mixed = 0.5 * plain + 0.5 * fine_scores(query, frames)
        truth = np.argsort(-mixed)[:TOP]
        every = np.arange(count)
        best = np.argsort(-plain)[:100]
        both.k_factor = 6_000 / 100
        lists = (
            every,
            best,
            exact.search(query[None], 100)[1][0],
            both.search(query[None], 100)[1][0],
            both.search(query[None], 100)[1][0],
        )
        coarse_only.append(len(np.intersect1d(best[:TOP], truth)) / TOP)
        for name, rows in zip(names, lists, strict=True):
            if "int8" in name:
                parts = [
                    rerank(query, small[part], scales[part], np.full(len(part), FRAMES), TAU)[0]
                    for part in np.split(rows, range(10_000, len(rows), 10_000))
                ]
                fine = np.concatenate(parts)
            else:
                fine = fine_scores(query, frames[rows])
            ranked = rows[np.argsort(-(0.5 * plain[rows] + 0.5 * fine))[:TOP]]
            shares[name].append(len(np.intersect1d(ranked, truth)) / TOP)
            first[name].append(bool(ranked[0] == truth[0]))
    found: list[dict[str, Any]] = [
        {
            "clips": count,
            "ranking": "coarse vectors alone",
            "seeds": [1],
            "queries": queries,
            "recall@10": round(float(np.mean(coarse_only)), 4),
        }
    ]
    for name in names:
        half = 1.96 * float(np.std(shares[name])) / np.sqrt(queries)
        found.append(
            {
                "clips": count,
                "ranking": name,
                "seeds": [1],
                "queries": queries,
                "recall@10": round(float(np.mean(shares[name])), 4),
                "interval": round(half, 4),
                "first": round(float(np.mean(first[name])), 4),
            }
        )
    return found


@dataclass
class Table:
    """As much of the store as the arrays are built from: clips drawn block by block."""

    count: int
    version: int = 1

    @property
    def schema(self) -> pa.Schema:
        return pa.schema(
            [
                pa.field("coarse", pa.list_(pa.float32(), D)),
                pa.field("scales", pa.list_(pa.float32(), FRAMES)),
            ]
        )

    def clip_batches(self, columns: Sequence[str]) -> Iterator[Any]:
        rng = np.random.default_rng(1)
        centres = unit(rng.standard_normal((5_000, D), np.float32))
        step = 10_000
        noise = rng.integers(-127, 128, (step, FRAMES * D), np.int8)
        for start in range(0, self.count, step):
            size = min(step, self.count - start)
            made: dict[str, Any] = {}
            if "coarse" in columns:
                own = centres[rng.integers(len(centres), size=size)]
                own = unit(own + rng.standard_normal(own.shape, np.float32) * np.float32(0.7 / np.sqrt(D)))
                made["coarse"] = pa.FixedSizeListArray.from_arrays(pa.array(own.ravel()), D)
                flat = pa.array(noise[:size].ravel())
                made["frames"] = pa.FixedSizeListArray.from_arrays(flat, FRAMES * D)
                scale = pa.array(np.full(size * FRAMES, 1 / 1700, np.float32))
                made["scales"] = pa.FixedSizeListArray.from_arrays(scale, FRAMES)
                times = pa.array(np.tile(np.arange(FRAMES) + 0.5, size))
                made["times"] = pa.FixedSizeListArray.from_arrays(times, FRAMES)
                made["count"] = pa.array(np.full(size, FRAMES, np.int32))
                made["start"], made["end"] = pa.array(np.zeros(size)), pa.array(np.full(size, 12.0))
                made["metadata"] = pa.array(["{}"] * size)
            else:
                names = [f"/videos/{row:07}.mp4" for row in range(start, start + size)]
                made["path"] = pa.array(names)
                made["path_bytes"] = pa.array([None] * size, pa.binary())
            made["clip_id"] = pa.array([f"{row:032x}" for row in range(start, start + size)])
            yield SimpleBatch(made, size)


@dataclass
class SimpleBatch:
    columns: dict[str, Any]
    size: int

    def column(self, name: str) -> Any:
        return self.columns[name]

    def __len__(self) -> int:
        return self.size


def text_model(folder: Path) -> tuple[RetrievalModel, RetrievalModel]:
    """A ViT-B/32-shaped model by torch, and the same compiled."""
    model = random_model(folder / "torch", words=tuple(WORDS))
    model.save_pretrained(folder / "fast")
    write_compiled(model, folder / "fast", "fp32")
    return model, load_model(str(folder / "fast"))


SENTENCE = "a man rides his horse along the beach at sunset while two dogs run behind him"
WORDS = SENTENCE.split()


def whole_queries(count: int, folder: Path, queries: int) -> tuple[list[dict[str, Any]], Derived]:
    """Sentences over a real index folder: milliseconds of every stage, by torch and by compiled towers."""
    model, fast = text_model(folder)
    place = folder / "index"
    place.mkdir()
    began = time.perf_counter()
    build_derived(str(place), "bench", cast(Any, Table(count)))
    built = time.perf_counter() - began
    began = time.perf_counter()
    arrays = build_derived(str(place), "bench", cast(Any, SimpleNamespace(version=1)))
    opened = time.perf_counter() - began
    spec = ModelSpec("bench", model.fingerprint(), D, FRAMES)
    config = IndexConfig("bench", "", spec, SegmentConfig(), RerankWeights())
    index = Index(str(place), config, arrays)
    rng = np.random.default_rng(5)
    asked = [" ".join(rng.choice(WORDS, size=14)) for _ in range(queries)]
    rows = []
    for name, one in (("torch", model), ("compiled", fast)):
        alone, took, whole = [], [], []
        for text in asked[:5] + asked:
            began = time.perf_counter()
            one.encode_queries([text])
            alone.append(1e3 * (time.perf_counter() - began))
            began = time.perf_counter()
            took.append(index.search(text, one).took_ms)
            whole.append(1e3 * (time.perf_counter() - began))
        rows.append(
            {
                "clips": count,
                "text tower": name,
                "seeds": [5],
                "whole": spread(whole[5:]),
                "p95": round(float(np.percentile(whole[5:], 95)), 2),
                "text alone": spread(alone[5:]),
                **{stage: spread([t[stage] for t in took[5:]]) for stage in took[0]},
                "build_s": round(built, 1),
                "open_s": round(opened, 3),
                "bytes_per_clip": round(_size(place) / count),
            }
        )
    return rows, arrays


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def cold(arrays: Derived, folder: Path, queries: int = 20) -> list[dict[str, Any]]:
    """The rerank of 100 scattered clips whose pages were dropped, announced and not, and warm."""
    (path,) = folder.rglob("frames.i8")
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages that were never written out cannot be dropped
    rng = np.random.default_rng(6)
    query = unit(rng.standard_normal(D).astype(np.float32))
    counts = np.full(100, FRAMES)
    found = []
    for name in ("warm", "cold, announced", "cold, page by page"):
        spent = []
        for _ in range(queries):
            rows = np.sort(rng.choice(len(arrays), 100, replace=False))
            if name == "warm":
                arrays.frames[arrays.slots[rows]].sum()
            else:
                _drop(path, arrays, rows)
            began = time.perf_counter()
            frames = (
                arrays.frames_of(rows) if name != "cold, page by page" else arrays.frames[arrays.slots[rows]]
            )
            rerank(query, frames, arrays.scales[rows], counts, TAU)
            spent.append(1e3 * (time.perf_counter() - began))
        found.append({"pages": name, "seeds": [6], "ms": spread(spent)})
    return found


def _drop(path: Path, arrays: Derived, rows: npt.NDArray[np.int64]) -> None:
    """Forget the pages of these rows; a page that is mapped has to be let go of by the mapping first."""
    import mmap

    size = FRAMES * D
    assert arrays.memory is not None
    with path.open("rb") as file:
        for row in rows.tolist():
            first = row * size // mmap.PAGESIZE * mmap.PAGESIZE
            arrays.memory.madvise(mmap.MADV_DONTNEED, first, row * size + size - first)
            os.posix_fadvise(file.fileno(), first, row * size + size - first, os.POSIX_FADV_DONTNEED)


def report(rows: dict[str, list[dict[str, Any]]]) -> str:
    assert __doc__ is not None
    lines = [__doc__.strip(), "", "## What is lost", ""]
    lines += ["| clips | ranking | recall@10 of the truth | its first is the truth's |", "|--:|---|--:|--:|"]
    for row in rows["losses"]:
        half = f" ± {row['interval']:.4f}" if "interval" in row else ""
        first = f"{row['first']:.3f}" if "first" in row else ""
        lines.append(f"| {row['clips']:,} | {row['ranking']} | {row['recall@10']:.4f}{half} | {first} |")
    lines += ["", "## Whole queries, milliseconds (medians)", ""]
    lines += [
        "| clips | text tower | text alone | whole | p95 | encode | recall | rerank | whole / text alone |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows["whole"]:
        ms = {k: row[k]["median"] for k in ("text alone", "whole", "encode", "recall", "rerank")}
        lines.append(
            f"| {row['clips']:,} | {row['text tower']} | {ms['text alone']:.1f} | {ms['whole']:.1f} "
            f"| {row['p95']:.1f} | {ms['encode']:.1f} | {ms['recall']:.1f} | {ms['rerank']:.1f} "
            f"| {ms['whole'] / ms['text alone']:.2f} |"
        )
    one = rows["whole"][0]
    lines += [
        "",
        f"Building the arrays took {one['build_s']} s, opening them {1e3 * one['open_s']:.0f} ms; "
        f"{one['bytes_per_clip']:,} bytes a clip on disk (names of 21 bytes, no metadata).",
        "",
        "## Rerank of 100 from cold pages, milliseconds",
        "",
        "| pages | median | least | most |",
        "|---|--:|--:|--:|",
    ]
    for row in rows["cold"]:
        ms = row["ms"]
        lines.append(f"| {row['pages']} | {ms['median']:.2f} | {ms['min']:.2f} | {ms['max']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--losses", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=60)
    asked = parser.parse_args()
    faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {"losses": []}
    for count in asked.losses:
        rows["losses"] += losses(count, asked.queries)
        print(*rows["losses"][-6:], sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as name:
        rows["whole"], arrays = whole_queries(asked.clips, Path(name), asked.queries)
        rows["cold"] = cold(arrays, Path(name) / "index")
        print(*rows["whole"], *rows["cold"], sep="\n", flush=True)
    by, largest = {row["text tower"]: row for row in rows["whole"]}, max(asked.losses)
    of = {row["ranking"]: row["recall@10"] for row in rows["losses"] if row["clips"] == largest}
    _, int8, best, fp16, codes, whole = of.values()
    allowed = of["best 100 by exact fp32 coarse, fp32 frames"]
    headline = {
        f"recall@10 of the search, of what its coarse vectors allow, {largest:,}": f"{whole / allowed:.4f}",
        "lost to candidates, fp16, codes, int8": ", ".join(
            f"{loss:+.4f}" for loss in (best - 1, fp16 - best, codes - fp16, whole - codes)
        ),
        "overlap@10 of int8 with fp32 frames, all clips": f"{int8:.4f}",
        f"a query over {asked.clips:,} clips / the text tower alone, torch": round(
            by["torch"]["whole"]["median"] / by["torch"]["text alone"]["median"], 2
        ),
        "... with compiled towers / the compiled text tower alone": round(
            by["compiled"]["whole"]["median"] / by["compiled"]["text alone"]["median"], 2
        ),
    }
    flat = [row for part in rows.values() for row in part]
    packages = ("faiss-cpu", "numpy", "torch", "openvino")
    print(write("two_stages", headline=headline, rows=flat, packages=packages, text=report(rows)))


if __name__ == "__main__":
    main()
