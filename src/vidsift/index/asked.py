"""A query once it is understood: terms, their vectors, and how their scores are added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vidsift.errors import QueryError
from vidsift.index.queries import Term
from vidsift.index.types import Floats

if TYPE_CHECKING:
    from vidsift.models import RetrievalModel
    from vidsift.models.features import TextFeatures


@dataclass(frozen=True)
class Asked:
    """A query, encoded: its terms (None: a vector was asked for), their vectors [D] and shares, the unit
    vector of them all and the size that it had; who rescores, and the terms' features for that."""

    terms: Sequence[Term] | None
    vectors: list[Floats]
    shares: Floats
    sentence: Floats
    size: float
    reranker: RetrievalModel | None
    texts: list[TextFeatures]


def mix(sentences: list[Floats], shares: Floats) -> tuple[Floats, float]:
    """The unit vector whose cosines, times the number that comes with it, are the terms' cosines added up by
    their shares.  Raises QueryError for terms that cancel each other."""
    if len(sentences) == 1:
        return sentences[0], 1.0
    mixed: Floats = shares @ np.stack(sentences)
    size = float(np.linalg.norm(mixed))
    if size < 1e-3:
        raise QueryError("the terms of the query cancel each other")
    return mixed / np.float32(size), size


def add_up(found: list[tuple[Floats, Floats]], shares: Floats) -> tuple[Floats, Floats]:
    """Scores [K] of the terms by their shares; relevance [K, F] of those that count for a clip."""
    if len(found) == 1:
        return found[0]
    scores = np.sum([share * score for share, (score, _) in zip(shares, found, strict=True)], axis=0)
    wanted = shares[shares > 0].sum()
    parts = [share / wanted * rel for share, (_, rel) in zip(shares, found, strict=True) if share > 0]
    return scores, np.sum(parts, axis=0)


def check_words(query: str) -> None:
    """Raise QueryError for a sentence that nothing can be found by."""
    try:
        query.encode("utf-8")
    except UnicodeEncodeError as error:
        raise QueryError(f"the query is not text in UTF-8: {query!a}") from error
    if not query.strip():
        raise QueryError("the query is empty: say in a few words what should be in the picture")


def as_vector(query: Any, width: int) -> Floats:
    """A query that is a vector, at unit norm.  Raises QueryError."""
    try:
        vector = np.asarray(query, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise QueryError(f"a query is a sentence or a vector of numbers, not {query!r}") from error
    if vector.shape != (width,):
        raise QueryError(f"a query vector must have the shape ({width},), this one has {vector.shape}")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm == 0:
        raise QueryError("a query vector must be finite and not zero")
    return vector / np.float32(norm)
