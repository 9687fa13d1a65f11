"""Training learns, resumes exactly, and its batches are what they claim."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vidsift.errors import RecipeError, TrainingError
from vidsift.models import load_model
from vidsift.training.folder import MODEL
from vidsift.training.pretraining.batches import ATTRIBUTE_HEADS, make_batch
from vidsift.training.pretraining.loop import pretrain
from vidsift.training.pretraining.recipe import FadeSection, PretrainRecipe, StageSection
from vidsift.training.progress import TrainProgress


def small_recipe(**changes: object) -> PretrainRecipe:
    values: dict[str, object] = {
        "name": "small",
        "model": {
            "vision": {"patch_size": 16, "width": 32, "layers": 1, "heads": 2},
            "text": {"width": 32, "layers": 1, "heads": 2},
            "width": 32,
        },
        "stages": [
            {"name": "frames", "data": "frames", "steps": 4, "batch": 8, "lr": 0.002, "hard_negatives": 1,
             "attributes": 0.5},
            {"name": "videos", "data": "videos", "steps": 3, "batch": 3, "lr": 0.001, "captions_per_item": 2,
             "hard_negatives": 1},
        ],
        "log_every": 1,
        "checkpoint_every": 2,
        "validate_every": 100,
        "validation_videos": 6,
    }  # fmt: skip
    return PretrainRecipe.model_validate(values | changes)


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


class Killed(BaseException):
    """Stands for a kill: nothing in the trainer catches it."""


@pytest.mark.parametrize("at", [1, 2, 3, 5, 6])
def test_a_killed_run_resumes_with_the_losses_of_an_undisturbed_one(tmp_path: Path, at: int) -> None:
    recipe = small_recipe()
    pretrain(recipe, tmp_path / "whole")

    def kill(progress: TrainProgress) -> None:
        if progress.step == at:
            raise Killed

    with pytest.raises(Killed):
        pretrain(recipe, tmp_path / "killed", kill)
    pretrain(recipe, tmp_path / "killed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    a, b = (load_model(str(tmp_path / name / MODEL)) for name in ("whole", "killed"))
    assert a.fingerprint() == b.fingerprint()


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    recipe = small_recipe()
    pretrain(recipe, tmp_path)
    seen: list[TrainProgress] = []
    pretrain(recipe, tmp_path, seen.append)
    assert seen == []


def test_a_folder_of_another_recipe_is_refused(tmp_path: Path) -> None:
    pretrain(small_recipe(), tmp_path)
    with pytest.raises(RecipeError, match="another recipe"):
        pretrain(small_recipe(seed=1), tmp_path)


def test_several_processes_of_torchrun_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecipeError, match="start it without torchrun"):
        pretrain(small_recipe(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_learns_colours_and_backgrounds_within_a_minute(tmp_path: Path) -> None:
    stage = {"name": "f", "data": "frames", "steps": 60, "batch": 48, "lr": 0.003, "attributes": 0.5}
    final = pretrain(small_recipe(stages=[stage], validation_videos=20), tmp_path)
    assert losses(tmp_path)[60] < losses(tmp_path)[1] - 1
    assert final["frames"]["background"] > 80


def stage(**changes: object) -> StageSection:
    values = {"name": "s", "data": "frames", "steps": 10, "batch": 16, "lr": 0.001}
    return StageSection.model_validate(values | changes)


def test_a_batch_depends_on_seed_stage_and_step_only() -> None:
    a, b = make_batch(stage(), 0, 3, 1), make_batch(stage(), 0, 3, 1)
    assert np.array_equal(a.pixels, b.pixels)
    assert a.captions == b.captions
    for other in (make_batch(stage(), 1, 3, 1), make_batch(stage(), 0, 4, 1), make_batch(stage(), 0, 3, 2)):
        assert not np.array_equal(a.pixels, other.pixels)


def test_labels_are_distributions_over_what_is_shown() -> None:
    batch = make_batch(stage(), 0, 0, 0)
    assert set(batch.labels) == set(ATTRIBUTE_HEADS)
    for name, classes in ATTRIBUTE_HEADS.items():
        sums = batch.labels[name].sum(1)
        assert batch.labels[name].shape == (16, classes)
        if name == "size":  # a medium or changing thing has none
            assert np.isin(np.round(sums, 5), [0, 1]).all()
        else:
            assert np.allclose(sums, 1)


def test_video_batches_have_rounds_of_captions_and_changed_copies_of_them() -> None:
    batch = make_batch(stage(data="videos", batch=3, captions_per_item=2, hard_negatives=2), 0, 0, 0)
    assert batch.pixels.shape == (3, 12, 3, 64, 64)
    assert len(batch.captions) == 6
    assert batch.same.shape == (2, 3, 3)
    assert 6 < len(batch.negatives) <= 12
    assert not set(batch.negatives) & set(batch.captions)


def test_fading_goes_from_white_on_black_to_the_full_colours() -> None:
    fading = stage(fade=FadeSection(start=0.2, end=0.8))

    def saturation(step: int) -> float:
        pixels = make_batch(fading, 0, step, 0).pixels.astype(float)
        return float((pixels.max(2) - pixels.min(2)).mean())

    assert saturation(0) < 1 < saturation(5) < saturation(9)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidsift.training.pretraining.task import ContrastiveTask

    def broken(self: ContrastiveTask, *_: object) -> dict[str, torch.Tensor]:
        return {"loss": self.logit_scale * float("nan")}

    monkeypatch.setattr(ContrastiveTask, "loss", broken)
    with pytest.raises(TrainingError, match="step 0"):
        pretrain(small_recipe(), tmp_path)
