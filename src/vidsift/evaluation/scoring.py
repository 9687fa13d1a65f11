"""A model's scores for all pairs, in blocks: of recall, its own similarity, an index's, two stages'."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.evaluation.metrics import Scores
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.models.pooling import text_gated_score

Matrix = NDArray[np.float32]
Texts = Callable[[NDArray[np.int64]], TextFeatures]
"""Numbers of texts -> their features, on the model's device."""

SCORES = ("coarse", "similarity", "search", "two-stage")
"""coarse: cosines of the coarse vectors, what recall ranks by.  similarity: the method's own logits.
search: how an index ranks its short list, here for all clips.  two-stage: recall by `coarse`, then `search`
over as many candidates as the model was tuned to."""


def model_scores(
    model: RetrievalModel,
    name: str,
    texts: Texts,
    count: int,
    clips: ClipFeatures,
    candidates: int | None = None,
) -> Scores:
    """One of SCORES for `count` texts and all clips; nothing is computed before rows are asked for.

    candidates: of `two-stage`; None takes what the model was tuned to.
    Raises ValueError for an unknown name.
    """
    if name not in SCORES:
        raise ValueError(f"no score {name!r}; there are {', '.join(SCORES)}")
    short = candidates or model.search.candidates

    @torch.inference_mode()
    def rows(numbers: NDArray[np.int64]) -> Matrix:
        text = texts(numbers)
        if name == "coarse":
            return _array(model.query_vectors(text) @ clips.coarse.T)
        if name == "similarity":
            return _array(model.similarity(text, clips))
        ranking = _array(search_scores(model, text, clips))
        if name == "search":
            return ranking
        return staged(_array(model.query_vectors(text) @ clips.coarse.T), ranking, short)

    return Scores(count, len(clips), rows)


def search_scores(model: RetrievalModel, text: TextFeatures, clips: ClipFeatures) -> torch.Tensor:
    """The score by which an index of this model ranks its short list, [T, V]."""
    weights = model.search
    if weights.own_score:
        return model.similarity(text, clips)
    query = model.query_vectors(text)
    fine = text_gated_score(clips.frames, query, clips.mask, weights.temperature)
    return weights.coarse_weight * (query @ clips.coarse.T) + weights.fine_weight * fine


def staged(coarse: Matrix, fine: Matrix, candidates: int) -> Matrix:
    """Two stages: each text's `candidates` best by the coarse score, ranked by the fine one, then the rest.

    coarse, fine: [T, V].  Only the fine scores of the short list matter. Only rows can be ranked by the
    result: it orders clips for a text, never texts for a clip.
    """
    count = min(candidates, coarse.shape[1])
    short = np.argpartition(-coarse, count - 1, axis=1)[:, :count]
    # The others keep their order below everything on the short list.
    lowest = np.nanmin(fine) - 1.0
    found: Matrix = coarse - np.nanmax(coarse) + lowest
    np.put_along_axis(found, short, np.take_along_axis(fine, short, 1), 1)
    return found


def _array(scores: torch.Tensor) -> Matrix:
    found: Matrix = scores.float().cpu().numpy()
    return found
