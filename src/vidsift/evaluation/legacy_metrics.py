"""Retrieval metrics exactly as the reference code computes them, to reproduce published figures.

`vidsift.evaluation.metrics` is what to use; each function here says where it differs from it. All take
scores with texts in rows and return R@k in percent, MedR and MeanR (1-based) by name.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidsift.evaluation.metrics import ranks

Floats = NDArray[np.floating]
RECALLS = (1, 5, 10, 50)


# -- the CLIP4Clip family ----------------------------------------------------------------------------------


def tied_positions(scores: ArrayLike) -> NDArray[np.int64]:
    """The 0-based positions at which every query finds a score equal to its own clip's, query by query.

    scores: [N, N], the diagonal holds the matching pairs.  A tie gives one query several entries, and a
    query whose own score is NaN gives none, so there may be more or fewer than N.
    """
    x = np.asarray(scores)
    ordered = np.sort(-x, axis=1)
    return np.where(ordered + np.diag(x)[:, None] == 0)[1]


def clip4clip_metrics(scores: ArrayLike, recalls: Sequence[int] = RECALLS) -> dict[str, float]:
    """CLIP4Clip, X-CLIP, TS2-Net, TeachCLIP and EERCF on a square matrix (theirs go up to R@10 or R@50).

    Differs from ours where scores tie: the percentages are of entries, not of queries, so a constant matrix
    is worth R@1 = 100 / N.
    """
    return _summary(tied_positions(scores), recalls)


def dual_softmax(scores: ArrayLike) -> Floats:
    """TS2-Net's dual softmax (inverted softmax): every score times its share in its column.

    It looks at all queries together, so figures that use it do not compare with those that do not. For
    video-to-text the reference passes the transposed scores in one place, and transposes the result in
    another.
    """
    x = np.asarray(scores)
    powers = np.exp(x - x.max(axis=0, keepdims=True))
    found: Floats = x * (powers / powers.sum(axis=0, keepdims=True))
    return found


# -- several captions per video ----------------------------------------------------------------------------


def by_video(scores: ArrayLike, captions: Sequence[int]) -> Floats:
    """Scores [T, V] of captions grouped by video -> [V, C, V], C the most captions, -inf where there is none.

    captions: how many captions every video has, in order.
    """
    x = np.asarray(scores)
    if sum(captions) != len(x) or len(captions) != x.shape[1]:
        raise ValueError(f"{len(captions)} videos with {sum(captions)} captions, but scores {x.shape}")
    found = np.full((len(captions), max(captions), x.shape[1]), -np.inf, x.dtype)
    start = 0
    for video, count in enumerate(captions):
        found[video, :count] = x[start : start + count]
        start += count
    return found


def best_caption(grouped: ArrayLike) -> Floats:
    """Video-to-text scores [V videos, V caption groups]: the best caption speaks for its group.

    grouped: from `by_video`.  Ranking these groups is easier than ranking all captions, as `ce_v2t` does;
    figures of the two do not compare.
    """
    x = np.asarray(grouped)
    found: Floats = np.where(np.isnan(x), -np.inf, x).max(axis=1).T
    return found


def ordered_ranks(grouped: ArrayLike) -> NDArray[np.int64]:
    """0-based rank of every caption's video when the clips are sorted by score.

    grouped: [V, C, V] from `by_video`.  Ties stay in the order of the clips (the reference leaves them to a
    sort that promises no order), so a clip's place in the list decides. Captions whose own score is not
    finite do not count.
    """
    x = np.asarray(grouped, np.float64)
    order = np.argsort(-x, axis=-1, kind="stable")
    place = np.argmax(order == np.arange(len(x))[:, None, None], axis=-1)
    own = x[np.arange(len(x)), :, np.arange(len(x))]
    return np.asarray(place[np.isfinite(own)], np.int64)


def tensor_metrics(grouped: ArrayLike, recalls: Sequence[int] = RECALLS) -> dict[str, float]:
    """The CLIP4Clip family's text-to-video metrics of grouped captions.

    Differs from ours in ties (see `ordered_ranks`) and in the median: of an even number of queries it is the
    lower of the two in the middle, so MedR may be half a rank lower.
    """
    found = ordered_ranks(grouped)
    lower = np.sort(found)[(len(found) - 1) // 2]
    return _summary(found, recalls) | {"MedR": float(lower + 1), "Std_Rank": float(found.std())}


def xpool_t2v(grouped: ArrayLike) -> dict[str, float]:
    """X-Pool's text-to-video metrics of grouped captions; they differ from ours in ties only."""
    return _summary(ordered_ranks(grouped), (*RECALLS, 100))


def xpool_v2t(grouped: ArrayLike) -> dict[str, float]:
    """X-Pool's video-to-text metrics: among caption groups, as in `best_caption`."""
    return xpool_t2v(best_caption(grouped)[:, None, :])


# -- Collaborative Experts and TeachText -------------------------------------------------------------------


def ce_t2v(scores: ArrayLike, present: ArrayLike | None = None) -> dict[str, float]:
    """CE's text-to-video metrics; ties are averaged as in ours.

    scores: [V * C, V], C captions for every video in order.  present: [V, C], False where a video has fewer.
    Differs from ours for a rank between two: 5.5 counts within the first five here (its 0-based 4.5 is below
    5), and not in ours.
    """
    x = np.asarray(scores, np.float64)
    found = ranks(x, np.arange(len(x)) // (len(x) // x.shape[1])) - 1
    if present is not None:
        found = found[np.asarray(present, bool).ravel()]
    return _ce_summary(found)


def ce_v2t(scores: ArrayLike, present: ArrayLike | None = None) -> dict[str, float]:
    """CE's video-to-text metrics: the best rank of a video's own captions among the captions of all videos.

    scores, present: as for `ce_t2v`.  Missing captions rank last.
    """
    x = np.array(scores, np.float64)
    captions = len(x) // x.shape[1]
    if present is not None:
        x[~np.asarray(present, bool).ravel()] = -1e8
    own = [ranks(x.T, np.arange(x.shape[1]) * captions + c) for c in range(captions)]
    return _ce_summary(np.min(own, axis=0) - 1)


def ce_classification(scores: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """CE's retrieval metrics of several right labels per video.

    scores: [L, V], rows = labels.  truth: [L, V], 1 where the label is right.  Every right label of a video
    is one entry; right labels before it do not count against it.
    """
    x, right = np.asarray(scores, np.float64).T, np.asarray(truth, bool).T
    found = []
    for row, labels in zip(x, right, strict=True):
        own = np.flatnonzero(labels)
        places = np.sort(ranks(np.repeat(row[None], len(own), 0), own) - 1)
        found.append(places - np.arange(len(own)))
    return _ce_summary(np.concatenate(found))


def _ce_summary(found: Floats) -> dict[str, float]:
    metrics = _summary(found, RECALLS)
    # R@1 takes whole ranks only: half a rank is a tie for the first place, and not won.
    metrics["R1"] = float(100 * np.mean(found == 0))
    product = metrics["R1"] * metrics["R5"] * metrics["R10"]
    return metrics | {"geometric_mean_R1-R5-R10": float(np.cbrt(product))}


def _summary(found: NDArray[np.integer] | Floats, recalls: Sequence[int]) -> dict[str, float]:
    """Metrics of 0-based ranks."""
    metrics = {f"R{k}": float(100 * np.mean(found < k)) for k in recalls}
    return metrics | {"MedR": float(np.median(found) + 1), "MeanR": float(np.mean(found) + 1)}
