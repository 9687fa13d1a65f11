"""The durable store, the coarse scan, the rerank and the searcher."""

from vidsift.index.searcher import Index
from vidsift.index.types import Hit, Moment, SearchResult

__all__ = ["Hit", "Index", "Moment", "SearchResult"]
