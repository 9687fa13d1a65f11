"""What it costs to get from video files to a committed, searchable index, against the official pattern.

Official: for every file, OpenCV seeks to every second and reads, PIL resizes every frame, 12 are kept and go
through the image tower in torch fp32; nothing is stored. Ours: vidsift.ingest.index_paths, from walking the
folder to the arrays that search reads, with the tower by torch and compiled (`vidsift export`). All use the
same ViT-B/32-shaped tower with random weights.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from _report import spread, write
from _shapes import random_model
from decode import COUNT, encode, official, ours
from vidsift.ingest import index_paths
from vidsift.models import RetrievalModel, load_model
from vidsift.models.compiled import Precision, write_compiled

SIZES = {"240p": (426, 240), "720p": (1280, 720)}


def spent(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process and its children, and seconds of wall clock."""

    def cpu() -> float:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    before, began = cpu(), time.perf_counter()
    work()
    return cpu() - before, time.perf_counter() - began


@torch.inference_mode()
def tower(model: RetrievalModel, pixels: Any) -> None:
    """Encode the 12 pictures of one clip."""
    model.encode_video(torch.from_numpy(pixels)[None], torch.ones(1, COUNT, dtype=torch.bool))


def official_pipeline(model: RetrievalModel, library: Path) -> None:
    """One file after the other, as the feature extraction of the official repositories does it."""
    for path in sorted(library.iterdir()):
        tower(model, np.ascontiguousarray(official(path)))


def our_pipeline(model: RetrievalModel, library: Path, index: Path, workers: int) -> None:
    """A fresh index over the library."""
    shutil.rmtree(index, ignore_errors=True)
    report = index_paths(library, index, model, workers=workers)
    if report.failed or report.partial or report.clips != len(list(library.iterdir())):
        raise RuntimeError(f"the benchmark's own files did not index cleanly: {report}")


def measure(
    models: dict[str, RetrievalModel], folder: Path, size: str, seconds: int, chosen: Any
) -> list[dict[str, Any]]:
    """A row per runtime of ours: a library of files of one kind, through both pipelines."""
    files = chosen.short_files if seconds == 10 else chosen.long_files
    library, index = folder / size, folder / "index"
    library.mkdir()
    seeds = [chosen.seed + i for i in range(files)]
    for seed in seeds:
        encode(library / f"{seed}.mp4", "libx264", *SIZES[size], seconds, chosen.gop, seed)
    paths = sorted(library.iterdir())
    pixels = [ours(path) for path in paths]
    reference = models["torch fp32"]
    for model in models.values():
        tower(model, pixels[0])
        our_pipeline(model, library, index, chosen.workers)
    theirs = []
    mine: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for repeat in range(chosen.repeats):
        # Side by side, so that what else the machine does hits all.
        if repeat < chosen.official_repeats:
            theirs.append(spent(lambda: official_pipeline(reference, library)))
        for name, model in models.items():
            mine[name].append(spent(lambda m=model: our_pipeline(m, library, index, chosen.workers)))  # type: ignore[misc]
    reading = spent(lambda: [ours(path) for path in paths])[0] / files
    their_cpu, their_wall = ([run[i] / files for run in theirs] for i in (0, 1))
    rows = []
    for name, model in models.items():
        encoding = spent(lambda m=model: [tower(m, clip) for clip in pixels])[0] / files  # type: ignore[misc]
        cpu, wall = ([run[i] / files for run in mine[name]] for i in (0, 1))
        rows.append(
            {
                "size": size,
                "seconds": seconds,
                "gop": chosen.gop,
                "files": files,
                "runtime": name,
                "workers": chosen.workers,
                "threads": chosen.threads,
                "ours_cpu_s_per_file": spread(cpu),
                "ours_wall_s_per_file": spread(wall),
                "official_cpu_s_per_file": spread(their_cpu),
                "official_wall_s_per_file": spread(their_wall),
                "cpu_ratio": round(float(np.median(their_cpu) / np.median(cpu)), 2),
                "wall_ratio": round(float(np.median(their_wall) / np.median(wall)), 2),
                "read_cpu_s_per_file": round(reading, 3),
                "encode_cpu_s_per_file": round(encoding, 3),
                "rest_cpu_s_per_file": round(float(np.median(cpu)) - reading - encoding, 3),
                "seeds": seeds,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "Seconds per file; one clip of 12 frames a file; as many threads on both sides.",
        "read, encode: CPU, measured by themselves; rest: everything else that indexing does (starting",
        "decoders, fingerprints, commits, search arrays), spread over the few files of the run.",
        "",
        "| library | our towers | official CPU | our CPU | ratio | official wall | ours | ratio "
        "| read | encode | rest |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        figures = [
            f"{row['files']} x {row['size']} {row['seconds']} s, GOP {row['gop']}",
            row["runtime"],
            *(f"{row[f'{who}_cpu_s_per_file']['median']:.2f}" for who in ("official", "ours")),
            f"**{row['cpu_ratio']}**",
            *(f"{row[f'{who}_wall_s_per_file']['median']:.2f}" for who in ("official", "ours")),
            f"**{row['wall_ratio']}**",
            *(str(row[f"{part}_cpu_s_per_file"]) for part in ("read", "encode", "rest")),
        ]
        lines.append(f"| {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short-files", type=int, default=8, help="files of 240p, 10 s in a library")
    parser.add_argument("--long-files", type=int, default=1, help="files of 720p, 60 s in a library")
    parser.add_argument("--gop", type=int, default=250)
    parser.add_argument("--repeats", type=int, default=3, help="of our pipeline")
    parser.add_argument("--official-repeats", type=int, default=1, help="of the official pattern (slow)")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes of ours")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in both")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(chosen.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = random_model(Path(folder) / "model", chosen.seed)
        models = {"torch fp32": model}
        rng = np.random.default_rng(chosen.seed)
        blocks = rng.integers(0, 256, (24, 3, 14, 14), dtype=np.uint8)
        pictures = np.kron(blocks, np.ones((1, 1, 16, 16), np.uint8))
        precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
        for precision in precisions:
            place = Path(folder) / precision
            model.save_pretrained(place)
            write_compiled(model, place, precision, list(pictures))
            models[f"OpenVINO {precision}"] = load_model(str(place))
        for size, seconds in (("240p", 10), ("720p", 60)):
            rows += measure(models, Path(folder), size, seconds, chosen)
            print(*rows[-len(models) :], sep="\n", flush=True)
    kinds = [(f"H.264 {row['size']} {row['seconds']} s, {row['runtime']}", row) for row in rows]
    headline = {f"official / ours, CPU, {kind}": row["cpu_ratio"] for kind, row in kinds}
    headline |= {f"official / ours, wall clock, {kind}": row["wall_ratio"] for kind, row in kinds}
    packages = (
        "av",
        "lancedb",
        "faiss-cpu",
        "torch",
        "openvino",
        "transformers",
        "opencv-python-headless",
        "pillow",
        "numpy",
    )
    print(write("ingest", headline=headline, rows=rows, packages=packages, text=table(rows)))


if __name__ == "__main__":
    main()
