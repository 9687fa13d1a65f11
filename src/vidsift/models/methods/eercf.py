"""EERCF (AAAI 2024): a coarse score for all clips; for a few, frames and patches weighed by the sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.interaction import attend, needed, sized
from vidsift.models.layers import TemporalStack
from vidsift.models.legacy import encode_padding_too
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.pooling import masked_mean, masked_softmax, text_gated_weights, unit
from vidsift.models.registry import register

# Official weights of the two objectives in training: the total is 0.8 weak + 0.2 strong + 0.001 constraint.
WEAK = {"video": 0.5, "frame_weak": 0.5, "patch_weak": 0.05}
STRONG = {"frame_strong": 1.0, "patch_strong": 0.0}
# Scores of texts x clips x frames (or patches) held at once when no gradient is needed.
_BLOCK = 1 << 20
_EMPTY = 1e-12


@dataclass(frozen=True)
class EERCFConfig(PooledConfig):
    """layers, positions: of the temporal stack.  frames: side of the learned matrix over frames.

    patches: also weigh every patch of every frame; a clip then keeps F * P more vectors, 49 times the frames
        of a ViT-B/32. Off, the scores of patches are left out.
    gate_temperature: of the text-gated block over frames.  sharp_temperature: of everything else.
    video_weight .. patch_strong_weight: of the scores in `similarity`, the official ones of the second stage.
    legacy: weigh padded frames too; in training, gate every clip by its own text only, without gradient.
    """

    layers: int = 4
    positions: int = 77
    frames: int = 12
    patches: bool = False
    gate_temperature: float = 0.1
    sharp_temperature: float = 0.01
    video_weight: float = 0.5
    frame_weak_weight: float = 0.8
    frame_strong_weight: float = 0.2
    patch_weak_weight: float = 0.2
    patch_strong_weight: float = 0.0


def weak_scores(
    sentence: Tensor, vectors: Tensor, matrix: Tensor | None, mask: Tensor, temperature: float = 0.01
) -> Tensor:
    """sum_k (softmax_k(c / tau) A)_k c_k with c_k = t . f_k: the "weak" score, [T, V].

    sentence: [T, D].  vectors: frames or patches [V, N, D], unit norm.  matrix: A, [N, N], or None.
    mask: [V, N] bool, True on real ones; a clip without any scores 0.
    """
    return _weak(_cosines(sentence, vectors), matrix, mask, temperature)


def gated_scores(
    sentence: Tensor, keys: Tensor, values: Tensor, gram: Tensor, mask: Tensor, temperature: float = 0.1
) -> Tensor:
    """t . unit(sum_k a_k u_k) with a = softmax_k(t . f_k / tau): the "strong", text-gated score, [T, V].

    sentence: [T, D].  keys, values: f and u, [V, N, D] unit norm.  gram: [V, N, N], the values' inner
    products, which give the length of the pooled vector without building it.  mask: [V, N] bool.
    """
    return _gated(_cosines(sentence, keys), _cosines(sentence, values), gram, mask, temperature)


def gated_vectors(
    sentence: Tensor, keys: Tensor, values: Tensor, mask: Tensor, temperature: float, detach: bool = False
) -> Tensor:
    """One vector per clip, gated by its own text: [B, D] unit norm, for text i and clip i.

    sentence: [B, D].  keys, values: [B, N, D].  mask: [B, N] bool.  detach: no gradient through the gate.
    """
    logits = torch.einsum("bd,bnd->bn", sentence, keys)
    weights = masked_softmax(logits / temperature, mask)
    return unit(torch.einsum("bn,bnd->bd", weights.detach() if detach else weights, values))


def weighted(scores: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    """Sum of the scores by their weights; scores that are not there, or weigh 0, are left out."""
    parts = [scores[name] * weight for name, weight in weights.items() if weight and name in scores]
    return sum(parts[1:], parts[0])


def _cosines(sentence: Tensor, vectors: Tensor) -> Tensor:
    """[N, T, V]: the axis that is attended over comes first, where a softmax is fast."""
    v, n, d = vectors.shape
    found = vectors.reshape(v * n, d) @ sentence.T
    return found.view(v, n, -1).permute(1, 2, 0).contiguous()


def _weak(cosines: Tensor, matrix: Tensor | None, mask: Tensor, temperature: float) -> Tensor:
    real = needed(mask)
    over = None if real is None else real.T.unsqueeze(1)
    square = None if matrix is None else sized(matrix, mask.shape[1])
    return attend(cosines / temperature, square, over) * temperature


def _gated(cosines: Tensor, dots: Tensor, gram: Tensor, mask: Tensor, temperature: float) -> Tensor:
    logits = (cosines / temperature).masked_fill(~mask.T.unsqueeze(1), torch.finfo(cosines.dtype).min)
    weights = logits.softmax(0)
    by_clip = weights.permute(2, 1, 0)  # [V, T, N]
    square = ((by_clip @ gram) * by_clip).sum(-1).T
    none = (square < _EMPTY) | ~mask.any(-1)
    score = (weights * dots).sum(0) * square.masked_fill(none, 1.0).rsqrt()
    return score.masked_fill(none, 0.0)


@register
class EERCF(PooledModel):
    """Five scores of a pair: one coarse, a weak and a strong one of frames, and the same of patches.

    coarse: as in CLIP4Clip's seqTransf.  frames: the backbone's own, *before* the temporal stack.
    extra of clips: `contextual` [V, F, D], unit frame vectors *after* the stack, and `gram` [V, F, F], their
    inner products.  patches (when configured): unit norm.  An index keeps all of these.
    """

    method = "eercf"
    index_parts = frozenset({"coarse", "frames", "contextual", "gram"})
    undecayed = frozenset({"sentence_video", "frame_mixing"})
    config_class = EERCFConfig
    variants = ("patches",)
    score_names = (*PooledModel.score_names, "weak", "strong")

    def add_layers(self) -> None:
        settings = self.config
        if settings.patches:
            self.index_parts = self.index_parts | {"patches"}  # type: ignore[misc]
        self.temporal = TemporalStack(self.backbone.width, settings.layers, settings.positions)
        self.temporal.start_from_text(self.backbone)
        self.sentence_video = nn.Parameter(torch.eye(self.backbone.width))
        self.frame_mixing = nn.Parameter(torch.eye(settings.frames))

    @property
    def uses_patches(self) -> bool:
        return bool(self.config.patches)

    # -- features --------------------------------------------------------------------------------------

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        mask, patches = mask.to(self.device), self.config.patches
        if self.config.legacy:
            # The official matrix is as large as the padded clip, so that padding is part of every score.
            missing = max(0, self.config.frames - mask.shape[1])
            mask = nn.functional.pad(mask, [0, missing])
            frames = nn.functional.pad(frames, [0, 0] * 3 + [0, missing])
            vectors, found = encode_padding_too(self, frames, mask, patches)
        else:
            vectors, found = self.encode_real_frames(frames, mask, patches)
        return self.clip_features(vectors.float(), mask, None if found is None else found.float())

    def contextual(self, frames: Tensor, mask: Tensor) -> Tensor:
        found: Tensor = self.temporal(frames, mask, self.config.legacy)
        return found

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        seen, kept = self.to_unit(self.contextual(frames, mask).float()), self.to_unit(frames)
        patches = None if patches is None else self.to_unit(patches)
        if not self.config.legacy:
            empty = ~mask.unsqueeze(-1)
            seen, kept = seen.masked_fill(empty, 0.0), kept.masked_fill(empty, 0.0)
            patches = None if patches is None else patches.masked_fill(empty.unsqueeze(-1), 0.0)
        with torch.autocast(seen.device.type, enabled=False):
            extra = {"contextual": seen, "gram": seen @ seen.transpose(1, 2)}
        return ClipFeatures(self.to_unit(masked_mean(seen, mask)), kept, mask, patches, extra)

    # -- scores ----------------------------------------------------------------------------------------

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        weights = {name: getattr(self.config, f"{name}_weight") for name in SCORES}
        return self.backbone.logits(weighted(self.scores(text, clips, weights), weights))

    def score(self, name: str, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """As for every method; `weak` and `strong` are the two objectives of the official training."""
        weights = {"weak": WEAK, "strong": STRONG}.get(name)
        if weights is None:
            return super().score(name, text, clips)
        return self.backbone.logits(weighted(self.training_scores(text, clips, weights), weights))

    def coarse_similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.backbone.logits(self.coarse_scores(text, clips))

    def coarse_scores(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The first stage, t G v: [T, V], before the logit scale."""
        with torch.autocast(clips.mask.device.type, enabled=False):
            return text.sentence.float() @ self.sentence_video.float() @ clips.coarse.float().T

    def scores(
        self, text: TextFeatures, clips: ClipFeatures, wanted: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """The five scores of every pair, [T, V] each, before the logit scale; those of patches if kept.

        wanted: leave out scores that are 0 in it.
        """
        names = SCORES if wanted is None else tuple(n for n in SCORES if wanted.get(n))
        if clips.patches is None:
            names = tuple(n for n in names if not n.startswith("patch"))
        v, width = clips.mask.shape[0], clips.mask.shape[1]
        if any(n.startswith("patch") for n in names) and clips.patches is not None:
            width *= clips.patches.shape[2]
        step = max(1, v if torch.is_grad_enabled() else _BLOCK // max(1, width * len(text)))
        with torch.autocast(clips.mask.device.type, enabled=False):
            blocks = [
                self._scores(text.sentence.float(), clips.select(slice(i, i + step)), names)
                for i in range(0, max(1, v), step)
            ]
        return {name: torch.cat([block[name] for block in blocks], 1) for name in names}

    def _scores(self, sentence: Tensor, clips: ClipFeatures, names: tuple[str, ...]) -> dict[str, Tensor]:
        found, settings = {}, self.config
        mask = self._weighed(clips.mask)
        if "video" in names:
            found["video"] = sentence @ self.sentence_video.float() @ clips.coarse.float().T
        if "frame_weak" in names or "frame_strong" in names:
            cosines = _cosines(sentence, clips.frames.float())
        if "frame_weak" in names:
            found["frame_weak"] = _weak(cosines, self.frame_mixing.float(), mask, settings.sharp_temperature)
        if "frame_strong" in names:
            dots, gram = _cosines(sentence, clips.extra["contextual"].float()), clips.extra["gram"].float()
            found["frame_strong"] = _gated(cosines, dots, gram, mask, settings.gate_temperature)
        if clips.patches is not None and ("patch_weak" in names or "patch_strong" in names):
            patches = clips.patches.float().flatten(1, 2)
            mask = mask.repeat_interleave(clips.patches.shape[2], 1)
            cosines = _cosines(sentence, patches)
            if "patch_weak" in names:
                found["patch_weak"] = _weak(cosines, None, mask, settings.sharp_temperature)
            if "patch_strong" in names:
                gram = patches @ patches.transpose(1, 2)
                found["patch_strong"] = _gated(cosines, cosines, gram, mask, settings.sharp_temperature)
        return found

    def training_scores(
        self, text: TextFeatures, clips: ClipFeatures, wanted: Mapping[str, float] | None = None
    ) -> dict[str, Tensor]:
        """The scores that training optimises, text i matching clip i: [B, B] each.

        The same as `scores`, but in legacy mode the strong ones compare every text with the vector that the
        clip's own text made, which is not what is ranked afterwards.  wanted: as for `scores`.
        """
        found = self.scores(text, clips, wanted)
        if self.config.legacy:
            own = self.own_vectors(text, clips)
            found |= {name: text.sentence @ own[name].T for name in STRONG if name in own and name in found}
        return found

    def own_vectors(self, text: TextFeatures, clips: ClipFeatures) -> dict[str, Tensor]:
        """As for every method; `frame_strong` and, where kept, `patch_strong` are gated by text i."""
        legacy, mask = self.config.legacy, self._weighed(clips.mask)
        with torch.autocast(mask.device.type, enabled=False):
            sentence, values = text.sentence.float(), clips.extra["contextual"].float()
            gate = self.config.gate_temperature
            frames = gated_vectors(sentence, clips.frames.float(), values, mask, gate, legacy)
            found = {"coarse": clips.coarse, "frame_strong": frames}
            if clips.patches is not None:
                patches = clips.patches.float().flatten(1, 2)
                mask = mask.repeat_interleave(clips.patches.shape[2], 1)
                sharp = self.config.sharp_temperature
                found["patch_strong"] = gated_vectors(sentence, patches, patches, mask, sharp, legacy)
        return found

    def two_stage(self, text: TextFeatures, clips: ClipFeatures, candidates: int = 50) -> Tensor:
        """Rank all clips by the coarse score, then the best of each text by `similarity`: [T, V] logits.

        Only the candidates get the fine scores. They are lifted above the others: by 100 in legacy mode, as
        the official code does; else by what it takes.
        """
        coarse = self.backbone.logits(self.coarse_scores(text, clips))
        best = coarse.topk(min(candidates, len(clips)), dim=1).indices
        rows = []
        for i, chosen in enumerate(best):
            fine = self.similarity(text.select(slice(i, i + 1)), clips.select(chosen))[0]
            others = coarse[i].index_fill(0, chosen, -torch.inf)
            lift: Tensor | float = 100.0
            if not self.config.legacy:
                lift = (others.max() - fine.min()).clamp_min(0.0) + 1.0 if len(chosen) < len(clips) else 0.0
            rows.append(coarse[i].index_put((chosen,), fine + lift))
        return torch.stack(rows) if rows else coarse

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The gate of the strong frame score."""
        mask = self._weighed(clips.mask)
        return text_gated_weights(clips.frames, text.sentence, mask, self.config.gate_temperature)

    def query_vectors(self, text: TextFeatures) -> Tensor:
        """Sentences through the learned matrix, so that coarse vectors rank as the first stage does."""
        return unit(text.sentence.float() @ self.sentence_video.float())

    def _weighed(self, mask: Tensor) -> Tensor:
        return torch.ones_like(mask) if self.config.legacy else mask


SCORES = ("video", "frame_weak", "frame_strong", "patch_weak", "patch_strong")
