"""The 4-bit codes that pick, in a large index, which clips are scored: all in a row, or in lists (IVF)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vidsift.index.types import Floats, Rows, ScanKind, ScanSetting

# From so many clips on the codes pay: below, the exact scan takes a few milliseconds anyway.
COMPRESS_FROM = 50_000
# From so many clips on only the codes of the nearest lists are looked through. Of a million that saves a
# quarter of the time (of four million, half), and learning takes seven times as long (eleven).
IVF_FROM = 2_000_000
# Lists are looked through, the nearest first, until they hold so many times what the codes are to pick.
SEEN = 32
# Dimensions that share one code of 4 bits, and rows whose codes lie interleaved.
_PER_CODE, BLOCK = 4, 32
# Vectors that the codes are learnt from, and vectors for each list's centre; more hardly change them. Rounds
# of finding these, and what a code of 4 bits takes to be learnt at all.
_SAMPLE, _PER_LIST = 65_536, 64
_ROUNDS, _LEAST = 10, 16


def kind_for(clips: int, width: int, setting: ScanSetting = "auto") -> ScanKind:
    """How an index of so many clips is scanned, as set or as its size asks for; exact where it has no clips
    to learn from, or its vectors cannot be cut into codes."""
    if width % _PER_CODE or clips < _LEAST:
        return "exact"
    if setting != "auto":
        return setting
    if clips >= IVF_FROM:
        return "ivf"
    return "compressed" if clips >= COMPRESS_FROM else "exact"


def build_codes(exact: Any, kind: ScanKind) -> Any | None:
    """Codes over the rows of an exact scan; None for a scan without.

    Learnt on a fixed sample, so the same rows give the same codes.
    """
    if kind == "exact":
        return None
    count, width = int(exact.ntotal), int(exact.d)
    parts = width // _PER_CODE
    library: Any = faiss  # its stubs are those of the C++ constructors
    if kind == "compressed":
        codes, sample = library.IndexPQFastScan(width, parts, 4, faiss.METRIC_INNER_PRODUCT, BLOCK), _SAMPLE
    else:
        codes = _empty_lists(width, lists_for(count), parts)
        codes.cp.spherical, codes.cp.niter = True, _ROUNDS
        codes.cp.max_points_per_centroid = _PER_LIST
        sample = max(_SAMPLE, _PER_LIST * codes.nlist)
    for learning in (codes.pq.cp, *([codes.cp] if kind == "ivf" else ())):
        learning.min_points_per_centroid = 1  # a small index that is set to have codes is no news
    chosen = np.random.default_rng(0).permutation(count)[:sample]
    codes.train(exact.reconstruct_batch(np.sort(chosen)))
    encode_rows(codes, exact, 0)
    return codes


def lists_for(clips: int) -> int:
    """A power of two near twice the square root, but no more than there are vectors to learn centres from."""
    wanted = 1 << round(math.log2(2 * math.sqrt(clips)))
    return max(1, min(wanted, clips // _PER_LIST))


def encode_rows(codes: Any, exact: Any, first: int) -> None:
    """Add the rows of an exact scan from `first` on to codes that have been learnt."""
    count, step = int(exact.ntotal), 65_536
    for start in range(first, count, step):
        codes.add(exact.reconstruct_n(start, min(step, count - start)))


def part_of(codes: Any, first: int, last: int) -> Any:
    """The codes of the rows from `first` (a multiple of BLOCK) up to `last`, as rows from 0 on: each
    promises what it promises in the whole."""
    if is_in_lists(codes):
        return _part_of_lists(codes, first, last)
    library: Any = faiss
    count = last - first
    part: Any = library.IndexPQFastScan(codes.d, codes.M, 4, faiss.METRIC_INNER_PRODUCT, BLOCK)
    part.pq, part.is_trained = codes.pq, True
    blocks = -(-count // BLOCK) * BLOCK
    part.ntotal, part.ntotal2 = count, blocks
    if count:
        row = part.M2 // 2
        packed = library.rev_swig_ptr(codes.codes.get(), codes.codes.size())
        packed = packed[first * row : (first + blocks) * row]
        part.codes.resize(packed.size)
        library.memcpy(part.codes.get(), library.swig_ptr(packed), packed.nbytes)
    return part


def is_in_lists(codes: Any) -> bool:
    """Whether codes lie in lists."""
    return isinstance(codes, faiss.IndexIVFPQFastScan)


def _empty_lists(width: int, lists: int, parts: int) -> Any:
    library: Any = faiss
    codes = library.IndexIVFPQFastScan(
        library.IndexFlatIP(width), width, lists, parts, 4, faiss.METRIC_INNER_PRODUCT, BLOCK
    )
    # Codes of the vectors themselves: then what they promise can be compared across lists as it is.
    codes.by_residual = False
    return codes


def _part_of_lists(codes: Any, first: int, last: int) -> Any:
    library: Any = faiss
    part = _empty_lists(codes.d, codes.nlist, codes.M)
    part.quantizer.add(codes.quantizer.reconstruct_n(0, codes.nlist))
    part.pq, part.is_trained = codes.pq, True
    packer = codes.get_CodePacker()
    whole, own = (library.downcast_InvertedLists(one.invlists) for one in (codes, part))
    for number in range(codes.nlist):
        count = int(whole.list_size(number))
        if count == 0:
            continue
        # Rows were added in their order: a list is sorted, so a part of it is one run.
        rows = library.rev_swig_ptr(whole.get_ids(number), count)
        if (np.diff(rows) <= 0).any():
            raise ValueError("its lists of codes are not in the order of the rows")
        begin, end = (int(place) for place in np.searchsorted(rows, (first, last)))
        if begin == end:
            continue
        packed = library.rev_swig_ptr(whole.get_codes(number), -(-count // BLOCK) * whole.block_size)
        packed = _repacked(packer, packed.reshape(-1, whole.block_size), begin, end)
        ids = np.ascontiguousarray(rows[begin:end] - first)
        own.add_entries(number, end - begin, library.swig_ptr(ids), library.swig_ptr(packed))
        part.ntotal += end - begin
    return part


def _repacked(packer: Any, packed: npt.NDArray[np.uint8], begin: int, end: int) -> npt.NDArray[np.uint8]:
    """Of blocks of interleaved codes [blocks, bytes], those in the places from `begin` up to `end`, in blocks
    of their own."""
    library: Any = faiss
    first = begin // BLOCK
    old = packed[first : -(-end // BLOCK)]
    flat = np.empty((len(old), BLOCK * int(packer.code_size)), np.uint8)
    for block, to in zip(old, flat, strict=True):
        packer.unpack_all(library.swig_ptr(block), library.swig_ptr(to))
    inside = flat.reshape(-1, int(packer.code_size))[begin - BLOCK * first : end - BLOCK * first]
    new = np.zeros((-(-len(inside) // BLOCK), packed.shape[1]), np.uint8)
    padded = np.zeros((len(new) * BLOCK, inside.shape[1]), np.uint8)
    padded[: len(inside)] = inside
    for block, to in zip(padded.reshape(len(new), -1), new, strict=True):
        packer.pack_all(library.swig_ptr(block), library.swig_ptr(to))
    return new


def list_sizes(codes: Any | None) -> Rows | None:
    """How many clips every list holds; None where codes lie in a row, or there are none."""
    if codes is None or not is_in_lists(codes):
        return None
    return np.array([codes.invlists.list_size(number) for number in range(codes.nlist)], np.int64)


def nearest_lists(codes: Any, sizes: Rows, asked: Floats, clips: int) -> tuple[Rows, Floats]:
    """The lists nearest to a query [D], as many as it takes to hold so many clips; and how near.

    sizes: [L] clips in every list, of the whole index, if these codes are of a part of it.
    """
    total = len(sizes)
    # Lists of middling size, and half as many more.
    most = min(1 + 3 * clips * total // (2 * max(int(sizes.sum()), 1)), total)
    while True:
        nearness, lists = codes.quantizer.search(asked[None], most)
        enough = int(np.searchsorted(np.cumsum(sizes[lists[0]]), clips)) + 1
        if enough <= most or most == total:
            return lists[0, :enough], nearness[0, :enough]
        most = min(2 * most, total)


def search_codes(
    codes: Any, sizes: Rows | None, asked: Floats, seen: int
) -> Callable[[int], tuple[Floats, Rows]]:
    """A function that gives what the `n` rows (or fewer) which promise most promise, and these rows.

    sizes, seen: of lists, the nearest ones that hold so many clips are looked through (`nearest_lists`).
    """
    if sizes is None:
        return lambda most: _first(codes.search(asked[None], most))
    library: Any = faiss
    near, nearness = nearest_lists(codes, sizes, asked, seen)
    limits = library.SearchParametersIVF(nprobe=len(near))

    def search(most: int) -> tuple[Floats, Rows]:
        scores, rows, ptr = np.empty((1, most), np.float32), np.empty((1, most), np.int64), library.swig_ptr
        # The C++ method itself: what wraps it takes no parameters, and so no number of lists for one query.
        codes.search_preassigned_c(
            1, ptr(asked), most, ptr(near), ptr(nearness), ptr(scores), ptr(rows), False, limits
        )
        return _first((scores, rows))

    return search


def _first(found: tuple[Floats, Rows]) -> tuple[Floats, Rows]:
    """What was found for the only query, without places that stayed empty."""
    scores, rows = found[0][0], found[1][0]
    real = rows >= 0
    return scores[real], rows[real]
