"""Files whose subtitles came, went or changed while their pictures did not: only their words are read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vidsift.index.types import FileRecord
from vidsift.ingest.decode import DecodePool, read_here
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Failed, WordsOnly
from vidsift.ingest.walk import Candidate
from vidsift.video.subtitles import Subtitles, sidecar_mark

if TYPE_CHECKING:
    from vidsift.index.store import Store

BATCH, BATCH_SECONDS = 256, 5.0
"""A batch ends with so many files or seconds, whichever comes first."""


def find_stale(candidates: Iterable[Candidate], known: dict[str, FileRecord], store: Store) -> list[Work]:
    """Files of the index whose words are not those that lie beside them or in them now.

    A look at the folders tells; of files that an older version indexed, also what it noted of their tracks.
    """
    stale, older = [], []
    for candidate in candidates:
        record = known.get(candidate.path)
        if record is None or not record.clips:
            continue
        mark = sidecar_mark(candidate.path)
        work = Work(candidate, record.fingerprint, known=True)
        if mark != ("" if record.subtitles in (None, "inside") else record.subtitles):
            stale.append(work)
        elif record.subtitles is None:
            older.append(work)
    unread = store.with_unread_tracks() if older else set()
    return stale + [work for work in older if work.file.path in unread]


def read_words(works: Sequence[Work], workers: int) -> Iterator[list[tuple[Work, Subtitles]]]:
    """The words of files, batch by batch; what breaks the reader is a problem of that file."""
    if not works:
        return
    pool = DecodePool(works, WordsOnly(), workers).events() if workers else None
    events = pool or read_here(works, WordsOnly())
    batch: list[tuple[Work, Subtitles]] = []
    began = time.monotonic()
    try:
        for work, event in events:
            if isinstance(event, Failed):
                # Its mark is kept, so that it is not tried again before it changes.
                batch.append((work, Subtitles((), sidecar_mark(work.file.path), event.reason)))
            elif isinstance(event, Subtitles):
                batch.append((work, event))
            if batch and (len(batch) >= BATCH or time.monotonic() - began >= BATCH_SECONDS):
                yield batch
                batch, began = [], time.monotonic()
        if batch:
            yield batch
    finally:
        events.close()
