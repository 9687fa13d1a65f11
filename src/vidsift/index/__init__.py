"""The durable store, the coarse scan, the rerank and the searcher."""

from vidsift.index.filters import Filter
from vidsift.index.searcher import Index
from vidsift.index.types import Hit, Moment, SearchResult

__all__ = ["Filter", "Hit", "Index", "Moment", "SearchResult"]
