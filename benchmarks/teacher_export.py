"""Memory and rate of writing a teacher's similarity matrix of 200,000 captions and 10,000 clips, in blocks.

Synthetic features of 512 dimensions (32 words a caption, 12 frames a clip) in the stores that training uses;
the teacher is a MoEE over two experts, 512 and 128 wide, of which the second is missing for a third of the
clips. The export runs in a process of its own; its peak memory is what the kernel says of that process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from _report import spread, write
from evaluation import NoClips, fill_stores, peak_gib, text_store
from vidsift.datasets.pairs import PairSet
from vidsift.features.inputs import Inputs
from vidsift.features.rowstore import Array, Rows, RowStore
from vidsift.models import create_model
from vidsift.models.experts import Expert
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.training.export import export_factors, export_scores

D = 512
WIDTHS = {"appearance": D, "audio": 128}


def expert_store(folder: Path, name: str, clips: int) -> RowStore:
    arrays = {"feature": Array((WIDTHS[name],), "f2"), "mask": Array((), "?")}
    return RowStore(folder / name, clips, arrays, {"data": clips})


def fill_experts(folder: Path, clips: int) -> None:
    rng = np.random.default_rng(0)
    for name, width in WIDTHS.items():

        def rows(numbers: NDArray[np.int64], name: str = name, width: int = width) -> Rows:
            feature = rng.standard_normal((len(numbers), width)).astype("f2")
            return {"feature": feature, "mask": (numbers % 3 > 0) | (name == "appearance")}

        expert_store(folder, name, clips).fill(rows, 1024)


def export(folder: Path, out: Path, captions: int, clips: int, what: str) -> dict[str, float]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    base = new_clip_model(build_word_tokenizer(["clip"]), ClipShape(32, 16, 64, 1, 64, 1, D, 77))
    experts = tuple(Expert(name, width, 0, 256, name) for name, width in WIDTHS.items())
    model = create_model("moee", base.backbone, base.tokenizer, experts=experts, text_clusters=4).eval()
    pairs = PairSet("synthetic", NoClips(clips), ("a clip",) * captions, np.arange(captions) % clips)
    stores = {name: expert_store(folder, name, clips) for name in WIDTHS}
    inputs = Inputs(model, pairs, None, text_store(folder, captions), experts=stores)
    began = time.perf_counter()
    scores = what == "scores"
    paths = export_scores([(model, inputs)], out) if scores else export_factors(model, inputs, out)
    seconds = time.perf_counter() - began
    size = sum(path.stat().st_size for path in paths) / 2**30
    return {"seconds": seconds, "peak GiB": peak_gib(), "written GiB": size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=200_000)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--what", choices=("scores", "factors"), help="measure one once, print it as JSON")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.what:
        with tempfile.TemporaryDirectory(dir=asked.folder) as out:
            found = export(asked.folder, Path(out), asked.captions, asked.clips, asked.what)
        print(json.dumps(found))
        return
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        fill_stores(Path(name), asked.captions, asked.clips, 0)
        fill_experts(Path(name), asked.clips)
        for what in ("scores", "factors"):
            words = [sys.executable, __file__, "--what", what, "--folder", name]
            words += ["--captions", str(asked.captions), "--clips", str(asked.clips)]
            runs = []
            for _ in range(asked.repeats):
                done = subprocess.run(words, check=True, capture_output=True, text=True)
                runs.append(json.loads(done.stdout))
                print(what, runs[-1], flush=True)
            rows.append(
                {"what": what, "seeds": [0]} | {key: spread([run[key] for run in runs]) for key in runs[0]}
            )
    lines = [
        "| what | seconds | captions per second | peak memory GiB | written GiB |",
        "|---|--:|--:|--:|--:|",
        *(_line(row, asked.captions) for row in rows),
    ]
    scores = rows[0]
    assert __doc__ is not None
    write(
        "teacher_export",
        headline={
            f"scores of {asked.captions:,} captions and {asked.clips:,} clips": (
                f"{scores['seconds']['median']:.0f} s, peak {scores['peak GiB']['max']:.2f} GiB"
            )
        },
        rows=rows,
        packages=("torch", "numpy"),
        text="\n".join([__doc__.strip(), "", *lines]),
    )


def _line(row: dict[str, Any], captions: int) -> str:
    took = row["seconds"]
    cells = [
        row["what"],
        f"{took['median']:.0f} ({took['min']:.0f} to {took['max']:.0f})",
        f"{captions / took['median']:,.0f}",
        f"{row['peak GiB']['max']:.2f}",
        f"{row['written GiB']['median']:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
