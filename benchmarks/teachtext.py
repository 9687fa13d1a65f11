"""TeachText on the storyboard world with sound, speech and writing: text and modality teachers, denoising.

Every row is a MoEE head over frozen features (max margin 0.2), trained for the same number of steps on the
same 4,000 videos, selected on validation, and measured on the 1,000 videos and 5,000 captions of the test.
A row that is taught adds TeachText's loss to the mean of its teachers' cosine matrices; teachers have the
student's seed. A seed draws the heads, the order of the batches, and which captions are made wrong.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vidsift.evaluation.cost import bytes_per_clip
from vidsift.evaluation.metrics import rank_all, retrieval_metrics
from vidsift.evaluation.scoring import model_scores
from vidsift.experts.store import open_sources
from vidsift.models import RetrievalModel, load_model
from vidsift.training.data import load_pairs
from vidsift.training.denoise import judge
from vidsift.training.denoising_report import write_denoising
from vidsift.training.distributed import World
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe
from vidsift.training.setup import open_inputs, prepare
from vidsift.training.weights import corrupt, write_weights

PIXELS = ("appearance", "frames")
ALL = ("appearance", "frames", "motion", "audio", "speech", "ocr")
MATCHING = 3.0
NOISE = (0.2, 0.4)


@dataclass(frozen=True)
class Row:
    """experts, text: what the model sees and reads by.  teachers: rows that teach it.  noise: share of wrong
    captions in training.  cleaned: how they were treated.  aggregate: of the teachers."""

    experts: tuple[str, ...] = PIXELS
    text: str = "clip-tiny"
    teachers: tuple[str, ...] = ()
    noise: float = 0.0
    cleaned: str = ""
    aggregate: str = "mean"
    settings: dict[str, Any] = field(default_factory=dict)


ROWS: dict[str, Row] = {
    "words": Row(text="words"),
    "tower": Row(),
    "tuned tower": Row(text="vidsift-tiny"),
    "tower, taught by 1": Row(teachers=("words",)),
    "tower, taught by 2": Row(teachers=("words", "tuned tower")),
    "tower, taught by 3": Row(teachers=("words", "tuned tower", "tower")),
    "tower, taught by 3, weighted": Row(teachers=("words", "tuned tower", "tower"), aggregate="weighted"),
    "tower, taught by itself": Row(teachers=("tower",)),
    "words, taught by 3": Row(text="words", teachers=("words", "tuned tower", "tower")),
    "all experts": Row(ALL),
    "pixels, taught by all experts": Row(teachers=("all experts",)),
    "appearance": Row(("appearance",)),
    "appearance, taught by pixels": Row(("appearance",), teachers=("tower",)),
    "appearance, taught by all experts": Row(("appearance",), teachers=("all experts",)),
    **{
        f"noise {share:.0%}{', ' + how if how else ''}": Row(noise=share, cleaned=how)
        for share in NOISE
        for how in ("", "denoised", "weighed", "without the wrong ones")
    },
}


def recipe_of(name: str, seed: int, work: Path, steps: int, videos: int | None) -> Recipe:
    """The recipe of a row; rows that are cleaned need their weights to be there."""
    row = ROWS[name]
    objective: dict[str, Any] = {"contrastive": {}, "max_margin": {"margin": 0.2}}
    values: dict[str, Any] = {
        "name": slug(name),
        "seed": seed,
        "backbone": "clip-tiny",
        "data": {
            "source": "storyboard",
            "train": "train",
            "val": "val",
            "train_videos": videos,
            "channels": True,
            "corrupt": row.noise,
        },
        "features": {
            "experts": list(row.experts),
            "text": row.text,
            "width": 128,
            "folder": str(work / "features"),
        },
        "method": {"name": "moee", "frames": 12, "settings": {"text_clusters": 4}},
        "objective": objective,
        "optimiser": {"lr": {"text": 0, "head": 0.002, "scale": 0}},
        "validation": {"every": 50, "tune": False},
        "steps": steps,
        "batch": 64,
        "threads": 1,
    }
    if row.teachers:
        models = [str(work / run_name(t, seed) / "model") for t in row.teachers]
        values["teachers"] = {"models": models, "cache": str(work / "teachers")}
        objective["similarity_matching"] = {"weight": MATCHING, "aggregate": row.aggregate}
    if row.cleaned:
        values["data"]["weights"] = str(work / "weights" / f"{slug(name)}-s{seed}.json")
    for key, value in row.settings.items():
        values[key] = values[key] | value if isinstance(values.get(key), dict) else value
    return Recipe.model_validate(values)


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name).strip("-")


def run_name(name: str, seed: int) -> str:
    return f"{slug(name)}-s{seed}"


def clean(name: str, seed: int, work: Path, steps: int, videos: int | None) -> dict[str, Any]:
    """Write the weights of a row that is cleaned; returns what is known of how well wrong captions are found.

    Judges of a noise level are shared by the rows that need them.
    """
    row = ROWS[name]
    target = work / "weights" / f"{slug(name)}-s{seed}.json"
    noisy = f"noise {row.noise:.0%}"
    if row.cleaned == "without the wrong ones":
        recipe = recipe_of(noisy, seed, work, steps, videos)
        geometry = load_model(recipe.backbone).preprocess.geometry
        pairs, _ = load_pairs(recipe, geometry)
        plain = recipe.model_copy(update={"data": recipe.data.model_copy(update={"corrupt": 0.0})})
        _, wrong = corrupt(load_pairs(plain, geometry)[0], row.noise, seed)
        write_weights(target, pairs, (~wrong).astype(np.float64))
        return {}
    recipe = recipe_of(noisy, seed, work, steps, videos)
    reader = recipe.model_copy(
        update={
            "name": f"{recipe.name}-words",
            "features": recipe.features.model_copy(update={"text": "words"}),
        }
    )
    found = judge([recipe, reader], work / "judges" / f"s{seed}")
    folder = work / "denoised" / run_name(name, seed)
    figures = write_denoising(found, folder, row.cleaned == "weighed", 0.5)
    write_weights(
        target,
        found.pairs,
        found.posterior if row.cleaned == "weighed" else found.kept.astype(np.float64),
    )
    return figures


@torch.inference_mode()
def measure(model: RetrievalModel, recipe: Recipe, split: str) -> dict[str, Any]:
    """Figures on a split, and what a query and a clip cost, on one thread."""
    asked = recipe.model_copy(
        update={
            "data": recipe.data.model_copy(
                update={"val": split, "corrupt": 0.0, "weights": None, "train_videos": 2}
            )
        }
    )
    _, pairs = load_pairs(asked, load_model(recipe.backbone).preprocess.geometry)
    inputs = open_inputs(asked, model, pairs)
    clips = inputs.encode_clips(model)
    count = len(pairs.captions)
    scores = model_scores(model, "similarity", lambda rows: inputs.encode_texts(model, rows), count, clips)
    found = rank_all(scores, pairs.clip_of)
    assert found.text is not None
    assert found.among_captions is not None
    texts = list(pairs.captions[:50])
    began = time.process_time()
    for text in texts:
        features = model.encode_text(*model.tokenize([text]))
        model.similarity(features, clips)
    query = (time.process_time() - began) / len(texts) * 1000
    sources = open_sources(model)
    began = time.process_time()
    for number in range(16):
        for _, source in sources:
            source.extract(pairs.clips, number)
    return {
        "t2v": asdict(retrieval_metrics(found.text, len(clips))),
        "v2t": asdict(retrieval_metrics(found.among_captions, count)),
        "ms_per_query": round(query, 3),
        "ms_per_clip": round((time.process_time() - began) / 16 * 1000, 2),
        "bytes_per_clip": bytes_per_clip(model, clips),
    }


def run(name: str, seed: int, work: Path, steps: int, videos: int | None) -> None:
    """One row of one seed, unless its result is there."""
    out = work / run_name(name, seed)
    target = out / "result.json"
    if target.exists():
        return
    torch.set_num_threads(1)
    figures = clean(name, seed, work, steps, videos) if ROWS[name].cleaned else {}
    recipe = recipe_of(name, seed, work, steps, videos)
    validation = train(recipe, out)
    result = measure(load_model(str(out / "model")), recipe, "test")
    result |= {"validation": validation["t2v"], "denoising": figures}
    target.write_text(json.dumps(result, indent=1) + "\n")


def fill(work: Path, steps: int, videos: int | None) -> None:
    """Features that all seeds share, so that processes do not wait for each other."""
    for name in ("words", "tower", "tuned tower", "all experts"):
        recipe = recipe_of(name, 0, work, steps, videos)
        setup = prepare(recipe, World(), _say, teachers=False)
        for split in ("test",):
            asked = recipe.model_copy(update={"data": recipe.data.model_copy(update={"val": split})})
            _, pairs = load_pairs(asked, load_model(recipe.backbone).preprocess.geometry)
            open_inputs(asked, setup.model, pairs, _say)


def _say(title: str, done: int, rows: int) -> None:
    if done == rows:
        print(title, rows, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/teachtext"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--videos", type=int, help="training videos; default all 4,000")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--jobs", type=int, default=1, help="seeds run at once")
    parser.add_argument("--report", action="store_true", help="only write the report of what is there")
    asked = parser.parse_args()
    if not asked.report:
        if asked.jobs > 1:
            fill(asked.work, asked.steps, asked.videos)
            spread_out(asked)
        else:
            for seed in asked.seeds:
                for name in ROWS:
                    if name in asked.rows:
                        began = time.time()
                        run(name, seed, asked.work, asked.steps, asked.videos)
                        print(f"{name}, seed {seed}: {time.time() - began:.0f} s", flush=True)
            return
    from _teachtext_report import report

    report(asked.work, asked.seeds, ROWS, MATCHING)


def spread_out(asked: Any) -> None:
    """Seeds in processes of their own."""
    waiting = list(asked.seeds)
    running: list[subprocess.Popen[bytes]] = []
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            words = [sys.executable, __file__, "--work", str(asked.work), "--steps", str(asked.steps)]
            words += ["--seeds", str(waiting.pop(0)), "--rows", *asked.rows]
            words += ["--videos", str(asked.videos)] if asked.videos else []
            running.append(subprocess.Popen(words))
        for process in [p for p in running if p.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise SystemExit(f"a seed failed with {process.returncode}")
        time.sleep(1)


if __name__ == "__main__":
    main()
