"""TeachCLIP's feature stores are read as published and written so that the official reader agrees."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.convert.store import read_store, write_store
from vidsift.errors import ConversionError

NAMES = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8).filter(
    lambda s: s.split() == [s]
)


@given(st.lists(NAMES, unique=True, max_size=6), st.integers(1, 5), st.integers(0, 99))
def test_a_store_comes_back_as_it_was(ids: list[str], width: int, seed: int) -> None:
    import tempfile

    features = np.random.default_rng(seed).normal(size=(len(ids), width)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        write_store(Path(name) / "run", ids, features)
        store = read_store(Path(name) / "run")
        assert store.ids == ids
        assert np.array_equal(store.features, features)


def test_the_three_files_are_the_official_ones(tmp_path: Path) -> None:
    write_store(tmp_path, ["video9001", "video9002"], np.array([[1, 2, 3], [4, 5, 6]], np.float64))
    assert (tmp_path / "feature.bin").read_bytes() == struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    assert (tmp_path / "id.txt").read_text().split(" ") == ["video9001", "video9002\n"]
    assert (tmp_path / "shape.txt").read_text().split() == ["2", "3"]


def test_names_on_lines_of_their_own_are_read_too(tmp_path: Path) -> None:
    write_store(tmp_path, ["a", "b"], np.eye(2, dtype=np.float32))
    (tmp_path / "id.txt").write_text("b\na\n")
    store = read_store(tmp_path)
    assert store.ids == ["b", "a"]
    assert np.array_equal(store.select(["a", "b", "a"]), [[0, 1], [1, 0], [0, 1]])
    with pytest.raises(ConversionError, match="'c'"):
        store.select(["a", "c"])


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [
        (["a b"], np.ones((1, 2)), "'a b'"),
        (["a", "a"], np.ones((2, 2)), "'a': named twice"),
        ([""], np.ones((1, 2)), "empty"),
        (["a", "b"], np.array([[1.0], [np.nan]]), "'b': its vector is not finite"),
        (["a"], np.ones((2, 2)), "1 names"),
    ],
)
def test_what_the_official_reader_would_misread_is_not_written(
    ids: list[str], features: np.ndarray, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=message):
        write_store(tmp_path / "run", ids, features)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("shape.txt", "2 4", r"feature\.bin: 24 bytes are not 2 x 4"),
        ("shape.txt", "3 3", r"id\.txt: 2 names"),
        ("shape.txt", "two 3", r"shape\.txt"),
        ("id.txt", "a a", r"id\.txt: 'a' is there twice"),
        ("id.txt", None, r"id\.txt"),
    ],
)
def test_files_that_disagree_are_named(file: str, data: str | None, message: str, tmp_path: Path) -> None:
    write_store(tmp_path, ["a", "b"], np.ones((2, 3), np.float32))
    if data is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(data)
    with pytest.raises(ConversionError, match=message):
        read_store(tmp_path)
