"""Anyone's own data: a table with the columns video and caption."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vidsift.datasets.corpus import Caption, Corpus, Split, Video
from vidsift.errors import DataError

COLUMNS = ("video", "caption", "start", "end")
# What other files of two columns call theirs.
_ALIASES = {"path": "video", "file": "video", "video_id": "video", "text": "caption", "sentence": "caption"}


def read_table(path: Path, root: Path) -> Corpus:
    """Read a `.csv` with a header, or a `.jsonl`, with the columns video, caption (and start, end).

    video: a path below `root`, or the name of a file there without its suffix.  Whether files exist is not
    checked here. Other columns are ignored.
    Raises DataError naming the file and the line.
    """
    rows = _jsonl(path) if path.suffix in (".jsonl", ".ndjson") else _csv(path)
    stems: dict[str, Path] | None = None
    numbers: dict[Video, int] = {}
    captions = []
    for line, row in rows:
        named = {_ALIASES.get(str(k).strip().lower(), str(k).strip().lower()): v for k, v in row.items() if k}
        name, text = named.get("video"), named.get("caption")
        if not isinstance(name, str) or not name or not isinstance(text, str):
            raise DataError(f"{path}:{line}: needs the columns video and caption, found {', '.join(named)}")
        file = root / name
        if not file.suffix:
            stems = _stems(root) if stems is None else stems
            file = stems.get(name, file)
        video = Video(file, _seconds(named, "start", path, line), _seconds(named, "end", path, line), name)
        if (video.start or 0.0) >= (float("inf") if video.end is None else video.end):
            raise DataError(f"{path}:{line}: the clip ends at {video.end} s, before it starts")
        captions.append(Caption(numbers.setdefault(video, len(numbers)), text, line, path))
    if not captions:
        raise DataError(f"{path}: holds no captions")
    whole = Split("test", tuple(range(len(numbers))), tuple(range(len(captions))))
    return Corpus(tuple(numbers), tuple(captions), {path.stem: whole})


def _seconds(row: dict[str, Any], name: str, path: Path, line: int) -> float | None:
    value = row.get(name)
    if value in (None, ""):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}:{line}: {name} is {value!r}, not a number of seconds") from error
    if not 0 <= found < float("inf"):
        raise DataError(f"{path}:{line}: {name} is {value!r}; seconds start at 0")
    return found


def _stems(root: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(root.iterdir()) if path.is_file()} if root.is_dir() else {}


def _csv(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, text in enumerate(stream, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path}:{number}: expected an object")
                yield number, row
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
