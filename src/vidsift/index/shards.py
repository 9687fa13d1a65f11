"""A search over parts of an index: what each part answers, and how that becomes the answer of the whole.

Every shard holds a run of the rows of the arrays. Whatever it says of a clip (score, promise of its codes,
relevance of its frames) is to the last bit what the whole index says of it, and of equal scores the first row
is always the better; so the best of the shards' best are the best of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vidsift.index.codes import BLOCK
from vidsift.index.derived import Derived, with_files
from vidsift.index.scan import Scan
from vidsift.index.types import Floats, Rows


def split_rows(clips: int, shards: int) -> list[tuple[int, int]]:
    """The rows [first, last) of every shard: runs of nearly equal length, in the order of the rows.

    Borders lie between blocks of interleaved codes. A small index leaves shards without rows.
    """
    blocks = -(-clips // BLOCK)
    ends = [min(BLOCK * (blocks * number // shards), clips) for number in range(shards + 1)]
    return list(pairwise(ends))


@dataclass(frozen=True)
class Found:
    """What a shard has found: scores and rows (of the whole index), best first.

    places: [n] where its codes put each clip among the shard's picks, 0 being the best.  promises, counts:
    what codes promise of all the shard's picks, falling, and of how many each.  None where no codes picked.
    more: whether the shard has clips that it did not pick.
    """

    scores: Floats
    rows: Rows
    places: npt.NDArray[np.int64] | None = None
    promises: Floats | None = None
    counts: npt.NDArray[np.int64] | None = None
    more: bool = False


class Shard:
    """The rows [first, last) of an index's arrays. All rows that go in or out are the whole index's."""

    def __init__(self, arrays: Derived, first: int, last: int) -> None:
        self.first, self.last = first, last
        part = slice(first, last)
        self._arrays = replace(
            arrays,
            scan=arrays.scan.part(first, last),
            slots=arrays.slots[part],
            scales=arrays.scales[part],
            times=arrays.times[part],
            counts=arrays.counts[part],
            spans=arrays.spans[part],
            file_of=arrays.file_of[part],
            clip_ids=arrays.clip_ids[part],
        )

    def best(
        self,
        sentence: Floats,
        count: int,
        allowed: npt.NDArray[np.uint8] | None,
        picks: int | None,
        whole: int | None = None,
    ) -> Found:
        """The `count` best clips for a query [D] (all, where the shard has fewer).

        allowed: one bit a clip of the shard, packed: it may be an answer.  picks: codes pick so many of the
        shard's clips (or all); None scores every clip.  whole: how many they pick in the whole index.
        """
        scan = self._arrays.scan
        if picks is None:
            some = self._some(allowed)
            count = min(count, len(scan) if some is None else len(some))
            if count == 0:
                return Found(np.zeros(0, np.float32), np.zeros(0, np.int64))
            scores, rows = scan.best(sentence, count, some, picked=len(scan))
            return Found(scores, rows + self.first)
        asked = min(picks, len(scan))
        picked, promises = scan.pick(sentence, asked, whole)
        more = len(picked) == asked < len(scan)
        return found_in(scan, self.first, picked, promises, sentence, count, more)

    def best_with_files(
        self, sentence: Floats, count: int, files: int, allowed: npt.NDArray[np.uint8] | None
    ) -> Found:
        """The `count` best clips, and the best clip of each of the `files` best files."""
        some = self._some(allowed)
        if some is not None and len(some) == 0:
            return Found(np.zeros(0, np.float32), np.zeros(0, np.int64))
        scores, rows = self._arrays.best_with_files(sentence, count, files, some)
        return Found(scores, rows + self.first)

    def rerank(
        self, sentences: Sequence[Floats], rows: Rows, temperature: float
    ) -> tuple[list[tuple[Floats, Floats]], Floats]:
        """As `Derived.rerank`; and the coarse vectors of the clips, which are looked at next."""
        here = rows - self.first
        return self._arrays.rerank(sentences, here, temperature), self._arrays.scan.vectors(here)

    def cosines(self, sentence: Floats, rows: Rows) -> Floats:
        """As `Derived.cosines`."""
        return self._arrays.cosines(sentence, rows - self.first)

    def vectors(self, rows: Rows) -> Floats:
        """As `Scan.vectors`."""
        return self._arrays.scan.vectors(rows - self.first)

    def frames_of(self, rows: Rows) -> npt.NDArray[np.int8]:
        """As `Derived.frames_of`."""
        return self._arrays.frames_of(rows - self.first)

    def _some(self, allowed: npt.NDArray[np.uint8] | None) -> Rows | None:
        if allowed is None:
            return None
        return np.flatnonzero(np.unpackbits(allowed, count=self.last - self.first))


def found_in(
    scan: Scan, first: int, picked: Rows, promises: Floats, sentence: Floats, count: int, more: bool
) -> Found:
    """The `count` best of the rows that codes picked in a shard's scan (`Scan.pick`), which starts at row
    `first` of the whole index.  more: there may be others that they could have picked."""
    scores, rows = scan.scored(sentence, picked, count)
    places = np.empty(len(picked), np.int64)
    places[np.argsort(-promises, kind="stable")] = np.arange(len(picked))
    levels, counts = np.unique(promises, return_counts=True)
    at = np.searchsorted(picked, rows)
    return Found(scores, rows + first, places[at], levels[::-1], counts[::-1], more)


def pack_allowed(allowed: Rows | None, first: int, last: int) -> npt.NDArray[np.uint8] | None:
    """The bits that `Shard` takes, from the sorted rows of the whole index that may be answers."""
    if allowed is None:
        return None
    bits = np.zeros(last - first, np.uint8)
    begin, end = np.searchsorted(allowed, (first, last))
    bits[allowed[begin:end] - first] = 1
    return np.packbits(bits)


def in_order(scores: Floats, rows: Rows) -> npt.NDArray[np.int64]:
    """Places, the best first: by score, then by row."""
    return np.lexsort((rows, -scores))


def merge(found: Sequence[Found], count: int) -> tuple[Floats, Rows]:
    """The `count` best of what shards scored."""
    scores, rows = _joined(found)
    order = in_order(scores, rows)[:count]
    return scores[order], rows[order]


def merge_with_files(
    found: Sequence[Found], count: int, files: int, file_of: npt.NDArray[np.int32]
) -> tuple[Floats, Rows]:
    """As `Derived.best_with_files`, of what shards said to the same question.  file_of: of all rows."""
    scores, rows = _joined(found)
    order = in_order(scores, rows)
    chosen = order[with_files(file_of[rows[order]], count, files)]
    return scores[chosen], rows[chosen]


def picks_of(picks: int, count: int, part: int, clips: int) -> int:
    """How many clips the codes of a shard with `part` of all clips pick at first, where they pick `picks` in
    the whole index: its share, and half as many more."""
    return min(picks, max(3 * picks * part // (2 * clips), count))


def cut_short(found: Mapping[int, Found], picks: int) -> dict[int, int]:
    """Shards to be asked for all of `picks`: whatever they picked is picked in the whole index, so what they
    did not pick may be as well."""
    least, lengths = _shares(found, picks)
    ends = {n: one.promises[-1] for n, one in found.items() if one.more and one.promises is not None}
    return {n: picks for n, end in ends.items() if end >= least and lengths[n] < picks}


def merge_picked(found: Mapping[int, Found], count: int, picks: int) -> tuple[Floats, Rows] | dict[int, int]:
    """The `count` best of the clips that codes pick in the whole index, of what shards say of picks of their
    own (none of them `cut_short`); or, where that cannot be told yet, how many picks to ask some for instead.

    found: by shard, numbered in the order of their rows.
    """
    _, lengths = _shares(found, picks)
    kept: list[Found] = []
    short: dict[int, float] = {}
    for number, one in found.items():
        assert one.places is not None
        inside = one.places < lengths[number]
        kept.append(Found(one.scores[inside], one.rows[inside]))
        # Of the clips behind its list, those that are picks in the whole index may be missing here.
        if inside.sum() < min(count, lengths[number]):
            short[number] = float(one.scores[-1])
    scores, rows = merge(kept, count)
    # A clip behind a shard's list scores no more than the list's last.
    worst = float(scores[-1]) if len(scores) == count else -np.inf
    again = {number: lengths[number] for number, last in short.items() if last >= worst}
    return again or (scores, rows)


def _shares(found: Mapping[int, Found], picks: int) -> tuple[np.float32, dict[int, int]]:
    """The least promise of the whole index's picks, and how many of them are in every shard: the first ones
    of its own, since codes promise the same there, and of equal promises the first row is the better."""
    pairs = [(one.promises, one.counts) for one in found.values()]
    levels = np.concatenate([levels for levels, _ in pairs if levels is not None])
    counts = np.concatenate([counts for _, counts in pairs if counts is not None])
    order = np.argsort(-levels, kind="stable")
    enough = np.searchsorted(np.cumsum(counts[order]), picks)
    least = levels[order[min(int(enough), len(order) - 1)]] if len(order) else np.float32(0)
    left = picks - int(counts[levels > least].sum())
    shares: dict[int, int] = {}
    for number in sorted(found):
        one = found[number]
        assert one.promises is not None
        assert one.counts is not None
        ties = min(int(one.counts[one.promises == least].sum()), left)
        left -= ties
        shares[number] = int(one.counts[one.promises > least].sum()) + ties
    return least, shares


def _joined(found: Sequence[Found]) -> tuple[Floats, Rows]:
    scores = np.concatenate([np.zeros(0, np.float32), *(one.scores for one in found)])
    rows = np.concatenate([np.zeros(0, np.int64), *(one.rows for one in found)])
    return scores, rows
