"""The channel of words: clips by what is said in them, from the table's full-text index."""

from __future__ import annotations

import math
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vidsift.errors import IndexStateError
from vidsift.video.types import Cue

if TYPE_CHECKING:
    from vidsift.index.derived import Derived
    from vidsift.index.store import Store
    from vidsift.index.types import Rows

ENOUGH = 0.75


def needed(asked: int) -> int:
    """Of so many different words of a query ("the" and its like apart) a clip has to say this many to answer.

    All of up to three, else three quarters, rounded up: who says "red" does not mean "a red car on grass".
    """
    return math.ceil(ENOUGH * asked)


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

    def best(self, text: str, k: int, count: int, by_video: bool, allowed: Rows | None = None) -> list[Said]:
        """The clips that say most of a text's words, or the best such clip of each video, by BM25: the best k
        for certain, and up to `count`. None, where the most is too little (`needed`).

        allowed: sorted rows to choose from.
        """
        try:
            return self._best(self._opened(), text, k, count, by_video, allowed)
        except IndexStateError:
            # A version that was tidied away behind a snapshot that is hours old: the latest one serves.
            self._store = None
            return self._best(self._opened(), text, k, count, by_video, allowed)

    def _best(
        self, store: Store, text: str, k: int, count: int, by_video: bool, allowed: Rows | None
    ) -> list[Said]:
        asked = [re.compile(_pattern(token)) for token in store.word_tokens(text)] if store.has_words else []
        if not asked:
            return []
        limit = max(count, 2 * k)
        while True:
            found = store.search_words(text, limit)
            whole = len(found) < limit
            ranked = self._ranked(found, by_video, allowed, whole)
            if whole or len(ranked) >= k:
                break
            limit *= 4
        ranked = ranked[:count]
        spoken = [said_of(found["words"][place].as_py(), asked) for _, _, place in ranked]
        most = max(spoken, default=0)
        if most < needed(len(asked)):
            return []
        return [
            Said(row, score, max(store.cues_at(found, place), key=lambda cue: said_of(cue.text, asked)))
            for (score, row, place), words in zip(ranked, spoken, strict=True)
            if words == most
        ]

    def _ranked(
        self, found: Any, by_video: bool, allowed: Rows | None, whole: bool
    ) -> list[tuple[float, int, int]]:
        """Score, row of the arrays and place in `found` of what the snapshot holds and allows, best first;
        equal scores in the order of path and time.  whole: nothing else matches."""
        arrays = self._arrays
        scores = found["_score"].to_numpy()
        rows = self._rows(found)
        keep = rows >= 0
        if not whole and len(scores):
            # Of equal scores at the end of a list some are missing.
            keep &= scores > scores[-1]
        if allowed is not None and len(allowed):
            keep &= allowed[np.minimum(np.searchsorted(allowed, rows), len(allowed) - 1)] == rows
        elif allowed is not None:
            keep[:] = False
        places = np.flatnonzero(keep)
        places = places[np.lexsort((arrays.spans[rows[places], 0], -scores[places]))]
        if by_video:
            _, first = np.unique(arrays.file_of[rows[places]], return_index=True)
            places = places[np.sort(first)]

        def order(place: int) -> tuple[float, bytes, float]:
            row = int(rows[place])
            path = arrays.paths[int(arrays.file_of[row])]
            return -float(scores[place]), path, float(arrays.spans[row, 0])

        ranked = sorted(places.tolist(), key=order)
        return [(float(scores[place]), int(rows[place]), place) for place in ranked]

    def _rows(self, found: Any) -> Rows:
        """The rows of clips that were found, -1 for what the snapshot does not hold."""
        arrays, ids = self._arrays, self._ids
        names = np.array(found["clip_id"].to_pylist(), dtype=ids.dtype)
        at = np.searchsorted(ids, names)
        last = np.searchsorted(ids, names, side="right")
        rows = np.where(last > at, arrays.word_rows[np.minimum(at, len(ids) - 1)], -1)
        # Copies of a file have the same clips: the path tells them apart.
        for place in np.flatnonzero(last > at + 1).tolist():
            raw, name = found["path_bytes"][place].as_py(), found["path"][place].as_py()
            path = raw or name.encode()
            same = arrays.word_rows[at[place] : last[place]].tolist()
            rows[place] = next((r for r in same if arrays.paths[int(arrays.file_of[r])] == path), -1)
        return rows

    @cached_property
    def _ids(self) -> npt.NDArray[np.bytes_]:
        """The ids of `word_rows`: sorted."""
        found: npt.NDArray[np.bytes_] = self._arrays.clip_ids[self._arrays.word_rows]
        return found

    def _opened(self) -> Store:
        with self._opening:
            if self._store is None:
                self._store = self._open()
            return self._store


def said_of(text: str, asked: Sequence[re.Pattern[str]]) -> int:
    """How many of some words are said in a text."""
    text = folded(text)
    return sum(word.search(text) is not None for word in asked)


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
