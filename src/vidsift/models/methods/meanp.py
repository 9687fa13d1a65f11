"""CLIP4Clip's parameter-free mean pooling (Luo et al. 2021), the default over any dual encoder."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vidsift.models.base import ClipFeatures, MethodConfig, RetrievalModel, TextFeatures
from vidsift.models.pooling import masked_mean, text_gated_weights, unit
from vidsift.models.registry import register


@dataclass(frozen=True)
class MeanPoolConfig(MethodConfig):
    """relevance_temperature: of the softmax over frame cosines in `frame_relevance` (EERCF's frame tau)."""

    relevance_temperature: float = 0.1


@register
class MeanPool(RetrievalModel):
    """Normalise frames, average the real ones, normalise; the score is the scaled cosine with the sentence.

    It adds no parameters. Frame vectors are kept for reranking and moments.
    """

    method = "meanp"
    index_parts = frozenset({"coarse", "frames"})
    config_class = MeanPoolConfig

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        vectors, _ = self.encode_real_frames(frames, mask)
        return self.clip_features(vectors.float(), mask.to(vectors.device))

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        ids, mask = ids.to(self.device), mask.to(self.device)
        out = self.backbone.encode_tokens(ids, mask)
        return self.text_features(out.sentence.float(), out.words.float(), mask)

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        vectors = unit(frames).masked_fill(~mask.unsqueeze(-1), 0.0)
        return ClipFeatures(coarse=unit(masked_mean(vectors, mask)), frames=vectors, mask=mask)

    def text_features(self, sentence: Tensor, words: Tensor, mask: Tensor) -> TextFeatures:
        return TextFeatures(sentence=unit(sentence), words=words, mask=mask)

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.backbone.logits(text.sentence @ clips.coarse.T)

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        temperature = self.config.relevance_temperature
        return text_gated_weights(clips.frames, text.sentence, clips.mask, temperature)
