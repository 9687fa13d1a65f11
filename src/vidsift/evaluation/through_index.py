"""Evaluation through an index: coarse scan, quantised vectors and two stages are part of what is measured."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from vidsift.datasets.pairs import FileClips, PairSet
from vidsift.errors import DataError
from vidsift.evaluation.evaluate import T2V, Row
from vidsift.evaluation.intervals import intervals
from vidsift.evaluation.metrics import Ranks, retrieval_metrics
from vidsift.index import Index
from vidsift.index.fusion import named_channels
from vidsift.models import RetrievalModel

_DEEPEST = 50


@dataclass(frozen=True)
class IndexEvaluation:
    """row: a video that was not among the first `depth` hits counts as last, so read no mean rank from it.

    milliseconds: medians of a query's stages.  strangers: videos of the index that the split does not have;
    they are in the gallery.  absent: videos of the split that the index does not hold; their captions miss.
    """

    row: Row
    ranks: Ranks
    depth: int
    milliseconds: dict[str, float]
    strangers: int
    absent: int


def evaluate_index(
    index: Index,
    model: RetrievalModel,
    pairs: PairSet,
    candidates: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> IndexEvaluation:
    """Ask an index every caption; the answer is the rank of the caption's video.

    candidates: of the short list; None takes what the index says.
    Raises DataError for a set that is not of whole files, and ModelMismatchError for another model.
    """
    if not isinstance(pairs.clips, FileClips):
        raise DataError("only videos that lie in files can be looked for in an index")
    paths = [os.path.abspath(video.path) for video in pairs.clips.videos]
    if len(set(paths)) < len(paths):
        raise DataError("several clips of this split are parts of one file; an index ranks whole videos")
    short = candidates or index.config.search.candidates
    # Not deeper than the short list: asking for more would make it longer than what is measured.
    depth = min(_DEEPEST, short)
    held = {path for path, file in index.files().items() if file.clips}
    alone = named_channels("pictures")  # the model is measured, not subtitles beside the videos
    found = np.full(len(pairs.captions), float(len(held)))
    spent: dict[str, list[float]] = {}
    for number, text in enumerate(pairs.captions):
        result = index.search(text, model, k=depth, candidates=short, channels=alone)
        for stage, ms in result.took_ms.items():
            spent.setdefault(stage, []).append(ms)
        wanted = paths[int(pairs.clip_of[number])]
        for rank, hit in enumerate(result.hits, 1):
            if hit.path == wanted:
                found[number] = rank
                break
        else:
            found[number] = max(float(len(held)), depth + 1)
        if progress is not None:
            progress(number + 1, len(pairs.captions))
    row = Row(
        "index",
        T2V,
        None,
        retrieval_metrics(found, len(held)),
        intervals(found, pairs.clip_of),
    )
    return IndexEvaluation(
        row,
        found,
        depth,
        {stage: median(values) for stage, values in spent.items()},
        strangers=len(held - set(paths)),
        absent=len(set(paths) - held),
    )
