"""Mixture of Embedding Experts (Miech et al., 2018): one gated unit per expert, mixed by the text."""

from __future__ import annotations

from vidsift.models.experts import ExpertConfig, ExpertMethod, ExpertNetwork
from vidsift.models.registry import register


@register
class MixtureOfExperts(ExpertMethod):
    """Every expert and every text go through a gated unit per expert, each of the expert's own width.

    The score mixes the experts' cosines with weights that the text chooses among the available ones.
    """

    method = "moee"

    @classmethod
    def build_network(cls, config: ExpertConfig) -> ExpertNetwork:
        return ExpertNetwork(config, [e.width or e.pooled for e in config.experts])
