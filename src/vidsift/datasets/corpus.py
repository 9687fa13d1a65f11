"""A corpus: clips of video files, what is said of them, and its splits, whatever format they came in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vidsift.errors import DataError
from vidsift.files import write_text

Role = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Video:
    """A clip: a file, or its part from `start` to `end` seconds.  id: what the data set calls it."""

    path: Path
    start: float | None = None
    end: float | None = None
    id: str = field(default="", compare=False)


@dataclass(frozen=True)
class Caption:
    """A sentence (or paragraph) about the corpus's video of this number, and the line that it came from."""

    video: int
    text: str
    line: int
    file: Path

    @property
    def where(self) -> str:
        """FILE:LINE, for a message."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Split:
    """Numbers of a split's videos and captions.  lacking: why captions are absent, or empty."""

    role: Role
    videos: tuple[int, ...]
    captions: tuple[int, ...]
    lacking: str = ""


@dataclass(frozen=True)
class Corpus:
    """Videos and captions in the order of their files; splits by name, which may overlap."""

    videos: tuple[Video, ...]
    captions: tuple[Caption, ...]
    splits: Mapping[str, Split] = field(default_factory=dict)

    def only(self, split: str) -> Corpus:
        """The videos and captions of one split.  Raises DataError when it is absent or has no captions."""
        if split not in self.splits:
            raise DataError(f"no split {split!r} here; there are {', '.join(self.splits) or 'none'}")
        found = self.splits[split]
        if not found.captions:
            raise DataError(f"{split}: {found.lacking or 'has no captions'}")
        place = {number: k for k, number in enumerate(found.videos)}
        captions = [self.captions[n] for n in found.captions]
        return Corpus(
            tuple(self.videos[n] for n in found.videos),
            tuple(Caption(place[c.video], c.text, c.line, c.file) for c in captions),
            {split: Split(found.role, tuple(range(len(place))), tuple(range(len(captions))))},
        )


class CorpusBuilder:
    """Collects what the annotation files of one data set say."""

    def __init__(self) -> None:
        self.videos: list[Video] = []
        self.captions: list[Caption] = []
        self.splits: dict[str, Split] = {}
        self._numbers: dict[str, int] = {}
        self._captions_of: dict[int, list[int]] = {}

    def video(self, key: str, path: Path, start: float | None = None, end: float | None = None) -> int:
        """The number of the video that the data set calls `key`; new the first time."""
        if key not in self._numbers:
            self._numbers[key] = len(self.videos)
            self.videos.append(Video(path, start, end, key))
        return self._numbers[key]

    def caption(self, video: int, text: str, file: Path, line: int, pooled: bool = True) -> int:
        """Add what is said of a video.  pooled: for every split with the video, not only one that asks."""
        self.captions.append(Caption(video, text, line, file))
        if pooled:
            self._captions_of.setdefault(video, []).append(len(self.captions) - 1)
        return len(self.captions) - 1

    def captions_of(self, videos: Iterable[int]) -> tuple[int, ...]:
        """All pooled captions of some videos, video by video."""
        return tuple(n for video in videos for n in self._captions_of.get(video, ()))

    def split(
        self,
        name: str,
        role: Role,
        videos: Iterable[int],
        captions: Iterable[int] | None = None,
        lacking: str = "",
    ) -> None:
        """Name a split; without `captions` it has all those of its videos.

        Raises DataError when some of its videos have captions and others none.
        """
        chosen = tuple(videos)
        said = self.captions_of(chosen) if captions is None else tuple(captions)
        spoken = {self.captions[n].video for n in said}
        silent = [n for n in chosen if n not in spoken]
        if said and silent:
            example = self.captions[said[0]].file
            raise DataError(
                f"{example}: says nothing of {self.videos[silent[0]].id}, which is in {name} "
                f"({len(silent)} of {len(chosen)} videos are without captions)"
            )
        self.splits[name] = Split(role, chosen, said, "" if said else lacking)

    def build(self) -> Corpus:
        """What was collected."""
        return Corpus(tuple(self.videos), tuple(self.captions), self.splits)


def write_manifest(corpus: Corpus, path: Path) -> None:
    """Write a corpus as `.jsonl` with the columns video, caption, start, end and id, readable as a table.

    video: an absolute path, so that the manifest may lie anywhere.
    """
    lines = []
    for caption in corpus.captions:
        video = corpus.videos[caption.video]
        row: dict[str, object] = {"video": str(video.path.absolute()), "caption": caption.text}
        row |= {k: v for k, v in (("start", video.start), ("end", video.end)) if v is not None}
        lines.append(json.dumps(row | {"id": video.id}, ensure_ascii=False))
    write_text(path, "".join(line + "\n" for line in lines))
