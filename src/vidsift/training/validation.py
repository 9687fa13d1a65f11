"""How good a model is on a set that it does not train on: both directions, one stage and two."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.evaluation.confidence import best_scores, fit_curve
from vidsift.evaluation.metrics import RetrievalMetrics, rank_all, ranks, retrieval_metrics
from vidsift.evaluation.metrics import Scores as AllScores
from vidsift.evaluation.scoring import staged
from vidsift.index.confidence import Background
from vidsift.index.reranking import read_texts
from vidsift.models import ClipFeatures, RetrievalModel, SearchWeights, TextFeatures
from vidsift.models.background import background_of
from vidsift.models.pooling import text_gated_score
from vidsift.training.recipe import ValidationSection

Scores = NDArray[np.float32]
_BLOCK = 250
_GRID = tuple(round(0.1 * k, 1) for k in range(11))
_TEMPERATURES = (0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Gallery:
    """Features of all captions [T] and clips [V] of a set.  clip_of: [T] number of each caption's clip."""

    text: TextFeatures
    clips: ClipFeatures
    clip_of: NDArray[np.int64]


@torch.inference_mode()
def all_scores(model: RetrievalModel, gallery: Gallery, name: str = "similarity") -> Scores:
    """A score of the model by its name, for all pairs: float32 [T, V]."""
    rows = [
        model.score(name, gallery.text.select(slice(i, i + _BLOCK)), gallery.clips).float().cpu().numpy()
        for i in range(0, len(gallery.text), _BLOCK)
    ]
    return np.concatenate(rows)


@torch.inference_mode()
def index_scores(model: RetrievalModel, gallery: Gallery, temperature: float) -> tuple[Scores, Scores]:
    """The two scores that an index mixes, for all pairs: the coarse cosine and the text-gated frame score."""
    clips, coarse, fine = gallery.clips, [], []
    for i in range(0, len(gallery.text), _BLOCK):
        query = model.query_vectors(gallery.text.select(slice(i, i + _BLOCK)))
        coarse.append((query @ clips.coarse.T).float().cpu().numpy())
        gated = text_gated_score(clips.frames, query, clips.mask, temperature)
        fine.append(gated.float().cpu().numpy())
    return np.concatenate(coarse), np.concatenate(fine)


def index_ranking(model: RetrievalModel, gallery: Gallery, weights: SearchWeights) -> Scores:
    """The scores by which an index ranks its short list, for all pairs, under the given weights."""
    if weights.own_score:
        return all_scores(model, gallery)
    coarse, fine = index_scores(model, gallery, weights.temperature)
    return weights.coarse_weight * coarse + weights.fine_weight * fine


def text_to_video(scores: Scores, clip_of: NDArray[np.int64]) -> RetrievalMetrics:
    """Every caption ranks all clips."""
    return retrieval_metrics(ranks(scores, clip_of), scores.shape[1])


def video_to_text(scores: Scores, clip_of: NDArray[np.int64]) -> RetrievalMetrics:
    """Every clip that has captions ranks all captions; its best one counts, its others are no rivals."""
    found = rank_all(AllScores.of(scores), clip_of, text=False).among_captions
    assert found is not None
    return retrieval_metrics(found, len(clip_of))


def measure(model: RetrievalModel, gallery: Gallery) -> dict[str, Any]:
    """Metrics of `similarity` in both directions, and of the coarse vectors alone."""
    scores = all_scores(model, gallery)
    coarse = all_scores(model, gallery, "coarse")
    return {
        "t2v": asdict(text_to_video(scores, gallery.clip_of)),
        "v2t": asdict(video_to_text(scores, gallery.clip_of)),
        "coarse": asdict(text_to_video(coarse, gallery.clip_of)),
    }


def selection(metrics: dict[str, Any], section: ValidationSection) -> float:
    """The number by which the best model is chosen."""
    found = metrics[section.direction]
    if section.select == "sum":
        return float(found["r1"] + found["r5"] + found["r10"])
    return float(found[section.select])


@torch.inference_mode()
def tune_search(
    model: RetrievalModel, gallery: Gallery, section: ValidationSection
) -> tuple[SearchWeights, dict[str, Any]]:
    """Choose how an index ranks with this model, on the validation set, and say what that gives.

    Mixing weights and temperature: the best R@1 (then R@5) of ranking everything; the method's own score,
    where that is better.  Candidates: the fewest that come within the tolerance of it.
    """
    best: tuple[float, float] | None = None
    for temperature in _TEMPERATURES:
        coarse, fine = index_scores(model, gallery, temperature)
        for weight in _GRID:
            rest = round(1 - weight, 1)
            mixed = weight * coarse + rest * fine
            found = text_to_video(mixed, gallery.clip_of)
            if best is None or (found.r1, found.r5) > best:
                best, scores = (found.r1, found.r5), mixed
                chosen = SearchWeights(weight, rest, temperature)
    own = all_scores(model, gallery)
    found = text_to_video(own, gallery.clip_of)
    if best is None or (found.r1, found.r5) > best:
        chosen, scores = SearchWeights(own_score=True), own
    by_candidates = {
        k: text_to_video(staged(coarse, scores, k), gallery.clip_of).r1 for k in section.candidates
    }
    whole = text_to_video(scores, gallery.clip_of)
    enough = [k for k, r1 in sorted(by_candidates.items()) if r1 >= whole.r1 - section.tolerance]
    weights = replace(chosen, candidates=enough[0] if enough else max(section.candidates))
    report = {
        "weights": asdict(weights),
        "exhaustive": asdict(whole),
        "r1_by_candidates": {str(k): r1 for k, r1 in by_candidates.items()},
    }
    return weights, report


@torch.inference_mode()
def tune_confidence(
    model: RetrievalModel, gallery: Gallery, weights: SearchWeights
) -> tuple[SearchWeights, dict[str, Any] | None]:
    """Fit how scores under `weights` become confidences, and say what that gives on the validation set.

    Weights as they were, and None, where nothing can be fitted: no caption finds its clip, or there is one
    clip only.
    """
    right, wrong = best_scores(*_both_scores(model, gallery, weights), gallery.clip_of)
    text, _ = read_texts(model, list(background_of(model)))
    scores, coarse = _both_scores(model, replace(gallery, text=text), weights)
    rows, best = np.arange(len(text)), scores.argmax(1)
    background = Background.of(np.stack([scores[rows, best], coarse[rows, best]], 1), len(gallery.clips))
    if background is None or not len(right) or len(gallery.clips) < 2:
        return weights, None
    fit = fit_curve(right, wrong, background)
    curve = {name: getattr(fit, name) for name in ("slope", "coarse_slope", "offset", "least")}
    return replace(weights, **curve), asdict(fit)


def _both_scores(model: RetrievalModel, gallery: Gallery, weights: SearchWeights) -> tuple[Scores, Scores]:
    coarse, _ = index_scores(model, gallery, weights.temperature)
    return index_ranking(model, gallery, weights), coarse
