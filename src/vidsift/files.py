"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in place."""
    partial = path.with_suffix(path.suffix + ".part")
    write(partial)
    os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))
