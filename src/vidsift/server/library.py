"""The index behind the service: opened, kept up to date, asked by many at once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vidsift.errors import IndexStateError, QueryError, ShardsError
from vidsift.index import Filter, Index, SearchResult, parse_query
from vidsift.index.fusion import CHANNELS
from vidsift.index.remote import locate
from vidsift.index.store import Store
from vidsift.index.types import Channel, FileRecord, file_key
from vidsift.video.address import is_address
from vidsift.video.still import decode_image

if TYPE_CHECKING:
    from vidsift.index.derived import Derived
    from vidsift.index.ranking import GroupBy
    from vidsift.index.types import Rows
    from vidsift.models import RetrievalModel

log = logging.getLogger(__name__)

LOOK_EVERY, LOOK_FAR_EVERY = 1.0, 10.0
"""Seconds between two looks at whether the index has grown: in a folder, in object storage."""

_PICTURES = 4096


class UnknownError(Exception):
    """No such video or clip."""


class ChangedError(Exception):
    """A file is not what was indexed (any more), so it is not given away."""


class Catalogue:
    """The videos of one snapshot.  numbers: of files in the arrays, by the video's id.  order: these numbers
    in the order of their paths."""

    def __init__(self, arrays: Derived) -> None:
        self.arrays = arrays
        paths = [arrays.paths[number] for number in range(len(arrays.paths))]
        self.numbers = {file_key(os.fsdecode(path)): number for number, path in enumerate(paths)}
        self.order = sorted(range(len(paths)), key=paths.__getitem__)
        # Rows by file, and by time within each.
        self._rows = np.lexsort((arrays.spans[:, 0], arrays.file_of))
        self._ends = np.searchsorted(arrays.file_of[self._rows], np.arange(len(paths) + 1))

    def rows_of(self, number: int) -> Rows:
        """Rows of a file's clips, in the order of time."""
        return self._rows[self._ends[number] : self._ends[number + 1]]


class Library:
    """Thread-safe. Every question is answered from one snapshot of the index."""

    def __init__(
        self,
        folder: str | Path,
        searches: int,
        open_index: Callable[[str], Index] = Index.open,
        patience: float | None = None,
    ) -> None:
        from vidsift.models import load_model

        self.folder = locate(folder)
        self._every = LOOK_FAR_EVERY if is_address(self.folder) else LOOK_EVERY
        self._index = open_index(self.folder)
        self.model: RetrievalModel = load_model(self._index.model.name)
        self._index.check_model(self.model)
        self._turn, self._patience = threading.BoundedSemaphore(searches), patience
        self._looking = threading.Lock()
        self._looked = time.monotonic()
        self._catalogue: Catalogue | None = None
        self._pictures: OrderedDict[str, bytes] = OrderedDict()
        self._store = Store.open(self.folder, self._index.model.fingerprint)
        self._storing = threading.Lock()

    @property
    def index(self) -> Index:
        """The index as it was at most about a second ago (ten, in object storage)."""
        if time.monotonic() - self._looked > self._every and self._looking.acquire(blocking=False):
            try:
                if self._index.is_outdated():
                    current = self._index.latest()
                    current.check_model(self.model)
                    self._index = current
                self._looked = time.monotonic()
            except IndexStateError as error:
                if not is_address(self.folder):
                    raise
                # What is searched lies on this machine, whether the object storage answers or not.
                log.warning("searches go on with what is known: %s", error)
                self._looked = time.monotonic()
            finally:
                self._looking.release()
        return self._index

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until fewer than the allowed number of searches are at work.  Raises ShardsError after
        `patience` seconds."""
        if not self._turn.acquire(timeout=self._patience):
            raise ShardsError(f"others were searching for {self._patience:g} s: try again soon")
        try:
            yield
        finally:
            self._turn.release()

    def search(
        self,
        query: str | None,
        like: str | None,
        image: bytes | None,
        k: int,
        candidates: int | None,
        group_by: GroupBy,
        where: Filter,
        collapse: bool | None = None,
        channels: Collection[Channel] = CHANNELS,
    ) -> SearchResult:
        """Answer a sentence, a picture's bytes, or a clip (which is left out of the answer)."""
        index = self.index
        asked: Any = None if query is None else parse_query(query)
        if like is not None:
            row = self._row(index, like)
            asked = index.arrays.scan.vectors(np.array([row]))[0]
        with self.turn():
            if image is not None:
                picture = decode_image(image, self.model.preprocess.geometry)
                asked = self.model.encode_images(picture[None])[0]
            extra = 1 if like is not None else 0
            result = index.search(
                asked,
                self.model,
                k=k + extra,
                candidates=candidates,
                group_by=group_by,
                where=where,
                collapse=collapse,
                channels=channels,
            )
        if query is not None:
            result = replace(result, query=query)
        if like is not None:
            hits = [hit for hit in result.hits if hit.clip_id != like][:k]
            result = replace(result, hits=hits)
        return result

    def relevance(self, video: str, query: str) -> tuple[list[float], list[float]]:
        """Seconds and cosines of all frames of a video with a sentence, in the order of time."""
        index = self.index
        rows = self.rows_of(index, video)
        arrays = index.arrays
        with self.turn():
            terms = [term for term in parse_query(query) if term.weight > 0]
            shares = np.array([term.weight for term in terms], np.float32)
            sentence = (shares / shares.sum()) @ self.model.encode_queries([term.text for term in terms])
        frames = arrays.frames_of(rows).astype(np.float32)
        cosines = (frames @ sentence) * arrays.scales[rows]
        times = [arrays.times_of(row).tolist() for row in rows.tolist()]
        values = [cosines[i, : len(part)].tolist() for i, part in enumerate(times)]
        return [second for part in times for second in part], [value for part in values for value in part]

    def rows_of(self, index: Index, video: str) -> Rows:
        """Rows of a video's clips, in the order of time.  Raises UnknownError."""
        return self.catalogue(index).rows_of(self.number_of(index, video))

    def number_of(self, index: Index, video: str) -> int:
        """Which file of the arrays a video's id names.  Raises UnknownError."""
        numbers = self.catalogue(index).numbers
        if video not in numbers:
            raise UnknownError(video)
        return numbers[video]

    def catalogue(self, index: Index) -> Catalogue:
        """The videos of a snapshot of the index; made once for each."""
        known = self._catalogue
        if known is None or known.arrays is not index.arrays:
            known = self._catalogue = Catalogue(index.arrays)
        return known

    def path_of(self, index: Index, video: str) -> str:
        """The path of a video that can be found.  Raises UnknownError."""
        return os.fsdecode(index.arrays.paths[self.number_of(index, video)])

    @staticmethod
    def _row(index: Index, clip: str) -> int:
        rows = np.flatnonzero(index.arrays.clip_ids == clip.encode())
        if not len(rows):
            raise UnknownError(clip)
        return int(rows[0])

    def thumbnail(self, clip: str) -> bytes:
        """A clip's JPEG.  Raises UnknownError."""
        found = self._pictures.get(clip)
        if found is not None:
            return found
        self._row(self.index, clip)
        try:
            with self._storing:
                found = self._store.thumbnail(clip)
        except KeyError as error:
            raise UnknownError(clip) from error
        self._pictures[clip] = found
        while len(self._pictures) > _PICTURES:
            self._pictures.popitem(last=False)
        return found

    def open_file(self, video: str) -> tuple[str, os.stat_result]:
        """The path of a video, if what lies there is still the file that was indexed.

        Size and time stamp are compared with the record, so that a link that was put in its place gives
        nothing away.  Raises UnknownError, ChangedError.
        """
        path = self.path_of(self.index, video)
        with self._storing:
            record: FileRecord | None = self._store.file(path)
        if record is None:
            raise UnknownError(video)
        if is_address(path):
            raise ChangedError("the file lies in object storage, from where it cannot be played here")
        try:
            status = os.stat(path)
        except OSError as error:
            raise ChangedError("the file is gone; index again") from error
        if (status.st_size, status.st_mtime_ns) != (record.size, record.mtime_ns):
            raise ChangedError("the file has changed since it was indexed; index again")
        return path, status

    def shown(self, path: str) -> str:
        """A path below the root that it was indexed under, so that answers do not tell where that is."""
        for root in self._index.config.roots:
            if path.startswith(root.rstrip(os.sep) + os.sep):
                return printable(os.path.relpath(path, os.path.dirname(root)))
        return printable(os.path.basename(path))

    def filter_for(self, filters: Any, video: str | None) -> Filter:
        """The index's filter for a request's.  Raises UnknownError, QueryError."""
        paths = tuple(filters.paths)
        if video is not None:
            if paths:
                raise QueryError("name a video or paths, not both")
            paths = (_literal(self.path_of(self.index, video)),)
        return Filter(
            paths, filters.after, filters.before, filters.shortest, filters.longest, dict(filters.metadata)
        )


def printable(path: str) -> str:
    """A path as text that JSON can hold; bytes that are not UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _literal(path: str) -> str:
    """A path as a pattern that matches itself only, if it has signs that make it one."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)
