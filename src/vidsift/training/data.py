"""What a run trains on: clips that can be read one by one, and the captions that speak of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.corpus import Caption, Corpus, Video, read_table
from vidsift.datasets.storyboard.render import render_frames
from vidsift.datasets.storyboard.splits import SPLITS, load_split
from vidsift.datasets.storyboard.world import StoryVideo
from vidsift.errors import DataError
from vidsift.training.recipe import DataSection, Recipe
from vidsift.video import Geometry, Span, VideoError, probe, read_frames, sample_times

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
HOLDOUT = "holdout"


class Clips(Protocol):
    """Clips by number."""

    def __len__(self) -> int: ...

    def read(self, number: int) -> tuple[Pixels, Mask]:
        """Frames uint8 [F, 3, S, S] and which of them are real [F].  Raises VideoError for a bad file."""

    def name(self, number: int) -> str:
        """What a message calls the clip."""

    def identity(self) -> str:
        """Hexadecimal digest of what would be read; changes when a file does."""

    def select(self, numbers: Sequence[int]) -> Clips:
        """Some of the clips, in that order."""


@dataclass(frozen=True)
class StoryClips:
    """Storyboard videos, rendered when they are asked for.  size: side of the pictures in pixels."""

    videos: tuple[StoryVideo, ...]
    frames: int
    size: int

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, number: int) -> tuple[Pixels, Mask]:
        pixels = render_frames(self.videos[number], self.frames)
        if pixels.shape[-1] != self.size:
            raise DataError(
                f"the storyboard's pictures are {pixels.shape[-1]} pixels wide, this backbone takes "
                f"{self.size}: write them to files (vidsift storyboard) and train on their captions.jsonl"
            )
        return pixels, np.ones(len(pixels), bool)

    def name(self, number: int) -> str:
        return f"storyboard video {number}"

    def identity(self) -> str:
        return hashlib.sha256(repr((self.videos, self.frames)).encode()).hexdigest()[:16]

    def select(self, numbers: Sequence[int]) -> StoryClips:
        return StoryClips(tuple(self.videos[n] for n in numbers), self.frames, self.size)


@dataclass(frozen=True)
class FileClips:
    """Clips of video files, F frames at the middles of F equal parts."""

    videos: tuple[Video, ...]
    frames: int
    geometry: Geometry

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, number: int) -> tuple[Pixels, Mask]:
        video = self.videos[number]
        start = video.start or 0.0
        end = probe(video.path).duration if video.end is None else video.end
        if end <= start:
            raise VideoError(video.path, f"ends at {end:.2f} s, before the clip starts at {start:.2f} s")
        found = read_frames(video.path, sample_times(Span(start, end), self.frames), self.geometry)
        return found.pixels, found.mask

    def name(self, number: int) -> str:
        return str(self.videos[number].path)

    def identity(self) -> str:
        digest = hashlib.sha256(repr((self.frames, self.geometry)).encode())
        for video in self.videos:
            status = video.path.stat()
            said = (video.path.name, status.st_size, status.st_mtime_ns, video.start, video.end)
            digest.update(repr(said).encode())
        return digest.hexdigest()[:16]

    def select(self, numbers: Sequence[int]) -> FileClips:
        return FileClips(tuple(self.videos[n] for n in numbers), self.frames, self.geometry)


@dataclass(frozen=True)
class PairSet:
    """Captions and their clips.  clip_of: [T] number of each caption's clip.

    kinds: [T] what sort of caption each is, where the data says so.  skipped: what was left out, by reason.
    """

    name: str
    clips: Clips
    captions: tuple[str, ...]
    clip_of: NDArray[np.int64]
    kinds: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)

    def identity(self) -> str:
        """Digest of clips and captions."""
        digest = hashlib.sha256(self.clips.identity().encode())
        digest.update(repr((self.captions, self.clip_of.tolist())).encode())
        return digest.hexdigest()[:16]

    def without_clips(self, bad: NDArray[np.bool_], reason: str) -> PairSet:
        """The same set without some clips and all that is said of them, counted under a reason."""
        if not bad.any():
            return self
        kept = np.flatnonzero(~bad)
        rows = np.flatnonzero(~bad[self.clip_of])
        number = np.cumsum(~bad) - 1
        return PairSet(
            self.name,
            self.clips.select(kept.tolist()),
            tuple(self.captions[r] for r in rows),
            number[self.clip_of[rows]],
            tuple(self.kinds[r] for r in rows) if self.kinds else (),
            self.skipped + Counter({reason: int(bad.sum())}),
        )


def load_pairs(recipe: Recipe, geometry: Geometry) -> tuple[PairSet, PairSet]:
    """The training and the validation set of a recipe, which have no clip in common.

    geometry: the pictures that the backbone takes.
    Raises DataError for a bad table, and for missing or unreadable files and empty captions unless
    `data.on_bad` is `skip`; they are then counted in `skipped`.
    """
    data = recipe.data
    if data.source == "storyboard":
        if data.val is None:
            raise DataError("data.val: name the storyboard's validation split, val")
        return (
            _story(data.train, data.train_videos, recipe.method.frames, geometry),
            _story(data.val, data.val_videos, recipe.method.frames, geometry),
        )
    assert data.root is not None
    train = _files(Path(data.train), data, recipe.method.frames, geometry)
    if data.val is not None:
        val = _files(Path(data.val), data, recipe.method.frames, geometry)
        _check_apart(train, val)
    else:
        train, val = _hold_out(train, data.holdout, recipe.seed)
    return _first(train, data.train_videos), _first(val, data.val_videos)


def _story(split: str, videos: int | None, frames: int, geometry: Geometry) -> PairSet:
    if split not in SPLITS:
        raise DataError(f"the storyboard has no split {split!r}; it has {', '.join(SPLITS)}")
    story = load_split(split, videos)
    return PairSet(
        f"storyboard-{split}-{len(story.videos)}",
        StoryClips(story.videos, frames, geometry.size),
        tuple(caption.text for caption in story.captions),
        story.video_of,
        tuple(caption.kind for caption in story.captions),
    )


def _files(table: Path, data: DataSection, frames: int, geometry: Geometry) -> PairSet:
    assert data.root is not None
    corpus = read_table(table, data.root)
    skipped: Counter[str] = Counter()
    captions = _with_text(corpus, table, data, skipped)
    bad = {}
    for number, video in enumerate(corpus.videos):
        reason = _problem(video)
        if reason is not None:
            bad[number] = reason
            skipped["unreadable videos"] += 1
    if bad and data.on_bad == "stop":
        number, reason = next(iter(bad.items()))
        raise DataError(
            f"{table}: {len(bad)} of {len(corpus.videos)} videos cannot be read, first {reason}; "
            "mend them, or set data.on_bad=skip to leave them out"
        )
    kept = [n for n in range(len(corpus.videos)) if n not in bad]
    place = {number: k for k, number in enumerate(kept)}
    captions = [c for c in captions if c.video in place]
    if not captions:
        raise DataError(f"{table}: nothing is left to train on: {dict(skipped)}")
    return PairSet(
        table.stem,
        FileClips(tuple(corpus.videos[n] for n in kept), frames, geometry),
        tuple(c.text for c in captions),
        np.asarray([place[c.video] for c in captions], np.int64),
        skipped=skipped,
    )


def _with_text(corpus: Corpus, table: Path, data: DataSection, skipped: Counter[str]) -> list[Caption]:
    empty = [c for c in corpus.captions if not c.text.strip()]
    if empty and data.on_bad == "stop":
        raise DataError(
            f"{table}:{empty[0].line}: {len(empty)} captions are empty, this is the first; mend them, or set "
            "data.on_bad=skip to leave them out"
        )
    if empty:
        skipped["empty captions"] = len(empty)
    return [c for c in corpus.captions if c.text.strip()]


def _problem(video: Video) -> str | None:
    """Why a file cannot be read at all; what breaks further on shows when it is decoded."""
    try:
        probe(video.path)
    except VideoError as error:
        return str(error)
    return None


def _check_apart(train: PairSet, val: PairSet) -> None:
    ours = {train.clips.name(n) for n in range(len(train.clips))}
    both = [name for n in range(len(val.clips)) if (name := val.clips.name(n)) in ours]
    if both:
        raise DataError(
            f"{both[0]}: is in both the training and the validation data ({len(both)} videos are)"
        )


def _hold_out(pairs: PairSet, share: float, seed: int) -> tuple[PairSet, PairSet]:
    """Split by file, so that no validation clip is cut from a training video."""
    names = [pairs.clips.name(n) for n in range(len(pairs.clips))]
    files = sorted(set(names))
    if len(files) < 2:
        raise DataError("one video cannot be split into training and validation: give data.val")
    count = min(len(files) - 1, max(1, round(share * len(files))))
    chosen = np.random.default_rng(seed).permutation(len(files))[:count]
    held = {files[n] for n in chosen.tolist()}
    out = np.asarray([name in held for name in names])
    train, val = pairs.without_clips(out, HOLDOUT), pairs.without_clips(~out, HOLDOUT)
    for part in (train, val):
        del part.skipped[HOLDOUT]
    val.skipped.clear()
    return train, PairSet(
        f"{val.name}-{HOLDOUT}", val.clips, val.captions, val.clip_of, val.kinds, val.skipped
    )


def _first(pairs: PairSet, count: int | None) -> PairSet:
    if count is None or count >= len(pairs.clips):
        return pairs
    out = np.arange(len(pairs.clips)) >= count
    found = pairs.without_clips(out, HOLDOUT)
    del found.skipped[HOLDOUT]
    return found


def describe(pairs: PairSet) -> dict[str, Any]:
    """Sizes and what was left out, for the log."""
    return {"clips": len(pairs.clips), "captions": len(pairs.captions), "skipped": dict(pairs.skipped)}
