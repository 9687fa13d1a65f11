"""A batch's way into a model: pictures or cached vectors to clip features, words to text features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsift.datasets.pairs import PairSet
from vidsift.features.extract import evaluating, read_clips, tokens
from vidsift.features.rowstore import RowStore
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.models.experts import ExpertMethod

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
    """V clips as frames, as what a frozen vision tower said of them, or as experts see them.

    mask: [V, F] bool, or [V, E] for E experts: which are available.  experts: by name, features and mask.
    """

    mask: Tensor
    pixels: Tensor | None = None
    frames: Tensor | None = None
    patches: Tensor | None = None
    experts: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mask)

    def select(self, rows: slice | Tensor) -> Pictures:
        pixels, frames, patches = (
            None if x is None else x[rows] for x in (self.pixels, self.frames, self.patches)
        )
        experts = {name: (x[rows], mask[rows]) for name, (x, mask) in self.experts.items()}
        return Pictures(self.mask[rows], pixels, frames, patches, experts)

    def encode(self, model: RetrievalModel) -> ClipFeatures:
        """Through the vision tower, or from its cached vectors."""
        device = model.device
        if self.experts:
            if not isinstance(model, ExpertMethod):
                raise TypeError(f"{model.method} takes pictures, not experts")
            features = {name: x.to(device).float() for name, (x, _) in self.experts.items()}
            masks = {name: mask.to(device) for name, (_, mask) in self.experts.items()}
            return model.encode_experts(features, masks)
        if self.pixels is not None:
            return model.encode_video(self.pixels, self.mask)
        assert self.frames is not None
        patches = None if self.patches is None else self.patches.to(device).float()
        return model.clip_features(self.frames.to(device).float(), self.mask.to(device), patches)


class Inputs:
    """Reads the captions and clips of one set for one model.

    clips, texts: stores of what the frozen towers said; None reads pictures, and tokenises.
    experts: stores of what experts said, by their names, instead of `clips`.
    on_bad: whether a clip that cannot be decoded stops the run or counts as empty.
    """

    def __init__(
        self,
        model: RetrievalModel,
        pairs: PairSet,
        clips: RowStore | None = None,
        texts: RowStore | None = None,
        on_bad: str = "stop",
        experts: Mapping[str, RowStore] | None = None,
    ) -> None:
        self.pairs, self.on_bad = pairs, on_bad
        experts = experts or {}
        self.folders = [store.folder for store in (clips, texts, *experts.values()) if store is not None]
        self.experts = {name: (store.open("feature"), store.open("mask")) for name, store in experts.items()}
        # Rows of the stores by the set's own numbers.
        self.clip_rows = np.arange(len(pairs.clips))
        self.caption_rows = np.arange(len(pairs.captions))
        # Whether these are all clips of the stores.
        self.whole = True
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
        if self.experts:
            return self._read_experts(self.clip_rows[clips])
        if self.clips is None:
            pixels, mask = read_clips(self.pairs, clips, self.frames_per_clip, self.size, self.on_bad)
            return Pictures(mask, pixels=pixels)
        clips = self.clip_rows[clips]
        found = {name: torch.from_numpy(array[clips]) for name, array in self.clips.items()}
        return Pictures(found["mask"], frames=found["frames"], patches=found.get("patches"))

    def _read_experts(self, rows: NDArray[np.int64]) -> Pictures:
        experts = {
            name: (torch.from_numpy(feature[rows]), torch.from_numpy(np.asarray(mask[rows])))
            for name, (feature, mask) in self.experts.items()
        }
        there = [mask.reshape(len(rows), -1).any(1) for _, mask in experts.values()]
        return Pictures(torch.stack(there, 1), experts=experts)

    def without_empty(self) -> Inputs:
        """The same without clips of which no frame could be read; that is known of cached clips only."""
        if self.experts:
            masks = [np.asarray(mask).reshape(len(mask), -1).any(1) for _, mask in self.experts.values()]
            empty: NDArray[np.bool_] = ~np.logical_or.reduce(masks)
        elif self.clips is None:
            return self
        else:
            empty = np.logical_not(self.clips["mask"].any(axis=1))
        return self.without(empty[self.clip_rows], "clips without a readable frame")

    def without(self, bad: NDArray[np.bool_], reason: str) -> Inputs:
        """The same without some of the clips [V] and all that is said of them, counted under a reason."""
        if not bad.any():
            return self
        kept = copy(self)
        captions = np.flatnonzero(~bad[self.pairs.clip_of])
        kept.pairs = self.pairs.without_clips(bad, reason)
        kept.clip_rows, kept.caption_rows = self.clip_rows[~bad], self.caption_rows[captions]
        kept.whole = False
        if self.ids is not None and self.words is not None:
            rows = torch.from_numpy(captions)
            kept.ids, kept.words = self.ids[rows], self.words[rows]
        return kept

    @torch.inference_mode()
    def encode_texts(self, model: RetrievalModel, captions: NDArray[np.int64]) -> TextFeatures:
        """Features of some captions, in eval mode, on the model's device."""
        with evaluating(model):
            return self.read_texts(captions).encode(model)

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
