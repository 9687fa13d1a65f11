"""X-CLIP (ACM MM 2022): four contrasts, from the whole clip and sentence down to every frame and word."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.interaction import attend, needed, real_length, sized
from vidsift.models.layers import TemporalStack
from vidsift.models.legacy import encode_padding_too
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.pooling import masked_mean, text_gated_weights, unit
from vidsift.models.registry import register

# Frame-word scores held at once when no gradient is needed: arrays of half a MB stay in the cache.
_BLOCK = 1 << 17
_TEXTS = 8


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


class Contrasts(NamedTuple):
    """The four scores of every pair, before the logit scale: [T, V] each."""

    video_sentence: Tensor
    video_word: Tensor
    sentence_frame: Tensor
    frame_word: Tensor


class XClipHead(nn.Module):
    """With unit vectors t, w_a, v, f_k (sentence, words, clip, frames), att(x; M) = (softmax(x / tau) M) . x:

    video-sentence   t G v
    video-word       att_a(w_a . v; A_w)
    sentence-frame   att_k(t . f_k; A_f)
    frame-word       C_ak = w_a L f_k
                     [ att_k(att_a(C; M_w); M_f2) + att_a(att_k(C; M_f); M_w2) ] / 2
    """

    def __init__(self, width: int, words: int, frames: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.sentence_video, self.word_frame = _identity(width), _identity(width)
        self.word_video, self.words_first, self.words_last = (_identity(words) for _ in range(3))
        self.sentence_frame, self.frames_first, self.frames_last = (_identity(frames) for _ in range(3))

    def forward(
        self,
        text: tuple[Tensor, Tensor, Tensor],
        clips: tuple[Tensor, Tensor, Tensor],
    ) -> Contrasts:
        """Score every pair.

        text: sentence [T, D], words [T, W, D], mask [T, W].  clips: coarse [V, D], frames [V, F, D], mask
        [V, F]. Vectors are unit norm, masks bool; all True counts padding as the official code does.
        """
        sentence, words, word_mask = text
        t, v = len(sentence), len(clips[0])
        coarse_query, word_query = sentence @ self.sentence_video, words @ self.word_frame
        texts, step = max(1, t), max(1, v)
        if not torch.is_grad_enabled():
            texts = min(texts, _TEXTS)
        rows = []
        for i in range(0, max(1, t), texts):
            one = slice(i, i + texts)
            length = real_length(word_mask[one])
            if not torch.is_grad_enabled():
                step = max(1, _BLOCK // (texts * length * max(1, clips[1].shape[1])))
            parts = (sentence[one], words[one, :length], word_query[one, :length], word_mask[one, :length])
            block = [self._block(parts, *(x[j : j + step] for x in clips)) for j in range(0, max(1, v), step)]
            rows.append(torch.cat(block, -1))
        three = torch.cat(rows, 1) * self.temperature
        return Contrasts(coarse_query @ clips[0].T, *three.unbind())

    def _block(
        self, text: tuple[Tensor, Tensor, Tensor, Tensor], coarse: Tensor, frames: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """The three contrasts that attend, stacked and divided by the temperature: [3, T, V]."""
        sentence, words, word_query, word_mask = text
        (t, w), (v, f) = word_mask.shape, frame_mask.shape
        real_words, real_frames = needed(word_mask), needed(frame_mask)
        over_words = None if real_words is None else real_words.unsqueeze(-1)  # [T, W, 1]
        over_frames = None if real_frames is None else real_frames.T.unsqueeze(1)  # [F, 1, V]
        over_pairs = None if over_frames is None else over_frames.unsqueeze(1)

        # Dividing the queries divides every score by the temperature, at no cost per pair. Words and
        # sentences meet the frames in one product, which reads the frames once.
        queries = torch.cat([word_query.flatten(0, 1), sentence]) / self.temperature
        met = queries @ frames.reshape(v * f, -1).T
        pairs = met[: t * w].view(t, w, v, f).permute(3, 0, 1, 2).contiguous()
        with_sentence = met[t * w :].view(t, v, f).permute(2, 0, 1).contiguous()
        with_clip = ((words / self.temperature).flatten(0, 1) @ coarse.T).view(t, w, v)

        video_word = attend(with_clip, sized(self.word_video, w), over_words, dim=-2)
        sentence_frame = attend(with_sentence, sized(self.sentence_frame, f), over_frames)
        by_frame = attend(pairs, sized(self.words_first, w), over_words, dim=-2)  # [F, T, V]
        by_word = attend(pairs, sized(self.frames_first, f), over_pairs)  # [T, W, V]
        first = attend(by_frame, sized(self.frames_last, f), over_frames)
        second = attend(by_word, sized(self.words_last, w), over_words, dim=-2)
        return torch.stack([video_word, sentence_frame, (first + second) / 2])


def _identity(size: int) -> nn.Parameter:
    return nn.Parameter(torch.eye(size))


@register
class XClip(PooledModel):
    """The mean of four contrasts at four granularities, times the logit scale.

    coarse: as in CLIP4Clip's seqTransf.  frames: the backbone's own, *before* the temporal stack.  Nothing
    beside these is kept of a clip: the learned matrices act on the query.
    """

    method = "xclip"
    index_parts = frozenset({"coarse", "frames"})
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

    def clip_features(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        seen, kept = self.to_unit(self.contextual(frames, mask).float()), self.to_unit(frames)
        if not self.config.legacy:
            empty = ~mask.unsqueeze(-1)
            seen, kept = seen.masked_fill(empty, 0.0), kept.masked_fill(empty, 0.0)
        return ClipFeatures(self.to_unit(masked_mean(seen, mask)), kept, mask)

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        parts = self.contrasts(text, clips)
        return self.backbone.logits(sum(parts[1:], parts[0]) / 4)

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

    @torch.inference_mode()
    def encode_queries(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Sentences through the video-sentence matrix, so that coarse vectors rank as that contrast does."""
        sentence = self.encode_text(*self.tokenize(texts)).sentence.float()
        return np.asarray(unit(sentence @ self.head.sentence_video.float()).cpu().numpy())
