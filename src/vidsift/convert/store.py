"""TeachCLIP's feature stores: `feature.bin`, `id.txt` and `shape.txt` in one folder, read and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidsift.errors import ConversionError

FEATURES, IDS, SHAPE = "feature.bin", "id.txt", "shape.txt"
Array = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class FeatureStore:
    """Vectors of clips or queries by name.  ids: n names.  features: float32 [n, D], row i belongs to ids[i].

    As published, rows are not unit vectors; normalise before comparing.
    """

    ids: list[str]
    features: Array

    def select(self, ids: Sequence[str]) -> Array:
        """The rows of these names, in their order.  Raises ConversionError naming the first unknown one."""
        rows = {name: i for i, name in enumerate(self.ids)}
        missing = [name for name in ids if name not in rows]
        if missing:
            raise ConversionError(
                f"{missing[0]!r} is not in the feature store ({len(missing)} unknown names)"
            )
        found: Array = self.features[[rows[name] for name in ids]]
        return found


def read_store(folder: Path) -> FeatureStore:
    """Open a feature store; the features are mapped from the file, not read into memory.

    Names are separated by spaces or by line breaks.
    Raises ConversionError naming the file when one is missing or the three do not agree.
    """
    try:
        shape = (folder / SHAPE).read_text(encoding="utf-8").split()
        ids = (folder / IDS).read_text(encoding="utf-8").split()
        size = (folder / FEATURES).stat().st_size
    except (OSError, UnicodeDecodeError) as error:
        raise ConversionError(f"{folder}: {error}") from error
    if len(shape) != 2 or not all(x.isascii() and x.isdigit() for x in shape):
        raise ConversionError(f"{folder / SHAPE}: {' '.join(shape)!r} is not a number of rows and a width")
    rows, width = int(shape[0]), int(shape[1])
    if len(ids) != rows:
        raise ConversionError(f"{folder / IDS}: {len(ids)} names, but {SHAPE} says {rows}")
    if size != rows * width * 4:
        raise ConversionError(f"{folder / FEATURES}: {size} bytes are not {rows} x {width} float32 numbers")
    if len(set(ids)) != rows:
        twice = next(name for i, name in enumerate(ids) if name in set(ids[:i]))
        raise ConversionError(f"{folder / IDS}: {twice!r} is there twice")
    if size == 0:
        return FeatureStore(ids, np.zeros((rows, width), np.float32))
    return FeatureStore(ids, np.memmap(folder / FEATURES, dtype="<f4", mode="r", shape=(rows, width)))


def write_store(folder: Path, ids: Sequence[str], features: Array) -> None:
    """Write a feature store that TeachCLIP's evaluation reads.

    ids: n names without white space, each once.  features: [n, D], finite; written as little-endian float32.
    Raises ConversionError naming the name or row that the format cannot hold: the official reader would
    silently drop it, and every later row would belong to another name.
    """
    if features.ndim != 2 or len(features) != len(ids):
        raise ConversionError(f"{len(ids)} names for features of shape {features.shape}")
    seen: set[str] = set()
    for name in ids:
        if not name or len(name.split()) != 1 or name.split()[0] != name:
            raise ConversionError(f"{name!r}: a name in a feature store has no white space and is not empty")
        if name in seen:
            raise ConversionError(f"{name!r}: named twice")
        seen.add(name)
    wrong = np.flatnonzero(~np.isfinite(features).all(1))
    if len(wrong):
        raise ConversionError(f"{ids[int(wrong[0])]!r}: its vector is not finite")
    folder.mkdir(parents=True, exist_ok=True)
    np.ascontiguousarray(features, dtype="<f4").tofile(folder / FEATURES)
    (folder / IDS).write_text(" ".join(ids) + "\n", encoding="utf-8")
    (folder / SHAPE).write_text(f"{features.shape[0]} {features.shape[1]}\n", encoding="utf-8")
