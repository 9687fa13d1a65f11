"""A run learns, resumes exactly, selects on validation, and stops with a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidsift.errors import DataError, RecipeError, TrainingError
from vidsift.models import load_model
from vidsift.training import loop, objective
from vidsift.training.folder import METRICS, MODEL
from vidsift.training.loop import train
from vidsift.training.progress import TrainProgress
from vidsift.training.sampler import Sampler


def logged(folder: Path, key: str = "loss") -> dict[int, Any]:
    rows = [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]
    return {row["step"]: row[key] for row in rows if key in row}


class Killed(BaseException):
    """Stands for a kill: nothing in the trainer catches it."""


def killer(at: int) -> Any:
    def kill(progress: TrainProgress) -> None:
        if progress.loss is not None and progress.step == at:
            raise Killed

    return kill


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"ema": 0.9},
    "dropout in chunks": {"method": {"name": "xpool", "settings": {}}, "chunk": 3},
    "noise": {"method": {"name": "ts2net", "settings": {"layers": 1, "samples": 20}}},
    "bertadam": {"optimiser": {"kind": "bertadam"}},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_a_run_killed_at_five_steps_ends_as_an_undisturbed_one(
    make_recipe: Any, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = make_recipe(**changes)
    whole = train(recipe, tmp_path / "whole")
    for at in np.random.default_rng(7).permutation(np.arange(1, 7))[:5].tolist():
        folder = tmp_path / f"killed-{at}"
        with pytest.raises(Killed):
            train(recipe, folder, killer(at))
        assert train(recipe, folder) == whole
        for key in ("loss", "validation", "final"):
            assert logged(folder, key) == logged(tmp_path / "whole", key)
        saved = [load_model(str(run / MODEL)).fingerprint() for run in (folder, tmp_path / "whole")]
        assert saved[0] == saved[1]


def test_a_finished_run_is_not_trained_again(make_recipe: Any, tmp_path: Path) -> None:
    first = train(make_recipe(), tmp_path / "run")
    seen: list[TrainProgress] = []
    assert train(make_recipe(), tmp_path / "run", seen.append) == first
    assert seen == []


def test_a_folder_of_another_recipe_is_refused(make_recipe: Any, tmp_path: Path) -> None:
    train(make_recipe(), tmp_path / "run")
    with pytest.raises(RecipeError, match="another recipe"):
        train(make_recipe(seed=1), tmp_path / "run")


def test_training_lowers_the_loss_of_the_pairs_it_sees(make_recipe: Any, tmp_path: Path) -> None:
    train(make_recipe("seqtransf", steps=40, batch=20), tmp_path / "run")
    losses = logged(tmp_path / "run")
    # Every batch holds all 20 clips, so that losses of different steps can be compared.
    assert np.mean([losses[s] for s in range(36, 41)]) < 0.5 * np.mean([losses[s] for s in range(1, 6)])


def test_the_saved_model_is_the_best_on_validation_not_the_last(
    make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([5.0, 9.0, 1.0])
    monkeypatch.setattr(loop, "selection", lambda *_: next(looks))
    kept: list[str] = []
    keep = loop._Run._keep
    monkeypatch.setattr(
        loop._Run, "_keep", lambda run, folder: (kept.append(run.model.fingerprint()), keep(run, folder))
    )
    train(make_recipe(validation={"every": 2}), tmp_path / "run")
    assert len(kept) == 2
    assert load_model(str(tmp_path / "run" / MODEL)).fingerprint() == kept[1]


def test_averaged_weights_lag_behind_and_are_the_ones_saved(make_recipe: Any, tmp_path: Path) -> None:
    plain, slow = (make_recipe(ema=ema, validation={"every": 6}) for ema in (None, 0.999))
    models = []
    for recipe, name in ((plain, "plain"), (slow, "slow")):
        train(recipe, tmp_path / name)
        models.append(load_model(str(tmp_path / name / MODEL)))
    start = loop.prepare(plain, loop.World()).model
    moved = [(m.weigh.weight - start.weigh.weight).norm() for m in models]
    assert 0 < moved[1] < moved[0]


def nan_at(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Make the loss of some calls NaN."""
    calls = iter(range(100))
    real = objective.symmetric_info_nce

    def broken(scores: torch.Tensor, **others: Any) -> torch.Tensor:
        return real(scores, **others) * (math.nan if next(calls) in steps else 1.0)

    monkeypatch.setattr(objective, "symmetric_info_nce", broken)


def test_a_loss_that_is_not_finite_stops_the_run(
    make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at(monkeypatch, 2)
    with pytest.raises(TrainingError, match="step 2: loss nan"):
        train(make_recipe(), tmp_path / "run")


def test_or_is_skipped_and_counted_without_harm_to_the_weights(
    make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan_at(monkeypatch, 2, 3)
    final = train(make_recipe(nan="skip"), tmp_path / "run")
    assert logged(tmp_path / "run", "skipped")[6] == 2
    assert math.isfinite(final["t2v"]["mnr"])
    weights = load_model(str(tmp_path / "run" / MODEL)).state_dict()
    assert all(torch.isfinite(w).all() for w in weights.values())


def test_but_not_for_ever(make_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_at(monkeypatch, 1, 2, 3, 4)
    with pytest.raises(TrainingError, match="3 times in a row"):
        train(make_recipe(nan="skip", max_skipped=2), tmp_path / "run")


def test_more_pairs_than_clips_are_refused(make_recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="20 training clips do not fill one batch of 21"):
        train(make_recipe(batch=21), tmp_path / "run")


def test_a_recipe_that_trains_nothing_is_refused(make_recipe: Any, tmp_path: Path) -> None:
    frozen = {"lr": {"text": 0, "head": 0, "scale": 0}}
    with pytest.raises(TrainingError, match="nothing to train"):
        train(make_recipe(optimiser=frozen), tmp_path / "run")


def test_a_setting_that_the_method_does_not_have_is_named(make_recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="layerz"):
        train(make_recipe(method={"settings": {"layerz": 2}}), tmp_path / "run")


def test_an_epoch_shows_every_clip_once_with_one_of_its_captions(make_recipe: Any) -> None:
    pairs = loop.prepare(make_recipe(), loop.World()).train.pairs
    sampler = Sampler(pairs, 5, seed=0)
    seen = np.concatenate([sampler.captions_of(step) for step in range(sampler.per_epoch)])
    assert sorted(pairs.clip_of[seen].tolist()) == list(range(20))
    again = Sampler(pairs, 5, seed=0)
    assert np.array_equal(again.captions_of(6), sampler.captions_of(6))
    assert not np.array_equal(Sampler(pairs, 5, seed=1).captions_of(6), sampler.captions_of(6))
    shown = {int(c) for step in range(200) for c in sampler.captions_of(step)}
    assert shown == set(range(len(pairs.captions)))


def test_bf16_trains_fp32_weights(make_recipe: Any, tmp_path: Path) -> None:
    train(make_recipe(precision="bf16"), tmp_path / "run")
    model = load_model(str(tmp_path / "run" / MODEL))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact = make_recipe()
    train(exact, tmp_path / "exact")
    a, b = (logged(tmp_path / name) for name in ("run", "exact"))
    assert a != b
    assert a[1] == pytest.approx(b[1], abs=0.1)


def test_the_log_is_kept_for_tensorboard_too(make_recipe: Any, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_recipe(), tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    ours = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert losses == pytest.approx(ours, abs=1e-5)
    assert [event.step for event in events.Scalars("t2v/r1")] == [3, 6]
