"""What a data set is to vidsift: how its files are read, and where they come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vidsift.datasets.corpus import Corpus, Role


@dataclass(frozen=True)
class Example:
    """A video to lay out: its file, and what is said of it, with the seconds during which each is true."""

    file: Path
    captions: Sequence[str]
    spans: Sequence[tuple[float, float]]


Examples = Mapping[Role, Sequence[Example]]


@dataclass(frozen=True)
class Dataset:
    """One public data set.

    splits: its splits with their roles; a name may be told apart from another by its training videos only.
    train, test: the splits that are meant when none is named.
    prepare: the data set's folder -> everything that its annotation files say; reads no video.
    write_example: lays videos and captions out as the data set's own files, for tests and for trying out.
    files: the annotation files, in words.  obtain: how to get them and the videos.
    paragraphs: one text per video, made of all its sentences.
    """

    name: str
    title: str
    splits: Mapping[str, Role]
    train: str
    test: str
    prepare: Callable[[Path], Corpus]
    write_example: Callable[[Path, Examples], None]
    homepage: str
    licence: str
    files: str
    obtain: str
    paragraphs: bool = False
    notes: Sequence[str] = field(default_factory=tuple)
