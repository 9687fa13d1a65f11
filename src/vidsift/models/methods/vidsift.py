"""vidsift's own student: one attentional vector to recall, text-gated frames and words to rerank."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.contrasts import XClipHead
from vidsift.models.layers import FramePeaks, TemporalStack, init_linear
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.pooling import (
    masked_mean,
    masked_softmax,
    text_gated_pool,
    text_gated_score,
    text_gated_weights,
    unit,
)
from vidsift.models.registry import register


@dataclass(frozen=True)
class VidsiftConfig(PooledConfig):
    """layers, positions: of the temporal stack.  temperature: of the softmax that pools the frames.

    gate_temperature: of the text-gated frames.  words, frames: sides of the learned matrices over words and
    frames.  sharp_temperature: of every attention over words.
    attentional, gated, worded: whether frames are pooled by learned weights (else by their mean), and which
    of the two fine scores there are.  contextual: frame vectors are kept after the temporal stack.
    peaks: add what `FramePeaks` sees in any frame to a clip's coarse vector.
    """

    switches = frozenset({"peaks"})

    layers: int = 4
    positions: int = 77
    temperature: float = 0.1
    gate_temperature: float = 0.1
    sharp_temperature: float = 0.01
    words: int = 32
    frames: int = 12
    attentional: bool = True
    gated: bool = True
    worded: bool = True
    contextual: bool = True
    peaks: bool = False


@register
class Vidsift(PooledModel):
    """TeachCLIP's vector recalls; EERCF's gate and X-CLIP's words, on the same F frames, rank the short list.

        X = TR(f) + f     r = w2 . relu(W1 X + b1) + b2     v = unit(sum_k softmax_k(r / 0.1) unit(X_k))
        coarse   t G v
        gated    t . unit(sum_k softmax_k(t . u_k / 0.1) u_k),  u_k = unit(X_k)
        worded   the mean of X-CLIP's video-word, sentence-frame and frame-word contrasts over v and u

    `similarity` is the mean of the three, times the logit scale. A clip is v and u.
    extra of clips: `logits` r [V, F], which fine-grained teaching teaches; no search needs them.
    """

    method = "vidsift"
    index_parts = frozenset({"coarse", "frames"})
    undecayed = XClipHead.IDENTITIES
    config_class = VidsiftConfig
    variants = ("peaks",)
    score_names = (*PooledModel.score_names, "gated", "worded")

    def add_layers(self) -> None:
        settings, width = self.config, self.backbone.width
        self.temporal = TemporalStack(width, settings.layers, settings.positions)
        self.temporal.start_from_text(self.backbone)
        if settings.attentional:
            self.hidden, self.weigh = nn.Linear(width, width), nn.Linear(width, 1)
            init_linear(self.hidden)
            init_linear(self.weigh)
        if settings.peaks:
            self.peaks = FramePeaks(width)
        self.head = XClipHead(width, settings.words, settings.frames, settings.sharp_temperature)

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        seen = self.temporal(frames, mask, False).float()
        vectors = unit(seen).masked_fill(~mask.unsqueeze(-1), 0.0)
        if self.config.attentional:
            logits = self.weigh(F.relu(self.hidden(seen))).squeeze(-1).float().masked_fill(~mask, 0.0)
            weights = masked_softmax(logits / self.config.temperature, mask)
            pooled = (weights.unsqueeze(-1) * vectors).sum(1)
        else:
            logits, pooled = torch.zeros_like(mask, dtype=torch.float32), masked_mean(vectors, mask)
        if self.config.peaks:
            pooled = pooled + self.peaks(unit(frames.float()), mask).float()
        coarse = unit(pooled)
        kept = vectors if self.config.contextual else unit(frames).masked_fill(~mask.unsqueeze(-1), 0.0)
        return ClipFeatures(coarse, kept, mask, extra={"logits": logits})

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        scores = [self._coarse(text, clips)]
        if self.config.gated:
            scores.append(self._gated(text, clips))
        if self.config.worded:
            scores.append(self._worded(text, clips))
        return self.backbone.logits(torch.stack(scores).mean(0))

    def score(self, name: str, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        if name == "gated":
            return self.backbone.logits(self._gated(text, clips))
        if name == "worded":
            return self.backbone.logits(self._worded(text, clips))
        return super().score(name, text, clips)

    def coarse_similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.backbone.logits(self._coarse(text, clips))

    def _coarse(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        with torch.autocast(clips.mask.device.type, enabled=False):
            return text.sentence.float() @ self.head.sentence_video.float() @ clips.coarse.float().T

    def _gated(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        with torch.autocast(clips.mask.device.type, enabled=False):
            gate = self.config.gate_temperature
            return text_gated_score(clips.frames.float(), text.sentence.float(), clips.mask, gate)

    def _worded(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        with torch.autocast(clips.mask.device.type, enabled=False):
            found = self.head(
                (text.sentence.float(), unit(text.words.float()), text.mask),
                (clips.coarse.float(), clips.frames.float(), clips.mask),
            )
            three: Tensor = (found.video_word + found.sentence_frame + found.frame_word) / 3
            return three

    def own_vectors(self, text: TextFeatures, clips: ClipFeatures) -> dict[str, Tensor]:
        gate = self.config.gate_temperature
        own = text_gated_pool(clips.frames, text.sentence, clips.mask, gate)
        return {"coarse": clips.coarse, "frames": own.diagonal(dim1=0, dim2=1).T}

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The gate of the frame score."""
        return text_gated_weights(clips.frames, text.sentence, clips.mask, self.config.gate_temperature)

    def taught_weights(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The weights of attentional aggregation at temperature 1, the same for every text."""
        weights = masked_softmax(clips.extra["logits"].float(), clips.mask)
        return weights.unsqueeze(0).expand(len(text), *weights.shape)

    def query_vectors(self, text: TextFeatures) -> Tensor:
        """Sentences through the learned matrix, so that coarse vectors rank as the first stage does."""
        return unit(text.sentence.float() @ self.head.sentence_video.float())
