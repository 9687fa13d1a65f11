"""X-CLIP's contrasts (ACM MM 2022) as a head over unit vectors of clips, frames, sentences and words."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vidsift.models.interaction import attend, needed, real_length, sized

# Frame-word scores held at once when no gradient is needed: arrays of half a MB stay in the cache.
_BLOCK = 1 << 17
_TEXTS = 8


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

    IDENTITIES = frozenset(
        {
            "sentence_video",
            "word_frame",
            "word_video",
            "words_first",
            "words_last",
            "sentence_frame",
            "frames_first",
            "frames_last",
        }
    )

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
