"""The Ray engine against the local engine on the same cores of one machine, and on one core against two.

Every run is a process of its own that may use so many cores and starts Ray itself. A rate is that of the
steady part, from a fifth of the clips to all of them, which leaves out what is paid once a run: starting Ray
and loading the model in every encoder; the whole run, with that, stands beside it. Two libraries: files of
ten seconds through a ViT-B/32-shaped tower with random weights, where the encoder decides, and storyboard
videos through the bundled vidsift-tiny, where every millisecond of moving things about shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from _report import spread, write
from _shapes import random_model
from decode import encode
from ingest_scale import put_copies
from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_video

SKIPPED = 0.2

RUN = """
import json, os, sys, time
library, index, model, engine, cores = sys.argv[1:]
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
os.environ["OMP_NUM_THREADS"] = cores
from vidsift.ingest import index_paths
seen = []
def tell(p):
    if p.stage == "read":
        seen.append((time.perf_counter(), p.clips))
report = index_paths(library, index, model, workers=int(cores), engine=engine, progress=tell)
print(json.dumps({"report": report.to_dict(), "seen": seen}))
"""


def measure(library: Path, model: str, engine: str, cores: int) -> dict[str, float]:
    """One run: clips a second of its steady part, seconds of all of it, seconds until its first clip."""
    with tempfile.TemporaryDirectory() as index:
        command = [sys.executable, "-W", "ignore", "-c", RUN, str(library), index, model, engine, str(cores)]
        out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    said = json.loads(out.splitlines()[-1])
    report, seen = said["report"], said["seen"]
    files = len(list(library.iterdir()))
    if report["failed"] or report["partial"] or report["clips"] != files:
        raise RuntimeError(f"the benchmark's own files did not index cleanly: {report}")
    began, first = next((at, clips) for at, clips in seen if clips >= SKIPPED * files)
    ended = next(at for at, clips in seen if clips == files)
    return {
        "clips_per_s": (files - first) / (ended - began),
        "seconds": report["seconds"],
        "first_clip_s": next(at for at, clips in seen if clips) - seen[0][0],
    }


def libraries(folder: Path, asked: Any) -> dict[str, tuple[Path, str]]:
    """Name -> (folder of videos, model)."""
    ten, story = folder / "ten", folder / "story"
    encode(folder / "ten.mp4", "libx264", 426, 240, 10, 250, asked.seed)
    put_copies((folder / "ten.mp4").read_bytes(), ten, asked.long_files)
    write_video(load_split("test", videos=1).videos[0], folder / "story.mp4")
    put_copies((folder / "story.mp4").read_bytes(), story, asked.short_files)
    random_model(folder / "model", asked.seed)
    return {
        f"{asked.long_files} files of 240p, 10 s; ViT-B/32": (ten, str(folder / "model")),
        f"{asked.short_files} storyboard files; vidsift-tiny": (story, "vidsift-tiny"),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    assert __doc__ is not None
    lines = [
        __doc__.strip(),
        "",
        "| library | engine | cores | clips/s | of the local engine | whole run, s | to the first clip, s |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        figures = [f"{row[name]['median']:.2f}" for name in ("clips_per_s", "seconds", "first_clip_s")]
        ratio = f"**{row['of_local']:.2f}**" if row["engine"] == "ray" else ""
        named = [row["library"], row["engine"], str(row["cores"]), figures[0], ratio, *figures[1:]]
        lines.append(f"| {' | '.join(named)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--long-files", type=int, default=120)
    parser.add_argument("--short-files", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for library, (files, model) in libraries(Path(name), asked).items():
            runs: dict[tuple[str, int], list[dict[str, float]]] = {}
            for _ in range(asked.repeats):
                # Side by side, so that what else the machine does hits all.
                for cores in asked.cores:
                    for engine in ("local", "ray"):
                        runs.setdefault((engine, cores), []).append(measure(files, model, engine, cores))
            rates = {key: median(run["clips_per_s"] for run in found) for key, found in runs.items()}
            for (engine, cores), found in runs.items():
                measured = {key: spread([run[key] for run in found]) for key in found[0]}
                of_local = round(rates[engine, cores] / rates["local", cores], 3)
                scaling = round(rates[engine, cores] / rates[engine, asked.cores[0]], 2)
                row = {"library": library, "engine": engine, "cores": cores, "seeds": [asked.seed]}
                rows.append(row | measured | {"of_local": of_local, "of_fewest_cores": scaling})
                print(rows[-1], flush=True)
    ray = [row for row in rows if row["engine"] == "ray"]
    headline = {
        f"ray / local, clips/s, {row['cores']} cores, {row['library']}": row["of_local"] for row in ray
    }
    headline |= {
        f"ray, {row['cores']} cores / {asked.cores[0]}, {row['library']}": row["of_fewest_cores"]
        for row in ray
        if row["cores"] != asked.cores[0]
    }
    packages = ("ray", "av", "lancedb", "torch", "numpy")
    print(write("ingest_ray", headline=headline, rows=rows, packages=packages, text=table(rows)))


if __name__ == "__main__":
    main()
