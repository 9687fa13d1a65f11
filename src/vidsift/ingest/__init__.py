"""Folder to index: walk, plan, decode, encode, commit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vidsift.ingest.report import FileProblem, IngestReport, Progress

if TYPE_CHECKING:
    from vidsift.ingest.pipeline import index_paths, remove_paths

__all__ = ["FileProblem", "IngestReport", "Progress", "index_paths", "remove_paths"]


def __getattr__(name: str) -> Any:
    # Late, because it brings the store with it, which decoding processes need not wait for.
    if name in ("index_paths", "remove_paths"):
        from vidsift.ingest import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
