"""The service under load: fifty searchers at once for two minutes over 100,000 clips, while a job indexes.

A real `vidsift serve` over an index of synthetic clips of the bundled model's shape, asked over loopback with
storyboard captions by fifty threads of another process, each with a connection of its own and no pause. The
job indexes small files that are new to the index: copies of storyboard videos, whose near-duplicates searches
collapse. Client, service and indexer share this machine's cores. Memory is that of the service, read from the
kernel before, in the middle and after: its own, and with the pages of the index that it has mapped and used.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from _report import spread, write
from ingest_scale import put_copies
from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_library
from vidsift.index import Index, compact_index
from vidsift.index.config import ModelSpec
from vidsift.index.rerank import RerankWeights
from vidsift.index.store import Store
from vidsift.index.types import ClipRecord, FileRecord, quantise
from vidsift.models import load_model

MODEL = "vidsift-tiny"


def make_index(folder: Path, clips: int) -> None:
    """An index of the bundled model over clips that were never videos."""
    model = load_model(MODEL)
    frames, width = model.frames_per_clip, model.width
    spec = ModelSpec(MODEL, model.fingerprint(), width, frames, tuple(sorted(model.index_parts)))
    search = RerankWeights(**model.search.__dict__)
    Index.create(folder, spec, search=search)
    store, rng = Store.open(str(folder), spec.fingerprint), np.random.default_rng(0)
    real, times = np.ones(frames, bool), np.arange(frames).astype(np.float64) + 0.5
    for start in range(0, clips, 5_000):
        files = []
        for number in range(start, min(start + 5_000, clips)):
            vectors = rng.standard_normal((frames, width)).astype(np.float32) * 0.3 + rng.standard_normal(
                width
            )
            vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
            coarse = vectors.mean(0) / np.linalg.norm(vectors.mean(0))
            kept = quantise(coarse.astype(np.float32), vectors, real, times)
            clip = ClipRecord(f"{number:032x}", 0.0, float(frames), kept, b"", {})
            path = f"/synthetic/{number:07}.mp4"
            files.append((FileRecord(path, str(number), 1, 1, float(frames), "ok", "", 1), [clip]))
        store.replace_files(files, known=False)
    compact_index(folder)


def memory_mib(process: int) -> tuple[float, float]:
    """Memory of a process's own, and all that is resident for it."""
    lines = Path("/proc", str(process), "status").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("RssAnon:", "VmRSS:"))}
    return int(sizes["RssAnon"]) / 1024, int(sizes["VmRSS"]) / 1024


def copied_videos(folder: Path, files: int, videos: int) -> None:
    """So many small files, copies of so many storyboard videos, each with a fingerprint of its own."""
    originals = write_library(load_split("val", videos=videos), folder / "originals")
    for number, original in enumerate(originals):
        share = files // videos + (number < files % videos)
        put_copies(original.read_bytes(), folder / "videos" / str(number), share)


class Searcher(threading.Thread):
    """Asks without a pause until told to stop; `spent` in ms, `errors` as they were."""

    def __init__(self, address: tuple[str, int], texts: list[str], until: float, seed: int) -> None:
        super().__init__()
        self.spent: list[float] = []
        self.errors: list[str] = []
        self._address, self._texts, self._until = address, texts, until
        self._rng = np.random.default_rng(seed)

    def run(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        while time.monotonic() < self._until:
            body = json.dumps({"query": str(self._rng.choice(self._texts)), "k": 10})
            began = time.perf_counter()
            try:
                connection.request("POST", "/api/v1/search", body, {"content-type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
                if answer.status != 200:
                    self.errors.append(f"{answer.status} {content[:200]!r}")
            except OSError as error:
                self.errors.append(repr(error))
                connection.close()
            self.spent.append(1e3 * (time.perf_counter() - began))


def load(address: tuple[str, int], texts: list[str], searchers: int, seconds: float) -> dict[str, Any]:
    """Milliseconds and errors of so many searchers."""
    until = time.monotonic() + seconds
    threads = [Searcher(address, texts, until, seed) for seed in range(searchers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = [ms for thread in threads for ms in thread.spent]
    return {
        "searchers": searchers,
        "searches": len(spent),
        "per_s": round(len(spent) / seconds, 1),
        "ms": spread([float(np.percentile(spent, p)) for p in (25, 50, 75)]),
        "p95": round(float(np.percentile(spent, 95)), 1),
        "errors": [error for thread in threads for error in thread.errors],
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--searchers", type=int, default=50)
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--videos", type=int, default=100, help="that the files are copies of")
    asked = parser.parse_args()
    texts = [caption.text for caption in load_split("test", videos=200).captions]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_index(folder / "index", asked.clips)
        copied_videos(folder, asked.files, asked.videos)
        command: list[str] = [
            str(Path(sys.executable).with_name("vidsift")),
            "serve",
            "--index",
            str(folder / "index"),
            "--port",
            "0",
        ]
        command += ["--library", str(folder / "videos"), "--rate", "100000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            try:
                assert service.stdout is not None
                where = urlsplit(service.stdout.readline().split()[2])
                address = (str(where.hostname), int(where.port or 0))
                load(address, texts, 1, 3)
                memory = [memory_mib(service.pid)]
                alone = load(address, texts, 1, 15)
                connection = http.client.HTTPConnection(*address)
                body = json.dumps({"paths": [str(folder / "videos")]})
                connection.request("POST", "/api/v1/jobs", body, {"content-type": "application/json"})
                job = json.loads(connection.getresponse().read())["id"]
                halves = [load(address, texts, asked.searchers, asked.seconds / 2)]
                memory.append(memory_mib(service.pid))
                halves.append(load(address, texts, asked.searchers, asked.seconds / 2))
                memory.append(memory_mib(service.pid))
                connection.close()  # the service closed it long ago
                connection.request("GET", f"/api/v1/jobs/{job}")
                done = json.loads(connection.getresponse().read())
            finally:
                service.terminate()
    rows = [alone | {"when": "one searcher"}]
    rows += [
        half | {"when": f"with a job, {n} half"} for n, half in zip(("first", "second"), halves, strict=True)
    ]
    errors = [error for row in rows for error in row["errors"]]
    lines = [
        str(__doc__).strip(),
        "",
        "| when | searchers | searches | a second | ms, median (quartiles) | p95 | errors |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ms = row["ms"]
        lines.append(
            f"| {row['when']} | {row['searchers']} | {row['searches']:,} | {row['per_s']} "
            f"| {ms['median']:.1f} ({ms['min']:.1f} to {ms['max']:.1f}) | {row['p95']} "
            f"| {len(row['errors'])} |"
        )
    lines += [
        "",
        "Memory of the service's own (with mapped pages), MiB: "
        f"{', '.join(f'{own:.0f} ({all_:.0f})' for own, all_ in memory)}. The job was "
        f"{done['state']} with {done['progress']['clips']:,} of {asked.files:,} clips.",
    ]
    headline = {
        f"errors in {sum(row['searches'] for row in rows[1:]):,} searches of {asked.searchers} at once": len(
            errors
        ),
        "p95 under load, the median alone, ms": f"{rows[2]['p95']} against {alone['ms']['median']:.1f}",
        "searches a second": rows[2]["per_s"],
        "memory of its own, MiB, before / middle / after": " / ".join(f"{own:.0f}" for own, _ in memory),
    }
    flat = [row | {"seeds": [0]} for row in rows]
    packages = ("fastapi", "uvicorn", "faiss-cpu", "torch", "lancedb")
    print(write("serve", headline=headline, rows=flat, packages=packages, text="\n".join(lines)))


if __name__ == "__main__":
    main()
