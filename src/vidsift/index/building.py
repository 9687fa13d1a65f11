"""Make the arrays that search reads: from the whole table, or from an earlier version's and what is new."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import faiss
import numpy as np
import numpy.typing as npt

from vidsift.index.codes import build_codes, encode_rows, kind_for
from vidsift.index.derived import (
    ARRAYS,
    CODES,
    FOLDER,
    FRAMES,
    LAYOUT,
    MANIFEST,
    SCAN,
    WORDS,
    Derived,
    load_derived,
    open_derived,
    open_newest,
    write_texts,
)
from vidsift.index.scan import Exact, precision_for
from vidsift.index.types import ScanKind, ScanSetting

if TYPE_CHECKING:
    from vidsift.index.store import Store

log = logging.getLogger(__name__)

_UNFINISHED = ".tmp"
_COPY = 4096
# Arrays are made whole when the table has grown by so much since its codes were learnt, or when less than
# this part of the frames' file is in use.
GROWN, IN_USE = 2.0, 0.7
_VECTORS = ["clip_id", "coarse", "frames", "scales", "times", "count", "start", "end", "metadata"]


def build_derived(
    folder: str, index_id: str, store: Store, whole: bool = False, setting: ScanSetting = "auto"
) -> Derived:
    """The arrays of the version that `store` sees: found, or built and put in place in one step.

    Of clips that an earlier version's arrays hold nothing is read again; their frames are not even copied.
    whole: build everything anew, without what was removed.  setting: how they are to be scanned.
    One process builds at a time; others wait for it and take what it built. Readers of older arrays keep
    theirs (mapped files live on after removal). Where the index folder cannot be written, the arrays go to a
    temporary folder and live as long as they are open.
    """
    parent = os.path.join(folder, FOLDER)
    try:
        os.makedirs(parent, exist_ok=True)
        holding = _hold(parent)
    except OSError as error:
        return _temporary(parent, index_id, store, setting, error)
    with holding:
        found = None if whole else open_derived(folder, index_id, store.version)
        if found is not None:
            return found
        try:
            working = tempfile.mkdtemp(suffix=_UNFINISHED, dir=parent)
        except OSError as error:
            return _temporary(parent, index_id, store, setting, error)
        try:
            base = None if whole else open_newest(folder, index_id)
            place = None if base is None else os.path.join(parent, str(base.version))
            _write(working, index_id, store, setting, _worth_keeping(base), place)
            final = os.path.join(parent, str(store.version))
            if os.path.exists(final):
                _remove_at_once(final, parent)
            os.rename(working, final)
            return load_derived(final, index_id)
        finally:
            shutil.rmtree(working, ignore_errors=True)


def clean_derived(folder: str, version: int) -> None:
    """Remove arrays of other versions and what killed builds left."""
    parent = os.path.join(folder, FOLDER)
    if not os.path.isdir(parent):
        return
    try:
        holding = _hold(parent)
    except OSError as error:  # a file system without locks; older arrays take space, no more
        log.warning("%s: older arrays stay (%s)", parent, error)
        return
    with holding:
        for name in os.listdir(parent):
            if name != str(version):
                with suppress(FileNotFoundError):
                    _remove_at_once(os.path.join(parent, name), parent)


@contextmanager
def _holding(handle: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(handle)


def _hold(parent: str) -> Any:
    """A context in which no other process builds or removes arrays; waits for the one that does. The lock is
    the kernel's, on the folder itself, and goes with its holder."""
    handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        os.close(handle)
        raise
    return _holding(handle)


def _temporary(parent: str, index_id: str, store: Store, setting: ScanSetting, error: OSError) -> Derived:
    log.warning("%s: not writable (%s), search arrays are built for this process only", parent, error)
    with tempfile.TemporaryDirectory(prefix="vidsift-derived-") as temporary:
        _write(temporary, index_id, store, setting, None, None)
        return load_derived(temporary, index_id)


def _remove_at_once(path: str, parent: str) -> None:
    """Remove a folder so that no reader ever sees half of it under its name."""
    aside = tempfile.mkdtemp(suffix=_UNFINISHED, dir=parent)
    try:
        os.rename(path, os.path.join(aside, "old"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _worth_keeping(base: Derived | None) -> Derived | None:
    if base is None or len(base) == 0 or len(base) < IN_USE * len(base.frames):
        return None
    return base


def _goes_on(base: Derived, clips: int, width: int) -> bool:
    """Whether what the scan of `base` has learnt still serves a table of so many clips."""
    outgrown = base.trained > 0 and clips > GROWN * base.trained
    return not outgrown and base.scan.precision == precision_for(clips, width)


@dataclass(frozen=True)
class _Listing:
    """The clips of the table, in its order: ids, the files they are of, whether these have subtitles."""

    clip_ids: npt.NDArray[np.bytes_]
    file_of: npt.NDArray[np.int32]
    has_words: npt.NDArray[np.bool_]
    files: list[str]


def _list_clips(store: Store) -> _Listing:
    from vidsift.index.store import restore_path

    files: dict[str, int] = {}
    ids, owners, spoken = [np.zeros(0, "S32")], [np.zeros(0, np.int32)], [np.zeros(0, bool)]
    words = ["subtitles"] if "subtitles" in store.schema.names else []
    for batch in store.clip_batches(["clip_id", "path", "path_bytes", *words]):
        ids.append(np.array(batch.column("clip_id").to_pylist(), dtype="S32"))
        raw = zip(batch.column("path").to_pylist(), batch.column("path_bytes").to_pylist(), strict=True)
        rows = [files.setdefault(restore_path(text, exact), len(files)) for text, exact in raw]
        owners.append(np.array(rows, dtype=np.int32))
        marks = batch.column("subtitles").to_pylist() if words else [None] * len(batch)
        spoken.append(np.array([bool(mark) for mark in marks], dtype=bool))
    return _Listing(np.concatenate(ids), np.concatenate(owners), np.concatenate(spoken), list(files))


def _rows_in(base: Derived | None, wanted: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """For every clip id a row of `base` that has it, or -1. Equal ids mean equal vectors."""
    if base is None:
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(base.clip_ids, kind="stable")
    known = base.clip_ids[order]
    at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[at] == wanted, order[at], -1)


def _write(
    path: str, index_id: str, store: Store, setting: ScanSetting, base: Derived | None, place: str | None
) -> None:
    """Write the arrays into `path`; base, place: earlier arrays to take over and the folder they are in."""
    width = store.schema.field("coarse").type.list_size
    count = store.schema.field("scales").type.list_size
    listing = _list_clips(store)
    old = _rows_in(base, listing.clip_ids)
    if base is not None and not _goes_on(base, len(old), width):
        base, old = None, np.full(len(old), -1, np.int64)
    # Known clips first, in their old order: then codes only have to be made for the others.
    order = np.argsort(np.where(old < 0, np.iinfo(np.int64).max, old), kind="stable")
    known = old[order][: int((old >= 0).sum())]
    new_ids = listing.clip_ids[order[len(known) :]]

    scan = Exact(width, len(old), None if base is None else base.scan)
    columns: dict[str, list[npt.NDArray[Any]]] = {
        "slots": [np.zeros(0, np.int64)],
        "scales": [np.zeros((0, count), np.float32)],
        "times": [np.zeros((0, count), np.float32)],
        "counts": [np.zeros(0, np.int32)],
        "spans": [np.zeros((0, 2), np.float64)],
    }
    metadata: list[bytes] = []
    ids = [np.zeros(0, "S32")]
    frames = os.path.join(path, FRAMES)
    if base is not None and place is not None:
        _take_over(os.path.join(place, FRAMES), frames)
        for rows in np.split(known, range(_COPY, len(known), _COPY)):
            scan.add(base.scan.vectors(rows))
            metadata.extend(base.metadata[row] for row in rows.tolist())
        for name, parts in columns.items():
            parts.append(getattr(base, name)[known])
    with open(frames, "ab") as out:
        # Behind whatever lies there: a killed build may have left something.
        slot = -(-os.path.getsize(frames) // (count * width))
        out.truncate(slot * count * width)
        for found in _new_clips(store, new_ids, whole=base is None):
            scan.add(found["coarse"])
            out.write(found["frames"].tobytes())
            metadata.extend(found["metadata"])
            ids.append(found["clip_ids"])
            columns["slots"].append(np.arange(slot, slot + len(found["counts"]), dtype=np.int64))
            slot += len(found["counts"])
            for name in ("scales", "times", "counts", "spans"):
                columns[name].append(found[name])
    # The table was read twice, and nothing promises the same order: ids tell which clip is which.
    new = order[len(known) :].copy()
    order[len(known) + np.argsort(np.concatenate(ids), kind="stable")] = new[
        np.argsort(new_ids, kind="stable")
    ]
    arrays = {name: np.concatenate(parts) for name, parts in columns.items()}
    arrays |= {"file_of": listing.file_of[order], "clip_ids": listing.clip_ids[order]}
    for name in ARRAYS:
        np.save(os.path.join(path, f"{name}.npy"), arrays[name])
    word_rows = np.flatnonzero(listing.has_words[order])
    word_rows = word_rows[np.argsort(arrays["clip_ids"][word_rows], kind="stable")]
    if len(word_rows):
        np.save(os.path.join(path, WORDS), word_rows)
    write_texts(path, "paths", [os.fsencode(name) for name in listing.files])
    write_texts(path, "metadata", metadata)
    faiss.write_index(scan.index, os.path.join(path, SCAN))
    codes, trained = _codes(scan.index, kind_for(len(old), width, setting), base, known)
    if codes is not None:
        faiss.write_index(codes, os.path.join(path, CODES))
    manifest = {
        "layout": LAYOUT,
        "index": index_id,
        "version": store.version,
        "build": uuid4().hex,
        "clips": len(listing.clip_ids),
        "slots": slot,
        "files": len(listing.files),
        "width": width,
        "frames": count,
        "scan": scan.scan(codes).kind,
        "scale": scan.scale,
        "trained": trained,
        "words": len(word_rows),
    }
    with open(os.path.join(path, MANIFEST), "w", encoding="utf-8") as file:
        json.dump(manifest, file)


def _take_over(source: str, target: str) -> None:
    """Give a file a second name, so that appending to it costs no copy; copy where that is not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _new_clips(store: Store, ids: npt.NDArray[np.bytes_], whole: bool) -> Iterator[dict[str, Any]]:
    """Everything about the clips `ids`, in that order, batch by batch; whole: they are all of the table."""
    from vidsift.index.store import fixed_list

    width = store.schema.field("coarse").type.list_size
    count = store.schema.field("scales").type.list_size
    batches = store.clip_batches(_VECTORS) if whole else store.clips_named(ids, _VECTORS)
    for batch in batches:
        ends = [batch.column("start").to_numpy(), batch.column("end").to_numpy()]
        yield {
            "coarse": np.ascontiguousarray(fixed_list(batch, "coarse", width)),
            "frames": np.ascontiguousarray(fixed_list(batch, "frames", count * width)),
            "scales": fixed_list(batch, "scales", count),
            "times": (fixed_list(batch, "times", count) - ends[0][:, None]).astype(np.float32),
            "counts": batch.column("count").to_numpy(),
            "spans": np.stack(ends, axis=1),
            "clip_ids": np.array(batch.column("clip_id").to_pylist(), dtype="S32"),
            "metadata": [text.encode() for text in batch.column("metadata").to_pylist()],
        }


def _codes(
    exact: Any, kind: ScanKind, base: Derived | None, known: npt.NDArray[np.int64]
) -> tuple[Any | None, int]:
    """The codes over an exact scan whose first rows are `known` rows of `base`, and what they were learnt
    among: taken over and added to; where rows have gone or changed places, made again by what was learnt."""
    codes = None if base is None else base.scan.codes
    if base is None or codes is None or base.scan.kind != kind:
        made = build_codes(exact, kind)
        return made, 0 if made is None else int(exact.ntotal)
    if not np.array_equal(known[: len(base)], np.arange(len(base))):
        codes.reset()
    encode_rows(codes, exact, int(codes.ntotal))
    return codes, base.trained
