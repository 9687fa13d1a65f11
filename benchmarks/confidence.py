"""How well a search knows that nothing in the library is what was asked for, on the storyboard world.

The curve of confidence is fitted on the validation split (right answers against the same captions without
their own clip) and measured on libraries of other seeds: ordinary captions, whose clip is there; near misses,
captions of other videos, in the words of the same world, of which no video of the library is one; and
sentences about things that the world does not have. "kept": right answers that are more than "none"; "turned
down": queries without an answer whose every hit is "none". The trade-off moves the limit.
Writes reports/confidence.json, .md and .png; --write puts the fitted numbers into the bundled models.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import vidsift
from _report import REPORTS, write
from vidsift.datasets.storyboard import draw_set, holds, load_split
from vidsift.datasets.storyboard.splits import StorySet
from vidsift.evaluation.confidence import calibration_error, trade_off
from vidsift.evaluation.storyboard import encode_texts, encode_videos, search_scores
from vidsift.index.confidence import Background, confidence
from vidsift.models import RetrievalModel, load_model
from vidsift.models.background import background_of, draw_background
from vidsift.training.validation import Gallery, tune_confidence

BUNDLED = Path(vidsift.__file__).with_name("bundled")
MODELS = ("vidsift-tiny", "clip-tiny")
KEEPS = tuple(round(0.5 + 0.01 * i, 2) for i in range(51))


def fitted(name: str, videos: int) -> tuple[RetrievalModel, dict[str, Any]]:
    """A bundled model with background sentences of its world and a curve fitted on the validation split."""
    model = load_model(name)
    model.background = draw_background([c.text for c in load_split("train", videos=500).captions])
    story = load_split("val", videos=videos)
    text = encode_texts(model, [caption.text for caption in story.captions])
    gallery = Gallery(text, encode_videos(model, story.videos), story.video_of)
    model.search, report = tune_confidence(model, gallery, model.search)
    assert report is not None
    return model, report


@torch.inference_mode()
def best(model: RetrievalModel, texts: list[str], clips: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Score and coarse score [T, 2] of each text's best clip, and which clip that is."""
    text = encode_texts(model, texts)
    scores = search_scores(model, text, clips).numpy()
    coarse = (model.query_vectors(text) @ clips.coarse.T).numpy()
    rows, at = np.arange(len(texts)), scores.argmax(1)
    return np.stack([scores[rows, at], coarse[rows, at]], 1), at


def library(model: RetrievalModel, seed: int, videos: int) -> dict[str, Any]:
    """One library of another seed, and what is asked of it."""
    story: StorySet = draw_set(2000 + seed, videos)
    clips = encode_videos(model, story.videos)
    background = Background.of(best(model, list(background_of(model)), clips)[0], videos)
    assert background is not None
    ordinary, found = best(model, [caption.text for caption in story.captions], clips)
    others = draw_set(3000 + seed, videos).captions
    misses = [c.text for c in others if not any(holds(c.claims, v, ordered=False) for v in story.videos)]
    strange = list((BUNDLED / "background.txt").read_text().splitlines())
    right = found == story.video_of
    asked = {"right": ordinary[right], "wrong": ordinary[~right]}
    asked |= {"near misses": best(model, misses, clips)[0], "strange": best(model, strange, clips)[0]}
    sure = {
        kind: np.array([confidence(own, first, background, model.search) for own, first in scores.tolist()])
        for kind, scores in asked.items()
    }
    least = model.search.least
    every = np.concatenate([sure["right"], sure["wrong"], sure["near misses"]])
    truth = np.concatenate([np.ones(len(sure["right"])), np.zeros(len(every) - len(sure["right"]))])
    return {
        "seed": seed,
        "r1": float(right.mean()),
        "kept": float(np.mean(sure["right"] >= least)),
        "near_misses": len(misses),
        "turned_down_near": float(np.mean(sure["near misses"] < least)),
        "turned_down_strange": float(np.mean(sure["strange"] < least)),
        "calibration_error": calibration_error(every, truth.astype(bool)),
        "trade_off": trade_off(sure["right"], sure["near misses"], KEEPS),
        "trade_off_strange": trade_off(sure["right"], sure["strange"], KEEPS),
    }


def told(values: list[float]) -> str:
    """Mean (least to greatest), as percent."""
    return f"{100 * np.mean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def plot(rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 5), dpi=130)
    colours = ("#2563a8", "#c2410c", "#15803d", "#7c3aed")
    kinds = (("trade_off", "near misses", "-"), ("trade_off_strange", "things the world does not have", "--"))
    for number, row in enumerate(rows):
        for key, kind, line in kinds:
            points = np.mean([[down for _, down in found[key]] for found in row["libraries"]], axis=0)
            label = f"{row['model']}, {row['videos']} videos: {kind}"
            axes.plot(100 * np.array(KEEPS), 100 * points, line, color=colours[number % 4], label=label)
    axes.axvline(95, color="#999999", linewidth=0.8)
    axes.axhline(90, color="#999999", linewidth=0.8)
    axes.set(xlabel="right answers kept, %", ylabel="queries without an answer turned down, %", ylim=(0, 101))
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    axes.grid(color="#eeeeee")
    figure.tight_layout()
    figure.savefig(REPORTS / "confidence.png")


def main() -> None:
    """Fit, measure, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--videos", type=int, nargs="+", default=[50, 400], help="of a library")
    parser.add_argument("--write", action="store_true", help="put what was fitted into the bundled models")
    asked = parser.parse_args()
    rows = []
    for name in MODELS:
        model, fit = fitted(name, 500)
        for videos in asked.videos:
            found = [library(model, seed, videos) for seed in range(asked.seeds)]
            rows.append({"model": name, "videos": videos, "fit": fit, "libraries": found})
            rows[-1]["seeds"] = list(range(asked.seeds))
            print(name, videos, fit, told([one["turned_down_near"] for one in found]), flush=True)
        if asked.write:
            put_in(name, model)
    lines = [
        (__doc__ or "").strip(),
        "",
        "| model | videos | R@1 | right answers kept | near misses turned down | strange turned down "
        "| calibration error |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            told([one[key] for one in row["libraries"]])
            for key in ("r1", "kept", "turned_down_near", "turned_down_strange", "calibration_error")
        ]
        lines.append(f"| {row['model']} | {row['videos']} | {' | '.join(cells)} |")
    lines += ["", f"Percent: mean (least to greatest) of {asked.seeds} libraries.", ""]
    lines += ["![Trade-off](confidence.png)"]
    plot(rows)
    headline = {
        f"{row['model']}, {row['videos']} videos: {what}": told([one[key] for one in row["libraries"]])
        for row in rows
        for what, key in (
            ("right answers kept, %", "kept"),
            ("near misses turned down, %", "turned_down_near"),
            ("strange sentences turned down, %", "turned_down_strange"),
        )
    }
    print(write("confidence", headline=headline, rows=rows, packages=("torch",), text="\n".join(lines)))


def put_in(name: str, model: RetrievalModel) -> None:
    """Write a model's curve and background sentences into its bundled folder."""
    from vidsift.models.background import write_background

    path = BUNDLED / name / "config.json"
    config = json.loads(path.read_text())
    curve = {
        key: round(getattr(model.search, key), 4) for key in ("slope", "coarse_slope", "offset", "least")
    }
    model.search = replace(model.search, **curve)
    config["search"] = asdict(model.search)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    write_background(BUNDLED / name, model.background)


if __name__ == "__main__":
    main()
