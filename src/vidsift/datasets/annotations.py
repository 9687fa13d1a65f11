"""Reading other people's annotation files: lists, tables, JSON, pickles, and where the videos lie.

Byte order marks and Windows line ends are read over; whatever cannot be meant raises DataError with file
and line.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vidsift.errors import DataError

_FOLDERS = ("", "annotations", "Annotations", "annotation", "metadata", "data")
# What lies beside videos and is none.
_NOT_VIDEOS = frozenset(
    f".{name}"
    for names in (
        "csv db gz ini json jsonl log md npy npz pickle pkl tar tsv txt xml yaml yml zip",
        "bin pt pth safetensors part tmp jpg png wav srt vtt",
    )
    for name in names.split()
)


def find(root: Path, *names: str) -> Path | None:
    """The first of these files that lies in a data set's folder or in its `annotations`."""
    for name in names:
        for folder in _FOLDERS:
            if (path := root / folder / name).is_file():
                return path
    return None


def read_text(path: Path) -> str:
    """A whole text file in UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 ({error.reason})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def read_list(path: Path) -> list[str]:
    """One id a line, without blank lines.  Raises DataError for an id that stands there twice."""
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name = line.strip()
        if name:
            _once(seen, name, path, number)
    if not seen:
        raise DataError(f"{path}: holds no ids")
    return list(seen)


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines and rows of a csv with a header that has these columns, every value in place."""
    reader = csv.DictReader(read_text(path).splitlines(keepends=True), strict=True)
    try:
        header = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = header
        absent = [name for name in columns if name not in header]
        if absent:
            raise DataError(f"{path}:1: needs the column {absent[0]}, found {', '.join(header) or 'nothing'}")
        for row in reader:
            if None in row or any(row[name] is None for name in columns):
                raise DataError(f"{path}:{reader.line_num}: has not the {len(header)} values of its header")
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: {error}") from error


def read_ids(path: Path) -> list[str]:
    """Ids from a list (`.txt`), a JSON list, or the column `video_id` of a csv with one row per video."""
    if path.suffix == ".txt":
        return read_list(path)
    seen: dict[str, int] = {}
    if path.suffix == ".json":
        names = read_json(path)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{path}: expected a list of ids")
        for number, name in enumerate(names, 1):
            if name in seen:
                raise DataError(f"{path}:{line_of(path, name)}: {name} is in the list twice (entry {number})")
            seen[name] = number
    else:
        for line, row in read_rows(path, ["video_id"]):
            _once(seen, row["video_id"].strip(), path, line)
    if not seen:
        raise DataError(f"{path}: holds no ids")
    return list(seen)


def _once(seen: dict[str, int], name: str, path: Path, line: int) -> None:
    if not name:
        raise DataError(f"{path}:{line}: has no id")
    if name in seen:
        raise DataError(f"{path}:{line}: {name} stands on line {seen[name]} already")
    seen[name] = line


def read_json(path: Path) -> Any:
    """A JSON document; a key that one object has twice is an error."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise DataError(f"{path}:{line_of(path, twice, 2)}: {twice} is there twice")
        return found

    try:
        return json.loads(read_text(path), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg} (column {error.colno})") from error


def line_of(path: Path, text: str, occurrence: int = 1) -> int:
    """The line of a JSON file on which a string stands for the n-th time, from 1."""
    whole, needle, place = read_text(path), json.dumps(text, ensure_ascii=False), -1
    if needle not in whole:
        needle = json.dumps(text)
    for _ in range(occurrence):
        found = whole.find(needle, place + 1)
        place = place if found < 0 else found
    return whole.count("\n", 0, max(place, 0)) + 1


class _Plain(pickle.Unpickler):
    """Lists, dictionaries, strings and numbers, and nothing that runs."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}")


def read_pickle(path: Path) -> Any:
    """A pickle of plain values, never of objects."""
    try:
        with path.open("rb") as stream:
            # Files of Python 2 hold byte strings.
            return _Plain(stream, encoding="utf-8").load()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a pickle can fail with anything
        raise DataError(f"{path}: not a pickle of plain values: {error}") from error


class VideoFiles:
    """The files below a data set's folder that may be videos, found by name or by name without suffix."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(f"{root}: no such folder; give the data set's folder as root")
        self.root = root
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, Path] = {}
        for folder, folders, names in os.walk(root, followlinks=True):
            folders.sort()
            for name in sorted(names):
                path = Path(folder, name)
                if path.suffix.lower() in _NOT_VIDEOS:
                    continue
                self._by_name.setdefault(name, path)
                # mp4 before webm, as the official loaders prefer
                if path.suffix.lower() == ".mp4":
                    self._by_stem[path.stem] = path
                self._by_stem.setdefault(path.stem, path)

    def path(self, *names: str) -> Path:
        """The file of a video that goes by any of these names, or where it would lie."""
        for name in names:
            if name in self._by_name:
                return self._by_name[name]
        for name in names:
            if name in self._by_stem:
                return self._by_stem[name]
        return self.root / "videos" / (names[0] if Path(names[0]).suffix else f"{names[0]}.mp4")
