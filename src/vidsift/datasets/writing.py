"""Writing annotation files in other people's formats, for examples."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path


def place(file: Path, target: Path) -> None:
    """Put a video where a layout wants it, as a link where the disk allows that."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:  # another disk
        shutil.copyfile(file, target)


def write_csv(
    path: Path, header: Sequence[str] | None, rows: Iterable[Sequence[str]], delimiter: str = ","
) -> None:
    """A csv as Python's own writer makes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=delimiter, lineterminator="\n")
        if header is not None:
            writer.writerow(header)
        writer.writerows(rows)
