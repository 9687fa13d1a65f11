"""Synthetic clips and small indexes for the tests of the index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vidsift.index import Index
from vidsift.index.config import ModelSpec
from vidsift.index.founding import create_files
from vidsift.index.rerank import RerankWeights
from vidsift.index.store import Store
from vidsift.index.types import ClipRecord, FileRecord, quantise
from vidsift.video import SegmentConfig

WIDTH, FRAMES = 16, 4
FINGERPRINT = "0123456789abcdef"


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def clip(seed: int, start: float = 0.0, frames: int = FRAMES, width: int = WIDTH) -> ClipRecord:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(frames, width)))
    times = start + np.arange(frames) + 0.5
    stored = quantise(unit(vectors.mean(0)), vectors, np.ones(frames, bool), times)
    return ClipRecord(f"{seed:032x}", start, start + frames, stored, b"jpeg %d" % seed, {"seed": seed})


def file(path: str, clips: int = 1, status: str = "ok", error: str = "") -> FileRecord:
    return FileRecord(path, f"print of {path!a}", 10, 20, 4.0 * clips, status, error, clips)


@pytest.fixture
def kit() -> SimpleNamespace:
    return SimpleNamespace(
        unit=unit, clip=clip, file=file, width=WIDTH, frames=FRAMES, fingerprint=FINGERPRINT
    )


@pytest.fixture
def new_store(tmp_path: Path) -> Callable[[], tuple[str, Store]]:
    """Make an empty index folder; returns its path and a handle for writing."""

    def make() -> tuple[str, Store]:
        folder = str(tmp_path / "index")
        spec = ModelSpec("fake", FINGERPRINT, WIDTH, FRAMES)
        create_files(folder, spec, SegmentConfig(), RerankWeights())
        return folder, Store.open(folder, FINGERPRINT)

    return make


@pytest.fixture
def library(new_store: Callable[[], tuple[str, Store]]) -> tuple[str, Store, Index]:
    """Thirty files of one clip, one of fifty clips, one that failed; opened."""
    return fill(*new_store())


@pytest.fixture(scope="module")
def library_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, SimpleNamespace]:
    """The same, for tests that only search."""
    folder = str(tmp_path_factory.mktemp("once") / "index")
    create_files(folder, ModelSpec("fake", FINGERPRINT, WIDTH, FRAMES), SegmentConfig(), RerankWeights())
    tools = SimpleNamespace(unit=unit, clip=clip, file=file, width=WIDTH, frames=FRAMES)
    return fill(folder, Store.open(folder, FINGERPRINT))[2], tools


def fill(folder: str, store: Store) -> tuple[str, Store, Index]:
    singles = [(file(f"/lib/{i:02}.mp4"), [clip(i)]) for i in range(30)]
    film = (file("/lib/film.mp4", 50), [clip(100 + i, 4.0 * i) for i in range(50)])
    failed = (file("/lib/bad.mp4", 0, "failed", "no video stream"), [])
    store.replace_files([*singles, film, failed], known=False)
    return folder, store, Index.open(folder)
