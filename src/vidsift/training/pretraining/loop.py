"""The pretraining loop: steps, schedule, logs, checkpoints and exact resume."""

from __future__ import annotations

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from vidsift.errors import RecipeError, TrainingError
from vidsift.files import write_atomically
from vidsift.training.folder import MODEL, RunFolder, rounded
from vidsift.training.pretraining.batches import Batch, make_batch
from vidsift.training.pretraining.recipe import PretrainRecipe, StageSection
from vidsift.training.pretraining.task import ContrastiveTask
from vidsift.training.pretraining.validation import validate
from vidsift.training.progress import Report, Smooth, TrainProgress

log = logging.getLogger("vidsift.training")


def learning_rate(stage: StageSection, step: int) -> float:
    """Linear warm-up, flat, then a linear fall to `lr_end` over the last `decay` share of the stage."""
    rate = stage.lr * min(1.0, (step + 1) / max(stage.warmup, 1))
    if stage.lr_end is not None and stage.decay:
        left = (stage.steps - step) / (stage.decay * stage.steps)
        rate = min(rate, stage.lr_end + (stage.lr - stage.lr_end) * min(1.0, left))
    return rate


def _optimiser(task: ContrastiveTask, recipe: PretrainRecipe) -> torch.optim.AdamW:
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


class _Run:
    """One run in one folder; everything that has to survive a kill is in `checkpoint.pt`."""

    def __init__(self, recipe: PretrainRecipe, folder: Path) -> None:
        self.recipe = recipe
        torch.manual_seed(recipe.seed)
        self.task = ContrastiveTask(recipe)
        self.optimiser = _optimiser(self.task, recipe)
        self.step = 0
        self.seconds = 0.0
        self.folder = RunFolder(folder, recipe.model_dump(mode="json"))
        if self.folder.checkpoint.exists():
            self._restore()

    def save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "task": self.task.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        write_atomically(self.folder.checkpoint, lambda path: torch.save(state, path))

    def _restore(self) -> None:
        state = torch.load(self.folder.checkpoint, weights_only=True)
        self.task.load_state_dict(state["task"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.folder.forget_after(self.step)
        log.info("resumed %s at step %d of %d", self.folder.path, self.step, self.recipe.steps)

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
                f"{self.folder.path}: step {self.step}: the gradient is not finite; lower the learning rate"
            )
        self.optimiser.step()
        self.task.clamp_scale()
        self.step += 1
        self.seconds += time.perf_counter() - began
        return {name: float(value.detach()) for name, value in terms.items()} | {"lr": rate}


def pretrain(recipe: PretrainRecipe, folder: Path, progress: Report | None = None) -> dict[str, Any]:
    """Train a recipe in a folder and save the model to `folder/model`; a run that was stopped is resumed.

    On the CPU, with as many threads, a resumed run computes the same numbers as an undisturbed one.
    Returns the last validation. Raises RecipeError if the folder holds another recipe's run, or where
    torchrun started several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"{recipe.name}: stages are trained by one process; start it without torchrun")
    torch.set_num_threads(recipe.threads)
    run = _Run(recipe, folder)
    smooth = Smooth()
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
            loss = smooth.add(values["loss"])
            if run.step % recipe.log_every == 0:
                seconds = round(run.seconds, 2)
                run.folder.record(step=run.step, stage=stage.name, seconds=seconds, **rounded(values))
            if progress is not None:
                progress(TrainProgress(run.step, recipe.steps, stage.name, loss))
            if run.step % recipe.checkpoint_every == 0:
                run.save()
            last = run.step == recipe.steps
            if run.step % recipe.validate_every == 0 or last:
                final = validate(run.task.model, recipe.validation_videos)
                run.folder.record(step=run.step, stage=stage.name, validation=final)
    run.save()
    run.task.model.eval().save_pretrained(folder / MODEL)
    return final or validate(run.task.model, recipe.validation_videos)


def _prepare(recipe: PretrainRecipe, step: int) -> Batch:
    number, stage_step = recipe.stage_at(step)
    return make_batch(recipe.stages[number], number, stage_step, recipe.seed)
