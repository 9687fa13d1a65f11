"""The durable store, the coarse scan, the rerank and the searcher."""

from vidsift.index.filters import Filter
from vidsift.index.queries import Term, parse_query
from vidsift.index.searcher import Index
from vidsift.index.types import Hit, Moment, SearchResult
from vidsift.index.upkeep import Compaction, compact_index

__all__ = [
    "Compaction",
    "Filter",
    "Hit",
    "Index",
    "Moment",
    "SearchResult",
    "Term",
    "compact_index",
    "parse_query",
]
