"""The arrays that search reads: a copy of the table's vectors, laid out for scanning and for reranking."""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import faiss
import numpy as np
import numpy.typing as npt

from vidsift.errors import IndexStateError
from vidsift.index.scan import Scan, build_codes, new_exact
from vidsift.index.types import Floats

if TYPE_CHECKING:
    from vidsift.index.store import Store

log = logging.getLogger(__name__)

FOLDER = "derived"
LAYOUT = 1
_MANIFEST = "manifest.json"
_SCAN = "scan.faiss"
_CODES = "codes.faiss"
_FRAMES = "frames.i8"
_UNFINISHED = ".tmp"
_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError)


@dataclass(frozen=True)
class Derived:
    """Everything a search needs of N clips in M files, row i of every array being the same clip.

    scan: over the coarse vectors.
    frames: [N, F, D] int8, memory-mapped.  scales: [N, F].  counts: [N].  times: [N, F] seconds.
    spans: [N, 2] seconds.  file_of: [N] row of `paths`.  clip_ids: [N] bytes.
    """

    version: int
    scan: Scan
    frames: npt.NDArray[np.int8]
    memory: mmap.mmap | None
    scales: Floats
    counts: npt.NDArray[np.int32]
    times: npt.NDArray[np.float64]
    spans: npt.NDArray[np.float64]
    file_of: npt.NDArray[np.int32]
    clip_ids: npt.NDArray[np.bytes_]
    paths: _Texts
    metadata: _Texts

    def __len__(self) -> int:
        return len(self.file_of)


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
        return _load(path, index_id)
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        log.warning("%s: derived arrays are damaged and will be rebuilt (%s)", path, error)
        return None


def build_derived(folder: str, index_id: str, store: Store) -> Derived:
    """Build the arrays of the version that `store` sees, and put them in place in one step.

    Readers of older arrays keep theirs (mapped files live on after removal). Where the index folder
    cannot be written, the arrays go to a temporary folder and live as long as they are open.
    """
    parent = os.path.join(folder, FOLDER)
    final = os.path.join(parent, str(store.version))
    try:
        os.makedirs(parent, exist_ok=True)
        working, held = _working_folder(parent)
    except OSError as error:
        log.warning("%s: not writable (%s), search arrays are built for this process only", parent, error)
        with tempfile.TemporaryDirectory(prefix="vidsift-derived-") as temporary:
            _write(temporary, index_id, store)
            return _load(temporary, index_id)
    try:
        _write(working, index_id, store)
        built = _load(working, index_id)
        _put_in_place(working, final, index_id)
    finally:
        os.close(held)
        shutil.rmtree(working, ignore_errors=True)
    return built


def clean_derived(folder: str, version: int) -> None:
    """Remove arrays of other versions and what killed builds left; call it under the writer's lock."""
    parent = os.path.join(folder, FOLDER)
    for name in os.listdir(parent) if os.path.isdir(parent) else []:
        path = os.path.join(parent, name)
        with suppress(OSError):
            if name.endswith(_UNFINISHED):
                with _locked(path):
                    shutil.rmtree(path, ignore_errors=True)
            elif name != str(version):
                _remove_at_once(path, parent)


def _working_folder(parent: str) -> tuple[str, int]:
    """A new folder to build in and the handle that keeps it locked until it is closed.

    The lock tells whoever cleans up that the folder is not what a kill left. It must be held until the
    arrays are in place; a cleaner that came before the lock has the folder, and another is made.
    """
    while True:
        working = tempfile.mkdtemp(suffix=_UNFINISHED, dir=parent)
        try:
            handle = _lock(working)
        except (FileNotFoundError, BlockingIOError):
            continue
        if os.path.exists(working):
            return working, handle
        os.close(handle)


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold the folder's kernel lock; OSError when another process (that lives) does."""
    handle = _lock(path)
    try:
        yield
    finally:
        os.close(handle)


def _lock(path: str) -> int:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _put_in_place(working: str, final: str, index_id: str) -> None:
    """Give `working` its final name; leave it where it is when equal arrays are there already."""
    for _ in range(3):
        try:
            os.rename(working, final)
            return
        except OSError:
            # Somebody was there first: another reader built the same arrays, or damaged ones lie there.
            try:
                _load(final, index_id)
                return
            except _DAMAGE:
                # Whoever holds damaged or outdated arrays may have removed them between two of these lines.
                with suppress(FileNotFoundError):
                    _remove_at_once(final, os.path.dirname(final))
    raise IndexStateError(f"{final}: the search arrays cannot be put in place; delete that folder")


def _remove_at_once(path: str, parent: str) -> None:
    """Remove a folder so that no reader ever sees half of it under its name."""
    aside = tempfile.mkdtemp(suffix=_UNFINISHED, dir=parent)
    try:
        os.rename(path, aside)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write(path: str, index_id: str, store: Store) -> None:
    from vidsift.index.store import fixed_list, restore_path  # imports LanceDB, which search must not

    schema = store.schema
    width = schema.field("coarse").type.list_size
    frames = schema.field("scales").type.list_size
    scan = new_exact(width)
    columns: dict[str, list[npt.NDArray[Any]]] = {
        name: [] for name in ("scales", "times", "counts", "spans", "file_of", "clip_ids")
    }
    files: dict[str, int] = {}
    metadata: list[bytes] = []
    with open(os.path.join(path, _FRAMES), "wb") as out:
        names = ["file_id", "path", "path_bytes", "clip_id", "start", "end", "coarse", "frames", "scales"]
        for batch in store.clip_batches([*names, "times", "count", "metadata"]):
            scan.add(np.ascontiguousarray(fixed_list(batch, "coarse", width)))
            out.write(np.ascontiguousarray(fixed_list(batch, "frames", frames * width)).tobytes())
            columns["scales"].append(fixed_list(batch, "scales", frames))
            columns["times"].append(fixed_list(batch, "times", frames))
            columns["counts"].append(batch.column("count").to_numpy())
            ends = [batch.column("start").to_numpy(), batch.column("end").to_numpy()]
            columns["spans"].append(np.stack(ends, axis=1))
            columns["clip_ids"].append(np.array(batch.column("clip_id").to_pylist(), dtype="S32"))
            metadata.extend(text.encode() for text in batch.column("metadata").to_pylist())
            raw = zip(batch.column("path").to_pylist(), batch.column("path_bytes").to_pylist(), strict=True)
            rows = [files.setdefault(restore_path(text, exact), len(files)) for text, exact in raw]
            columns["file_of"].append(np.array(rows, dtype=np.int32))
    empty: dict[str, npt.NDArray[Any]] = {
        "scales": np.zeros((0, frames), np.float32),
        "times": np.zeros((0, frames), np.float64),
        "counts": np.zeros(0, np.int32),
        "spans": np.zeros((0, 2), np.float64),
        "clip_ids": np.zeros(0, "S32"),
        "file_of": np.zeros(0, np.int32),
    }
    for name, parts in columns.items():
        np.save(os.path.join(path, f"{name}.npy"), np.concatenate([empty[name], *parts]))
    _write_texts(path, "paths", [os.fsencode(name) for name in files])
    _write_texts(path, "metadata", metadata)
    faiss.write_index(scan, os.path.join(path, _SCAN))
    codes = build_codes(scan)
    if codes is not None:
        faiss.write_index(codes, os.path.join(path, _CODES))
    manifest = {
        "layout": LAYOUT,
        "index": index_id,
        "version": store.version,
        "clips": scan.ntotal,
        "files": len(files),
        "width": width,
        "frames": frames,
        "scan": Scan(scan, codes).kind,
    }
    with open(os.path.join(path, _MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file)


def _load(path: str, index_id: str) -> Derived:
    with open(os.path.join(path, _MANIFEST), encoding="utf-8") as file:
        manifest = cast(dict[str, Any], json.load(file))
    if manifest["layout"] != LAYOUT or manifest["index"] != index_id:
        raise ValueError("written by another version of vidsift or for another index")
    clips, frames, width = manifest["clips"], manifest["frames"], manifest["width"]
    arrays = {
        name: _map_array(os.path.join(path, f"{name}.npy"))
        for name in ("scales", "times", "counts", "spans", "file_of", "clip_ids")
    }
    scan = faiss.read_index(os.path.join(path, _SCAN))
    codes = None
    if manifest.get("scan") == "compressed":
        codes = faiss.read_index(os.path.join(path, _CODES))
        if codes.ntotal != scan.ntotal:
            raise ValueError("the codes are not those of the scan")
    memory, mapped = _map_frames(os.path.join(path, _FRAMES), (clips, frames, width))
    paths, metadata = _read_texts(path, "paths"), _read_texts(path, "metadata")
    lengths = {len(array) for array in arrays.values()} | {len(metadata), scan.ntotal}
    if lengths != {clips} or len(paths) != manifest["files"] or scan.d != width:
        raise ValueError("its parts do not belong together")
    return Derived(
        version=manifest["version"],
        scan=Scan(scan, codes),
        frames=mapped,
        memory=memory,
        paths=paths,
        metadata=metadata,
        **cast(dict[str, Any], arrays),
    )


def _map_array(path: str) -> npt.NDArray[Any]:
    # As a plain array: numpy's memmap class makes every later indexing several times slower.
    return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _map_frames(path: str, shape: tuple[int, int, int]) -> tuple[mmap.mmap | None, npt.NDArray[np.int8]]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size != shape[0] * shape[1] * shape[2]:
            raise ValueError(f"{_FRAMES} has {size} bytes, not those of {shape}")
        if size == 0:
            return None, np.zeros(shape, np.int8)
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    # The short list is scattered over the file: the kernel's read-ahead would fetch what nobody wants.
    memory.madvise(mmap.MADV_RANDOM)
    return memory, np.frombuffer(memory, np.int8).reshape(shape)


def _write_texts(path: str, name: str, texts: list[bytes]) -> None:
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    np.save(os.path.join(path, f"{name}_ends.npy"), ends)
    np.save(os.path.join(path, f"{name}.npy"), np.frombuffer(b"".join(texts), np.uint8))


def _read_texts(path: str, name: str) -> _Texts:
    data = _map_array(os.path.join(path, f"{name}.npy"))
    ends = _map_array(os.path.join(path, f"{name}_ends.npy"))
    if len(ends) and int(ends[-1]) != len(data):
        raise ValueError(f"{name} is cut short")
    return _Texts(data, ends)
