"""TeachCLIP's student (CVPR 2024): CLIP4Clip with attentional frame aggregation, taught by heavy models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.layers import FramePeaks, TemporalStack, init_linear
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.pooling import masked_softmax, unit
from vidsift.models.registry import register


@dataclass(frozen=True)
class TeachClipConfig(PooledConfig):
    """temperature: of the softmax that pools the frames; the one that is taught has temperature 1.

    peaks: add what `FramePeaks` sees in any frame to a clip's vector; as published, there is no such thing.
    layers, positions: of the temporal stack.  legacy: padded frames compete in both softmaxes, as in the
    official code, which can give them all the weight.
    """

    switches = frozenset({"peaks"})

    temperature: float = 0.1
    layers: int = 4
    positions: int = 77
    peaks: bool = False


@register
class TeachClip(PooledModel):
    """One vector per clip: frames weighed by a small network that has learned what its teachers look at.

        X = TR(f) + f        r = w2 . relu(W1 X + b1) + b2        v = unit(sum_k softmax_k(r / 0.1) unit(X_k))

    The weights do not depend on the text, so a clip is still one vector and a score one dot product. A mean
    says little of what is seen in few frames; with `peaks` (ours) v = unit(sum + peaks of the frames f).
    extra of clips: `logits` r [V, F], whose softmax fine-grained teaching compares with the teachers'.
    """

    method = "teachclip"
    index_parts = frozenset({"coarse", "frames", "logits"})
    config_class = TeachClipConfig
    variants = ("peaks",)

    def add_layers(self) -> None:
        width = self.backbone.width
        self.temporal = TemporalStack(width, self.config.layers, self.config.positions)
        self.temporal.start_from_text(self.backbone)
        self.hidden, self.weigh = nn.Linear(width, width), nn.Linear(width, 1)
        init_linear(self.hidden)
        init_linear(self.weigh)
        if self.config.peaks:
            self.peaks = FramePeaks(width)

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        legacy = self.config.legacy
        seen = self.temporal(frames, mask, legacy).float()
        logits = self.weigh(F.relu(self.hidden(seen))).squeeze(-1).float()
        vectors = self.to_unit(seen)
        if not legacy:
            vectors = vectors.masked_fill(~mask.unsqueeze(-1), 0.0)
            logits = logits.masked_fill(~mask, 0.0)
        weights = self._softmax(logits / self.config.temperature, mask)
        pooled = (weights.unsqueeze(-1) * vectors).sum(1)
        if self.config.peaks:
            pooled = pooled + self.peaks(unit(frames.float()), mask).float()
        coarse = self.to_unit(pooled)
        return ClipFeatures(coarse, vectors, mask, extra={"logits": logits})

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The weights of attentional aggregation at temperature 1, the same for every text."""
        weights = self.frame_weights(clips)
        return weights.unsqueeze(0).expand(len(text), *weights.shape)

    def teaching_weights(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.frame_relevance(text, clips)

    def frame_weights(self, clips: ClipFeatures) -> Tensor:
        """What fine-grained teaching supervises: softmax of the logits, [V, F]."""
        return self._softmax(clips.extra["logits"].float(), clips.mask)

    def _softmax(self, logits: Tensor, mask: Tensor) -> Tensor:
        return masked_softmax(logits, torch.ones_like(mask) if self.config.legacy else mask)
