"""vidsift: find videos, and the moment inside a video, from a sentence."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidsift.index import Filter, Hit, Index, Moment
    from vidsift.ingest import index_paths
    from vidsift.models import load_model

__version__ = "0.1.0"
__all__ = ["Filter", "Hit", "Index", "Moment", "__version__", "index_paths", "load_model"]

_HOMES = {
    "Filter": "vidsift.index",
    "Hit": "vidsift.index",
    "Index": "vidsift.index",
    "Moment": "vidsift.index",
    "index_paths": "vidsift.ingest",
    "load_model": "vidsift.models",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `vidsift --help` must not wait for torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
