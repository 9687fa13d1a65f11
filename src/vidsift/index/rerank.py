"""The second stage: text-gated scores of a short list over int8 frame vectors."""

from __future__ import annotations

import mmap
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from vidsift.index.types import Floats


@dataclass(frozen=True)
class RerankWeights:
    """How a clip's two scores are mixed: coarse_weight x cosine + fine_weight x text-gated score.

    temperature: of the softmax over frames (EERCF's text-gated interaction block, official tau 0.1).
    candidates: length of the short list when the search does not say.  own_score: rank by the method's own
    similarity instead, if the search is given the model.
    slope, coarse_slope, offset, least: of a hit's confidence (`vidsift.index.confidence`).
    The index keeps its model's numbers, so that searching by vector needs no model.
    """

    coarse_weight: float = 0.5
    fine_weight: float = 0.5
    temperature: float = 0.1
    candidates: int = 100
    own_score: bool = False
    slope: float = 1.3
    coarse_slope: float = 0.0
    offset: float = -2.36
    least: float = 0.2

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def rerank(
    sentence: Floats,
    frames: npt.NDArray[np.int8],
    scales: Floats,
    counts: npt.NDArray[np.integer],
    temperature: float,
) -> tuple[Floats, Floats]:
    """Score K clips by the frames that answer the sentence (EERCF, AAAI 2024, eq. 3-4).

    sentence: [D] unit norm.  frames: [K, F, D] int8.  scales: [K, F].  counts: [K] real frames, first.
    Returns (fine [K], relevance [K, F]): the cosine of the sentence with the normalised, softmax-weighted
    sum of the frames, and the cosine with each frame (-inf behind the real ones). A clip without frames
    scores 0. What a clip scores does not depend on the others, to the last bit.
    """
    wide = frames.astype(np.float32)
    cosine = (wide @ sentence) * scales
    real = np.arange(frames.shape[1]) < counts[:, None]
    relevance = np.where(real, cosine, -np.inf).astype(np.float32)
    peak = np.where(counts > 0, relevance.max(axis=1, initial=-np.inf), 0)
    weights = np.exp((relevance - peak[:, None]) / temperature)
    # The gate's normalising constant cancels in the cosine below, so it is never computed.
    pooled = ((weights * scales)[:, None, :] @ wide)[:, 0, :]
    norms = np.sqrt(np.einsum("kd,kd->k", pooled, pooled))
    # One product for every clip: of one for all, BLAS adds up rows differently by their place.
    along = (pooled[:, None, :] @ sentence)[:, 0]
    fine = np.divide(along, norms, out=np.zeros_like(norms), where=norms > 0)
    return fine, relevance


def announce_rows(memory: mmap.mmap, offset: int, row_bytes: int, rows: npt.NDArray[np.integer]) -> None:
    """Tell the kernel which rows of a mapped file come next, so that cold pages are read in parallel."""
    page = mmap.PAGESIZE
    for row in rows.tolist():
        begin = offset + row * row_bytes
        aligned = begin - begin % page
        memory.madvise(mmap.MADV_WILLNEED, aligned, begin + row_bytes - aligned)
