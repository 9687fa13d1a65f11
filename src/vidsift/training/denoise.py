"""Denoising of captions: how likely each is to be of its own clip, by models that did not train on it.

TeachText's authors use masks of captions that their teachers rank badly, and give neither the scores nor the
procedure. Here the training videos are parted into folds; for each, teachers are trained on the others. A
held-out caption's score is its own clip's cosine among all clips of the fold, in standard deviations above
their mean, averaged over teachers. The same models score the validation set, whose captions are trusted: with
their own clips and with wrong ones. A logistic curve between the two turns scores into odds; the share of
wrong captions, which shifts the odds, is estimated on the training scores themselves (Saerens et al., 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError, RecipeError
from vidsift.features.inputs import Inputs
from vidsift.models import RetrievalModel, load_model
from vidsift.training.data import load_pairs
from vidsift.training.folder import MODEL
from vidsift.training.loop import train
from vidsift.training.progress import Report
from vidsift.training.recipe import Recipe
from vidsift.training.setup import open_inputs
from vidsift.training.weights import corrupt, folds

Floats = NDArray[np.float64]
_BLOCK = 256
# Wrong clips with which each validation caption is scored.
_WRONG_EACH = 5


@dataclass(frozen=True)
class Judgement:
    """What held-out teachers say of a training set's T captions.

    pairs: the set, with `kept` [T] bool and `posterior` [T]: how likely each caption is right.
    score: [T] standard deviations above the mean clip.  rank: [T] of the own clip among a fold's, the mean of
    the teachers'.  best: [T] number of the clip that fits best by the last teacher.
    right, wrong: scores of validation captions with their own clips, and with others.
    noise: estimated share of wrong captions.  cut: the score at which `posterior` is the threshold.
    truth: [T] which captions are wrong, if noise was put in.
    """

    pairs: PairSet
    score: Floats
    rank: Floats
    best: NDArray[np.int64]
    right: Floats
    wrong: Floats
    posterior: Floats
    noise: float
    cut: float
    kept: NDArray[np.bool_]
    truth: NDArray[np.bool_] | None


def judge(
    recipes: Sequence[Recipe],
    folder: Path,
    count: int = 3,
    threshold: float = 0.5,
    progress: Callable[[str], Report | None] | None = None,
) -> Judgement:
    """Train every recipe on every fold's complement (a run that is there goes on or is taken as it is), and
    score all captions.

    recipes: of teachers, of the same data and seed.  threshold: the least posterior of what is kept.
    progress: gives the report of a run by its title.
    Raises RecipeError for recipes of different data, DataError for too few videos, and for judges that tell
    nothing.
    """
    first = recipes[0]
    for other in recipes[1:]:
        if (other.data, other.seed, other.method.frames) != (first.data, first.seed, first.method.frames):
            raise RecipeError(f"{other.name}: judges need the same data, seed and frames as {first.name}")
    if first.data.fold is not None or first.data.weights is not None:
        raise RecipeError(f"{first.name}: denoising makes folds and weights itself; leave both out of data")
    geometry = load_model(first.backbone).preprocess.geometry
    pairs, val = load_pairs(first, geometry)
    seen: list[_Scores] = []
    whole: PairSet | None = None
    for recipe in recipes:
        parts = []
        for k in range(count):
            out = folder / f"{recipe.name}-fold{k}of{count}"
            own = recipe.model_copy(update={"data": recipe.data.model_copy(update={"fold": (k, count)})})
            train(own, out, None if progress is None else progress(f"{recipe.name}, fold {k + 1} of {count}"))
            model = load_model(str(out / MODEL))
            inputs = open_inputs(recipe, model, pairs).without_empty()
            part = folds(inputs.pairs, count, recipe.seed)
            held = inputs.without(part != k, "")
            trusted = _score(model, open_inputs(recipe, model, val).without_empty(), _WRONG_EACH)
            said = _score(model, held)
            numbers = np.flatnonzero(part == k)
            parts.append(_Fold(said, held.caption_rows, numbers, trusted.own, trusted.others))
            whole = inputs.pairs
        seen.append(_joined(parts))
    assert whole is not None
    rows = seen[0].rows
    score = np.mean([s.own for s in seen], 0)
    right, wrong = np.mean([s.right for s in seen], 0), np.mean([s.wrong for s in seen], 0)
    slope, offset = fit_odds(right, wrong)
    if slope <= 0:
        raise DataError(
            f"{first.name}: on the validation set these judges tell right captions from wrong ones no better "
            "than chance; train them longer (steps) or on more"
        )
    noise, posterior = share_of_wrong(slope * score + offset)
    truth = None
    if first.data.corrupt:
        clean, _ = load_pairs(_without_noise(first), geometry)
        truth = corrupt(clean, first.data.corrupt, first.seed)[1][rows]
    log_odds = np.log(threshold / (1 - threshold)) - np.log((1 - noise) / max(noise, 1e-9))
    if not (posterior >= threshold).any():
        raise DataError(
            f"{first.name}: these judges take no caption for right with a probability of {threshold:g}; "
            "train them longer (steps), or lower the threshold"
        )
    return Judgement(
        whole,
        score,
        np.mean([s.rank for s in seen], 0),
        seen[-1].best,
        right,
        wrong,
        posterior,
        noise,
        float((log_odds - offset) / slope),
        posterior >= threshold,
        truth,
    )


def _without_noise(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"corrupt": 0.0})})


@dataclass(frozen=True)
class _Said:
    """Of T captions: own [T] and others [T * n] standardised scores, rank [T], best [T] clip."""

    own: Floats
    others: Floats
    rank: Floats
    best: NDArray[np.int64]


@dataclass(frozen=True)
class _Fold:
    """One fold's captions, by their rows in the whole set, and its clips."""

    said: _Said
    captions: NDArray[np.int64]
    clips: NDArray[np.int64]
    right: Floats
    wrong: Floats


@dataclass(frozen=True)
class _Scores:
    """One teacher, all folds put together in the order of the captions."""

    rows: NDArray[np.int64]
    own: Floats
    rank: Floats
    best: NDArray[np.int64]
    right: Floats
    wrong: Floats


def _joined(parts: Sequence[_Fold]) -> _Scores:
    rows = np.concatenate([part.captions for part in parts])
    order = np.argsort(rows)
    return _Scores(
        rows[order],
        np.concatenate([part.said.own for part in parts])[order],
        np.concatenate([part.said.rank for part in parts])[order],
        np.concatenate([part.clips[part.said.best] for part in parts])[order],
        np.concatenate([part.right for part in parts]),
        np.concatenate([part.wrong for part in parts]),
    )


@torch.inference_mode()
def _score(model: RetrievalModel, inputs: Inputs, others: int = 0) -> _Said:
    """Scores of a set's captions among its clips; others: wrong clips to score each caption with, too."""
    clips, owner = inputs.encode_clips(model), inputs.pairs.clip_of
    if others and len(clips) < 2:
        raise DataError(f"{inputs.pairs.name}: one validation clip has no wrong captions to learn from")
    rng = np.random.default_rng(0)
    found: list[tuple[Floats, Floats, Floats, NDArray[np.int64]]] = []
    for start in range(0, len(owner), _BLOCK):
        numbers = np.arange(start, min(start + _BLOCK, len(owner)))
        logits = model.similarity(inputs.encode_texts(model, numbers), clips)
        cosines = model.backbone.cosines(logits.float()).cpu().numpy().astype(np.float64)
        rows, own = np.arange(len(numbers)), owner[numbers]
        standard = (cosines - cosines.mean(1, keepdims=True)) / cosines.std(1, keepdims=True).clip(1e-9)
        mine = standard[rows, own]
        rank = 1.0 + (standard > mine[:, None]).sum(1)
        lot = (own[:, None] + rng.integers(1, len(clips), (len(numbers), others))) % len(clips)
        wrong = np.take_along_axis(standard, lot, 1).ravel()
        standard[rows, own] = -np.inf
        best = np.where(rank == 1, own, standard.argmax(1))
        found.append((mine, wrong, rank, best))
    own_scores, wrong_scores, ranks, bests = (np.concatenate(part) for part in zip(*found, strict=True))
    return _Said(own_scores, wrong_scores, ranks, bests)


def fit_odds(right: Floats, wrong: Floats) -> tuple[float, float]:
    """Slope and offset of log p(score | right) / p(score | wrong): logistic regression, both sides weighing
    the same.  Newton's method with a weak ridge, so that scores that part perfectly have an end."""
    score = np.concatenate([right, wrong])
    label = np.concatenate([np.ones(len(right)), np.zeros(len(wrong))])
    weight = np.where(label == 1, 0.5 / len(right), 0.5 / len(wrong))
    design = np.stack([score, np.ones_like(score)], 1)
    at, ridge = np.zeros(2), 1e-4
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ at, -30, 30)))
        gradient = design.T @ (weight * (p - label)) + ridge * at
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design + ridge * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        at = at - step
        if np.abs(step).max() < 1e-8:
            break
    return float(at[0]), float(at[1])


def share_of_wrong(odds: Floats) -> tuple[float, Floats]:
    """The share of wrong captions that explains the scores best, and each caption's posterior of being right.

    odds: log p(score | right) / p(score | wrong) of each.  Expectation maximisation over the share.
    """
    share = 0.5
    posterior = np.full(len(odds), 0.5)
    for _ in range(500):
        shifted = odds + np.log((1 - share) / share)
        posterior = 1 / (1 + np.exp(-np.clip(shifted, -50, 50)))
        now = float(np.clip(1 - posterior.mean(), 1e-6, 1 - 1e-6))
        if abs(now - share) < 1e-7:
            break
        share = now
    return share, posterior


def precision_recall(score: Floats, wrong: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Of finding wrong captions by dropping the lowest scores first: precision and recall after each."""
    order = np.argsort(score, kind="stable")
    hits = np.cumsum(wrong[order])
    return hits / np.arange(1, len(score) + 1), hits / max(1, int(wrong.sum()))
