"""Training a method by a recipe: batches, steps, validation, logs, checkpoints and exact resume."""

from __future__ import annotations

import importlib.util
import io
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidsift.datasets.pairs import describe
from vidsift.errors import RecipeError, TrainingError
from vidsift.features.inputs import Inputs
from vidsift.files import write_atomically
from vidsift.models.background import draw_background
from vidsift.models.storage import read_model
from vidsift.training.distributed import World, average_gradients, joined
from vidsift.training.folder import MODEL, RunFolder, rounded
from vidsift.training.objective import Objective
from vidsift.training.optimiser import make_optimiser, set_rates
from vidsift.training.progress import Report, Smooth, TrainProgress
from vidsift.training.recipe import Recipe
from vidsift.training.sampler import Sampler
from vidsift.training.setup import Setup, prepare
from vidsift.training.step import Batch, StepRunner, chunk_for
from vidsift.training.validation import Gallery, measure, selection, tune_confidence, tune_search

log = logging.getLogger("vidsift.training")
_BEST = "best"


class _Run:
    """One run in one folder; everything that has to survive a kill is in `checkpoint.pt`."""

    def __init__(self, recipe: Recipe, folder: RunFolder, setup: Setup, world: World) -> None:
        self.recipe, self.folder, self.world = recipe, folder, world
        self.model, self.inputs, self.teachers = setup.model, setup.train, setup.teachers
        self.reference = setup.reference
        self.model.background = draw_background(self.inputs.pairs.captions)
        self.trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        if not self.trained:
            raise TrainingError(f"{recipe.name}: every learning rate is 0, so there is nothing to train")
        self.optimiser = make_optimiser(self.trained, recipe.optimiser, recipe.steps, self.model.undecayed)
        self.sampler = Sampler(self.inputs.pairs, recipe.batch, recipe.seed)
        objective = Objective(recipe.objective, self.model)
        bf16 = recipe.precision == "bf16"
        self.runner = StepRunner(self.model, objective, chunk=recipe.chunk, bf16=bf16, world=world)
        self.average: dict[str, Tensor] = (
            {n: p.detach().clone() for n, p in self.trained} if recipe.ema else {}
        )
        self.step, self.seconds, self.best = 0, 0.0, float("-inf")
        self.skipped, self.in_a_row, self.emptied = 0, 0, 0
        saved = world.leaders_file(folder.checkpoint)
        if saved is None:
            world.take_leaders(p for _, p in self.trained)
        else:
            self._restore(saved)
        if recipe.memory_gb is not None:
            self.runner.chunk = chunk_for(self.runner, self._batch(0), recipe.memory_gb)
            log.info("%s GiB hold %s pairs at once", recipe.memory_gb, self.runner.chunk or "all")

    # -- checkpoints -----------------------------------------------------------------------------------

    def save(self) -> None:
        state = {
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "skipped": [self.skipped, self.in_a_row, self.emptied],
            "weights": {name: p.detach() for name, p in self.trained},
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }
        write_atomically(self.folder.checkpoint, lambda path: torch.save(state, path))

    def _restore(self, saved: Path | io.BytesIO) -> None:
        state = torch.load(saved, map_location=self.model.device, weights_only=True)
        self.model.load_state_dict(state["weights"], strict=False)
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds, self.best = int(state["step"]), float(state["seconds"]), float(state["best"])
        self.skipped, self.in_a_row, self.emptied = state["skipped"]
        self.folder.forget_after(self.step)
        log.info("resumed %s at step %d of %d", self.folder.path, self.step, self.recipe.steps)

    # -- a step ----------------------------------------------------------------------------------------

    def _batch(self, step: int) -> Batch:
        captions = self.sampler.captions_of(step)
        clips = self.inputs.pairs.clip_of[captions]
        share = len(captions) // self.world.size
        own = slice(self.world.rank * share, (self.world.rank + 1) * share)
        pictures = self.inputs.read_clips(clips[own])
        # The words of the whole batch, so that every process pads to the same length.
        texts = self.inputs.read_texts(captions).select(own)
        signals = None if self.teachers is None else self.teachers.read(step, captions)
        reference = None if self.reference is None else self.reference.read_texts(captions)
        return Batch(texts, pictures, torch.from_numpy(clips), signals, reference)

    def advance(self) -> dict[str, float]:
        """One step; returns the terms, the length of the gradient and the rate, for the log."""
        began = time.perf_counter()
        # Noise (dropout, token selection) depends on the step alone, so that resuming is exact.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        set_rates(self.optimiser, self.step, self.recipe.steps, self.recipe.optimiser.warmup)
        self.optimiser.zero_grad(set_to_none=True)
        values = self.runner(self._without_empty(self._batch(self.step)))
        parameters = [p for _, p in self.trained]
        average_gradients(parameters, self.world)
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimiser.clip_norm))
        if np.isfinite(norm) and np.isfinite(values["loss"]):
            self.optimiser.step()
            self._clamp()
            self._track()
            self.in_a_row = 0
        else:
            self._not_finite(values["loss"], norm)
        self.step += 1
        self.seconds += time.perf_counter() - began
        return values | {"gradient": norm, "lr": max(g["lr"] for g in self.optimiser.param_groups)}

    def _without_empty(self, batch: Batch) -> Batch:
        """Leave out pairs whose clip shows nothing: their captions have no positive."""
        real = batch.pictures.mask.any(1)
        if bool(real.all()):
            return batch
        if self.world.size > 1:
            raise TrainingError(
                "a clip without a readable frame, which several processes cannot skip alike: cache features"
            )
        self.emptied += int((~real).sum())
        if int(real.sum()) < 2:
            raise TrainingError(f"step {self.step}: fewer than two clips of the batch can be read")
        return batch.where(real)

    def _not_finite(self, loss: float, norm: float) -> None:
        where = f"{self.folder.path}: step {self.step}: loss {loss}, gradient {norm}"
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.recipe.nan == "stop":
            raise TrainingError(f"{where}: not finite; lower the learning rates, or set nan=skip")
        if self.in_a_row > self.recipe.max_skipped:
            raise TrainingError(
                f"{where}: not finite {self.in_a_row} times in a row; lower the learning rates"
            )
        log.warning("%s: skipped", where)

    @torch.no_grad()
    def _clamp(self) -> None:
        scale = getattr(self.model.backbone.model, "logit_scale", None)
        if scale is not None:
            scale.clamp_(max=float(np.log(self.recipe.optimiser.max_scale)))

    @torch.no_grad()
    def _track(self) -> None:
        """Move the averaged weights, faster in the beginning, towards the present ones."""
        if not self.recipe.ema:
            return
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for name, parameter in self.trained:
            self.average[name].lerp_(parameter, 1 - decay)

    # -- validation --------------------------------------------------------------------------------------

    def validate(self, inputs: Inputs) -> dict[str, Any]:
        """Metrics of the present (or averaged) weights; the best so far are kept in the folder."""
        now = {name: p.detach().clone() for name, p in self.trained} if self.average else {}
        self.model.load_state_dict(self.average, strict=False)
        metrics = measure(self.model, gallery(self.model, inputs))
        found = selection(metrics, self.recipe.validation)
        if found > self.best:
            self.best = found
            self._keep(self.folder.path / _BEST)
        self.model.load_state_dict(now, strict=False)
        return metrics

    def _keep(self, folder: Path) -> None:
        partial = folder.with_name(folder.name + ".part")
        shutil.rmtree(partial, ignore_errors=True)
        self.model.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)


def gallery(model: Any, inputs: Inputs) -> Gallery:
    """Features of a whole set by a model as it is now."""
    return Gallery(*inputs.encode_all(model), inputs.pairs.clip_of)


def train(recipe: Recipe, folder: Path, progress: Report | None = None) -> dict[str, Any]:
    """Train a recipe in a folder; the best model on validation ends up in `folder/model`.

    A run that was stopped is resumed; on a CPU, with as many threads, it computes the same numbers as an
    undisturbed one. Under torchrun all processes train together.
    Returns the metrics of the saved model on the validation set. Raises RecipeError if the folder holds
    another recipe's run, DataError for data that cannot be used, TrainingError when the run cannot go on.
    """
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)

    def caching(title: str, done: int, rows: int) -> None:
        if progress is not None:
            progress(TrainProgress(done, rows, title, None))

    with joined() as world:
        if recipe.batch % world.size:
            raise RecipeError(f"batch: {recipe.batch} pairs cannot be shared by {world.size} processes")
        run_folder = RunFolder(folder, recipe.model_dump(mode="json"), world.leads)
        world.wait()
        world.agree({"recipe": _numbers(recipe)})
        setup = prepare(recipe, world, caching)
        world.agree({"training pairs": setup.train.pairs.pairing()})
        run = _Run(recipe, run_folder, setup, world)
        if run.step == 0:
            run_folder.record(step=0, train=describe(setup.train.pairs), val=describe(setup.val.pairs))
        _steps(run, setup.val, progress if world.leads else None)
        world.wait()
        return _finish(run, setup.val) if world.leads else {}


def _numbers(recipe: Recipe) -> dict[str, Any]:
    """What of a recipe decides about numbers: all but the places, which other machines may call otherwise."""
    return recipe.model_dump(
        mode="json",
        exclude={
            "data": {"root"},
            "features": {"folder"},
            "teachers": {"models", "cache"},
            "threads": True,
        },
    )


def _steps(run: _Run, val: Inputs, progress: Report | None) -> None:
    recipe, smooth, board = run.recipe, Smooth(), Board(run.folder.path, run.step, run.world.leads)
    run.model.train()
    while run.step < recipe.steps:
        values = run.advance()
        loss = smooth.add(values["loss"])
        last = run.step == recipe.steps
        if run.step % recipe.log_every == 0 or last:
            counts = {"skipped": run.skipped, "emptied": run.emptied}
            rate = run.step * recipe.batch / max(run.seconds, 1e-9)
            run.folder.record(
                step=run.step, seconds=round(run.seconds, 2), **rounded(values | {"pairs/s": rate}), **counts
            )
            board.add("train", values, run.step)
        if progress is not None:
            progress(TrainProgress(run.step, recipe.steps, "training", loss))
        if (run.step % recipe.validation.every == 0 or last) and run.world.leads:
            metrics = run.validate(val)
            run.folder.record(step=run.step, validation=metrics)
            for direction, found in metrics.items():
                board.add(direction, found, run.step)
        if (run.step % recipe.checkpoint_every == 0 or last) and run.world.leads:
            run.save()
        run.world.wait()
    board.close()


def _finish(run: _Run, val: Inputs) -> dict[str, Any]:
    """Tune the search of the best model on the validation set and save it; once, if called again."""
    best, target = run.folder.path / _BEST, run.folder.path / MODEL
    if not best.exists():
        final = run.folder.last("final")
        if final is None or not target.exists():
            raise TrainingError(f"{run.folder.path}: the run is done, but its best model is gone")
        return dict(final)
    model = read_model(best).to(run.model.device)
    seen = gallery(model, val)
    final = measure(model, seen)
    if run.recipe.validation.tune:
        model.search, final["search"] = tune_search(model, seen, run.recipe.validation)
        model.search, final["confidence"] = tune_confidence(model, seen, model.search)
    model.save_pretrained(target)
    run.folder.record(step=run.step, final=final)
    shutil.rmtree(best)
    return final


class Board:
    """TensorBoard's log beside ours, where the package tensorboard is installed."""

    def __init__(self, folder: Path, step: int, writes: bool) -> None:
        self.writer: Any = None
        if writes and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, group: str, values: dict[str, float], step: int) -> None:
        """One point of every value."""
        if self.writer is not None:
            for name, value in values.items():
                self.writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
