"""How fast a method trains: as the official loops run it, by our loop end to end, and on cached features.

One batch of random clips and texts, ViT-B/32 shapes, random weights, seqTransf over 12 frames and 32 tokens.
Each way runs in a process of its own, so that its peak memory is its own.
"official loop": what CLIP4Clip's and its followers' do: both towers trained, everything in one fp32 forward,
attention written out, BertAdam. "ours": the same parameters trained by our step: fused attention, bf16 where
there is a GPU. "ours, in chunks": the same gradient in the memory of a quarter of the batch. "cached": towers
frozen, what they say read from memory, as a recipe with `features.cache` trains.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from _report import spread, write
from vidsift.features.inputs import Pictures, Texts
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models import RetrievalModel
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.training.bertadam import BertAdam
from vidsift.training.objective import Objective
from vidsift.training.optimiser import freeze, make_optimiser
from vidsift.training.recipe import LearningRates, ObjectiveSection, OptimiserSection
from vidsift.training.step import Batch, StepRunner

FRAMES, WORDS = 12, 32
B32 = ClipShape(224, 32, 768, 12, 512, 12, 512, 77)
WAYS = ("official loop", "ours", "ours, in chunks", "cached")


def build(device: torch.device, seed: int) -> RetrievalModel:
    """seqTransf over a ViT-B/32 with random weights."""
    torch.manual_seed(seed)
    words = build_word_tokenizer([f"w{i}" for i in range(1000)])
    return new_clip_model(words, B32, method="seqtransf", frames_per_clip=FRAMES).to(device)


def draw(model: RetrievalModel, batch: int, seed: int) -> tuple[Texts, Pictures]:
    """Random texts and clips; no frame and no word is padding."""
    rng = torch.Generator().manual_seed(seed)
    said = torch.randint(0, 1000, (batch, WORDS - 2), generator=rng).tolist()
    ids, mask = model.tokenizer([" ".join(f"w{word}" for word in text) for text in said])
    pixels = torch.randint(0, 256, (batch, FRAMES, 3, 224, 224), dtype=torch.uint8, generator=rng)
    return (
        Texts(mask, ids=ids),
        Pictures(torch.ones(batch, FRAMES, dtype=torch.bool), pixels=pixels),
    )


def official(model: RetrievalModel, texts: Texts, pictures: Pictures) -> Any:
    """One step of the official loops."""
    model.backbone.model.set_attn_implementation("eager")
    parameters = list(model.parameters())
    optimiser = BertAdam(parameters, lr=1e-4, total_steps=1000, max_grad_norm=1.0)

    def step() -> None:
        optimiser.zero_grad()
        text, clips = texts.encode(model), pictures.encode(model)
        symmetric_info_nce(model.similarity(text, clips)).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def ours(
    model: RetrievalModel, texts: Texts, pictures: Pictures, rates: LearningRates, chunk: int | None
) -> Any:
    """One step of our loop."""
    section = OptimiserSection(lr=rates)
    trained = freeze(model, rates)
    optimiser = make_optimiser(trained, section, 1000, model.undecayed)
    bf16 = model.device.type == "cuda"
    runner = StepRunner(model, Objective(ObjectiveSection(), model), chunk=chunk, bf16=bf16)
    batch = Batch(texts, pictures, torch.arange(len(texts)))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        runner(batch)
        torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0)
        optimiser.step()

    return step


@torch.no_grad()
def cached(model: RetrievalModel, texts: Texts, pictures: Pictures) -> tuple[Texts, Pictures]:
    """What the towers say of a batch, as the stores give it back."""
    assert texts.ids is not None
    assert pictures.pixels is not None
    said = model.backbone.encode_tokens(texts.ids.to(model.device), texts.mask.to(model.device))
    frames, _ = model.encode_real_frames(pictures.pixels, pictures.mask)
    return (
        Texts(texts.mask, sentence=said.sentence.half().cpu(), words=said.words.half().cpu()),
        Pictures(pictures.mask, frames=frames.half().cpu()),
    )


def measure(way: str, batch: int, steps: int, device: torch.device, seed: int) -> dict[str, Any]:
    """Seconds of every step after one that is not counted, and the peak of memory."""
    model = build(device, seed)
    texts, pictures = draw(model, batch, seed)
    model.train()
    if way == "official loop":
        step = official(model, texts, pictures)
    elif way == "cached":
        texts, pictures = cached(model, texts, pictures)
        step = ours(model, texts, pictures, LearningRates(vision=0, text=0, scale=0), None)
    else:
        chunk = max(1, batch // 4) if "chunks" in way else None
        step = ours(model, texts, pictures, LearningRates(vision=1e-4, text=1e-4, scale=1e-4), chunk)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    seconds = []
    for _ in range(steps):
        _wait(device)
        began = time.perf_counter()
        step()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    peak = (
        torch.cuda.max_memory_allocated(device) / 2**30
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    return {"seconds": seconds, "peak_gib": peak, "before_gib": before / 2**20}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure every way in a process of its own and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=WAYS, help="measure one, print it, write nothing")
    chosen = parser.parse_args()
    if chosen.way:
        steps = chosen.steps * 20 if chosen.way == "cached" else chosen.steps
        found = measure(chosen.way, chosen.batch, steps, torch.device(chosen.device), chosen.seed)
        print(json.dumps(found))
        return
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        words = [sys.executable, *sys.argv, "--device", chosen.device, "--way", way]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rates = [chosen.batch / s for s in found["seconds"]]
        rows.append(
            {
                "way": way,
                "seeds": [chosen.seed],
                "clips_per_second": spread(rates),
                "peak_gib": round(found["peak_gib"], 2),
            }
        )
        print(rows[-1], flush=True)
    rate = {row["way"]: row["clips_per_second"]["median"] for row in rows}
    lines = [
        "| way | clips/s (least-greatest) | times the official loop | peak memory, GiB |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        found = row["clips_per_second"]
        lines.append(
            f"| {row['way']} | {found['median']:.3g} ({found['min']:.3g}-{found['max']:.3g}) "
            f"| {rate[row['way']] / rate['official loop']:.1f} | {row['peak_gib']:.2f} |"
        )
    threads = torch.get_num_threads()
    text = [
        f"{chosen.device}, {threads} threads. A batch: {chosen.batch} clips of {FRAMES} frames and texts of",
        f"{WORDS} tokens. {chosen.steps} steps (cached: {20 * chosen.steps}) after one that is not counted.",
        "Memory: the process's peak (CPU) or what torch allocated (GPU).",
        "",
        *lines,
        "",
        *(__doc__ or "").strip().splitlines()[2:],
    ]
    write(
        "training" if chosen.device == "cpu" else f"training_{chosen.device}",
        headline={
            "end to end, our loop against the official one": f"{rate['ours'] / rate['official loop']:.1f}x",
            "heads on cached features against end to end (our loop)": f"{rate['cached'] / rate['ours']:.0f}x",
        },
        rows=rows,
        packages=("torch", "transformers", "numpy"),
        text="\n".join(text),
    )


if __name__ == "__main__":
    main()
