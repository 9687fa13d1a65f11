"""TS2-Net (ECCV 2022): tokens move between frames inside the vision tower; the telling ones are selected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vidsift.models.backbone import ClipBackbone
from vidsift.models.base import ClipFeatures, TextFeatures
from vidsift.models.layers import TemporalStack
from vidsift.models.legacy import encode_padding_too
from vidsift.models.pooled import PooledConfig, PooledModel
from vidsift.models.pooling import masked_mean
from vidsift.models.registry import register
from vidsift.models.tokens import TokenScorer, TokenShift, perturbed_top_tokens, shifting, top_tokens

# Texts x clips x frames held at once when no gradient is needed.
_BLOCK = 1 << 20
_EMPTY = 1e-12
_SEED_LIMIT = 2**62


@dataclass(frozen=True)
class TS2NetConfig(PooledConfig):
    """shift_blocks: visual blocks whose attention sees shifted tokens, from the end if negative.

    shift_division: this many tokens per frame move each way.  selected: patches kept per frame, beside the
        frame vector.  samples, sigma: of the noise that lets the choice learn.
    sharpness: of the softmax over frames.  layers, positions: of the temporal stack over all kept tokens.
    legacy: draw noise in evaluation too, tile the frame mask over the tokens, shift tokens out of padding.
    """

    shift_blocks: tuple[int, ...] = (-2, -1)
    shift_division: int = 7
    selected: int = 3
    samples: int = 500
    sigma: float = 0.05
    sharpness: float = 4.0
    layers: int = 4
    positions: int = 77

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift_blocks", tuple(self.shift_blocks))


@register
class TS2Net(PooledModel):
    """Frames that have looked at their neighbours' patches, weighed for each text by a softmax over frames.

    frames: class tokens after the temporal stack.  coarse: their mean.  Nothing else is kept of a clip.
    """

    method = "ts2net"
    index_parts = frozenset({"coarse", "frames"})
    config_class = TS2NetConfig

    def add_layers(self) -> None:
        settings = self.config
        self.scorer = TokenScorer(self.backbone.width)
        self.temporal = TemporalStack(self.backbone.width, settings.layers, settings.positions)
        self.temporal.start_from_text(self.backbone)
        blocks = self.backbone.vision_layers
        # Only CLIP's tower has a class token in front.
        hook = TokenShift(settings.shift_division, first=1 if isinstance(self.backbone, ClipBackbone) else 0)
        for block in {i % len(blocks) for i in settings.shift_blocks if -len(blocks) <= i < len(blocks)}:
            attention = blocks[block].get_submodule("self_attn")
            attention.register_forward_pre_hook(hook, with_kwargs=True)

    @property
    def uses_patches(self) -> bool:
        return True

    @property
    def tower_settings(self) -> dict[str, Any]:
        return {"shift_blocks": self.config.shift_blocks, "shift_division": self.config.shift_division}

    @property
    def tokens_per_frame(self) -> int:
        """What a frame becomes: its own vector and the selected patches."""
        grid = self.backbone.image_size // int(self.backbone.config.vision_config.patch_size)
        return 1 + min(int(self.config.selected), grid * grid)

    def encode_real_frames(
        self, frames: Tensor, mask: Tensor, patches: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As for every method, with tokens shifted between neighbouring real frames of each clip.

        Raises ValueError under gradient checkpointing: a recomputed block would not see its neighbours.
        """
        layers = self.backbone.vision_layers
        if self.training and any(getattr(layer, "gradient_checkpointing", False) for layer in layers):
            raise ValueError("ts2net shifts tokens inside the vision tower, which cannot be checkpointed")
        with shifting(mask.to(self.device)):
            return super().encode_real_frames(frames, mask, patches)

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        mask = mask.to(self.device)
        if self.config.legacy:
            vectors, patches = encode_padding_too(self, frames, mask, patches=True)
        else:
            vectors, patches = self.encode_real_frames(frames, mask, patches=True)
        return self.clip_features(vectors, mask, patches)

    def select(self, frames: Tensor, patches: Tensor, noise: Tensor | None = None) -> Tensor:
        """The tokens that stand for each frame: [V, F, 1 + k, D], its own vector, then k patches or mixtures.

        frames: raw [V, F, D].  patches: raw [V, F, P, D].  In evaluation the k best patches as they are; in
        training, and always in legacy mode, what `perturbed_top_tokens` makes of them.
        noise: for the latter, [V * F, samples, P]; None draws it, seeded by torch's global generator.
        """
        v, f, p, d = patches.shape
        tokens = torch.cat([frames.unsqueeze(2), patches], 2).view(v * f, 1 + p, d)
        scores, k, settings = self.scorer(tokens), min(int(self.config.selected), p), self.config
        if self.training or settings.legacy:
            generator = None
            if noise is None:
                generator = torch.Generator(tokens.device)
                generator.manual_seed(int(torch.randint(_SEED_LIMIT, ())))
            chosen = perturbed_top_tokens(scores, k, settings.samples, settings.sigma, noise, generator)
        else:
            chosen = top_tokens(scores, k)
        kept = chosen.to(tokens.dtype) @ tokens[:, 1:]
        return torch.cat([tokens[:, :1], kept], 1).view(v, f, 1 + k, d)

    def contextual_tokens(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Frame vectors [V, F, D] after the temporal stack has seen all tokens [V, F, e, D] of a clip."""
        v, f, e, d = tokens.shape
        # The official mask runs through the frames once per token of a frame, while tokens go frame by frame.
        seen = mask.repeat(1, e) if self.config.legacy else mask.repeat_interleave(e, 1)
        found: Tensor = self.temporal(tokens.reshape(v, f * e, d).float(), seen, self.config.legacy)
        return found.view(v, f, e, d)[:, :, 0]

    def token_features(self, tokens: Tensor, mask: Tensor) -> ClipFeatures:
        """Features of clips from selected tokens [V, F, e, D] and the mask of frames [V, F]."""
        vectors = self.to_unit(self.contextual_tokens(tokens, mask).float())
        if not self.config.legacy:
            vectors = vectors.masked_fill(~mask.unsqueeze(-1), 0.0)
        return ClipFeatures(self.to_unit(masked_mean(vectors, mask)), vectors, mask)

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        """As for every method; without patches every frame is its own only token."""
        tokens = frames.unsqueeze(2) if patches is None else self.select(frames, patches)
        return self.token_features(tokens, mask)

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        step = max(1, len(text))
        if not torch.is_grad_enabled():
            step = max(1, _BLOCK // max(1, clips.mask.numel()))
        with torch.autocast(clips.mask.device.type, enabled=False):
            rows = []
            for i in range(0, max(1, len(text)), step):
                cosines, weights = self._weighed(text.sentence[i : i + step], clips)
                rows.append((weights * cosines).sum(0))
        return self.backbone.logits(torch.cat(rows))

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The weights of the frames in the score."""
        with torch.autocast(clips.mask.device.type, enabled=False):
            return self._weighed(text.sentence, clips)[1].permute(1, 2, 0)

    def _weighed(self, sentence: Tensor, clips: ClipFeatures) -> tuple[Tensor, Tensor]:
        """Cosines of frames and texts, and the weights of frames: [F, T, V] each."""
        v, f, d = clips.frames.shape
        found = clips.frames.float().reshape(v * f, d) @ sentence.float().T
        cosines = found.view(v, f, -1).permute(1, 2, 0).contiguous()
        mask = self.scored_mask(clips.mask).T.unsqueeze(1)  # [F, 1, V]
        masked = cosines * mask
        length = torch.linalg.vector_norm(masked, dim=0)
        if self.config.legacy:
            weights = (masked / length).masked_fill(~mask, -1e18).mul(self.config.sharpness).softmax(0)
            return cosines, weights
        sharp = masked / length.masked_fill(length < _EMPTY, 1.0) * self.config.sharpness
        weights = sharp.masked_fill(~mask, torch.finfo(sharp.dtype).min).softmax(0)
        return cosines, weights.masked_fill(~mask, 0.0)

    def scored_mask(self, mask: Tensor) -> Tensor:
        """The frames that count in the score: the real ones, or those that the tiled mask takes for real."""
        if not self.config.legacy:
            return mask
        step = self.tokens_per_frame
        return mask.repeat(1, step)[:, ::step]
