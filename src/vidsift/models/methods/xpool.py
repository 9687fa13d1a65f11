"""X-Pool (CVPR 2022): every text pools the frames that answer it, by one cross-attention block."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.base import ClipFeatures, MethodConfig, RetrievalModel, TextFeatures
from vidsift.models.legacy import encode_padding_too
from vidsift.models.pooling import masked_mean, masked_softmax, unit
from vidsift.models.registry import register

# Scores of texts x clips x frames held at once: a few MB per array, so that they stay in the cache.
_BLOCK = 1 << 20
_TINY = 1e-12


@dataclass(frozen=True)
class XPoolConfig(MethodConfig):
    """heads: of the cross-attention.  dropout: on the last linear layer, in training only.

    legacy: attend over padded frames too, as the official code does (its own loader repeats the
        last frame instead, but TeachCLIP feeds it padding).
    """

    heads: int = 1
    dropout: float = 0.3
    legacy: bool = False


class XPoolHead(nn.Module):
    """The pooling block, split into what concerns the text, the clip, and the pair.

    With frames v_k and a text t, in the official order of operations:

        alpha_k = softmax_k(key(n1(v_k)) . query(n1(t)) / sqrt(d))      o = out(sum_k alpha_k value(n1(v_k)))
        a = n2(o)        pooled = n3(a + dropout(linear(a)))            score = cos(t, pooled)

    Everything between the weights and the score is linear in the weights but for two LayerNorms, which only
    shift and divide. So out, n2's gain, linear and n3's gain are applied to the *frames*, once per clip
    (`values`), and the lengths that the LayerNorms and the cosine divide by come from small Gram matrices of
    these (`gram`): the same number as the definition, without any D x D product per pair.
    """

    def __init__(self, width: int, heads: int = 1, dropout: float = 0.3) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width {width}")
        self.heads, self.dropout = heads, dropout
        self.norm_in, self.norm_attended, self.norm_out = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out, self.linear = (nn.Linear(width, width) for _ in range(5))
        for layer in (self.query, self.key, self.value, self.out, self.linear):
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)

    # -- once per text, once per clip ------------------------------------------------------------------

    def queries(self, text: Tensor) -> Tensor:
        """Raw text vectors [T, D] -> attention queries [T, D], divided by sqrt(D / heads)."""
        found: Tensor = self.query(self.norm_in(text)) / math.sqrt(text.shape[-1] / self.heads)
        return found

    def attended(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Raw frame vectors [V, F, D] -> keys [V, F, D] and values through `out` [V, F * heads, D].

        A text's attention output is the sum of these values by its weights, frame-major, head-minor.
        """
        v, f, d = frames.shape
        normed = self.norm_in(frames)
        values = self.value(normed).view(v, f, self.heads, 1, d // self.heads)
        weight = self.out.weight.view(d, self.heads, -1).transpose(0, 1)  # [H, D, D/H]
        projected = (weight @ values.transpose(-1, -2)).squeeze(-1) + self.out.bias / self.heads
        return self.key(normed), projected.view(v, f * self.heads, d)

    def folded(self, attended: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Values through all that is linear, and the inner products that the LayerNorms need.

        attended: [V, N, D] from `attended`, N = F * heads.  mask: [V, F] bool, False where weights are 0.
        Returns values [V, N, D] and gram [V, N, 3 N + 3], zero where masked.
        """
        attended = attended.masked_fill(~mask.repeat_interleave(self.heads, 1).unsqueeze(-1), 0.0)
        centred = attended - attended.mean(-1, keepdim=True)
        scaled = centred * self.norm_attended.weight
        moved = scaled + F.linear(scaled, self.linear.weight)
        moved = moved - moved.mean(-1, keepdim=True)
        values = moved * self.norm_out.weight
        shift, gained = self._constants()
        cross = torch.stack([moved @ shift, values @ gained, values @ self.norm_out.bias], -1)
        grams = [x @ x.transpose(-1, -2) for x in (centred, moved, values)]
        return values, torch.cat([*grams, cross], -1)

    def _constants(self) -> tuple[Tensor, Tensor]:
        """What n2's and linear's biases add before n3, centred, without and with n3's gain: [D] each."""
        bias = self.norm_attended.bias
        shift = bias + F.linear(bias, self.linear.weight, self.linear.bias)
        shift = shift - shift.mean()
        return shift, shift * self.norm_out.weight

    # -- per pair ----------------------------------------------------------------------------------------

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attention over frames: [T, V, F, heads], sums to one over the real frames; zeros without any.

        queries: [T, D].  keys: [V, F, D].  mask: [V, F] bool.
        """
        t, (v, f, _) = queries.shape[0], keys.shape
        query, key = queries.view(t, self.heads, -1), keys.reshape(v * f, self.heads, -1)
        logits = torch.stack([query[:, h] @ key[:, h].T for h in range(self.heads)], 1)
        found = masked_softmax(logits.view(t, self.heads, v, f), mask.unsqueeze(0))
        return found.permute(0, 2, 3, 1)

    def pooled(self, weights: Tensor, attended: Tensor) -> Tensor:
        """The definition: what each text sees of each clip, [T, V, D], not normalised.

        weights: [T, V, N].  attended: [V, N, D] from `attended`.
        """
        a = self.norm_attended(torch.einsum("tvn,vnd->tvd", weights, attended))
        found: Tensor = self.norm_out(a + F.dropout(self.linear(a), self.dropout, self.training))
        return found

    def cosines(self, weights: Tensor, text: Tensor, values: Tensor, gram: Tensor) -> Tensor:
        """cos(text, pooled) of every pair, [T, V], without building `pooled`.

        weights: [T, V, N].  text: [T, D] unit norm.  values, gram: from `folded`.
        """
        (t, v, n), width = weights.shape, text.shape[-1]
        shift, gained = self._constants()
        bias, eps = self.norm_out.bias, self.norm_out.eps
        by_clip = weights.transpose(0, 1)
        forms = torch.bmm(by_clip, gram)  # [V, T, 3 N + 3]
        squares = (forms[..., : 3 * n].view(v, t, 3, n) * by_clip.unsqueeze(2)).sum(-1)
        spread, moved2, values2 = squares.permute(2, 1, 0)  # [T, V] each
        with_shift, with_gained, with_bias = forms[..., 3 * n :].permute(2, 1, 0)
        dots = (weights * (text @ values.reshape(v * n, -1).T).view(t, v, n)).sum(-1)

        inner = (spread / width + self.norm_attended.eps).rsqrt()
        variance = (inner.square() * moved2 + 2 * inner * with_shift + shift.square().sum()) / width
        outer = (variance.clamp_min(0.0) + eps).rsqrt()
        dot = outer * (inner * dots + (text @ gained).unsqueeze(1)) + (text @ bias).unsqueeze(1)
        gains2 = inner.square() * values2 + 2 * inner * with_gained + gained.square().sum()
        biases = inner * with_bias + gained @ bias
        length2 = outer.square() * gains2 + 2 * outer * biases + bias.square().sum()
        found: Tensor = dot * length2.clamp_min(_TINY).rsqrt()
        return found


@register
class XPool(RetrievalModel):
    """Frames pooled for each text by cross-attention; the score is the scaled cosine of text and pool.

    extra of clips: in eval mode `keys`, `values` and `gram` (see `XPoolHead`), which an index keeps; in
    training with dropout `keys` and `attended`, because dropout falls between the layers that are folded.
    extra of texts: `query`.  coarse: the mean of the frame vectors, as CLIP4Clip pools.
    """

    method = "xpool"
    index_parts = frozenset({"coarse", "frames", "keys", "values", "gram"})
    config_class = XPoolConfig

    def add_layers(self) -> None:
        self.head = XPoolHead(self.backbone.width, self.config.heads, self.config.dropout)

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        encode = partial(encode_padding_too, self) if self.config.legacy else self.encode_real_frames
        vectors, _ = encode(frames, mask)
        return self.clip_features(vectors.float(), mask.to(vectors.device))

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        ids, mask = ids.to(self.device), mask.to(self.device)
        out = self.backbone.encode_tokens(ids, mask)
        return self.text_features(out.sentence.float(), out.words.float(), mask)

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        keys, attended = self.head.attended(frames)
        if self.training and self.head.dropout > 0:
            extra = {"keys": keys, "attended": attended}
        else:
            with torch.autocast(frames.device.type, enabled=False):
                values, gram = self.head.folded(attended.float(), self._attended_mask(mask))
            extra = {"keys": keys, "values": values, "gram": gram}
        vectors = unit(frames).masked_fill(~mask.unsqueeze(-1), 0.0)
        return ClipFeatures(unit(masked_mean(vectors, mask)), vectors, mask, extra=extra)

    def text_features(self, sentence: Tensor, words: Tensor, mask: Tensor) -> TextFeatures:
        return TextFeatures(unit(sentence), words, mask, extra={"query": self.head.queries(sentence)})

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.backbone.logits(self.cosines(text, clips))

    def cosines(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The score before the logit scale: [T, V]; 0 for a clip without real frames."""
        step = max(1, _BLOCK // max(1, clips.mask.numel() * self.head.heads))
        with torch.autocast(clips.mask.device.type, enabled=False):
            rows = [
                self._cosines(text.sentence[i : i + step], text.extra["query"][i : i + step], clips)
                for i in range(0, max(1, len(text)), step)
            ]
        return torch.cat(rows)

    def _cosines(self, sentence: Tensor, query: Tensor, clips: ClipFeatures) -> Tensor:
        extra = {name: part.float() for name, part in clips.extra.items()}
        mask, sentence = self._attended_mask(clips.mask), sentence.float()
        weights = self.head.weights(query.float(), extra["keys"], mask).flatten(2)
        if "attended" in extra:
            found = torch.einsum("td,tvd->tv", sentence, unit(self.head.pooled(weights, extra["attended"])))
        else:
            found = self.head.cosines(weights, sentence, extra["values"], extra["gram"])
        return found.masked_fill(~mask.any(-1), 0.0)

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The attention weights, averaged over heads."""
        with torch.autocast(clips.mask.device.type, enabled=False):
            keys = clips.extra["keys"].float()
            mask = self._attended_mask(clips.mask)
            return self.head.weights(text.extra["query"].float(), keys, mask).mean(-1)

    def teaching_weights(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The attention weights, as TeachCLIP takes them."""
        return self.frame_relevance(text, clips)

    def _attended_mask(self, mask: Tensor) -> Tensor:
        return torch.ones_like(mask) if self.config.legacy else mask
