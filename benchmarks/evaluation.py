"""Time and memory of ranking 100,000 captions against 10,000 clips, in both directions, R@k, MdR and MnR.

Synthetic vectors of 512 dimensions: each caption is its clip's vector and noise. Every way runs in a process
of its own, so that its peak memory is its own, on the same vectors.
"blocks": `rank_all`, as `vidsift eval` ranks. "whole matrix, counted": all scores at once, then how many beat
the right one. "whole matrix, sorted": what the official codes do, a full sort per row. "evaluation": all of
what `vidsift eval` does, from feature stores on disk with 32 words per caption, with intervals and costs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from _report import spread, write
from vidsift.datasets.pairs import PairSet
from vidsift.evaluation.evaluate import Material, Options, evaluate
from vidsift.evaluation.metrics import Ranks, Scores, rank_all, retrieval_metrics
from vidsift.features.inputs import Inputs
from vidsift.features.rowstore import Array, Rows, RowStore
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.video import Geometry

D, FRAMES, WORDS = 512, 12, 32
WAYS = ("blocks", "whole matrix, counted", "whole matrix, sorted", "evaluation")
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class NoClips:
    """Clips of which only the features exist."""

    count: int

    def __len__(self) -> int:
        return self.count

    def read(self, number: int) -> tuple[Any, Any]:
        return np.zeros((FRAMES, 3, 32, 32), np.uint8), np.ones(FRAMES, bool)

    def name(self, number: int) -> str:
        return f"clip {number}"

    def identity(self) -> str:
        return hashlib.sha256(str(self.count).encode()).hexdigest()[:16]

    def select(self, numbers: Any) -> NoClips:
        return NoClips(len(numbers))

    def view(self, frames: int, geometry: Geometry) -> NoClips:
        return self

    def sound(self, number: int) -> None:
        return None

    def speech(self, number: int) -> str:
        return ""

    def speech_identity(self) -> str:
        return ""

    def written(self, number: int) -> None:
        return None


def make(captions: int, clips: int, seed: int) -> tuple[Vectors, Vectors, NDArray[np.int64]]:
    """Unit vectors of captions and of clips, and each caption's clip."""
    rng = np.random.default_rng(seed)
    clip = _unit(rng.standard_normal((clips, D), np.float32))
    owner = np.arange(captions) % clips
    text = np.empty((captions, D), np.float32)
    for start in range(0, captions, 10_000):
        rows = slice(start, min(start + 10_000, captions))
        noise = rng.standard_normal(text[rows].shape, np.float32) / np.sqrt(D)
        text[rows] = _unit(clip[owner[rows]] + 4.5 * noise)
    return text, clip, owner


def _unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def in_blocks(text: Vectors, clip: Vectors, owner: NDArray[np.int64]) -> tuple[Ranks, Ranks]:
    """Ours."""
    found = rank_all(Scores(len(text), len(clip), lambda rows: text[rows] @ clip.T), owner)
    assert found.text is not None
    assert found.among_groups is not None
    return found.text, found.among_groups


def counted(text: Vectors, clip: Vectors, owner: NDArray[np.int64]) -> tuple[Ranks, Ranks]:
    """The whole matrix, then a comparison with the right score; ties count as halves."""
    scores = text @ clip.T
    right = scores[np.arange(len(text)), owner][:, None]
    ranks = 1 + (scores > right).sum(1) + ((scores == right).sum(1) - 1) / 2
    groups = _groups(scores, owner)
    own = np.diag(groups)[None]
    back = 1 + (groups > own).sum(0) + ((groups == own).sum(0) - 1) / 2
    return ranks, back


def sorted_(text: Vectors, clip: Vectors, owner: NDArray[np.int64]) -> tuple[Ranks, Ranks]:
    """The whole matrix, every row sorted, the right score looked up in it."""
    scores = text @ clip.T
    back = _sorted_ranks(np.ascontiguousarray(_groups(scores, owner).T), np.arange(len(clip)))
    return _sorted_ranks(scores, owner), back


def _groups(scores: Vectors, owner: NDArray[np.int64]) -> Vectors:
    """[C, V] the best caption of each clip's group; captions lie as `make` deals them."""
    clips = scores.shape[1]
    return np.asarray(np.max(scores[: len(owner) // clips * clips].reshape(-1, clips, clips), axis=0))


def _sorted_ranks(scores: Vectors, owner: NDArray[np.int64]) -> Ranks:
    order = np.sort(-scores, axis=1)
    right = -scores[np.arange(len(owner)), owner][:, None]
    return np.asarray(1.0 + np.argmax(order == right, axis=1), np.float64)


def fill_stores(folder: Path, captions: int, clips: int, seed: int) -> None:
    """Features of captions and clips as towers leave them, in the stores that evaluation reads."""
    text, clip, _ = make(captions, clips, seed)
    store = text_store(folder, captions)

    def texts(rows: NDArray[np.int64]) -> Rows:
        words = np.broadcast_to(text[rows][:, None], (len(rows), WORDS, D)).astype("f2")
        return {
            "sentence": text[rows].astype("f2"),
            "words": words,
            "mask": np.ones((len(rows), WORDS), bool),
        }

    store.fill(texts, 1024)

    def videos(rows: NDArray[np.int64]) -> Rows:
        frames = np.broadcast_to(clip[rows][:, None], (len(rows), FRAMES, D)).astype("f2")
        return {"frames": frames, "mask": np.ones((len(rows), FRAMES), bool)}

    clip_store(folder, clips).fill(videos, 1024)


def text_store(folder: Path, captions: int) -> RowStore:
    arrays = {
        "sentence": Array((D,), "f2"),
        "words": Array((WORDS, D), "f2"),
        "mask": Array((WORDS,), "?"),
    }
    return RowStore(folder / "text", captions, arrays, {"data": captions})


def clip_store(folder: Path, clips: int) -> RowStore:
    arrays = {"frames": Array((FRAMES, D), "f2"), "mask": Array((FRAMES,), "?")}
    return RowStore(folder / "clips", clips, arrays, {"data": clips})


def evaluated(folder: Path, captions: int, clips: int) -> dict[str, float]:
    """R@1 both ways by the whole of `evaluate`, for CLIP4Clip's mean pooling."""
    shape = ClipShape(32, 16, 64, 1, 64, 1, D, 77)
    model = new_clip_model(build_word_tokenizer(["clip"]), shape, method="meanp").eval()
    owner = np.arange(captions) % clips
    pairs = PairSet("synthetic", NoClips(clips), ("a clip",) * captions, owner)
    inputs = Inputs(model, pairs, clip_store(folder, clips), text_store(folder, captions))
    material = Material(model, pairs, inputs, inputs.encode_clips(model))
    found = evaluate(material, "synthetic", "test", Options(scores=("similarity",)))
    rows = {row.direction: row.metrics.r1 for row in found.rows}
    return {"t2v r1": rows["t2v"], "v2t r1": rows["v2t among groups"]}


def measure(way: str, captions: int, clips: int, seed: int, folder: Path) -> dict[str, Any]:
    """One way: seconds of ranking, the peak memory of this process, R@1 both ways."""
    torch.set_num_threads(2)
    if way == "evaluation":
        began = time.perf_counter()
        figures = evaluated(folder, captions, clips)
    else:
        work = {"blocks": in_blocks, "whole matrix, counted": counted, "whole matrix, sorted": sorted_}[way]
        text, clip, owner = make(captions, clips, seed)
        began = time.perf_counter()
        ranks, back = work(text, clip, owner)
        figures = {"t2v r1": retrieval_metrics(ranks, clips).r1, "v2t r1": retrieval_metrics(back, clips).r1}
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak GiB": peak_gib()} | figures


def peak_gib() -> float:
    """The most memory that this process had; getrusage would count that of its parent, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("this kernel does not tell a process's peak memory")


def _line(row: dict[str, Any], captions: int) -> str:
    took = row["seconds"]
    cells = [
        row["way"],
        f"{took['median']:.1f} ({took['min']:.1f} to {took['max']:.1f})",
        f"{captions / took['median']:,.0f}",
        f"{row['peak GiB']['max']:.2f}",
        f"{row['t2v r1']['median']:.1f}",
        f"{row['v2t r1']['median']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=100_000)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help="measure one way once, print it as JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.captions % asked.clips:
        parser.error("--captions must be a multiple of --clips")
    if asked.way:
        print(json.dumps(measure(asked.way, asked.captions, asked.clips, asked.seed, asked.folder)))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fill_stores(folder, asked.captions, asked.clips, 0)
        for way in WAYS:
            runs = []
            for seed in range(asked.repeats):
                size = ["--captions", str(asked.captions), "--clips", str(asked.clips)]
                words = [sys.executable, __file__, "--way", way, "--seed", str(seed), *size, "--folder", name]
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout))
                print(way, seed, runs[-1], flush=True)
            rows.append(
                {
                    "way": way,
                    "seconds": spread([r["seconds"] for r in runs]),
                    "peak GiB": spread([r["peak GiB"] for r in runs]),
                    "t2v r1": spread([r["t2v r1"] for r in runs], 2),
                    "v2t r1": spread([r["v2t r1"] for r in runs], 2),
                    "seeds": [0] * asked.repeats if way == "evaluation" else list(range(asked.repeats)),
                }
            )
    by = {row["way"]: row for row in rows}
    whole = by["evaluation"]
    lines = [
        "| way | seconds | captions per second | peak memory GiB | t2v R@1 | v2t R@1 |",
        "|---|--:|--:|--:|--:|--:|",
        *(_line(row, asked.captions) for row in rows),
    ]
    assert __doc__ is not None
    write(
        "evaluation",
        headline={
            f"{asked.captions:,} captions against {asked.clips:,} clips, evaluation from stores": (
                f"{whole['seconds']['median']:.0f} s, {asked.captions / whole['seconds']['median']:,.0f} "
                f"captions/s, peak {whole['peak GiB']['max']:.2f} GiB"
            ),
            "ranking in blocks against the whole matrix, counted": (
                f"{by['whole matrix, counted']['seconds']['median'] / by['blocks']['seconds']['median']:.2f} "
                "times as fast"
            ),
            "against the whole matrix, sorted": (
                f"{by['whole matrix, sorted']['seconds']['median'] / by['blocks']['seconds']['median']:.1f} "
                "times as fast"
            ),
        },
        rows=rows,
        packages=("numpy", "torch"),
        text=__doc__.strip() + "\n\n" + "\n".join(lines),
    )


if __name__ == "__main__":
    main()
