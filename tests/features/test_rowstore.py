"""Stores of rows: filled in several sittings, read back as written, refused when made of something else."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vidsift.errors import DataError
from vidsift.features.rowstore import Array, Rows, RowStore

ARRAYS = {"a": Array((2,), "f4"), "n": Array((), "u2")}
IDENTITY = {"model": "m1", "data": "d1"}


def make(numbers: NDArray[np.int64]) -> Rows:
    return {"a": np.stack([numbers, -numbers], 1).astype(np.float32), "n": numbers.astype(np.uint16)}


def test_rows_come_back_as_they_were_made(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "s", 7, ARRAYS, IDENTITY)
    assert store.missing().tolist() == list(range(7))
    seen: list[tuple[int, int]] = []
    store.fill(make, 3, lambda done, rows: seen.append((done, rows)))
    assert seen == [(3, 7), (6, 7), (7, 7)]
    again = RowStore(tmp_path / "s", 7, ARRAYS, IDENTITY)
    assert not len(again.missing())
    assert again.open("a")[4].tolist() == [4.0, -4.0]
    assert again.open("n").tolist() == list(range(7))
    again.fill(lambda numbers: pytest.fail("asked for rows that are there"), 3)


def test_a_filling_that_was_interrupted_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    asked: list[int] = []

    def failing(numbers: NDArray[np.int64]) -> Rows:
        if 4 in numbers:
            raise RuntimeError("out of memory")
        return make(numbers)

    with pytest.raises(RuntimeError):
        RowStore(tmp_path / "s", 7, ARRAYS, IDENTITY).fill(failing, 2)
    store = RowStore(tmp_path / "s", 7, ARRAYS, IDENTITY)
    assert store.missing().tolist() == [4, 5, 6]

    def counting(numbers: NDArray[np.int64]) -> Rows:
        asked.extend(numbers.tolist())
        return make(numbers)

    store.fill(counting, 2)
    assert asked == [4, 5, 6]
    assert store.open("n").tolist() == list(range(7))


@pytest.mark.parametrize(
    ("rows", "arrays", "identity", "message"),
    [
        (7, ARRAYS, {"model": "m2", "data": "d1"}, 'model was "m1", is "m2"'),
        (7, ARRAYS, {"model": "m1", "data": "d2"}, "data was"),
        (8, ARRAYS, IDENTITY, "rows was 7, is 8"),
        (7, {"a": Array((3,), "f4"), "n": ARRAYS["n"]}, IDENTITY, "arrays was"),
    ],
)
def test_a_store_of_something_else_is_refused_and_says_what_differs(
    rows: int, arrays: dict[str, Array], identity: dict[str, str], message: str, tmp_path: Path
) -> None:
    RowStore(tmp_path / "s", 7, ARRAYS, IDENTITY).fill(make, 7)
    with pytest.raises(DataError, match=message) as error:
        RowStore(tmp_path / "s", rows, arrays, identity)
    assert "delete the folder" in str(error.value)
    assert RowStore(tmp_path / "s", 7, ARRAYS, IDENTITY).open("n").tolist() == list(range(7))


def test_two_writers_do_not_fill_one_store(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "s", 3, ARRAYS, IDENTITY)

    def inside(numbers: NDArray[np.int64]) -> Rows:
        with pytest.raises(DataError, match="another process is filling"):
            RowStore(tmp_path / "s", 3, ARRAYS, IDENTITY).fill(make, 3)
        return make(numbers)

    store.fill(inside, 3)
    assert store.open("n").tolist() == [0, 1, 2]


def test_what_a_reader_changes_stays_in_its_memory(tmp_path: Path) -> None:
    store = RowStore(tmp_path / "s", 3, ARRAYS, IDENTITY)
    store.fill(make, 3)
    store.open("n")[0] = 9
    assert store.open("n")[0] == 0
    assert json.loads((tmp_path / "s" / "store.json").read_text())["identity"] == IDENTITY
