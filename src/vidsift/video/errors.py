"""The one error that reading a video file can raise on purpose."""

from __future__ import annotations

import os
from pathlib import Path


class VideoError(Exception):
    """A file cannot be read as a video; carries the file and the reason, and says both.

    It pickles, so that a worker process can raise it.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
