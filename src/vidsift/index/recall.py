"""The first stage: the short list of clips, by their coarse vectors and by what is said in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vidsift.index.derived import Derived
from vidsift.index.types import Floats
from vidsift.index.words import Said


def joined(
    arrays: Derived, sentence: Floats, rows: npt.NDArray[np.int64], coarse: Floats, said: list[Said]
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The short list with the rows behind it that only words found: pictures score these as well."""
    more = np.setdiff1d(np.array([one.row for one in said], np.int64), rows)
    if not len(more):
        return rows, coarse
    scores: Floats = arrays.scan.vectors(more) @ sentence
    return np.concatenate([rows, more]), np.concatenate([coarse, scores])


def recall(
    arrays: Derived,
    sentence: Floats,
    k: int,
    candidates: int,
    by_video: bool,
    allowed: npt.NDArray[np.int64] | None = None,
    picked: int | None = None,
) -> tuple[npt.NDArray[np.int64], Floats]:
    """The short list: rows and coarse scores of the best clips (among the allowed), enough for k hits."""
    total = len(arrays) if allowed is None else len(allowed)
    if total == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    short = min(max(candidates, k), total)
    scores, rows = arrays.scan.best(sentence, short, allowed, picked)
    files = len(arrays.paths) if allowed is None else len(np.unique(arrays.file_of[allowed]))
    wanted = min(k, files)
    if by_video and short < total and len(np.unique(arrays.file_of[rows])) < wanted:
        # Long videos fill the short list: take the best clip of each following video as well.
        scores, rows = arrays.best_with_files(sentence, short, wanted, allowed)
    return rows, scores
