"""X-CLIP (ACM MM 2022): four contrasts, from the whole clip and sentence down to every frame and word."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.contrasts import Contrasts, XClipHead
from vidsift.models.layers import TemporalStack
from vidsift.models.legacy import encode_padding_too
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.pooling import masked_mean, text_gated_weights, unit
from vidsift.models.registry import register


@dataclass(frozen=True)
class XClipConfig(PooledConfig):
    """layers, positions: of the temporal stack; 0 layers pools the frames as they are.

    words, frames: sides of the learned matrices over words and over frames. Longer texts and clips continue
        them as the identity, shorter ones take their corner.
    temperature: of every attention over frames and words.
    legacy: attend over padded frames and words too, as the official code does.
    """

    layers: int = 4
    positions: int = 77
    words: int = 32
    frames: int = 12
    temperature: float = 0.01


@register
class XClip(PooledModel):
    """The mean of four contrasts at four granularities, times the logit scale.

    coarse: as in CLIP4Clip's seqTransf.  frames: the backbone's own, *before* the temporal stack.  Nothing
    beside these is kept of a clip: the learned matrices act on the query.
    """

    method = "xclip"
    index_parts = frozenset({"coarse", "frames"})
    undecayed = XClipHead.IDENTITIES
    config_class = XClipConfig

    def add_layers(self) -> None:
        settings = self.config
        self.head = XClipHead(self.backbone.width, settings.words, settings.frames, settings.temperature)
        if settings.layers:
            self.temporal = TemporalStack(self.backbone.width, settings.layers, settings.positions)
            self.temporal.start_from_text(self.backbone)

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        if not self.config.legacy:
            return super().encode_video(frames, mask)
        # The official matrices are as large as the padded clip, so that padding is part of every score.
        missing = max(0, self.config.frames - mask.shape[1])
        mask = F.pad(mask.to(self.device), [0, missing])
        frames = F.pad(frames, [0, 0] * 3 + [0, missing])
        vectors, _ = encode_padding_too(self, frames, mask)
        return self.clip_features(vectors.float(), mask)

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        if not self.config.legacy:
            return super().encode_text(ids, mask)
        # Id 0 up to the fixed length, read by the tower like any word.
        ids, mask = ids.to(self.device), mask.to(self.device)
        missing = max(0, self.config.words - ids.shape[1])
        ids, mask = F.pad(ids.masked_fill(~mask, 0), [0, missing]), F.pad(mask, [0, missing])
        out = self.backbone.encode_tokens(ids, torch.ones_like(mask))
        return self.text_features(out.sentence.float(), out.words.float(), mask)

    def contextual(self, frames: Tensor, mask: Tensor) -> Tensor:
        if not self.config.layers:
            return frames
        found: Tensor = self.temporal(frames, mask, self.config.legacy)
        return found

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        seen, kept = self.to_unit(self.contextual(frames, mask).float()), self.to_unit(frames)
        if not self.config.legacy:
            empty = ~mask.unsqueeze(-1)
            seen, kept = seen.masked_fill(empty, 0.0), kept.masked_fill(empty, 0.0)
        return ClipFeatures(self.to_unit(masked_mean(seen, mask)), kept, mask)

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        parts = self.contrasts(text, clips)
        return self.backbone.logits(sum(parts[1:], parts[0]) / 4)

    def coarse_similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """Of the first contrast, t G v."""
        with torch.autocast(clips.mask.device.type, enabled=False):
            query = text.sentence.float() @ self.head.sentence_video.float()
            return self.backbone.logits(query @ clips.coarse.float().T)

    def contrasts(self, text: TextFeatures, clips: ClipFeatures) -> Contrasts:
        """The four scores that `similarity` averages, before the logit scale."""
        with torch.autocast(clips.mask.device.type, enabled=False):
            words, real_words, real_frames = self.to_unit(text.words.float()), text.mask, clips.mask
            if self.config.legacy:
                real_words, real_frames = torch.ones_like(real_words), torch.ones_like(real_frames)
            found: Contrasts = self.head(
                (text.sentence.float(), words, real_words),
                (clips.coarse.float(), clips.frames.float(), real_frames),
            )
            return found

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The softmax of sentence-frame cosines; at temperature 1, what TeachCLIP teaches its student."""
        mask = torch.ones_like(clips.mask) if self.config.legacy else clips.mask
        return text_gated_weights(clips.frames, text.sentence, mask, self.config.relevance_temperature)

    def query_vectors(self, text: TextFeatures) -> Tensor:
        """Sentences through the learned matrix, so that coarse vectors rank as the first stage does."""
        return unit(text.sentence.float() @ self.head.sentence_video.float())
