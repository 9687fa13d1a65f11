"""The training loop: steps, schedule, logs, checkpoints and exact resume."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from vidsift.errors import RecipeError, TrainingError
from vidsift.training.batches import Batch, make_batch
from vidsift.training.contrastive import ContrastiveTask
from vidsift.training.recipe import Recipe, StageSection
from vidsift.training.validation import validate

log = logging.getLogger("vidsift.training")

CHECKPOINT, RECIPE, METRICS, MODEL = "checkpoint.pt", "recipe.yaml", "metrics.jsonl", "model"


@dataclass(frozen=True)
class TrainProgress:
    """Where a run stands: the step just done, of how many, and its smoothed loss."""

    step: int
    steps: int
    stage: str
    loss: float


def learning_rate(stage: StageSection, step: int) -> float:
    """Linear warm-up, flat, then a linear fall to `lr_end` over the last `decay` share of the stage."""
    rate = stage.lr * min(1.0, (step + 1) / max(stage.warmup, 1))
    if stage.lr_end is not None and stage.decay:
        left = (stage.steps - step) / (stage.decay * stage.steps)
        rate = min(rate, stage.lr_end + (stage.lr - stage.lr_end) * min(1.0, left))
    return rate


def _optimiser(task: ContrastiveTask, recipe: Recipe) -> torch.optim.AdamW:
    matrices = [p for p in task.parameters() if p.ndim > 1]
    others = [p for p in task.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": recipe.optimiser.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=1.0,
        betas=recipe.optimiser.betas,
    )


def _write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    partial = path.with_suffix(path.suffix + ".part")
    write(partial)
    os.replace(partial, path)


def _write_text(path: Path, text: str) -> None:
    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    _write_atomically(path, write)


class _Run:
    """One run in one folder; everything that has to survive a kill is in `checkpoint.pt`."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        torch.manual_seed(recipe.seed)
        self.task = ContrastiveTask(recipe)
        self.optimiser = _optimiser(self.task, recipe)
        self.step = 0
        self.seconds = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        resolved = recipe.model_dump(mode="json")
        known = folder / RECIPE
        if (folder / CHECKPOINT).exists():
            if yaml.safe_load(known.read_text(encoding="utf-8")) != resolved:
                raise RecipeError(f"{folder}: holds a run of another recipe ({known}); choose another folder")
            self._restore()
        else:
            text = yaml.safe_dump(resolved, sort_keys=False)
            _write_text(known, text)
            (folder / METRICS).write_text("", encoding="utf-8")

    def save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "task": self.task.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        _write_atomically(self.folder / CHECKPOINT, lambda path: torch.save(state, path))

    def _restore(self) -> None:
        state = torch.load(self.folder / CHECKPOINT, weights_only=True)
        self.task.load_state_dict(state["task"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        # What was logged after the checkpoint is about to happen again.
        metrics = self.folder / METRICS
        kept = [
            line
            for line in metrics.read_text(encoding="utf-8").splitlines()
            if _logged_step(line) <= self.step
        ]
        text = "".join(line + "\n" for line in kept)
        _write_text(metrics, text)
        log.info("resumed %s at step %d of %d", self.folder, self.step, self.recipe.steps)

    def record(self, **values: Any) -> None:
        with (self.folder / METRICS).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    def advance(self, batch: Batch, stage: StageSection, stage_step: int) -> dict[str, float]:
        began = time.perf_counter()
        rate = learning_rate(stage, stage_step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            terms = self.task.loss(batch, stage)
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.task.parameters(), self.recipe.optimiser.clip_norm)
        if not torch.isfinite(norm):
            raise TrainingError(
                f"{self.folder}: step {self.step}: the gradient is not finite; lower the learning rate"
            )
        self.optimiser.step()
        self.task.clamp_scale()
        self.step += 1
        self.seconds += time.perf_counter() - began
        return {name: float(value.detach()) for name, value in terms.items()} | {"lr": rate}


def _logged_step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 2**62  # a line cut off by a kill


def train(
    recipe: Recipe, folder: Path, progress: Callable[[TrainProgress], None] | None = None
) -> dict[str, Any]:
    """Train a recipe in a folder and save the model to `folder/model`; a run that was stopped is resumed.

    On the CPU, with as many threads, a resumed run computes the same numbers as an undisturbed one.
    Returns the last validation. Raises RecipeError if the folder holds another recipe's run.
    """
    torch.set_num_threads(recipe.threads)
    run = _Run(recipe, folder)
    smooth: float | None = None
    final: dict[str, Any] = {}
    with ThreadPoolExecutor(1) as pool:
        prepared = pool.submit(_prepare, recipe, run.step)
        while run.step < recipe.steps:
            number, stage_step = recipe.stage_at(run.step)
            stage = recipe.stages[number]
            batch = prepared.result()
            if run.step + 1 < recipe.steps:
                prepared = pool.submit(_prepare, recipe, run.step + 1)
            values = run.advance(batch, stage, stage_step)
            smooth = values["loss"] if smooth is None else 0.98 * smooth + 0.02 * values["loss"]
            if run.step % recipe.log_every == 0:
                run.record(step=run.step, stage=stage.name, seconds=round(run.seconds, 2), **_rounded(values))
            if progress is not None:
                progress(TrainProgress(run.step, recipe.steps, stage.name, smooth))
            if run.step % recipe.checkpoint_every == 0:
                run.save()
            last = run.step == recipe.steps
            if run.step % recipe.validate_every == 0 or last:
                final = validate(run.task.model, recipe.validation_videos)
                run.record(step=run.step, stage=stage.name, validation=final)
    run.save()
    run.task.model.eval().save_pretrained(folder / MODEL)
    return final or validate(run.task.model, recipe.validation_videos)


def _prepare(recipe: Recipe, step: int) -> Batch:
    number, stage_step = recipe.stage_at(step)
    return make_batch(recipe.stages[number], number, stage_step, recipe.seed)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items()}
