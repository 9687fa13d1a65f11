"""Rows of arrays in memory-mapped files: filled once, in any number of sittings, and refused when stale."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidsift.errors import DataError
from vidsift.files import write_text

FORMAT = 1
_META, _DONE, _LOCK = "store.json", "done.bin", "writer.lock"

Rows = dict[str, NDArray[Any]]
Fill = Callable[[NDArray[np.int64]], Rows]


@dataclass(frozen=True)
class Array:
    """One array of a store: the shape of a row and the type of a number."""

    shape: tuple[int, ...]
    dtype: str


class RowStore:
    """Named arrays of the same number of rows in one folder.

    identity: everything that the content depends on (model, data, sampling); a folder that was filled under
    another identity raises DataError, which names what differs.
    """

    def __init__(
        self, folder: Path, rows: int, arrays: Mapping[str, Array], identity: dict[str, Any]
    ) -> None:
        self.folder, self.rows = folder, rows
        self.arrays = dict(arrays)
        described = {
            "format": FORMAT,
            "rows": rows,
            "arrays": {name: [list(a.shape), a.dtype] for name, a in self.arrays.items()},
            "identity": json.loads(json.dumps(identity)),
        }
        meta = folder / _META
        if meta.is_file():
            _check_same(folder, json.loads(meta.read_text(encoding="utf-8")), described)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            # Sparse files of the whole size; the description last, so that a folder with one is whole.
            for name, array in self.arrays.items():
                size = rows * int(np.prod(array.shape, dtype=np.int64)) * np.dtype(array.dtype).itemsize
                _make(self._file(name), size)
            _make(folder / _DONE, rows)
            write_text(meta, json.dumps(described, indent=1) + "\n")

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.bin"

    def _map(self, path: Path, dtype: str, shape: tuple[int, ...], mode: Any) -> NDArray[Any]:
        if not self.rows:
            return np.zeros(shape, dtype)
        return np.memmap(path, dtype, mode, shape=shape)

    def open(self, name: str, writable: bool = False) -> NDArray[Any]:
        """One array, [rows, ...], mapped into memory; copy-on-write unless writable."""
        array = self.arrays[name]
        return self._map(self._file(name), array.dtype, (self.rows, *array.shape), "r+" if writable else "c")

    def missing(self) -> NDArray[np.int64]:
        """Numbers of the rows that are not there yet."""
        return np.flatnonzero(self._map(self.folder / _DONE, "u1", (self.rows,), "r") == 0)

    def fill(self, make: Fill, block: int, progress: Callable[[int, int], None] | None = None) -> None:
        """Have every missing row made, in blocks; a row counts as there once its block is on disk.

        make: numbers of rows -> an array of these rows per name.  progress: (rows done, rows in all).
        Raises DataError while another process fills the same store.
        """
        if not len(self.missing()):
            return
        with _locked(self.folder):
            missing = self.missing()  # whoever held the lock may have filled some
            done = self._map(self.folder / _DONE, "u1", (self.rows,), "r+")
            maps = {name: self.open(name, writable=True) for name in self.arrays}
            for start in range(0, len(missing), block):
                numbers = missing[start : start + block]
                for name, values in make(numbers).items():
                    maps[name][numbers] = values
                for array in maps.values():
                    _flush(array)
                done[numbers] = 1
                _flush(done)
                if progress is not None:
                    progress(self.rows - len(missing) + start + len(numbers), self.rows)


def _make(path: Path, size: int) -> None:
    with path.open("wb") as stream:
        stream.truncate(size)


def _flush(array: NDArray[Any]) -> None:
    if isinstance(array, np.memmap):
        array.flush()


def _check_same(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    ours, theirs = (x | x.get("identity", {}) for x in (wanted, found))
    differing = sorted(k for k in {*ours, *theirs} - {"identity"} if ours.get(k) != theirs.get(k))
    what = "; ".join(f"{k} was {_short(theirs.get(k))}, is {_short(ours.get(k))}" for k in differing)
    raise DataError(
        f"{folder}: this cache was made of something else ({what}); delete the folder to make it anew, or "
        "choose another one"
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process fills a store; the kernel drops the lock of one that dies."""
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(f"{folder}: another process is filling this cache; wait for it") from error
        yield
    finally:
        os.close(handle)
