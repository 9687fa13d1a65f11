"""What an indexing run says: while it goes on, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Stage = Literal["scan", "compare", "read", "finish"]


@dataclass(frozen=True)
class FileProblem:
    """A file that could not be indexed, or only in part, and why."""

    path: str
    reason: str

    def to_dict(self) -> dict[str, str]:
        return {"path": self.path, "reason": self.reason}


@dataclass(frozen=True)
class StageWork:
    """What one stage of a run did: clips, and seconds of work, added up over all processes that shared it."""

    seconds: float = 0.0
    clips: int = 0

    def to_dict(self) -> dict[str, float]:
        rate = self.clips / self.seconds if self.seconds > 0 else 0.0
        return {"seconds": self.seconds, "clips": self.clips, "clips_per_second": rate}


@dataclass(frozen=True)
class IngestReport:
    """The outcome of one run over the paths it was given, in the shape of `index --json`.

    added, updated, removed, unchanged, renamed: files with clips in the index. failed, partial: every such
    file below the paths, also when an earlier run found it out and this one did not touch it; a partial file
    is counted above as well, a failed one is not. clips: what the whole index holds now. stages: where the
    work went, "decode", "encode" and "commit"; empty when nothing had to be read.
    """

    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    renamed: int = 0
    failed: list[FileProblem] = field(default_factory=list)
    partial: list[FileProblem] = field(default_factory=list)
    clips: int = 0
    seconds: float = 0.0
    stages: dict[str, StageWork] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "added": self.added,
            "updated": self.updated,
            "removed": self.removed,
            "unchanged": self.unchanged,
            "renamed": self.renamed,
            "failed": [problem.to_dict() for problem in self.failed],
            "partial": [problem.to_dict() for problem in self.partial],
            "clips": self.clips,
            "seconds": self.seconds,
            "stages": {name: stage.to_dict() for name, stage in self.stages.items()},
        }


@dataclass(frozen=True)
class Progress:
    """Where a run is: handed to the progress callback, often.

    stage: "scan" the folders, "compare" contents, "read" (decode, encode, commit), "finish" the arrays.
    done, total: files of this stage.  bytes_done, bytes_total: the same in bytes, within long files too.
    clips: encoded so far.  committed: files of this run that are safely in the index.
    seconds: since this stage began.  path: the file at hand.
    seconds_left: estimate of the rest of this stage, from its rate since something of it was done: what came
    before, such as looking for the shots of a long file, does not come again. None before there is a rate.
    """

    stage: Stage
    done: int
    total: int
    bytes_done: int
    bytes_total: int
    clips: int
    committed: int
    seconds: float
    path: str = ""
    seconds_left: float | None = None

    @property
    def bytes_per_second(self) -> float:
        """Rate of this stage so far; 0 before anything is done."""
        return self.bytes_done / self.seconds if self.seconds > 0 else 0.0
