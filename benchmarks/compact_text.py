"""A compact text tower: how much of the quality is kept at a half, a quarter and an eighth of the cost.

The bundled model vidsift-tiny keeps everything but its text tower, which is replaced by a smaller one and
distilled: its sentences and words follow the old ones (1 - cosine), its scores the old scores of the batch.
Measured on the test gallery of the storyboard (1,000 videos, 5,000 captions), by the method's own score.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from _estimate import Estimate, estimate
from _report import REPORTS, write
from vidsift.datasets.pairs import PairSet, story_pairs
from vidsift.evaluation.evaluate import Options, evaluate, open_material
from vidsift.models import RetrievalModel, load_model
from vidsift.models.compact import text_cost, with_compact_text
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.training.loop import train
from vidsift.training.recipe import load_recipe

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "storyboard" / "compact-text.yaml"
BASE = "vidsift-tiny"
# Layers and width by the share of the cost that they come close to.
SIZES = {"1/2": (1, 124), "1/4": (2, 60), "1/8": (1, 58)}
# The text tower of CLIP ViT-B/32, and such shares of it, for their latency alone.
LARGE = {"whole": (12, 512), "1/2": (6, 512), "1/4": (3, 512), "1/8": (6, 256)}


def latency(model: RetrievalModel, texts: list[str]) -> float:
    """Median milliseconds of one text, one thread."""
    spent = []
    with torch.inference_mode():
        for text in texts:
            began = time.perf_counter()
            model.encode_text(*model.tokenize([text]))
            spent.append(1000 * (time.perf_counter() - began))
    return median(spent[5:])


def measure(model: RetrievalModel, pairs: PairSet, work: Path) -> dict[str, Any]:
    material = open_material(model, pairs, work / "features")
    found = evaluate(
        material, "storyboard", "test", Options(scores=("similarity", "two-stage"), resamples=10)
    )
    rows = {(row.score, row.direction): row.metrics for row in found.rows}
    macs, parameters = text_cost(model)
    return {
        "t2v": asdict(rows["similarity", "t2v"]),
        "v2t": asdict(rows["similarity", "v2t among captions"]),
        "two_stage": asdict(rows["two-stage", "t2v"]),
        "macs": macs,
        "parameters": parameters,
        "ms": latency(model, list(pairs.captions[:200])),
    }


def run(work: Path, size: str, seed: int, steps: int | None) -> dict[str, Any]:
    """One size of one seed, from its result if it is there."""
    layers, width = SIZES[size]
    out = work / f"{size.replace('/', '-')}-s{seed}"
    target = out / "result.json"
    if not target.exists():
        overrides = [
            f"seed={seed}",
            f"compact.layers={layers}",
            f"compact.width={width}",
            f"features.folder={work / 'features'}",
            f"teachers.cache={work / 'teachers'}",
            "threads=1",
        ]
        train(load_recipe(RECIPE, overrides + ([f"steps={steps}"] if steps else [])), out)  # type: ignore[arg-type]
        model = load_model(str(out / "model"))
        model.name = BASE  # its clips are those of the base, and so is their store
        pairs = story_pairs("test", None, model.frames_per_clip, model.preprocess.geometry)
        target.write_text(json.dumps(measure(model, pairs, work), indent=1) + "\n")
    return dict(json.loads(target.read_text()))


def large() -> list[dict[str, Any]]:
    """Latency of CLIP-sized text towers of these shares, random weights, one thread."""
    torch.manual_seed(0)
    words = [f"w{n}" for n in range(49_000)]
    shape = ClipShape(32, 32, 64, 1, 512, 12, 512, 77)
    whole = new_clip_model(build_word_tokenizer(words), shape).eval()
    texts = [" ".join(words[k : k + 14]) for k in range(60)]
    found = []
    for name, (layers, width) in LARGE.items():
        model = whole if name == "whole" else with_compact_text(whole, layers, width)
        found.append(
            {"share": name, "size": [layers, width], "macs": text_cost(model)[0], "ms": latency(model, texts)}
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/compact-text"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int)
    parser.add_argument("--report", action="store_true", help="do not train what is missing")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    base = load_model(BASE)
    pairs = story_pairs("test", None, base.frames_per_clip, base.preprocess.geometry)
    before = measure(base, pairs, asked.work)
    rows: list[dict[str, Any]] = [{"size": "whole", "seeds": [], **before}]
    lines = [
        "| text tower | layers x width | seeds | cost | ms per text | R@1 | kept | R@5 | two-stage R@1 | "
        "v2t R@1 |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
        f"| whole | 2 x 128 | | 1 | {before['ms']:.2f} | {before['t2v']['r1']:.1f} | | "
        f"{before['t2v']['r5']:.1f} | {before['two_stage']['r1']:.1f} | {before['v2t']['r1']:.1f} |",
    ]
    headline = {}
    for size, (layers, width) in SIZES.items():
        seeds = [
            s
            for s in asked.seeds
            if not asked.report or (asked.work / f"{size.replace('/', '-')}-s{s}").exists()
        ]
        found = [run(asked.work, size, seed, asked.steps) for seed in seeds]
        for seed, one in zip(seeds, found, strict=True):
            print(size, seed, one["t2v"]["r1"], flush=True)
        kept = estimate([100 * one["t2v"]["r1"] / before["t2v"]["r1"] for one in found])
        cost = found[0]["macs"] / before["macs"]
        ms = median(one["ms"] for one in found)
        cells: list[str] = [size, f"{layers} x {width}", str(len(found)), f"{cost:.3f}", f"{ms:.2f}"]
        cells += [_of(found, "t2v.r1").text, f"{kept.text}%", _of(found, "t2v.r5").text]
        cells += [_of(found, "two_stage.r1").text, _of(found, "v2t.r1").text]
        lines.append(f"| {' | '.join(cells)} |")
        headline[f"R@1 kept at {size} of the cost"] = f"{kept.text}%"
        rows.append({"size": size, "seeds": seeds, "cost": cost, "runs": found})
    sizes = large()
    lines += [
        "",
        "Text towers as large as CLIP ViT-B/32's, random weights, a text of 16 tokens, one thread:",
        "",
    ]
    lines += ["| share | layers x width | million multiply-accumulates | ms per text |", "|---|--:|--:|--:|"]
    lines += [
        f"| {r['share']} | {r['size'][0]} x {r['size'][1]} | {r['macs'] / 1e6:.0f} | {r['ms']:.1f} |"
        for r in sizes
    ]
    rows += [{"seeds": [0], "latency of": r} for r in sizes]
    plot(rows, before)
    assert __doc__ is not None
    text = "\n".join([__doc__.strip(), "", "![quality against cost](compact_text.png)", "", *lines])
    write("compact_text", headline=headline, rows=rows, packages=("torch", "numpy"), text=text)


def _of(found: list[dict[str, Any]], where: str) -> Estimate:
    group, key = where.split(".")
    return estimate([one[group][key] for one in found])


def plot(rows: list[dict[str, Any]], before: dict[str, Any]) -> None:
    from matplotlib.figure import Figure

    picture = Figure(figsize=(5.5, 3.6), layout="constrained")
    axes = picture.subplots()
    axes.axhline(before["t2v"]["r1"], color="0.6", linewidth=1, label="whole tower")
    axes.axhline(0.97 * before["t2v"]["r1"], color="0.6", linewidth=1, linestyle=":", label="97% of it")
    for row in rows:
        for one in row.get("runs", []):
            axes.plot(row["cost"], one["t2v"]["r1"], "o", color="tab:blue", alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 0.5, 0.25, 0.125], ["1", "1/2", "1/4", "1/8"])
    axes.set_xlabel("cost of the text tower (multiply-accumulates)")
    axes.set_ylabel("R@1")
    axes.legend(frameon=False)
    picture.savefig(REPORTS / "compact_text.png", dpi=120)


if __name__ == "__main__":
    main()
