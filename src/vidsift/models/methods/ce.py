"""Collaborative Experts (Liu et al., BMVC 2019): experts of one width that gate each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidsift.models.expert_layers import CollaborativeGating
from vidsift.models.experts import ExpertConfig, ExpertMethod, ExpertNetwork
from vidsift.models.registry import register


@dataclass(frozen=True)
class CollaborativeExpertsConfig(ExpertConfig):
    """shared_dim: width of every expert's embedding; 768 in the released models, 0 is the backbone's.

    pair_layers, vote_layers: linear layers of the network over pairs (the first takes both experts) and of
    that over the votes.  include_self: an expert votes on itself.  reason_norm: batch normalisation before
    each activation.  mish: Mish, else ReLU.
    """

    shared_dim: int = 0
    pair_layers: int = 3
    vote_layers: int = 0
    include_self: bool = True
    reason_norm: bool = True
    mish: bool = True

    def resolved(self, width: int) -> Any:
        found = super().resolved(width)
        object.__setattr__(found, "shared_dim", self.shared_dim or width)
        return found


@register
class CollaborativeExperts(ExpertMethod):
    """Every expert is reduced to a shared width and gated by what its pairs with the others say.

    The score mixes the experts' cosines with weights that the text chooses among the available ones.
    """

    method = "ce"
    config_class = CollaborativeExpertsConfig

    @classmethod
    def build_network(cls, config: CollaborativeExpertsConfig) -> ExpertNetwork:
        gating = CollaborativeGating(
            len(config.experts),
            config.shared_dim,
            pair_layers=config.pair_layers,
            vote_layers=config.vote_layers,
            include_self=config.include_self,
            batch_norm=config.reason_norm,
            mish=config.mish,
        )
        return ExpertNetwork(config, [config.shared_dim] * len(config.experts), gating)
