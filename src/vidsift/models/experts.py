"""Models of many experts (MoEE, Collaborative Experts): one network over expert features, and its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from vidsift.models.base import ClipFeatures, MethodConfig, RetrievalModel, TextFeatures
from vidsift.models.expert_layers import CollaborativeGating, GatedUnit, NetVLAD, offsets
from vidsift.models.pooling import masked_mean, text_gated_weights, unit

# The experts that are made of pixels when a clip is encoded by a backbone.
APPEARANCE, FRAMES = "appearance", "frames"


@dataclass(frozen=True)
class Expert:
    """One source of features of a clip: appearance, motion, audio, speech, ...

    dim: of its feature.  clusters: 0 for one vector [V, dim] per clip, else tokens [V, N, dim] that a NetVLAD
    of that many clusters pools.  width: of its embedding in MoEE; 0 takes the width of the pooled feature.
    source: how `vidsift.experts.open_expert` makes it; empty for features that were extracted elsewhere.
    """

    name: str
    dim: int
    clusters: int = 0
    width: int = 0
    source: str = ""

    @property
    def pooled(self) -> int:
        """Width of the pooled feature."""
        return self.dim * (self.clusters or 1)


@dataclass(frozen=True)
class ExpertConfig(MethodConfig):
    """experts: in the order of the weights; none means `appearance` and `frames`, made by the backbone.
    text_dim: of the token embeddings; 0 is the backbone's.  text_clusters, text_ghosts: of their NetVLAD.
    keep_missing: add up all experts with weight one, instead of mixing the available ones.
    legacy: padding and missing experts count in the pooling and in batch statistics, as in the reference.
    """

    experts: tuple[Expert, ...] = ()
    text_dim: int = 0
    text_clusters: int = 8
    text_ghosts: int = 1
    keep_missing: bool = False
    legacy: bool = False

    def __post_init__(self) -> None:
        # As read from a JSON file.
        experts = tuple(e if isinstance(e, Expert) else Expert(**e) for e in self.experts)
        object.__setattr__(self, "experts", experts)

    def resolved(self, width: int) -> Any:
        """The same settings over a backbone of this width, with nothing left open."""
        frames = Expert(FRAMES, width, clusters=4, width=width)
        experts = self.experts or (Expert(APPEARANCE, width), frames)
        return replace(self, experts=experts, text_dim=self.text_dim or width)


class ExpertNetwork(nn.Module):
    """The network over expert features and token embeddings; it needs no backbone.

    gating: collaborative gating over a shared width (CE); None gives every expert a gated unit (MoEE).
    widths: of the experts' embeddings.
    """

    def __init__(
        self, config: ExpertConfig, widths: Sequence[int], gating: CollaborativeGating | None = None
    ) -> None:
        super().__init__()
        self.experts, self.widths = config.experts, tuple(widths)
        self.keep_missing, self.legacy = config.keep_missing, config.legacy
        text = config.text_dim * config.text_clusters
        self.text_pool = NetVLAD(config.text_dim, config.text_clusters, config.text_ghosts)
        self.pools = nn.ModuleDict(
            {_module_name(e.name): NetVLAD(e.dim, e.clusters) for e in self.experts if e.clusters}
        )
        self.gating = gating
        unit_class = GatedUnit if gating is None else nn.Linear
        self.video_units = nn.ModuleList(
            unit_class(e.pooled, width) for e, width in zip(self.experts, widths, strict=True)
        )
        self.text_units = nn.ModuleList(GatedUnit(text, width) for width in widths)
        self.mixture = nn.Linear(text, len(self.experts))
        self.slots = offsets(self.widths)

    def encode_text(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings [T, W, text_dim], mask [T, W] -> embeddings [T, sum widths] and mixture [T, E]."""
        pooled = self.text_pool(tokens, None if self.legacy else mask)
        embedded = torch.cat([text_unit(pooled) for text_unit in self.text_units], -1)
        return embedded, self.mixture(pooled).float().softmax(-1)

    def encode_experts(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Expert features of V clips -> embeddings [V, sum widths] and availability [V, E] bool.

        features: by expert, [V, dim], or [V, N, dim] for tokens; an expert left out is missing everywhere.
        masks: by expert, [V] bool, or [V, N] bool for tokens; one left out means that all is real.
        What stands at a False (NaN, say) is never read. Embeddings of missing experts are zero, in legacy
        what the network makes of a zero feature.
        """
        pooled, found = [], []
        some = next(iter(features.values()))
        for expert in self.experts:
            x = features.get(expert.name)
            if x is None:
                shape = (len(some), 1, expert.dim) if expert.clusters else (len(some), expert.dim)
                x = some.new_zeros(shape)
                mask = x.new_zeros(shape[:-1], dtype=torch.bool)
            else:
                mask = masks.get(expert.name, x.new_ones(x.shape[:-1], dtype=torch.bool))
            if x.shape[-1] != expert.dim or x.ndim != (3 if expert.clusters else 2):
                raise ValueError(f"expert {expert.name!r}: features {tuple(x.shape)}, expected {expert}")
            x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
            if expert.clusters:
                x = self.pools[_module_name(expert.name)](x, None if self.legacy else mask)
                mask = mask.any(-1)
            pooled.append(x)
            found.append(mask)
        available = torch.stack(found, -1)
        embedded = self._embed(pooled, available)
        if not self.legacy:
            pairs = zip(embedded, available.T, strict=True)
            embedded = [e.masked_fill(~there.unsqueeze(-1), 0.0) for e, there in pairs]
        return torch.cat(embedded, -1), available

    def _embed(self, pooled: list[Tensor], available: Tensor) -> list[Tensor]:
        if self.gating is not None:
            reduced = [unit(reduce(x)) for reduce, x in zip(self.video_units, pooled, strict=True)]
            gated: list[Tensor] = self.gating(reduced, available, self.legacy)
            return gated
        real = [None if self.legacy else there for there in available.T]
        return [u(x, there) for u, x, there in zip(self.video_units, pooled, real, strict=True)]

    def weighted(self, text: Tensor, mixture: Tensor) -> Tensor:
        """Text embeddings times their mixture weights: [T, sum widths]."""
        if self.keep_missing:
            return text
        widths = torch.tensor(self.widths, device=mixture.device)
        return text * mixture.repeat_interleave(widths, -1)

    def similarity(self, text: Tensor, mixture: Tensor, video: Tensor, available: Tensor) -> Tensor:
        """sum_m w_m <t_m, e_m> over the available experts, their weights scaled to sum to one: [T, V].

        0 for a clip without any expert. With `keep_missing` all weights are one.
        """
        text, video = self.weighted(text, mixture).float(), video.float()
        if self.keep_missing:
            return text @ video.T
        if self.legacy:  # otherwise missing experts are zero already
            widths = torch.tensor(self.widths, device=available.device)
            video = video.masked_fill(~available.repeat_interleave(widths, -1), 0.0)
        scores = text @ video.T
        total = mixture.float() @ available.T.to(video.dtype)
        return scores / total.masked_fill(total <= 0, 1.0)

    def frame_vectors(self, frames: Tensor) -> Tensor:
        """Single frames [V, F, D] as the appearance expert sees them, ungated, in the place of its embedding.

        Returns [V, F, sum widths] unit norm, zeros if there is no such expert.
        """
        found = frames.new_zeros(*frames.shape[:2], sum(self.widths))
        for expert, layer, slot in zip(self.experts, self.video_units, self.slots, strict=True):
            if expert.name == APPEARANCE:
                linear = layer.fc if isinstance(layer, GatedUnit) else layer
                before, after = slot.start, found.shape[-1] - slot.stop
                found = nn.functional.pad(unit(linear(frames)), [before, after])
        return found


def _module_name(expert: str) -> str:
    """torch allows no dots in the names of modules."""
    return expert.replace(".", "-")


class ExpertMethod(RetrievalModel):
    """A method over expert features. From pixels it makes its own experts: `appearance`, the mean frame
    vector, and `frames`, the frame vectors as a set; others come ready-made through `encode_experts`.

    D is the sum of the experts' widths. sentence: the text embeddings times their mixture weights, joined.
    coarse: the embeddings of the available experts, joined. For clips with the same experts their cosine
    ranks as `similarity` does. extra: `embedding` and `available` of clips; `embedding`, `mixture` of texts.
    """

    index_parts = frozenset({"coarse", "frames", "embedding", "available"})
    config_class = ExpertConfig

    def add_layers(self) -> None:
        self.head = self.build_network(self.config.resolved(self.backbone.width))

    @classmethod
    def build_network(cls, config: Any) -> ExpertNetwork:
        """The network of these settings (resolved), freshly initialised; usable without a backbone."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        return sum(self.head.widths)

    @property
    def sees_frames(self) -> bool:
        return not self.config.experts

    def encode_video(self, frames: Tensor, mask: Tensor) -> ClipFeatures:
        vectors, _ = self.encode_real_frames(frames, mask)
        return self.clip_features(vectors.float(), mask.to(vectors.device))

    def clip_features(self, frames: Tensor, mask: Tensor, patches: Tensor | None = None) -> ClipFeatures:
        vectors = unit(frames)
        features = {APPEARANCE: masked_mean(vectors, mask), FRAMES: vectors}
        clips = self.encode_experts(features, {APPEARANCE: mask.any(-1), FRAMES: mask})
        frame_vectors = self.head.frame_vectors(vectors).masked_fill(~mask.unsqueeze(-1), 0.0)
        return replace(clips, frames=frame_vectors.float(), mask=mask)

    def encode_experts(
        self, features: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None
    ) -> ClipFeatures:
        """Clips from ready-made expert features, as `ExpertNetwork.encode_experts` takes them.

        There are no frames then: the coarse vector stands as the only one.
        """
        embedding, available = self.head.encode_experts(features, masks or {})
        widths = torch.tensor(self.head.widths, device=available.device)
        there = available.repeat_interleave(widths, -1)
        coarse = unit(embedding.float().masked_fill(~there, 0.0))
        extra = {"embedding": embedding.float(), "available": available}
        return ClipFeatures(coarse, coarse.unsqueeze(1), available.any(-1, keepdim=True), extra=extra)

    def encode_text(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        ids, mask = ids.to(self.device), mask.to(self.device)
        return self.encode_words(self.backbone.encode_tokens(ids, mask).words.float(), mask)

    def text_features(self, sentence: Tensor, words: Tensor, mask: Tensor) -> TextFeatures:
        return self.encode_words(words, mask)

    def encode_words(self, words: Tensor, mask: Tensor) -> TextFeatures:
        """Texts from ready-made token embeddings [T, W, text_dim] and their mask [T, W]."""
        embedding, mixture = self.head.encode_text(words, mask)
        sentence = unit(self.head.weighted(embedding, mixture).float())
        return TextFeatures(sentence, words, mask, extra={"embedding": embedding, "mixture": mixture})

    def cosines(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """The score before the backbone's logit scale, [T, V]: what the margin loss of the papers takes."""
        t, v = text.extra, clips.extra
        with torch.autocast(clips.mask.device.type, enabled=False):
            return self.head.similarity(t["embedding"], t["mixture"], v["embedding"], v["available"].bool())

    def similarity(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        return self.backbone.logits(self.cosines(text, clips))

    def frame_relevance(self, text: TextFeatures, clips: ClipFeatures) -> Tensor:
        """Softmax of the cosine of the text with single frames as the appearance expert sees them."""
        return text_gated_weights(clips.frames, text.sentence, clips.mask)
