"""Names of files: paths on this machine, and addresses such as s3://bucket/film.mp4."""

from __future__ import annotations

import os
import re

StrPath = str | os.PathLike[str]

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOST_SLASH = re.compile(r"(s3|s3a|gs|gcs|az|abfs|abfss|memory|https?):/[^/]")


def is_address(path: StrPath) -> bool:
    """Whether this is the address of something that is not (known to be) a file of this machine."""
    return isinstance(path, str) and _ADDRESS.match(path) is not None


def absolute(path: StrPath) -> str:
    """One name for a file, from wherever it is named: an absolute path, or an address without slashes at its
    end (file:// is a path).

    Raises ValueError for an address that was made a `Path`, which loses a slash, or that holds a password.
    """
    text = os.fspath(path)
    if text.startswith("file://"):
        return os.path.abspath(text.removeprefix("file://"))
    if is_address(text):
        place = text.partition("://")[2].partition("/")[0]
        if ":" in place.rpartition("@")[0]:
            name = text.replace(place, place.rpartition("@")[2], 1)
            raise ValueError(f"{name}: was given with a password, which would be stored with the address")
        return text.rstrip("/")
    if not isinstance(path, str) and _LOST_SLASH.match(text):
        raise ValueError(f"{text}: give an address as text, not as a Path, which drops a slash of it")
    return os.path.abspath(text)
