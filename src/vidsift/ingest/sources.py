"""Videos that lie elsewhere: addresses such as s3://bucket/videos, through fsspec.

A file is fetched whole before it is read: the reader looks at every packet anyway, and at some twice, and a
network that fails is then not taken for a damaged file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from vidsift.endpoint import CONNECT, REQUEST, access
from vidsift.errors import VidsiftError

BLOCK = 16 << 20
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "modified", "created")


@dataclass(frozen=True)
class Remote:
    """A file somewhere else; stamp: its modification time in ns, or something else that changes with it."""

    address: str
    size: int
    stamp: int


@contextmanager
def _reached(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address and its path there; whatever goes wrong is an OSError of one line."""
    scheme = address.partition("://")[0]
    options: dict[str, Any] = {}
    try:
        import fsspec

        if scheme in ("s3", "s3a"):
            limits = {"connect_timeout": CONNECT, "read_timeout": REQUEST, "retries": {"max_attempts": 2}}
            options = {"config_kwargs": limits, "endpoint_url": access().endpoint}
        yield fsspec.url_to_fs(address, **options)
    except OSError as error:
        if error.strerror or str(error):
            raise
        raise OSError(type(error).__name__) from error
    except ImportError as error:
        raise OSError(f"{scheme}:// cannot be read: {error}; pip install 'vidsift[remote]'") from error
    except VidsiftError as error:
        raise OSError(str(error)) from error
    except Exception as error:  # every storage's client has errors of its own
        reason = (str(error).splitlines() or [""])[0]
        raise OSError(f"{type(error).__name__}: {reason}") from error


def look_at(address: str) -> Remote | None:
    """The file at an address; None for a folder. Raises OSError: nothing there, no permission, no answer."""
    with _reached(address) as (system, path):
        system.invalidate_cache()
        info = system.info(path)
        return _remote(address, info) if info["type"] == "file" else None


def list_below(address: str) -> list[Remote]:
    """All files below an address, without those with a part of their name that begins with a dot."""
    with _reached(address) as (system, path):
        system.invalidate_cache()
        found = []
        for name, info in system.find(path, detail=True).items():
            below = name[len(path) :].lstrip("/")
            if info["type"] == "file" and not any(part.startswith(".") for part in below.split("/")):
                found.append(_remote(f"{address}/{below}", info))
        return found


def _remote(address: str, info: dict[str, Any]) -> Remote:
    return Remote(address, int(info.get("size") or 0), _stamp(info))


def _stamp(info: dict[str, Any]) -> int:
    for name in _TIMES:
        time = info.get(name)
        if isinstance(time, str):
            time = datetime.fromisoformat(time)
        if isinstance(time, datetime):
            time = time.timestamp()
        if time is not None:
            return round(time * 10**6) * 1000
    mark = info.get("ETag") or info.get("etag")
    return int.from_bytes(hashlib.blake2b(str(mark).encode(), digest_size=7).digest(), "big") if mark else 0


def read_ranges(address: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """The bytes of a file from, to. Raises OSError."""
    with _reached(address) as (system, path):
        begins, ends = zip(*ranges, strict=True)
        blocks = system.cat_ranges([path] * len(ranges), list(begins), list(ends), on_error="raise")
        return [bytes(block) for block in blocks]


@contextmanager
def fetching(address: str) -> Iterator[tuple[str, Iterator[int]]]:
    """A file on this machine for as long as the context lasts, with the name's ending, and an iterator that
    fills it and says after every block how many bytes there are. Raises OSError."""
    ending = os.path.splitext(address)[1]
    with tempfile.TemporaryDirectory(prefix="vidsift-fetched-", ignore_cleanup_errors=True) as folder:
        target = os.path.join(folder, f"video{ending}")
        yield target, _fetch(address, target)


def _fetch(address: str, target: str) -> Iterator[int]:
    with _reached(address) as (system, path), open(target, "wb") as out:
        size, done = system.info(path)["size"], 0
        with system.open(path, "rb", block_size=BLOCK) as source:
            while block := source.read(BLOCK):
                out.write(block)
                done += len(block)
                yield done
        if size is not None and done != size:
            raise OSError(f"{done} of {size} bytes arrived")
