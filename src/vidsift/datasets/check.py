"""What is wrong with a data set on this disk: missing, broken and doubled videos, empty captions, leaks."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from vidsift.datasets.corpus import Corpus, Role
from vidsift.video import VideoError, probe

_BLOCK = 1 << 20


@dataclass(frozen=True)
class SplitCheck:
    """One split.  missing: ids without a file.  corrupt: file -> why it cannot be read.

    empty: FILE:LINE of captions without words.  repeated: captions that another video of the split has too.
    lacking: why there are no captions at all.
    """

    name: str
    role: Role
    videos: int
    captions: int
    present: int
    missing: tuple[str, ...]
    corrupt: dict[str, str]
    empty: tuple[str, ...]
    repeated: int
    lacking: str


@dataclass(frozen=True)
class Overlap:
    """Videos that two splits share.  leak: the splits have different roles, so a result would be wrong."""

    first: str
    second: str
    shared: int
    of_first: int
    of_second: int
    leak: bool


@dataclass(frozen=True)
class CorpusCheck:
    """doubled: groups of ids whose files hold the same bytes (or are one file)."""

    splits: tuple[SplitCheck, ...]
    overlaps: tuple[Overlap, ...]
    doubled: tuple[tuple[str, ...], ...]

    @property
    def broken(self) -> bool:
        """Whether something is missing, corrupt, empty or doubled; overlaps are for the reader to judge."""
        splits = any(s.missing or s.corrupt or s.empty or s.lacking for s in self.splits)
        return splits or bool(self.doubled)


def check_corpus(
    corpus: Corpus, open_files: bool = True, progress: Callable[[int, int], None] | None = None
) -> CorpusCheck:
    """Look at every split of a corpus and at every file that it names.

    open_files: open each video and compare the bytes of files of one size; otherwise only see whether it is
    there.  progress: (videos looked at, all videos).
    """
    present = [video.path.is_file() for video in corpus.videos]
    reasons: dict[int, str] = {}
    if open_files:
        for number, video in enumerate(corpus.videos):
            if present[number]:
                try:
                    probe(video.path)
                except VideoError as error:
                    reasons[number] = error.reason
            if progress is not None:
                progress(number + 1, len(corpus.videos))
    splits = []
    for name, split in corpus.splits.items():
        said = [corpus.captions[n] for n in split.captions]
        videos_by_text = defaultdict(set)
        for caption in said:
            videos_by_text[caption.text.strip().lower()].add(caption.video)
        splits.append(
            SplitCheck(
                name,
                split.role,
                len(split.videos),
                len(said),
                sum(present[n] for n in split.videos),
                tuple(corpus.videos[n].id for n in split.videos if not present[n]),
                {str(corpus.videos[n].path): reasons[n] for n in split.videos if n in reasons},
                tuple(caption.where for caption in said if not caption.text.strip()),
                sum(len(videos_by_text[caption.text.strip().lower()]) > 1 for caption in said),
                split.lacking,
            )
        )
    doubled = _doubled(corpus, present) if open_files else ()
    return CorpusCheck(tuple(splits), tuple(_overlaps(corpus)), doubled)


def _overlaps(corpus: Corpus) -> list[Overlap]:
    found = []
    for (a, first), (b, second) in combinations(corpus.splits.items(), 2):
        shared = len(set(first.videos) & set(second.videos))
        if shared:
            leak = first.role != second.role
            found.append(Overlap(a, b, shared, len(first.videos), len(second.videos), leak))
    return found


def _doubled(corpus: Corpus, present: list[bool]) -> tuple[tuple[str, ...], ...]:
    """Groups of ids with the same file content, whole clips only: parts of one file are no doubles."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for number, video in enumerate(corpus.videos):
        if present[number]:
            by_size[video.path.stat().st_size].append(number)
    groups: dict[tuple[object, ...], list[str]] = defaultdict(list)
    digests: dict[Path, str] = {}
    for numbers in by_size.values():
        if len(numbers) < 2:
            continue
        for number in numbers:
            video = corpus.videos[number]
            path = video.path.resolve()
            if path not in digests:
                digests[path] = _digest(path)
            groups[digests[path], video.start, video.end].append(video.id)
    return tuple(tuple(ids) for ids in groups.values() if len(ids) > 1)


def _digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def summary(check: CorpusCheck) -> Counter[str]:
    """How many of each kind of trouble."""
    found: Counter[str] = Counter()
    for split in check.splits:
        found["missing"] += len(split.missing)
        found["corrupt"] += len(split.corrupt)
        found["empty captions"] += len(split.empty)
    found["doubled"] = sum(len(group) - 1 for group in check.doubled)
    found["leaks"] = sum(overlap.leak for overlap in check.overlaps)
    return found
