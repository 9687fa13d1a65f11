"""Ten thousand small files, one file of an hour: time, greatest memory, and what the progress bar promised.

Memory is the greatest resident size of the indexing process, read from the kernel, and of all its decoding
processes together, sampled ten times a second. The small files are one storyboard video of four seconds with
a different tail each, so that every one is read, encoded and committed by itself. The hour is blocks of noise
that change every eight seconds, cut into clips of up to a minute. The bar's truth: the time left that it
promised at a quarter, half and three quarters of the way, against what was left then.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from _report import write
from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_video

RUN = """
import json, resource, sys, time
from vidsift.ingest import index_paths
began, seen = time.monotonic(), []
def tell(p):
    if p.stage == "read" and p.bytes_total and p.bytes_done:
        done = p.bytes_done / p.bytes_total
        if p.seconds_left is not None:
            seen.append((done, time.monotonic(), p.seconds_left))
report = index_paths(sys.argv[1], sys.argv[2], "vidsift-tiny", progress=tell)
ended = time.monotonic()
promised = {}
for part in (0.25, 0.5, 0.75):
    at = next((s for s in seen if s[0] >= part), None)
    if at:
        promised[part] = [at[2], ended - at[1]]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
said = {"report": report.to_dict(), "seconds": ended - began, "peak_kib": peak, "promised": promised}
print(json.dumps(said))
"""


def small_files(folder: Path, count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        write_video(load_split("test", videos=1).videos[0], Path(name, "one.mp4"))
        put_copies(Path(name, "one.mp4").read_bytes(), folder, count)


def put_copies(content: bytes, folder: Path, count: int) -> None:
    """A folder of files that are one video, each with a fingerprint of its own."""
    folder.mkdir(parents=True)
    for number in range(count):
        # A box that readers pass over; the fingerprint does not.
        (folder / f"{number}.mp4").write_bytes(content + b"\x00\x00\x00\x10free%08d" % number)


def long_file(folder: Path, seconds: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    with av.open(str(folder / "long.mp4"), "w") as out:
        stream: Any = out.add_stream("libx264", rate=12, options={"preset": "ultrafast", "g": "240"})
        stream.width, stream.height, stream.pix_fmt = 426, 240, "yuv420p"
        picture = np.zeros((240, 426, 3), np.uint8)
        for number in range(12 * seconds):
            if number % 96 == 0:
                picture = np.kron(rng.integers(0, 256, (30, 71, 3)), np.ones((8, 6, 1))).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.roll(picture, number % 96, axis=1), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 12)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def children_kib(parent: int) -> int:
    """Resident size of all children of a process."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                status = Path("/proc", name, "status").read_text()
            except OSError:
                continue
            values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            if values.get("PPid", "").strip() == str(parent) and "VmRSS" in values:
                total += int(values["VmRSS"].split()[0])
    return total


def measure(kind: str, library: Path, index: Path) -> dict[str, Any]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(library), str(index)], stdout=subprocess.PIPE, text=True
    )
    greatest = [0]
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.1):
            greatest[0] = max(greatest[0], children_kib(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    ended.set()
    watcher.join()
    found = json.loads(said.splitlines()[-1])
    if found["report"]["failed"] or found["report"]["partial"]:
        raise RuntimeError(f"the benchmark's own files did not index cleanly: {found['report']}")
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", RUN, str(library), str(index)], stdout=subprocess.PIPE, check=True)
    return {
        "library": kind,
        "seeds": [0],
        "clips": found["report"]["clips"],
        "seconds": round(found["seconds"], 1),
        "clips_per_s": round(found["report"]["clips"] / found["seconds"], 1),
        "indexer_mib": round(found["peak_kib"] / 1024),
        "decoders_mib": round(greatest[0] / 1024),
        "promised_and_left_s": {part: [round(s, 1) for s in two] for part, two in found["promised"].items()},
        "again_s": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--minutes", type=int, default=60)
    asked = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (asked.files // 10, asked.files):
            small_files(folder / f"small{count}", count)
            rows.append(measure(f"{count:,} small files", folder / f"small{count}", folder / f"i{count}"))
            print(rows[-1], flush=True)
        for minutes in (asked.minutes // 6, asked.minutes):
            long_file(folder / f"long{minutes}", 60 * minutes)
            rows.append(
                measure(f"one file of {minutes} minutes", folder / f"long{minutes}", folder / f"l{minutes}")
            )
            print(rows[-1], flush=True)
    assert __doc__ is not None
    lines = [
        __doc__.strip(),
        "",
        "| library | clips | seconds | clips/s | indexer, MiB | decoders, MiB "
        "| promised / left at 25, 50, 75% | nothing changed, s |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for row in rows:
        said = ", ".join(f"{a:.0f} / {b:.0f} s" for a, b in row["promised_and_left_s"].values())
        lines.append(
            f"| {row['library']} | {row['clips']:,} | {row['seconds']} | {row['clips_per_s']} "
            f"| {row['indexer_mib']} | {row['decoders_mib']} | {said} | {row['again_s']} |"
        )
    headline = {
        f"greatest memory, {row['library']}": f"{row['indexer_mib'] + row['decoders_mib']:,} MiB"
        for row in rows
    }
    packages = ("av", "lancedb", "faiss-cpu", "torch", "numpy")
    print(write("ingest_scale", headline=headline, rows=rows, packages=packages, text="\n".join(lines)))


if __name__ == "__main__":
    main()
