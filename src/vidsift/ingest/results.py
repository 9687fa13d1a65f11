"""What an engine hands to the run that commits: the events of its files, their clips encoded."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from vidsift.index.types import ClipRecord
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Done, Failed, Opened


@dataclass(frozen=True)
class Encoded:
    """A clip as the store takes it (its file's metadata comes later), and the seconds it took to encode."""

    record: ClipRecord
    seconds: float


@dataclass(frozen=True)
class Lost:
    """Nothing is known about the file, through no fault of its own; another run may try again."""

    reason: str


Result = Opened | Encoded | Done | Failed | Lost
"""Of a file: Opened, its clips in order, then Done or Failed; Opened again when all of it begins anew."""

Results = Generator[tuple[Work, Result], None, None]
