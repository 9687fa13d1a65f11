"""The coarse scan: every vector in fp16 or int8; in large indexes 4-bit codes pick what is scored."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vidsift.index import codes as coding
from vidsift.index.codes import SEEN, list_sizes, part_of, search_codes
from vidsift.index.types import Floats, Rows, ScanKind, ScanSetting

# From so many clips on, or where they would take more than such a part of the machine's memory, vectors are
# kept in int8, not fp16: half the memory, and about one in a hundred of the best hundred is another.
INT8_FROM, INT8_ABOVE = 250_000, 0.25
# Clips that the codes pick to be scored exactly: so many, so many times what is asked for, or such a part of
# the index, whichever is most.
RESCORED, TIMES, PART = 6_000, 20, 250
# Answers for which tuning measures how many have to be picked.
TUNED_FOR = 100
# The greatest whole number that int8 takes both ways, and how much larger than the greatest component seen it
# has to allow for.
_WIDEST, _ROOM = 127, 1.1
# Picked vectors that are copied together: so much memory the allocator keeps for the next ones; more
# the kernel hands out anew, page by page, at every query.
_TAKEN = 2_048


@dataclass(frozen=True)
class Scan:
    """exact: FAISS scalar quantiser, fp16 or int8, inner product.  codes: FAISS product quantiser (fast
    scan) over the same rows, or None.  scale: what the vectors in both are times.  lists: how many clips
    each of the lists holds in which the codes lie (in the whole index, if this is a part), or None.

    fp16 halves the memory and the time of exact fp32 scanning and moves a score by less than 1e-4.
    """

    exact: Any
    codes: Any | None = None
    scale: float = 1.0
    lists: Rows | None = None

    @classmethod
    def over(cls, exact: Any, codes: Any | None, scale: float = 1.0) -> Scan:
        """A scan of these, with the lists in which the codes lie."""
        return cls(exact, codes, scale, list_sizes(codes))

    def __len__(self) -> int:
        return int(self.exact.ntotal)

    @property
    def compressed(self) -> bool:
        """Whether there are codes."""
        return self.codes is not None

    @property
    def kind(self) -> ScanKind:
        """How a search without a filter goes over the clips."""
        if not self.compressed:
            return "exact"
        return "compressed" if self.lists is None else "ivf"

    @property
    def precision(self) -> str:
        """What vectors are kept and scored in: fp16 or int8."""
        return "fp16" if self.exact.sq.qtype == faiss.ScalarQuantizer.QT_fp16 else "int8"

    def reason(self, picked: int | None = None, setting: ScanSetting = "auto") -> str:
        """Why a search goes over the clips as it does, in words.  setting: what the index is set to."""
        pays = {
            "exact": f"codes pay from {coding.COMPRESS_FROM:,} on",
            "compressed": f"lists of codes pay from {coding.IVF_FROM:,} on",
            "ivf": f"lists pay from {coding.IVF_FROM:,} on",
        }
        why = pays[self.kind] if setting == "auto" else f"as the index is set to {setting}"
        if setting not in ("auto", self.kind):
            why = (
                f"the index is set to {setting}: from its next version on, if its clips are enough for codes"
            )
        if self.precision == "int8" and len(self) >= INT8_FROM:
            why += f"; int8 from {INT8_FROM:,} on"
        elif self.precision == "int8":
            why += "; fp16 would fill more than a quarter of the memory"
        said = f"{len(self):,} clips"
        count = self.picks(TUNED_FOR, picked)
        if count is None:
            return f"{said}: all are scored in {self.precision} ({why})"
        seen = f" of the {min(SEEN * count, len(self)):,} in the nearest lists" if self.kind == "ivf" else ""
        return f"{said}: 4-bit codes pick {count:,}{seen}, which are scored in {self.precision} ({why})"

    def best(
        self, sentence: Floats, count: int, allowed: Rows | None = None, picked: int | None = None
    ) -> tuple[Floats, Rows]:
        """Scores and rows of the `count` best vectors for a query [D], best first; of equal scores, the first
        row is the better.

        allowed: sorted rows to choose from. The scan looks at no other, and is exact.
        picked: how many the codes pick for every hundred wanted (or fewer); None takes the default.
        """
        picks = None if allowed is not None else self.picks(count, picked)
        if picks is not None:
            return self.scored(sentence, self.pick(sentence, picks)[0], count)
        library: Any = faiss  # its stubs are those of the C++ constructors
        asked, unit = self._asked(sentence)
        limits: dict[str, Any] = {}
        total = len(self)
        if allowed is not None:
            bits = np.zeros(total, np.uint8)
            bits[allowed] = 1
            chosen = library.IDSelectorBitmap(np.packbits(bits, bitorder="little"))
            limits, total = {"params": library.SearchParameters(sel=chosen)}, len(allowed)
        scores, rows = _search(_through(self.exact, asked, limits), count, total)
        order = np.lexsort((rows, -scores))[:count]
        return scores[order] / unit, rows[order]

    def picks(self, count: int, picked: int | None = None) -> int | None:
        """How many clips the codes pick for `count` answers; None where every clip is scored."""
        wanted = self.usual(count) if picked is None else picked * max(count, TUNED_FOR) // TUNED_FOR
        wanted = max(wanted, count)
        return wanted if self.compressed and 2 * wanted <= len(self) else None

    def pick(self, sentence: Floats, count: int, whole: int | None = None) -> tuple[Rows, Floats]:
        """The `count` rows whose codes promise most for a query [D], sorted, and what they promise; of equal
        promises, the first row is the better. Fewer, where the lists that are looked through hold fewer.

        whole: how many the codes of the whole index pick, if this is a part of it: that decides which lists
        are looked through.
        """
        seen = SEEN * (count if whole is None else whole)
        find = search_codes(self.codes, self.lists, self._asked(sentence)[0], seen)
        promises, rows = _search(find, count, len(self))
        least = promises[min(count, len(promises)) - 1] if len(promises) else np.float32(0)
        sure = np.flatnonzero(promises > least)
        ties = np.flatnonzero(promises == least)
        ties = ties[np.argsort(rows[ties])][: count - len(sure)]
        chosen = np.concatenate([sure, ties])
        chosen = chosen[np.argsort(rows[chosen])]
        return rows[chosen], promises[chosen]

    def scored(self, sentence: Floats, some: Rows, count: int) -> tuple[Floats, Rows]:
        """As `best` among the sorted rows `some`, without looking at what lies between them."""
        asked, unit = self._asked(sentence)
        index: Any = faiss.IndexScalarQuantizer(self.exact.d, self.exact.sq.qtype, faiss.METRIC_INNER_PRODUCT)
        stored, scores, rows = _stored(self.exact), [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
        for start in range(0, len(some), _TAKEN):
            taken = some[start : start + _TAKEN]
            index.reset()
            index.add_sa_codes(stored[taken])
            found, at = _search(_through(index, asked, {}), min(count, len(taken)), len(taken))
            scores.append(found)
            rows.append(taken[at])
        best, of = np.concatenate(scores), np.concatenate(rows)
        order = np.lexsort((of, -best))[:count]
        return best[order] / unit, of[order]

    def part(self, first: int, last: int) -> Scan:
        """The scan over the rows from `first` (a multiple of BLOCK) up to `last`, with the same codes: every
        row has the score, and the promise, that it has here. Mapped vectors stay in the file."""
        library: Any = faiss
        whole, count = self.exact, last - first
        exact: Any = library.IndexScalarQuantizer(whole.d, whole.sq.qtype, faiss.METRIC_INNER_PRODUCT)
        stored = _stored(whole)[first:last]
        if whole.codes.is_owned or count == 0:
            exact.add_sa_codes(np.ascontiguousarray(stored))
        else:
            view = library.MaybeOwnedVectorUInt8.create_view
            exact.codes = view(library.swig_ptr(stored), stored.size, whole.codes.owner)
            exact.ntotal = count
        codes = None if self.codes is None else part_of(self.codes, first, last)
        return Scan(exact, codes, self.scale, self.lists)

    def _asked(self, sentence: Floats) -> tuple[Floats, np.float32]:
        """A query as the index takes it, and what scores come out times."""
        if self.precision == "fp16":
            return np.ascontiguousarray(sentence, np.float32), np.float32(1)
        # FAISS rounds it to int8, too: it has to fill that range.
        own = np.float32(_WIDEST / max(float(np.abs(sentence).max(initial=0)), 1e-12))
        return np.ascontiguousarray(sentence * own, np.float32), np.float32(own * self.scale)

    def usual(self, count: int) -> int:
        """How many clips the codes pick by default when `count` are wanted."""
        return max(RESCORED, TIMES * count, len(self) // PART)

    def vectors(self, rows: Rows) -> Floats:
        """The vectors of some rows, float32 [n, D]."""
        found: Floats = self.exact.reconstruct_batch(np.ascontiguousarray(rows, np.int64))
        return found / np.float32(self.scale)


def _through(index: Any, asked: Floats, limits: dict[str, Any]) -> Callable[[int], tuple[Floats, Rows]]:
    def search(most: int) -> tuple[Floats, Rows]:
        scores, rows = index.search(asked[None], most, **limits)
        return scores[0], rows[0]

    return search


def _search(find: Callable[[int], tuple[Floats, Rows]], count: int, total: int) -> tuple[Floats, Rows]:
    """The scores and rows of the `count` best of `total`, and of all whose score equals the last one's.

    FAISS leaves it to chance which of equal scores end up in its list; so it is asked for some more, until
    the list ends behind them.
    """
    most = min(count + count // 32 + 16, total)
    while True:
        scores, rows = find(most)
        if most == total or len(scores) < most or scores[-1] < scores[count - 1]:
            return scores, rows
        most = min(8 * most, total)


def _stored(exact: Any) -> npt.NDArray[np.uint8]:
    """The vectors of an exact scan as they lie in memory, [N, bytes]."""
    library: Any = faiss
    count, size = int(exact.ntotal), int(exact.code_size)
    if count == 0:
        return np.zeros((0, size), np.uint8)
    found: npt.NDArray[np.uint8] = library.rev_swig_ptr(exact.codes.data(), count * size).reshape(count, size)
    return found


def precision_for(clips: int, width: int) -> str:
    """What so many vectors of a width are kept in on this machine."""
    large = clips >= INT8_FROM or 2 * width * clips > INT8_ABOVE * _memory()
    return "int8" if large else "fp16"


def _memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what its container is given."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError), open(limit) as file:  # not there, or "max": there is no limit
            found.append(int(file.read()))
    return min(found)


class Exact:
    """The vectors of an exact scan as they are added: FAISS index and `scale`, what vectors are times.

    int8 has one scale for all vectors and dimensions, learnt from the first ones that come or taken from
    `like`, and so has the query: scores are then sums of products of whole numbers, which FAISS forms much
    faster than with ranges for every dimension, at the same recall.
    """

    def __init__(self, width: int, clips: int = 0, like: Scan | None = None) -> None:
        small = precision_for(clips, width) == "int8"
        kind = faiss.ScalarQuantizer
        self.index: Any = faiss.IndexScalarQuantizer(
            width, kind.QT_8bit_direct_signed if small else kind.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        known = like.scale if small and like is not None and like.precision == "int8" else None
        self._scale: float | None = known if small else 1.0

    @property
    def scale(self) -> float:
        """What vectors are times in the index."""
        return 1.0 if self._scale is None else self._scale

    def add(self, vectors: Floats) -> None:
        """Add vectors [N, D]."""
        if self._scale is None:
            peak = float(np.abs(vectors).max(initial=0))
            self._scale = _WIDEST / (_ROOM * peak) if peak > 0 else 1.0
        if self.index.sq.qtype != faiss.ScalarQuantizer.QT_fp16:
            vectors = np.clip(np.rint(vectors * np.float32(self._scale)), -_WIDEST, _WIDEST)
        self.index.add(np.ascontiguousarray(vectors, np.float32))

    def scan(self, codes: Any | None = None) -> Scan:
        """The scan over what was added."""
        return Scan.over(self.index, codes, self.scale)


@dataclass(frozen=True)
class ScanPoint:
    """What picking so many clips gives: recall of the exact best, milliseconds of a query (median)."""

    picked: int
    recall: float
    milliseconds: float


def measure_scan(scan: Scan, queries: Floats) -> list[ScanPoint]:
    """The best hundred by codes against the exact ones for some queries [Q, D], at rising numbers picked.

    Where more than half of the index would be picked the scan is the exact one, and the list ends.
    """
    plain = Scan(scan.exact, None, scan.scale)
    truth = [plain.best(query, TUNED_FOR)[1] for query in queries]
    points: list[ScanPoint] = []
    for picked in (500, 1_000, 2_000, 4_000, 6_000, 8_000, 12_000, 16_000, 32_000, 64_000):
        if 2 * picked > len(scan):
            break
        spent, shares = [], []
        for query, best in zip(queries, truth, strict=True):
            began = time.perf_counter()
            rows = scan.best(query, TUNED_FOR, picked=picked)[1]
            spent.append(1000 * (time.perf_counter() - began))
            shares.append(len(np.intersect1d(rows, best)) / TUNED_FOR)
        points.append(ScanPoint(picked, float(np.mean(shares)), float(np.median(spent))))
    return points
