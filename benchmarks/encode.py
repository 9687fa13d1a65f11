"""The two towers at ViT-B/32 and ViT-B/16 shapes, by torch and compiled: pictures a second, ms of a sentence.

One thread. Random weights: cost does not depend on them, but what less precision does to vectors depends on
real ones (their outlier channels), so trust the report that `vidsift export` makes of your own model. GFLOP
counts multiply and add apart; the peak is that of a large fp32 and bf16 product by torch, in the same run. A
clip is 12 pictures in one call. Sentences of 16 tokens, and padded to 77 as the official code does.
With `--gpu` its towers are measured, too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _report import spread, write
from _shapes import VIT_B_16, VIT_B_32, random_model
from vidsift.models import load_model
from vidsift.models.compiled import PRECISIONS, write_compiled

SHAPES = {"ViT-B/32": VIT_B_32, "ViT-B/16": VIT_B_16}
WORDS = tuple(f"w{i}" for i in range(200))
FRAMES, TOKENS, PADDED = 12, 16, 77


def gflop(name: str) -> float:
    """Of one picture through the tower: its products with weights and those of attention."""
    shape = SHAPES[name]
    tokens = (shape.image_size // shape.patch_size) ** 2 + 1
    weights = shape.vision_layers * 12 * shape.vision_width**2 + 3 * shape.patch_size**2 * shape.vision_width
    attention = shape.vision_layers * 2 * tokens * shape.vision_width
    return 2e-9 * tokens * (weights + attention)


def timed(work: Callable[[], object], repeats: int, pause: Callable[[], None] = lambda: None) -> list[float]:
    """Seconds of every call after the first."""
    spent = []
    for _ in range(repeats + 1):
        pause()
        began = time.perf_counter()
        work()
        pause()
        spent.append(time.perf_counter() - began)
    return spent[1:]


def peak(dtype: torch.dtype, device: str, size: int) -> float:
    """GFLOP a second of a large product, the best of some."""
    a = torch.randn(size, size, device=device).to(dtype)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    return 2e-9 * size**3 / min(timed(lambda: a @ a, 6, wait))


def measure(name: str, folder: Path, peaks: dict[str, float], repeats: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    # Pictures with structure: blocks of colour.
    small = rng.integers(0, 256, (40, 3, 14, 14), dtype=np.uint8)
    pictures = np.kron(small, np.ones((1, 1, 16, 16), np.uint8))
    clip = torch.from_numpy(pictures[:FRAMES])
    model = random_model(folder / "torch", shape=SHAPES[name], words=WORDS)
    wanted = model.backbone.encode_frames(clip).frames
    ids = torch.from_numpy(rng.integers(5, 150, (1, TOKENS)))
    ids[:, -1] = model.backbone.config.text_config.eos_token_id
    mask = torch.ones_like(ids, dtype=torch.bool)
    padded = (
        torch.nn.functional.pad(ids, (0, PADDED - TOKENS)),
        torch.nn.functional.pad(mask, (0, PADDED - TOKENS)),
    )
    said = model.backbone.encode_tokens(ids, mask).sentence
    rows = []
    for kind in ("torch fp32", *(f"OpenVINO {precision}" for precision in PRECISIONS)):
        one = model
        if kind != "torch fp32":
            precision: Any = kind.split()[1]
            place = folder / precision
            model.save_pretrained(place)
            write_compiled(model, place, precision, list(pictures[FRAMES:]))
            one = load_model(str(place))
        found = one.backbone.encode_frames(clip).frames
        cosine = torch.cosine_similarity(found, wanted, dim=-1)
        seconds = timed(lambda m=one: m.backbone.encode_frames(clip), repeats)  # type: ignore[misc]
        rate = [FRAMES / s for s in seconds]
        of = peaks["bf16" if kind.endswith("bf16") else "fp32"]
        texts = {
            tokens: timed(lambda m=one, given=given: m.backbone.encode_tokens(*given), 3 * repeats)  # type: ignore[misc]
            for tokens, given in ((TOKENS, (ids, mask)), (PADDED, padded))
        }
        rows.append(
            {
                "shape": name,
                "runtime": kind,
                "seeds": [0],
                "pictures_per_s": spread(rate),
                "gflop_per_s": round(float(np.median(rate)) * gflop(name), 1),
                "share_of_peak": None
                if kind.endswith("int8")
                else round(float(np.median(rate)) * gflop(name) / of, 3),
                "cosine_least": round(float(cosine.min()), 6),
                "cosine_mean": round(float(cosine.mean()), 6),
                "sentence_ms": spread([1e3 * s for s in texts[TOKENS]]),
                "sentence_padded_ms": spread([1e3 * s for s in texts[PADDED]]),
                "sentence_cosine": round(
                    float(torch.cosine_similarity(one.backbone.encode_tokens(ids, mask).sentence, said)[0]), 6
                ),
            }
        )
        print(rows[-1], flush=True)
    return rows


def measure_gpu(name: str, folder: Path, repeats: int) -> list[dict[str, Any]]:
    """bf16 and fp32 on a GPU, eager and compiled, batches of 32 clips."""
    model = random_model(folder / "gpu", shape=SHAPES[name], words=WORDS).to("cuda")
    clip = torch.randint(0, 256, (32 * FRAMES, 3, 224, 224), dtype=torch.uint8).pin_memory()
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        reached = peak(dtype, "cuda", 8192)
        for compiled in (False, True):
            encode: Any = (
                torch.compile(model.backbone.encode_frames) if compiled else model.backbone.encode_frames
            )
            with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
                seconds = timed(lambda e=encode: e(clip), repeats, torch.cuda.synchronize)  # type: ignore[misc]
            rate = [len(clip) / s for s in seconds]
            kind = f"GPU {str(dtype).removeprefix('torch.')}{', compiled' if compiled else ''}"
            rows.append(
                {
                    "shape": name,
                    "runtime": kind,
                    "seeds": [0],
                    "pictures_per_s": spread(rate),
                    "gflop_per_s": round(float(np.median(rate)) * gflop(name), 1),
                    "share_of_peak": round(float(np.median(rate)) * gflop(name) / reached, 3),
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]], peaks: dict[str, float]) -> str:
    assert __doc__ is not None
    lines = [
        __doc__.strip(),
        "",
        f"Peak of one core: fp32 {peaks['fp32']:.0f}, bf16 {peaks['bf16']:.0f} GFLOP/s.",
        "",
        "| shape | runtime | pictures/s | against torch | of its peak | cosine, least / mean "
        "| sentence, 16 tokens, ms | padded to 77, ms |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    first: dict[str, float] = {}
    for row in rows:
        rate = row["pictures_per_s"]["median"]
        times = rate / first.setdefault(row["shape"], rate)
        share = row["share_of_peak"]
        cells = [row["shape"], row["runtime"], f"{rate:.1f}", f"**{times:.1f}**"]
        cells.append("" if share is None else f"{100 * share:.0f}%")
        if "cosine_least" in row:
            cells += [
                f"{row['cosine_least']:.5f} / {row['cosine_mean']:.5f}",
                f"{row['sentence_ms']['median']:.1f}",
                f"{row['sentence_padded_ms']['median']:.1f}",
            ]
        else:
            cells += ["", "", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@torch.inference_mode()
def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--gpu", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    peaks = {"fp32": peak(torch.float32, "cpu", 1536), "bf16": peak(torch.bfloat16, "cpu", 1536)}
    rows: list[dict[str, Any]] = []
    for name in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), peaks, chosen.repeats)
            if chosen.gpu:
                rows += measure_gpu(name, Path(folder), chosen.repeats)
    by = {(row["shape"], row["runtime"]): row for row in rows}
    headline = {
        f"pictures a second against torch, {shape}, {kind}": round(
            by[shape, f"OpenVINO {kind}"]["pictures_per_s"]["median"]
            / by[shape, "torch fp32"]["pictures_per_s"]["median"],
            1,
        )
        for shape in SHAPES
        for kind in PRECISIONS
    }
    base = by["ViT-B/32", "torch fp32"]
    fast = by["ViT-B/32", "OpenVINO fp32"]
    headline["a sentence against torch, compiled"] = round(
        base["sentence_ms"]["median"] / fast["sentence_ms"]["median"], 2
    )
    headline["a sentence at its length against padded to 77, torch"] = round(
        base["sentence_padded_ms"]["median"] / base["sentence_ms"]["median"], 2
    )
    packages = ("torch", "openvino", "nncf", "transformers", "numpy")
    print(write("encode", headline=headline, rows=rows, packages=packages, text=table(rows, peaks)))


if __name__ == "__main__":
    main()
