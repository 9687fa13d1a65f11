"""The channel of words: clips by what is said in them, from the table's full-text index."""

from __future__ import annotations

import bisect
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vidsift.errors import IndexStateError
from vidsift.video.types import Cue

if TYPE_CHECKING:
    from vidsift.index.derived import Derived
    from vidsift.index.store import Store

Rows = npt.NDArray[np.int64]

ENOUGH = 0.75
"""A clip answers a query by its words if it says this part of them (common ones like "the" apart), rounded
down, at least one, and both of two: "a red car on the grass" is not meant by whoever says "red" only."""


@dataclass(frozen=True)
class Said:
    """A clip that was found by its words: row of the arrays, BM25, the cue that holds most of the query."""

    row: int
    score: float
    cue: Cue


class WordSearch:
    """Full-text search for one snapshot of the arrays; thread-safe. The table is opened when first asked."""

    def __init__(self, arrays: Derived, open_store: Callable[[], Store]) -> None:
        self._arrays = arrays
        self._open = open_store
        self._store: Store | None = None
        self._opening = threading.Lock()

    def best(self, text: str, count: int, by_video: bool, allowed: Rows | None = None) -> list[Said]:
        """The best clips for a text, or the best clip of each of the best videos, by BM25: `count` of those
        that say any word of it, without those that say too little of it. Equal scores: by path and time.

        allowed: sorted rows to choose from.
        """
        try:
            return self._best(self._opened(), text, count, by_video, allowed)
        except IndexStateError:
            # A version that was tidied away behind a snapshot that is hours old: the latest one serves.
            self._store = None
            return self._best(self._opened(), text, count, by_video, allowed)

    def _best(self, store: Store, text: str, count: int, by_video: bool, allowed: Rows | None) -> list[Said]:
        asked = store.word_tokens(text)
        if not asked:
            return []
        limit = 2 * count
        while True:
            found = store.search_words(text, limit)
            ranked = self._ranked(found, by_video, allowed)
            # Of equal scores at the end of a list some may be missing: only what is above is certain.
            last = found["_score"][-1].as_py() if len(found) else 0.0
            if len(found) < limit or sum(score > last for score, _, _ in ranked) >= count:
                break
            limit *= 4
        words = [(re.compile(_pattern(token)), token) for token in asked]
        needed = len(asked) if len(asked) <= 2 else max(1, int(ENOUGH * len(asked)))
        said = []
        for score, row, place in ranked[:count]:
            cues = store.cues_at(found, place)
            per_cue = [{token for word, token in words if word.search(folded(cue.text))} for cue in cues]
            if len(set().union(*per_cue)) >= needed:
                most = max(range(len(cues)), key=lambda i: len(per_cue[i]))
                said.append(Said(row, score, cues[most]))
        return said

    def _ranked(self, found: Any, by_video: bool, allowed: Rows | None) -> list[tuple[float, int, int]]:
        """Score, row of the arrays and place in `found` of what the snapshot holds and allows, best first."""
        arrays = self._arrays
        names = found.select(["clip_id", "path", "path_bytes", "_score"]).to_pylist()
        ranked = []
        for place, name in enumerate(names):
            row = self._row(name["clip_id"], name["path_bytes"] or name["path"].encode())
            if row is not None and (allowed is None or _holds(allowed, row)):
                ranked.append((name["_score"], row, place))
        ranked.sort(
            key=lambda r: (-r[0], arrays.paths[int(arrays.file_of[r[1]])], float(arrays.spans[r[1], 0]))
        )
        if by_video:
            best: dict[int, tuple[float, int, int]] = {}
            for one in ranked:
                best.setdefault(int(arrays.file_of[one[1]]), one)
            ranked = list(best.values())
        return ranked

    def _row(self, clip_id: str, path: bytes) -> int | None:
        """The row of a clip; of several with its id (copies of a file), that of the path."""
        arrays, name = self._arrays, clip_id.encode()
        ids, rows = arrays.clip_ids, arrays.word_rows
        at = bisect.bisect_left(rows, name, key=lambda row: ids[row])
        while at < len(rows) and ids[rows[at]] == name:
            if arrays.paths[int(arrays.file_of[rows[at]])] == path:
                return int(rows[at])
            at += 1
        return None

    def _opened(self) -> Store:
        with self._opening:
            if self._store is None:
                self._store = self._open()
            return self._store


def _holds(rows: Rows, row: int) -> bool:
    at = int(np.searchsorted(rows, row))
    return at < len(rows) and int(rows[at]) == row


def folded(text: str) -> str:
    """Text in small letters without accents, as words are compared."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text.lower()


def _pattern(token: str) -> str:
    """Where a word that the full-text index cut down to its stem stands in folded text."""
    stem = re.escape(token)
    if len(token) > 2 and token[-1] == "i":  # "happi" is of "happy" and "happiness"
        stem = f"{re.escape(token[:-1])}[iy]"
    # Scripts without spaces between words have no edges to look for.
    return rf"\b{stem}" if token.isascii() else stem


def words_of(terms: Sequence[Any]) -> str:
    """What is looked for in the words: the terms that count for a clip."""
    return " ".join(term.text for term in terms if term.weight > 0)
