"""What a run trains on and what it validates on, which have nothing in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vidsift.datasets.catalogue import DATASETS, TABLES, open_split
from vidsift.datasets.pairs import PairSet, file_pairs, story_pairs
from vidsift.errors import DataError
from vidsift.training.recipe import DataSection, Recipe
from vidsift.training.weights import corrupt
from vidsift.video import Geometry

HOLDOUT = "holdout"


def load_pairs(recipe: Recipe, geometry: Geometry) -> tuple[PairSet, PairSet]:
    """The training and the validation set of a recipe, which have no clip in common.

    geometry: the pictures that the backbone takes.
    Raises DataError for a bad table, and for missing or unreadable files and empty captions unless
    `data.on_bad` is `skip`; they are then counted in `skipped`.
    """
    data = recipe.data
    frames = recipe.method.frames
    if data.source == "storyboard":
        if data.val is None:
            raise DataError("data.val: name the storyboard's validation split, val")
        return (
            _noted(story_pairs(data.train, data.train_videos, frames, geometry, data.channels), recipe),
            story_pairs(data.val, data.val_videos, frames, geometry, data.channels),
        )
    _check_roles(data)
    train = _files(data.train, data, frames, geometry)
    if data.val is not None:
        val = _files(data.val, data, frames, geometry)
        _check_apart(train, val)
    else:
        train, val = _hold_out(train, data.holdout, recipe.seed)
    return _noted(_first(train, data.train_videos), recipe), _first(val, data.val_videos)


def _noted(train: PairSet, recipe: Recipe) -> PairSet:
    """The training set with the noise that the recipe asks for."""
    if not recipe.data.corrupt:
        return train
    return corrupt(train, recipe.data.corrupt, recipe.seed)[0]


def _check_roles(data: DataSection) -> None:
    """Nothing is trained or selected on a test split."""
    dataset = DATASETS.get(data.source)
    for key, split in (("train", data.train), ("val", data.val)):
        if dataset is not None and split is not None and dataset.splits.get(split) == "test":
            raise DataError(
                f"data.{key}: {split} is a test split of {dataset.title}; "
                + (f"train on {dataset.train}" if key == "train" else "leave data.val out to hold a part out")
            )


def _files(split: str, data: DataSection, frames: int, geometry: Geometry) -> PairSet:
    assert data.root is not None
    name, corpus = open_split(data.source, data.root, split)
    if data.source not in TABLES:
        name = f"{data.source}-{name}"
    return file_pairs(name, corpus, frames, geometry, data.on_bad)


def _check_apart(train: PairSet, val: PairSet) -> None:
    ours = {train.clips.name(n) for n in range(len(train.clips))}
    both = [name for n in range(len(val.clips)) if (name := val.clips.name(n)) in ours]
    if both:
        raise DataError(
            f"{both[0]}: is in both the training and the validation data ({len(both)} videos are)"
        )


def _hold_out(pairs: PairSet, share: float, seed: int) -> tuple[PairSet, PairSet]:
    """Split by file, so that no validation clip is cut from a training video."""
    names = [pairs.clips.name(n) for n in range(len(pairs.clips))]
    files = sorted(set(names))
    if len(files) < 2:
        raise DataError("one video cannot be split into training and validation: give data.val")
    count = min(len(files) - 1, max(1, round(share * len(files))))
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    held = {files[n] for n in chosen.tolist()}
    out = np.asarray([name in held for name in names])
    train, val = pairs.without_clips(out, HOLDOUT), pairs.without_clips(~out, HOLDOUT)
    for part in (train, val):
        del part.skipped[HOLDOUT]
    val.skipped.clear()
    return train, replace(val, name=f"{val.name}-{HOLDOUT}")


def _first(pairs: PairSet, count: int | None) -> PairSet:
    if count is None or count >= len(pairs.clips):
        return pairs
    out = np.arange(len(pairs.clips)) >= count
    found = pairs.without_clips(out, HOLDOUT)
    del found.skipped[HOLDOUT]
    return found
