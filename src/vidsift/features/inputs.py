"""A batch's way into a model: pictures or cached vectors to clip features, words to text features."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsift.datasets.pairs import PairSet
from vidsift.features.extract import evaluating, read_clips, tokens
from vidsift.features.rowstore import RowStore
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures

_CLIPS, _TEXTS = 64, 256


@dataclass(frozen=True)
class Texts:
    """T captions as token ids, or as what a frozen text tower said of them.  mask: [T, W] bool."""

    mask: Tensor
    ids: Tensor | None = None
    sentence: Tensor | None = None
    words: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, rows: slice | Tensor) -> Texts:
        parts = (None if x is None else x[rows] for x in (self.ids, self.sentence, self.words))
        return Texts(self.mask[rows], *parts)

    def encode(self, model: RetrievalModel) -> TextFeatures:
        """Through the text tower, or from its cached vectors."""
        device = model.device
        if self.ids is not None:
            return model.encode_text(self.ids.to(device), self.mask.to(device))
        assert self.sentence is not None
        assert self.words is not None
        sentence, words = self.sentence.to(device).float(), self.words.to(device).float()
        return model.text_features(sentence, words, self.mask.to(device))


@dataclass(frozen=True)
class Pictures:
    """V clips as frames, or as what a frozen vision tower said of them.  mask: [V, F] bool."""

    mask: Tensor
    pixels: Tensor | None = None
    frames: Tensor | None = None
    patches: Tensor | None = None

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, rows: slice | Tensor) -> Pictures:
        parts = (None if x is None else x[rows] for x in (self.pixels, self.frames, self.patches))
        return Pictures(self.mask[rows], *parts)

    def encode(self, model: RetrievalModel) -> ClipFeatures:
        """Through the vision tower, or from its cached vectors."""
        device = model.device
        if self.pixels is not None:
            return model.encode_video(self.pixels, self.mask)
        assert self.frames is not None
        patches = None if self.patches is None else self.patches.to(device).float()
        return model.clip_features(self.frames.to(device).float(), self.mask.to(device), patches)


class Inputs:
    """Reads the captions and clips of one set for one model.

    clips, texts: stores of what the frozen towers said; None reads pictures, and tokenises.
    on_bad: whether a clip that cannot be decoded stops the run or counts as empty.
    """

    def __init__(
        self,
        model: RetrievalModel,
        pairs: PairSet,
        clips: RowStore | None = None,
        texts: RowStore | None = None,
        on_bad: str = "stop",
    ) -> None:
        self.pairs, self.on_bad = pairs, on_bad
        self.folders = [store.folder for store in (clips, texts) if store is not None]
        # Rows of the stores by the set's own numbers.
        self.clip_rows = np.arange(len(pairs.clips))
        self.caption_rows = np.arange(len(pairs.captions))
        self.frames_per_clip, self.size = model.frames_per_clip, model.preprocess.size
        self.clips = None if clips is None else {name: clips.open(name) for name in clips.arrays}
        self.texts = texts
        self.ids: Tensor | None = None
        self.words: Tensor | None = None
        if texts is None:
            self.ids, self.words = tokens(model, pairs.captions)

    def read_texts(self, captions: NDArray[np.int64]) -> Texts:
        """The captions of these numbers, no longer than the longest of them."""
        if self.texts is None:
            assert self.ids is not None
            assert self.words is not None
            rows = torch.from_numpy(captions)
            mask = self.words[rows]
            length = _longest(mask)
            return Texts(mask[:, :length], ids=self.ids[rows, :length])
        captions = self.caption_rows[captions]
        # Opened for each read: pages of a mapping that stays open add up to the whole file in memory.
        mask = torch.from_numpy(self.texts.open("mask")[captions])
        length = _longest(mask)
        return Texts(
            mask[:, :length],
            sentence=torch.from_numpy(self.texts.open("sentence")[captions]),
            words=torch.from_numpy(self.texts.open("words")[captions, :length]),
        )

    def read_clips(self, clips: NDArray[np.int64]) -> Pictures:
        """The clips of these numbers.  Raises DataError for an unreadable one, if `on_bad` is `stop`."""
        if self.clips is None:
            pixels, mask = read_clips(self.pairs, clips, self.frames_per_clip, self.size, self.on_bad)
            return Pictures(mask, pixels=pixels)
        clips = self.clip_rows[clips]
        found = {name: torch.from_numpy(array[clips]) for name, array in self.clips.items()}
        return Pictures(found["mask"], frames=found["frames"], patches=found.get("patches"))

    def without_empty(self) -> Inputs:
        """The same without clips of which no frame could be read; that is known of cached clips only."""
        if self.clips is None:
            return self
        empty: NDArray[np.bool_] = np.logical_not(self.clips["mask"].any(axis=1))
        kept = copy(self)
        kept.pairs = self.pairs.without_clips(empty, "clips without a readable frame")
        kept.clip_rows = np.flatnonzero(~empty)
        kept.caption_rows = np.flatnonzero(~empty[self.pairs.clip_of])
        if self.ids is not None and self.words is not None:
            rows = torch.from_numpy(kept.caption_rows)
            kept.ids, kept.words = self.ids[rows], self.words[rows]
        return kept

    @torch.inference_mode()
    def encode_all(self, model: RetrievalModel) -> tuple[TextFeatures, ClipFeatures]:
        """Features of every caption and of every clip, in eval mode, on the model's device."""
        with evaluating(model):
            texts = [
                self.read_texts(rows).encode(model) for rows in _blocks(len(self.pairs.captions), _TEXTS)
            ]
        return TextFeatures.cat(texts), self.encode_clips(model)

    @torch.inference_mode()
    def encode_clips(self, model: RetrievalModel) -> ClipFeatures:
        """Features of every clip, in eval mode, on the model's device."""
        with evaluating(model):
            parts = [self.read_clips(rows).encode(model) for rows in _blocks(len(self.pairs.clips), _CLIPS)]
        return ClipFeatures.cat(parts)


def _blocks(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, size):
        yield np.arange(start, min(count, start + size))


def _longest(mask: Tensor) -> int:
    return max(1, int(mask.sum(1).max())) if len(mask) else 1
