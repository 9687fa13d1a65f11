"""One writer at a time: an advisory lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from types import TracebackType

from vidsift.errors import IndexStateError
from vidsift.video.address import is_address

LOCK_NAME = "writer.lock"


def being_written(folder: str) -> bool:
    """Whether a process holds the index's writer lock now."""
    try:
        handle = os.open(os.path.join(folder, LOCK_NAME), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Without a holder's name nobody holds it, and asking would be in the way of one who is about to.
        if os.fstat(handle).st_size:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def _take(handle: int) -> None:
    """The exclusive lock; OSError when another writer has it. Asked for again for a moment: where a
    writer was killed, a reader that looks (`being_written`) is in the way for microseconds."""
    for last in (False, False, False, True):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if last:
                raise
            time.sleep(0.02)


class WriterLock:
    """Hold `DIR/writer.lock` while writing; readers never look at it.

    The lock is the kernel's (flock), so a killed writer leaves none behind; the text in the file only
    serves the message that a second writer gets. In object storage there is nothing to lock: the table lets
    several writers in, and its commits decide between them (`vidsift.index.store`).
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._handle: int | None = None

    def __enter__(self) -> WriterLock:
        if is_address(self.folder):
            return self
        path = os.path.join(self.folder, LOCK_NAME)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise IndexStateError(f"{self.folder}: the index cannot be written ({error.strerror})") from error
        try:
            _take(handle)
        except OSError as error:
            holder = os.pread(handle, 200, 0).decode(errors="replace").strip()
            os.close(handle)
            raise IndexStateError(
                f"{self.folder}: another process is writing this index ({holder or 'unknown'}); "
                "searching is possible meanwhile, writing when it has finished"
            ) from error
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode(), 0)
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            os.ftruncate(self._handle, 0)
            os.close(self._handle)
            self._handle = None
