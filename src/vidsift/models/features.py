"""The two value types that pass between encoders, index and scoring: TextFeatures and ClipFeatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Index = Tensor | slice | list[int]


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """What a model keeps of T texts.

    sentence: [T, D] unit norm.  words: [T, W, D] joint-space token vectors, not normalised.
    mask: [T, W] bool, True on real words (BOS and EOS count as words).
    extra: tensors [T, ...] that one method needs beside these, by name.
    """

    sentence: Tensor
    words: Tensor
    mask: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.sentence.shape[0]

    def to(self, device: torch.device | str) -> TextFeatures:
        """The same features on a device."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def select(self, index: Index) -> TextFeatures:
        """The texts at `index` (a slice, ids or a bool mask), in that order."""
        return self.map(lambda x: x[index])

    def detach(self) -> TextFeatures:
        """The same values outside the gradient graph."""
        return self.map(Tensor.detach)

    def map(self, f: Callable[[Tensor], Tensor]) -> TextFeatures:
        """The features that `f` makes of every tensor, in the same order each time."""
        extra = {k: f(v) for k, v in self.extra.items()}
        return TextFeatures(f(self.sentence), f(self.words), f(self.mask), extra)

    @staticmethod
    def cat(parts: Sequence[TextFeatures]) -> TextFeatures:
        """Join along T; shorter texts are padded with masked zero words."""
        longest = max(p.words.shape[1] for p in parts)
        return TextFeatures(
            sentence=torch.cat([p.sentence for p in parts]),
            words=torch.cat([pad_second(p.words, longest) for p in parts]),
            mask=torch.cat([pad_second(p.mask, longest) for p in parts]),
            extra={k: torch.cat([p.extra[k] for p in parts]) for k in parts[0].extra},
        )


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """What a model keeps of V clips; everything that scoring needs, nothing of the text.

    coarse: [V, D] unit norm (zero for a clip without real frames).  frames: [V, F, D] unit norm, zero where
    masked.  mask: [V, F] bool, True on real frames.  patches: [V, F, P, D] joint-space patch vectors, not
    normalised, for methods that use them.  extra: tensors [V, ...] that one method needs beside these.
    """

    coarse: Tensor
    frames: Tensor
    mask: Tensor
    patches: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.coarse.shape[0]

    def to(self, device: torch.device | str) -> ClipFeatures:
        """The same features on a device."""
        return self.map(lambda x: x.to(device, non_blocking=True))

    def select(self, index: Index) -> ClipFeatures:
        """The clips at `index` (a slice, ids or a bool mask), in that order."""
        return self.map(lambda x: x[index])

    def detach(self) -> ClipFeatures:
        """The same values outside the gradient graph."""
        return self.map(Tensor.detach)

    def map(self, f: Callable[[Tensor], Tensor]) -> ClipFeatures:
        """The features that `f` makes of every tensor, in the same order each time."""
        patches = None if self.patches is None else f(self.patches)
        extra = {k: f(v) for k, v in self.extra.items()}
        return replace(
            self,
            coarse=f(self.coarse),
            frames=f(self.frames),
            mask=f(self.mask),
            patches=patches,
            extra=extra,
        )

    @staticmethod
    def cat(parts: Sequence[ClipFeatures]) -> ClipFeatures:
        """Join along V; clips of fewer frames are padded with masked zero frames.

        Raises ValueError when only some parts have patches.
        """
        longest = max(p.frames.shape[1] for p in parts)
        patches = [pad_second(p.patches, longest) for p in parts if p.patches is not None]
        if patches and len(patches) != len(parts):
            raise ValueError(f"{len(patches)} of {len(parts)} parts have patch vectors: all or none must")
        return ClipFeatures(
            coarse=torch.cat([p.coarse for p in parts]),
            frames=torch.cat([pad_second(p.frames, longest) for p in parts]),
            mask=torch.cat([pad_second(p.mask, longest) for p in parts]),
            patches=torch.cat(patches) if patches else None,
            extra={k: torch.cat([p.extra[k] for p in parts]) for k in parts[0].extra},
        )


def pad_second(x: Tensor, length: int) -> Tensor:
    """Pad axis 1 with zeros (False) up to `length`."""
    missing = length - x.shape[1]
    return x if missing == 0 else F.pad(x, [0, 0] * (x.ndim - 2) + [0, missing])
