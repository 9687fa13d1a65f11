"""`vidsift compact`: what many small commits and removals leave behind is put in order."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace

from vidsift.index.building import build_derived, clean_derived
from vidsift.index.config import read_config, write_config
from vidsift.index.lock import WriterLock
from vidsift.index.remote import list_objects, locate
from vidsift.index.types import ScanSetting
from vidsift.video.address import is_address


@dataclass(frozen=True)
class Compaction:
    """bytes, fragments: of the index before and after.  clips: that can be found."""

    bytes: tuple[int, int]
    fragments: tuple[int, int]
    clips: int


def compact_index(folder: str | os.PathLike[str], scan: ScanSetting | None = None) -> Compaction:
    """Put the table's fragments together, learn the scan's codes anew, drop the space of removed clips.

    scan: how the index is to be scanned from now on; None leaves that as it is. What was tuned for another
    scan is forgotten.
    Of an index in object storage only the table; what machines have cached of it goes on growing.
    Searches go on meanwhile. Versions of the table that a reader may have opened within the last hour stay.
    Raises IndexNotFoundError, IndexStateError (another process writes, damaged).
    """
    from vidsift.index.store import Store  # imports LanceDB, which a search does not need

    path = locate(folder)
    config = read_config(path)
    with WriterLock(path):
        store = Store.open(path, config.model.fingerprint)
        config = read_config(path)  # again: another writer may have been at work before
        if scan is not None and scan != config.scan:
            config = replace(config, scan=scan, picked=None)
            write_config(path, config)
        size, fragments = index_bytes(path), store.fragments()
        store.compact()
        store.index_words(whole=True)
        if not is_address(path):
            build_derived(path, config.index_id, store, whole=True, setting=config.scan)
            clean_derived(path, store.version)
        after = index_bytes(path)
        return Compaction((size, after), (fragments, store.fragments()), store.count_clips())


def index_bytes(folder: str) -> int:
    """Bytes of all that an index's folder or prefix holds; a file with two names counts once."""
    if is_address(folder):
        return sum(list_objects(folder, deep=True).values())
    total, seen = 0, set()
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a writer may be tidying up
                status = os.lstat(os.path.join(parent, name))
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    total += status.st_size
    return total
