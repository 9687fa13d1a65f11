"""CLIP4Clip's three heads with parameters (Luo et al. 2021): seqLSTM, seqTransf and tightTransf."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.layers import ResidualBlock, TemporalStack, init_linear, key_bias, quick_gelu
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.registry import register

# Tokens of text-clip pairs in flight at once in tightTransf: 4096 x 512 fp32 is 8 MB per array.
_PAIR_TOKENS = 4096


@dataclass(frozen=True)
class SeqTransfConfig(PooledConfig):
    """layers: of the temporal stack.  positions: rows of its position table."""

    layers: int = 4
    positions: int = 77


@dataclass(frozen=True)
class TightTransfConfig(SeqTransfConfig):
    """dropout: on the stack's input, in training only.  positions: the text takes one of them."""

    dropout: float = 0.1


@register
class SeqLSTM(PooledModel):
    """A one-layer LSTM runs over the real frames and is added to them; then as in mean pooling."""

    method = "seqlstm"
    config_class = PooledConfig

    def add_layers(self) -> None:
        self.lstm = nn.LSTM(self.backbone.width, self.backbone.width, batch_first=True)

    def contextual(self, frames: Tensor, mask: Tensor) -> Tensor:
        # Real frames first: what the LSTM reads after them cannot change what it said about them.
        order = (~mask).to(torch.uint8).argsort(dim=1, stable=True).unsqueeze(-1).expand_as(frames)
        # In fp32 under autocast, too: not every processor has a bf16 LSTM.
        with torch.autocast(frames.device.type, enabled=False):
            seen, _ = self.lstm(frames.gather(1, order).float())
        return frames + torch.zeros_like(frames).scatter(1, order, seen.to(frames.dtype))


@register
class SeqTransf(PooledModel):
    """A temporal transformer runs over the frames and is added to them; then as in mean pooling.

    It starts from the positions and the first blocks of CLIP's text tower.
    """

    method = "seqtransf"
    config_class = SeqTransfConfig

    def add_layers(self) -> None:
        self.temporal = TemporalStack(self.backbone.width, self.config.layers, self.config.positions)
        self.temporal.start_from_text(self.backbone)

    def contextual(self, frames: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.temporal(frames, mask, self.config.legacy)
        return found


class CrossEncoder(nn.Module):
    """The tight head: a transformer reads the text and the frames as one sequence and gives one number.

        x = [t, v_1 .. v_F] + positions        h = quick_gelu(dense(norm(TR(x)_0)))        score = w . h + b

    Neither the vectors nor the score are normalised or scaled.
    """

    def __init__(self, width: int, layers: int, positions: int, dropout: float) -> None:
        super().__init__()
        self.stack = TemporalStack(width, layers, positions)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.dense, self.score = nn.Linear(width, width), nn.Linear(width, 1)
        self.dropout = dropout
        init_linear(self.dense)
        init_linear(self.score)

    def forward(self, text: Tensor, frames: Tensor, mask: Tensor, legacy: bool = False) -> Tensor:
        """Scores [T, V].  text: raw sentence vectors [T, D].  frames: raw [V, F, D].  mask: [V, F] bool."""
        found = text.new_empty(len(text), len(mask))
        clips = max(1, _PAIR_TOKENS // (mask.shape[1] + 1))
        rows = []
        for i in range(0, len(text), texts := max(1, clips // max(1, len(mask)))):
            row = [
                self._scores(text[i : i + texts], frames[j : j + clips], mask[j : j + clips], legacy)
                for j in range(0, len(mask), clips)
            ]
            rows.append(torch.cat(row, 1) if row else found[i : i + texts])
        return torch.cat(rows) if rows else found

    def _scores(self, text: Tensor, frames: Tensor, mask: Tensor, legacy: bool) -> Tensor:
        pooled = self.pooled(text, frames, mask, legacy)
        found: Tensor = self.score(pooled).squeeze(-1)
        return found

    def pooled(self, text: Tensor, frames: Tensor, mask: Tensor, legacy: bool = False) -> Tensor:
        """What the head keeps of each pair: [T, V, D]; arguments as for `forward`."""
        t, (v, f, d) = len(text), frames.shape
        index = torch.arange(f + 1, device=text.device) % len(self.stack.positions)
        place = self.stack.positions[index]
        first = (text + place[0])[:, None, None].expand(t, v, 1, d)
        rest = (frames + place[1:]).unsqueeze(0).expand(t, v, f, d)
        x = F.dropout(torch.cat([first, rest], 2).flatten(0, 1), self.dropout, self.training)
        seen = F.pad(mask, [1, 0], value=True)
        bias = key_bias(seen, legacy).repeat(t, 1, 1, 1)
        *blocks, last = [block for block in self.stack.blocks if isinstance(block, ResidualBlock)]
        for block in blocks:
            x = block(x, bias)
        x = last(x, bias, queries=1).squeeze(1)
        kept: Tensor = quick_gelu(self.dense(self.norm(x)))
        return kept.view(t, v, d)


@register
class TightTransf(PooledModel):
    """A transformer over [text, frames] scores every pair anew: a teacher or a reranker, not an index.

    extra of clips: `raw`, the backbone's frame vectors, which an index keeps.  extra of texts: `raw`.
    coarse and frames are mean pooling's, for recall and for `frame_relevance`.
    """

    method = "tighttransf"
    scaled = False
    index_parts = frozenset({"coarse", "frames", "raw"})
    config_class = TightTransfConfig

    def add_layers(self) -> None:
        settings = self.config
        self.cross = CrossEncoder(self.backbone.width, settings.layers, settings.positions, settings.dropout)
        self.cross.stack.start_from_text(self.backbone)

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        pooled = super().clip_features(frames, mask, patches)
        return ClipFeatures(pooled.coarse, pooled.frames, mask, extra={"raw": frames})

    def text_features(self, sentence: Tensor, words: Tensor, mask: Tensor) -> TextFeatures:
        return TextFeatures(self.to_unit(sentence), words, mask, extra={"raw": sentence})

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        found: Tensor = self.cross(text.extra["raw"], clips.extra["raw"], clips.mask, self.config.legacy)
        return found
