"""The methods that keep one vector per clip: a scaled cosine scores it, whatever made it from the frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from vidsift.models.base import ClipFeatures, MethodConfig, RetrievalModel, TextFeatures
from vidsift.models.legacy import encode_padding_too, plain_unit
from vidsift.models.pooling import masked_mean, text_gated_weights, unit


@dataclass(frozen=True)
class PooledConfig(MethodConfig):
    """relevance_temperature: of the softmax over frame cosines in `frame_relevance` (EERCF's frame tau).

    legacy: treat padding and empty clips exactly as the official code does (an empty clip scores NaN).
    """

    relevance_temperature: float = 0.1
    legacy: bool = False


class PooledModel(RetrievalModel):
    """Base of the CLIP4Clip family: frames are contextualised, made unit vectors, averaged, made unit again.

    A method overrides `contextual`, or the whole of `clip_features`. Both take raw backbone vectors, so that
    cached frame vectors can be scored without pictures.
    """

    index_parts = frozenset({"coarse", "frames"})
    config_class: ClassVar[type[MethodConfig]] = PooledConfig

    @property
    def to_unit(self) -> Callable[[Tensor], Tensor]:
        """How vectors are made unit vectors: guarded against zeros, or as the official code does."""
        return plain_unit if self.config.legacy else unit

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        if self.config.legacy:
            vectors, _ = encode_padding_too(self, frames, mask)
        else:
            vectors, _ = self.encode_real_frames(frames, mask)
        return self.clip_features(vectors.float(), mask.to(self.device))

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        ids, mask = ids.to(self.device), mask.to(self.device)
        out = self.backbone.encode_tokens(ids, mask)
        return self.text_features(out.sentence.float(), out.words.float(), mask)

    def contextual(self, frames: Tensor, mask: Tensor) -> Tensor:
        """Frame vectors after looking at their neighbours.  frames: raw [V, F, D].  mask: [V, F] bool."""
        return frames

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        vectors = self.to_unit(self.contextual(frames, mask).float())
        if not self.config.legacy:
            vectors = vectors.masked_fill(~mask.unsqueeze(-1), 0.0)
        return ClipFeatures(self.to_unit(masked_mean(vectors, mask)), vectors, mask)

    def text_features(self, sentence: Tensor, words: Tensor, mask: Tensor) -> TextFeatures:
        return TextFeatures(self.to_unit(sentence), words, mask)

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.backbone.logits(text.sentence @ clips.coarse.T)

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        temperature = self.config.relevance_temperature
        return text_gated_weights(clips.frames, text.sentence, clips.mask, temperature)
