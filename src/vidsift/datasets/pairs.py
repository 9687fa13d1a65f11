"""Captions and the clips that they speak of, which can be read one by one: what towers see of a corpus."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vidsift.datasets.corpus import Caption, Corpus, Video
from vidsift.datasets.storyboard import channels
from vidsift.datasets.storyboard.render import render_frames
from vidsift.datasets.storyboard.splits import SPLITS, load_split
from vidsift.datasets.storyboard.world import StoryVideo
from vidsift.errors import DataError
from vidsift.video import Geometry, Span, VideoError, probe, read_frames, sample_times
from vidsift.video.sound import read_sound
from vidsift.video.subtitles import read_subtitles, sidecars, words_between

OnBad = Literal["stop", "skip"]
_WAY_OUT = "mend them, or leave them out (data.on_bad=skip in a recipe, --skip-bad in eval)"

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Waveform = NDArray[np.float32]


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

    def view(self, frames: int, geometry: Geometry) -> Clips:
        """The same clips seen in another number or shape of frames."""

    def sound(self, number: int) -> Waveform | None:
        """Mono float32 at `vidsift.video.sound.RATE`, None without any.  Raises VideoError for a bad file."""

    def speech(self, number: int) -> str:
        """What is said in it, as subtitles tell; empty if nothing is known.  Raises VideoError."""

    def speech_identity(self) -> str:
        """Digest of the files beside the clips that `speech` reads."""

    def written(self, number: int) -> str | None:
        """What stands written in the pictures, if the data says so; None if that is not known."""


@dataclass(frozen=True)
class StoryClips:
    """Storyboard videos, rendered when they are asked for.  size: side of the pictures in pixels.

    channels: they have sound, speech and writing, too.  scaled: draw pictures of another size than the
    world's; else they are refused, so that no backbone is trained on them unawares.
    """

    videos: tuple[StoryVideo, ...]
    frames: int
    size: int
    channels: bool = False
    scaled: bool = False

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, number: int) -> tuple[Pixels, Mask]:
        pixels = render_frames(self.videos[number], self.frames)
        if self.scaled and pixels.shape[-1] != self.size:
            pixels = _scaled(pixels, self.size)
        if pixels.shape[-1] != self.size:
            raise DataError(
                f"the storyboard's pictures are {pixels.shape[-1]} pixels wide, this backbone takes "
                f"{self.size}: write them to files (vidsift storyboard) and train on their captions.jsonl"
            )
        return pixels, np.ones(len(pixels), bool)

    def name(self, number: int) -> str:
        return f"storyboard video {number}"

    def identity(self) -> str:
        said = (self.videos, self.frames, *(["channels"] if self.channels else []))
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

    def select(self, numbers: Sequence[int]) -> StoryClips:
        return replace(self, videos=tuple(self.videos[n] for n in numbers))

    def view(self, frames: int, geometry: Geometry) -> StoryClips:
        return replace(self, frames=frames, size=geometry.size, scaled=True)

    def sound(self, number: int) -> Waveform | None:
        return channels.sound(self.videos[number]) if self.channels else None

    def speech(self, number: int) -> str:
        if not self.channels:
            return ""
        return " ".join(text for _, _, text in channels.speech(self.videos[number]))

    def speech_identity(self) -> str:
        return "channels"

    def written(self, number: int) -> str | None:
        found = channels.written(self.videos[number]) if self.channels else None
        return " ".join(" ".join(found or ()).split())


def _scaled(pixels: Pixels, size: int) -> Pixels:
    pictures = [Image.fromarray(frame.transpose(1, 2, 0)) for frame in pixels]
    found = np.stack([np.asarray(p.resize((size, size), Image.Resampling.BICUBIC)) for p in pictures])
    return np.ascontiguousarray(found.transpose(0, 3, 1, 2))


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
        found = read_frames(video.path, sample_times(self._span(video), self.frames), self.geometry)
        return found.pixels, found.mask

    @staticmethod
    def _span(video: Video) -> Span:
        start = video.start or 0.0
        end = min(probe(video.path).duration, float("inf") if video.end is None else video.end)
        if end <= start:
            raise VideoError(video.path, f"ends at {end:.2f} s, before the clip starts at {start:.2f} s")
        return Span(start, end)

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
        return replace(self, videos=tuple(self.videos[n] for n in numbers))

    def view(self, frames: int, geometry: Geometry) -> FileClips:
        return replace(self, frames=frames, geometry=geometry)

    def sound(self, number: int) -> Waveform | None:
        span = self._span(self.videos[number])
        return read_sound(self.videos[number].path, span.start, span.end)

    def speech(self, number: int) -> str:
        video = self.videos[number]
        cues = read_subtitles(video.path)
        return words_between(cues, video.start or 0.0, float("inf") if video.end is None else video.end)

    def speech_identity(self) -> str:
        digest = hashlib.sha256()
        for path in (beside for video in self.videos for beside in sidecars(video.path)[:1]):
            status = path.stat()
            digest.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
        return digest.hexdigest()[:16]

    def written(self, number: int) -> str | None:
        return None


@dataclass(frozen=True)
class PairSet:
    """Captions and their clips.  clip_of: [T] number of each caption's clip.

    kinds: [T] what sort of caption each is, where the data says so.  skipped: what was left out, by reason.
    weights: [T] how much each caption is worth in training; None means that all are worth the same.
    clips_name: of the set with the same clips and other captions, whose features of clips are shared.
    """

    name: str
    clips: Clips
    captions: tuple[str, ...]
    clip_of: NDArray[np.int64]
    kinds: tuple[str, ...] = ()
    skipped: Counter[str] = field(default_factory=Counter)
    weights: NDArray[np.float32] | None = None
    clips_name: str = ""

    @property
    def shelf(self) -> str:
        """By what features of the clips are found."""
        return self.clips_name or self.name

    def identity(self) -> str:
        """Digest of clips and captions."""
        digest = hashlib.sha256(self.clips.identity().encode())
        digest.update(repr((self.captions, self.clip_of.tolist())).encode())
        return digest.hexdigest()[:16]

    def pairing(self) -> str:
        """Digest of captions, whose they are and what they are worth; the same for copies of the clips."""
        worth = None if self.weights is None else self.weights.tolist()
        said = (self.captions, self.clip_of.tolist(), worth)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:16]

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
            None if self.weights is None else self.weights[rows],
            self.clips_name,
        )


def story_pairs(
    split: str, videos: int | None, frames: int, geometry: Geometry, channels: bool = False
) -> PairSet:
    """A split of the storyboard world (its first `videos` videos), rendered when it is read.

    channels: with sound, speech and writing.
    """
    if split not in SPLITS:
        raise DataError(f"the storyboard has no split {split!r}; it has {', '.join(SPLITS)}")
    story = load_split(split, videos)
    return PairSet(
        f"storyboard-{split}-{len(story.videos)}" + ("-channels" if channels else ""),
        StoryClips(story.videos, frames, geometry.size, channels),
        tuple(caption.text for caption in story.captions),
        story.video_of,
        tuple(caption.kind for caption in story.captions),
    )


def file_pairs(name: str, corpus: Corpus, frames: int, geometry: Geometry, on_bad: OnBad) -> PairSet:
    """One split's captions and the clips of its files.

    Raises DataError for files that cannot be read and for captions without words, or leaves them out and
    counts them when `on_bad` is `skip`.
    """
    skipped: Counter[str] = Counter()
    captions = _with_text(corpus, on_bad, skipped)
    bad = {}
    for number, video in enumerate(corpus.videos):
        reason = _problem(video)
        if reason is not None:
            bad[number] = reason
            skipped["unreadable videos"] += 1
    if bad and on_bad == "stop":
        number, reason = next(iter(bad.items()))
        raise DataError(
            f"{name}: {len(bad)} of {len(corpus.videos)} videos cannot be read, first {reason}; {_WAY_OUT}"
        )
    kept = [n for n in range(len(corpus.videos)) if n not in bad]
    place = {number: k for k, number in enumerate(kept)}
    captions = [c for c in captions if c.video in place]
    if not captions:
        raise DataError(f"{name}: nothing is left: {dict(skipped)}")
    return PairSet(
        name,
        FileClips(tuple(corpus.videos[n] for n in kept), frames, geometry),
        tuple(c.text for c in captions),
        np.asarray([place[c.video] for c in captions], np.int64),
        skipped=skipped,
    )


def first_clips(corpus: Corpus, count: int | None) -> Corpus:
    """The first `count` videos of a corpus and what is said of them."""
    if count is None or count >= len(corpus.videos):
        return corpus
    return Corpus(corpus.videos[:count], tuple(c for c in corpus.captions if c.video < count))


def _with_text(corpus: Corpus, on_bad: OnBad, skipped: Counter[str]) -> list[Caption]:
    empty = [c for c in corpus.captions if not c.text.strip()]
    if empty and on_bad == "stop":
        raise DataError(f"{empty[0].where}: {len(empty)} captions are empty, this is the first; {_WAY_OUT}")
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


def describe(pairs: PairSet) -> dict[str, Any]:
    """Sizes and what was left out, for the log."""
    captions = len(pairs.captions) if pairs.weights is None else int(np.count_nonzero(pairs.weights))
    return {"clips": len(pairs.clips), "captions": captions, "skipped": dict(pairs.skipped)}
