"""Ranks and recalls that count every query exactly once, ties included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ranks = NDArray[np.float64]
RECALLS = (1, 5, 10, 50)


def ranks(scores: ArrayLike, target: ArrayLike) -> Ranks:
    """The 1-based rank of every query's target.

    scores: [T, V], rows = texts.  target: [T] column of the right clip.  A tie takes the mean of the ranks
    that it spans, so constant scores are worth chance. A query whose target scores NaN ranks last; NaN
    elsewhere never beats a number.
    """
    matrix = np.asarray(scores)
    own = matrix[np.arange(len(matrix)), np.asarray(target, np.int64)]
    better = np.count_nonzero(matrix > own[:, None], axis=1)
    ties = np.count_nonzero(matrix == own[:, None], axis=1) - 1
    found = 1 + better + ties / 2
    found[np.isnan(own)] = matrix.shape[1]
    return np.asarray(found, np.float64)


@dataclass(frozen=True)
class RetrievalMetrics:
    """Recall at k in percent, and the median and mean rank (1-based), over `queries` queries.

    sum: R@1 + R@5 + R@10.  geometric: the geometric mean of the three (0 if one is 0).  gallery: what every
    query chose from, where that is known.
    """

    r1: float
    r5: float
    r10: float
    r50: float
    mdr: float
    mnr: float
    sum: float
    geometric: float
    queries: int
    gallery: int | None = None


def retrieval_metrics(found: Ranks, gallery: int | None = None) -> RetrievalMetrics:
    """Summarise the ranks of all queries."""
    if not len(found):
        raise ValueError("no queries to evaluate")
    r1, r5, r10, r50 = (float(100 * np.mean(found <= k)) for k in RECALLS)
    return RetrievalMetrics(
        r1,
        r5,
        r10,
        r50,
        float(np.median(found)),
        float(found.mean()),
        r1 + r5 + r10,
        float(np.cbrt(r1 * r5 * r10)),
        len(found),
        gallery,
    )


@dataclass(frozen=True)
class Scores:
    """All scores of T texts and V clips, given in blocks of rows, so that [T, V] never has to exist.

    rows: numbers of texts [n] -> their scores [n, V]; the same numbers give the same bits each time.
    """

    texts: int
    clips: int
    rows: Callable[[NDArray[np.int64]], NDArray[np.floating]]

    @staticmethod
    def of(matrix: ArrayLike) -> Scores:
        """Scores that exist already, [T, V]."""
        whole = np.asarray(matrix)
        return Scores(whole.shape[0], whole.shape[1], lambda numbers: whole[numbers])


@dataclass(frozen=True)
class AllRanks:
    """Ranks of everything that was asked, in both directions; None where a direction was not asked for.

    text: [T] every caption ranks all V clips.
    Clips that have captions, `clips` [C], rank texts in one of two ways that do not compare:
    among_captions: [C] the rank of a clip's best caption among all captions but its others (CE, MMT).
    among_groups: [C] captions are grouped by clip, a group scores as its best caption (CLIP4Clip family).
    nan: scores that were not a number.
    """

    text: Ranks | None
    clips: NDArray[np.int64]
    among_captions: Ranks | None
    among_groups: Ranks | None
    nan: int


def rank_all(
    scores: Scores,
    clip_of: NDArray[np.int64],
    *,
    text: bool = True,
    clips: bool = True,
    block: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> AllRanks:
    """Rank in blocks of about `block` texts: one pass, and if clips rank texts, too, a second one over the
    blocks that hold more possible rivals than are kept of the first.

    clip_of: [T] the right clip of every text.  A NaN is worse than every number, in both directions.
    """
    order = np.argsort(clip_of, kind="stable")
    parts = _blocks(clip_of[order], block)
    asked = np.unique(clip_of)
    found = np.empty(len(clip_of), np.float64)
    best = np.full(scores.clips, -np.inf)
    missing, done, work = 0, 0, len(order) * (2 if clips else 1)
    # With few captions each, looking at one per clip first costs as much as the second pass.
    least = _least(scores, clip_of, order, block) if clips and len(order) >= 3 * len(asked) else None
    kept: list[_Rivals] = []
    room, later = _KEPT, []
    for part in parts:
        numbers = order[part]
        matrix, own = scores.rows(numbers), clip_of[numbers]
        rivals = None if least is None else _possible(matrix, own, least, room)
        if rivals is None:
            later.append(part)
        else:
            kept.append(rivals)
            room -= len(rivals[0])
        missing += int(np.count_nonzero(np.isnan(matrix)))
        if text:
            found[numbers] = ranks(matrix, own)
        right = matrix[np.arange(len(own)), own].astype(np.float64)
        np.maximum.at(best, own, np.where(np.isnan(right), -np.inf, right))
        done += len(numbers)
        if progress is not None:
            progress(done, work)
    said, grouped = None, None
    if clips:
        counts = np.zeros((4, scores.clips))
        for rivals in kept:
            _count_kept(counts, rivals, best)
        done = work - sum(part.stop - part.start for part in later)
        for part in later:
            numbers = order[part]
            _count_rivals(counts, scores.rows(numbers), clip_of[numbers], best)
            done += len(numbers)
            if progress is not None:
                progress(done, work)
        better, same, groups_better, groups_same = counts[:, asked]
        lost = np.isneginf(best[asked])
        others = len(clip_of) - np.bincount(clip_of, minlength=scores.clips)[asked]
        said = np.where(lost, 1.0 + others, 1 + better + same / 2)
        grouped = np.where(lost, float(len(asked)), 1 + groups_better + groups_same / 2)
    return AllRanks(found if text else None, asked, said, grouped, missing)


# Possible rivals that are remembered from the first pass: 16 bytes each.
_KEPT = 10_000_000
_Rivals = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]


def _least(scores: Scores, clip_of: NDArray[np.int64], order: NDArray[np.int64], block: int) -> Ranks:
    """[V] a little below what each clip's best caption scores at least: the score of its first one.

    Infinite for clips without captions, which nobody asks. A little, because the same score in another block
    may differ in its last bits.
    """
    owners = clip_of[order]
    first = order[np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])]
    least = np.full(scores.clips, np.inf)
    for start in range(0, len(first), block):
        numbers = first[start : start + block]
        own = clip_of[numbers]
        found = scores.rows(numbers)[np.arange(len(own)), own].astype(np.float64)
        slack = 1e-4 * np.abs(found) + 1e-6
        least[own] = np.where(np.isfinite(found), found - slack, np.where(np.isposinf(found), found, -np.inf))
    return least


def _possible(
    matrix: NDArray[np.floating], own: NDArray[np.int64], least: Ranks, room: int
) -> _Rivals | None:
    """Owners, columns and values of the scores of a block that may beat a clip's best; None if too many."""
    maybe = matrix >= least.astype(matrix.dtype)
    maybe[np.arange(len(own)), own] = False
    if np.count_nonzero(maybe) > room:
        return None
    rows, columns = np.divmod(np.flatnonzero(maybe), matrix.shape[1])
    return own[rows], columns, matrix[rows, columns]


def _count_kept(counts: NDArray[np.float64], rivals: _Rivals, best: NDArray[np.float64]) -> None:
    """What `_count_rivals` adds, from a block's possible rivals alone."""
    owners, columns, values = rivals
    clips = counts.shape[1]
    above, level = values > best[columns], values == best[columns]
    groups = owners * clips + columns
    groups_above = np.unique(groups[above])
    groups_level = np.setdiff1d(groups[level], groups_above)
    found = (columns[above], columns[level], groups_above % clips, groups_level % clips)
    for row, numbers in enumerate(found):
        counts[row] += np.bincount(numbers, minlength=clips)


def _count_rivals(
    counts: NDArray[np.float64],
    matrix: NDArray[np.floating],
    own: NDArray[np.int64],
    best: NDArray[np.float64],
) -> None:
    """Add what a block of texts, whole groups of captions in order, does to every clip's rank.

    counts: [4, V] texts above and level with a clip's best caption, groups above and level with it.
    """
    limit = best.astype(matrix.dtype)
    above, level = matrix > limit, matrix == limit
    rows = np.arange(len(own))
    above[rows, own] = level[rows, own] = False
    starts = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    above_groups = above if len(starts) == len(own) else np.logical_or.reduceat(above, starts, axis=0)
    counts[0] += np.count_nonzero(above, axis=0)
    counts[2] += np.count_nonzero(above_groups, axis=0)
    # Real scores are hardly ever level: most blocks end here.
    if level.any():
        level_groups = np.logical_or.reduceat(level, starts, axis=0)
        counts[1] += np.count_nonzero(level, axis=0)
        counts[3] += np.count_nonzero(level_groups & ~above_groups, axis=0)


def _blocks(owners: NDArray[np.int64], size: int) -> list[slice]:
    """Slices of about `size` sorted rows that never part the rows of one owner."""
    ends = np.flatnonzero(np.r_[owners[1:] != owners[:-1], True]) + 1
    slices, start = [], 0
    for number, end in enumerate(ends.tolist()):
        following = int(ends[number + 1]) if number + 1 < len(ends) else None
        if following is None or following - start > size:
            slices.append(slice(start, end))
            start = end
    return slices
