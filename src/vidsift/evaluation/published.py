"""Rows of published tables, with where each was read and what to mind before comparing with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from vidsift.errors import DataError

Trust = Literal["repository", "paper"]


@dataclass(frozen=True)
class PublishedRow:
    """One row of somebody's table, in percent; None where it is not given.

    rescoring: what transductive step it had, or None.  trust: `repository` for numbers that stand in the
    method's own repository; `paper` for numbers of a paper that were not checked against its PDF.
    """

    method: str
    dataset: str
    split: str
    backbone: str
    direction: str
    r1: float | None
    r5: float | None
    r10: float | None
    rescoring: str | None
    source: str
    trust: Trust
    caveat: str


@cache
def published_rows() -> tuple[PublishedRow, ...]:
    """All rows."""
    document = json.loads(files("vidsift.evaluation").joinpath("published.json").read_text(encoding="utf-8"))
    return tuple(PublishedRow(**row) for row in document["rows"])


def published_for(dataset: str, split: str) -> tuple[PublishedRow, ...]:
    """The rows of one test split, plain ones first.

    Raises DataError where there are none, naming those that there are.
    """
    found = [row for row in published_rows() if (row.dataset, row.split) == (dataset, split)]
    if not found:
        known = sorted({f"{row.dataset}/{row.split}" for row in published_rows()})
        raise DataError(f"no published rows for {dataset}/{split}; there are {', '.join(known)}")
    return tuple(sorted(found, key=lambda row: row.rescoring is not None))
