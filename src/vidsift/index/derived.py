"""The arrays that search reads: a copy of the table's vectors, laid out for scanning and for reranking.

`vidsift.index.building` makes them; here they are opened.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import faiss
import numpy as np
import numpy.typing as npt

from vidsift.index.rerank import announce_rows, rerank
from vidsift.index.scan import Scan
from vidsift.index.types import Floats, Rows

log = logging.getLogger(__name__)

FOLDER = "derived"
LAYOUT = 2
MANIFEST = "manifest.json"
SCAN = "scan.faiss"
CODES = "codes.faiss"
FRAMES = "frames.i8"
WORDS = "words.npy"
ARRAYS = ("slots", "scales", "times", "counts", "spans", "file_of", "clip_ids")
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Derived:
    """Everything a search needs of N clips in M files, row i of every array being the same clip.

    scan: over the coarse vectors.  trained: clips that its codes were learnt among; 0 without codes.
    slots: [N] place of a clip in `frames` [S, F, D] int8, memory-mapped: new clips are appended there, and
    what was removed stays until the index is compacted.
    scales: [N, F].  counts: [N].  times: [N, F] seconds after the clip's start.  spans: [N, 2] seconds.
    file_of: [N] row of `paths`.  clip_ids: [N] bytes.
    word_rows: rows of the clips of files with subtitles, in the order of their ids; empty without any.
    build: names the making of these arrays: the same clips, made anew, may come in another order.
    """

    version: int
    scan: Scan
    trained: int
    frames: npt.NDArray[np.int8]
    memory: mmap.mmap | None
    slots: npt.NDArray[np.int64]
    scales: Floats
    counts: npt.NDArray[np.int32]
    times: Floats
    spans: npt.NDArray[np.float64]
    file_of: npt.NDArray[np.int32]
    clip_ids: npt.NDArray[np.bytes_]
    paths: _Texts
    metadata: _Texts
    word_rows: npt.NDArray[np.int64]
    build: str = ""

    def __len__(self) -> int:
        return len(self.file_of)

    def frames_of(self, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int8]:
        """The frame vectors of some clips, [K, F, D]; cold pages of all of them are asked for at once."""
        slots = self.slots[rows]
        if self.memory is not None:
            announce_rows(self.memory, 0, self.frames.shape[1] * self.frames.shape[2], slots)
        found: npt.NDArray[np.int8] = self.frames[slots]
        return found

    def reachable(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which clips can be scored: here all."""
        return np.ones(len(rows), bool)

    def rerank(
        self, sentences: Sequence[Floats], rows: npt.NDArray[np.int64], temperature: float
    ) -> list[tuple[Floats, Floats]]:
        """What `vidsift.index.rerank.rerank` says of some clips, for each sentence [D]."""
        frames, scales, counts = self.frames_of(rows), self.scales[rows], self.counts[rows]
        return [rerank(one, frames, scales, counts, temperature) for one in sentences]

    def cosines(self, sentence: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        """Of the frames of some clips with a sentence [D]: [K, F]; behind the real ones they mean nothing."""
        found: Floats = (self.frames_of(rows).astype(np.float32) @ sentence) * self.scales[rows]
        return found

    def best_with_files(
        self, sentence: Floats, count: int, files: int, allowed: Rows | None
    ) -> tuple[Floats, Rows]:
        """As `Scan.best` the `count` best clips, and with them the best clip of each of the `files` files
        that have the best ones."""
        total = len(self) if allowed is None else len(allowed)
        scores, rows = self.scan.best(sentence, total, allowed)
        chosen = with_files(self.file_of[rows], count, files)
        return scores[chosen], rows[chosen]

    def times_of(self, row: int) -> npt.NDArray[np.float64]:
        """When the real frames of a clip are, on the file's clock, to the microsecond."""
        after = self.times[row, : self.counts[row]].astype(np.float64)
        found: npt.NDArray[np.float64] = np.round(self.spans[row, 0] + after, 6)
        return found


def with_files(file_of: npt.NDArray[np.integer[Any]], count: int, files: int) -> npt.NDArray[np.int64]:
    """Places of the first `count` of some clips, and of the first one of each of the first `files` files.

    file_of: [n] the files of the clips, the best clip first.
    """
    _, first = np.unique(file_of, return_index=True)
    return np.union1d(np.arange(min(count, len(file_of))), np.sort(first)[:files])


class _Texts:
    """Many byte strings in two arrays, so that opening them costs nothing per string."""

    def __init__(self, data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self._data = data
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> bytes:
        begin = int(self._ends[row - 1]) if row else 0
        return self._data[begin : int(self._ends[row])].tobytes()


def open_derived(folder: str, index_id: str, version: int | None) -> Derived | None:
    """Open the arrays of table `version` (None: unknown); None when they are missing, stale or damaged."""
    if version is None:
        return None
    path = os.path.join(folder, FOLDER, str(version))
    try:
        return load_derived(path, index_id)
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        log.warning("%s: derived arrays are damaged and will be rebuilt (%s)", path, error)
        return None


def open_newest(folder: str, index_id: str) -> Derived | None:
    """Open the arrays of the newest version that has whole ones; None when none has."""
    parent = os.path.join(folder, FOLDER)
    names = os.listdir(parent) if os.path.isdir(parent) else []
    for version in sorted((int(name) for name in names if name.isdigit()), reverse=True):
        arrays = open_derived(folder, index_id, version)
        if arrays is not None:
            return arrays
    return None


def load_derived(
    path: str, index_id: str, elsewhere: Callable[[dict[str, Any]], Scan] | None = None
) -> Derived:
    """Open the arrays in one folder; whatever is wrong with them is raised, one of DAMAGE.

    elsewhere: makes, of the manifest, a scan that asks others; then no vectors are opened here, and `frames`
    has no slots.
    """
    with open(os.path.join(path, MANIFEST), encoding="utf-8") as file:
        manifest = cast(dict[str, Any], json.load(file))
    if manifest["layout"] != LAYOUT or manifest["index"] != index_id:
        raise ValueError("written by another version of vidsift or for another index")
    clips, frames, width = manifest["clips"], manifest["frames"], manifest["width"]
    arrays = {name: _map_array(os.path.join(path, f"{name}.npy")) for name in ARRAYS}
    memory, mapped = None, np.zeros((0, frames, width), np.int8)
    if elsewhere is None:
        scan = _open_scan(path, manifest)
        memory, mapped = _map_frames(os.path.join(path, FRAMES), (manifest["slots"], frames, width))
    else:
        scan = elsewhere(manifest)
    paths, metadata = _read_texts(path, "paths"), _read_texts(path, "metadata")
    lengths = {len(array) for array in arrays.values()} | {len(metadata), len(scan)}
    if lengths != {clips} or len(paths) != manifest["files"]:
        raise ValueError("its parts do not belong together")
    if clips and not 0 <= int(arrays["slots"].min()) <= int(arrays["slots"].max()) < manifest["slots"]:
        raise ValueError("frames are missing")
    # Arrays that are older than words have none.
    words = manifest.get("words", 0)
    word_rows = _map_array(os.path.join(path, WORDS)) if words else np.zeros(0, np.int64)
    if len(word_rows) != words:
        raise ValueError("rows with words are missing")
    return Derived(
        version=manifest["version"],
        scan=scan,
        trained=manifest["trained"],
        frames=mapped,
        memory=memory,
        paths=paths,
        metadata=metadata,
        word_rows=word_rows,
        build=manifest.get("build", ""),
        **cast(dict[str, Any], arrays),
    )


def _open_scan(path: str, manifest: dict[str, Any]) -> Scan:
    # Mapped: opened at once, and shared by all processes that search.
    exact = faiss.read_index(os.path.join(path, SCAN), faiss.IO_FLAG_MMAP_IFC)
    if exact.d != manifest["width"]:
        raise ValueError("its parts do not belong together")
    codes = None
    if manifest["scan"] != "exact":
        codes = faiss.read_index(os.path.join(path, CODES))
        if codes.ntotal != exact.ntotal:
            raise ValueError("the codes are not those of the scan")
    return Scan.over(exact, codes, manifest["scale"])


def _map_array(path: str) -> npt.NDArray[Any]:
    # As a plain array: numpy's memmap class makes every later indexing several times slower.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _map_frames(path: str, shape: tuple[int, int, int]) -> tuple[mmap.mmap | None, npt.NDArray[np.int8]]:
    wanted = shape[0] * shape[1] * shape[2]
    with open(path, "rb") as file:
        # It may go on behind what this version knows: later versions append to the same file.
        size = os.fstat(file.fileno()).st_size
        if size < wanted:
            raise ValueError(f"{FRAMES} has {size} bytes, not the {wanted} of {shape}")
        if wanted == 0:
            return None, np.zeros(shape, np.int8)
        memory = mmap.mmap(file.fileno(), wanted, access=mmap.ACCESS_READ)
    # The short list is scattered over the file: the kernel's read-ahead would fetch what nobody wants.
    memory.madvise(mmap.MADV_RANDOM)
    return memory, np.frombuffer(memory, np.int8).reshape(shape)


def write_texts(path: str, name: str, texts: list[bytes]) -> None:
    """Write byte strings as `load_derived` reads them."""
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    np.save(os.path.join(path, f"{name}_ends.npy"), ends)
    np.save(os.path.join(path, f"{name}.npy"), np.frombuffer(b"".join(texts), np.uint8))


def _read_texts(path: str, name: str) -> _Texts:
    data = _map_array(os.path.join(path, f"{name}.npy"))
    ends = _map_array(os.path.join(path, f"{name}_ends.npy"))
    if len(ends) and int(ends[-1]) != len(data):
        raise ValueError(f"{name} is cut short")
    return _Texts(data, ends)
