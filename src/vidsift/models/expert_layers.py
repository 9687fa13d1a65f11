"""Layers of MoEE and Collaborative Experts: NetVLAD, gated units, gating between experts, with masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidsift.models.pooling import unit

# What the reference adds to a count before dividing by it.
_COUNT_EPS = 1e-11


class RowNorm(nn.Module):
    """Batch normalisation of rows [N, C] of which some may be no data.

    Rows that are not real take no part in the statistics and come out as zero. With fewer than two real rows
    there is no variance, so training then uses the running statistics, as evaluation does.
    """

    def __init__(self, width: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x: [N, C].  real: [N] bool, or None when every row is."""
        x = x.float()
        rows = x if real is None else x[real]
        normed = F.batch_norm(
            rows,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=self.training and len(rows) > 1,
            momentum=self.momentum,
            eps=self.eps,
        )
        return normed if real is None else torch.zeros_like(x).masked_scatter(real.unsqueeze(-1), normed)


class NetVLAD(nn.Module):
    """Describe a set of vectors by its residuals to K learned centres (Arandjelovic et al., CVPR 2016).

    a = softmax over K + G of norm(x C), the G ghosts dropped;  V_k = sum_n a_nk (x_n - c_k);  every V_k is
    scaled to unit length, then their concatenation, feature-major. Width out: dim x clusters.
    """

    def __init__(self, dim: int, clusters: int, ghosts: int = 0) -> None:
        super().__init__()
        self.dim, self.kept = dim, clusters
        self.clusters = nn.Parameter(torch.randn(dim, clusters + ghosts) / math.sqrt(dim))
        self.centres = nn.Parameter(torch.randn(1, dim, clusters) / math.sqrt(dim))
        self.norm = RowNorm(clusters + ghosts)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [B, N, dim].  mask: [B, N] bool, or None to let padding count.  Returns [B, dim * clusters]."""
        real = None
        if mask is not None:
            x, real = x.masked_fill(~mask.unsqueeze(-1), 0.0), mask.flatten()
        logits = self.norm(x.flatten(0, 1) @ self.clusters, real)
        share = logits.softmax(-1)[:, : self.kept].view(*x.shape[:2], self.kept)
        if mask is not None:
            share = share.masked_fill(~mask.unsqueeze(-1), 0.0)
        residual = x.transpose(1, 2) @ share - share.sum(1, keepdim=True) * self.centres
        return unit(unit(residual.transpose(1, 2)).transpose(1, 2).flatten(1))


class GatedUnit(nn.Module):
    """Gated embedding unit (MoEE, 2018): z = W x + b;  unit( z * sigmoid(norm(U z + d)) )."""

    def __init__(self, width_in: int, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width_in, width)
        self.gate = nn.Linear(width, width)
        self.norm = RowNorm(width)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x: [N, width_in].  real: [N] bool or None.  Returns [N, width] unit norm."""
        z = self.fc(x)
        return unit(z * self.norm(self.gate(z), real).sigmoid())


class CollaborativeGate(nn.Module):
    """Let the other experts gate one: unit( x * sigmoid(norm_votes(votes) + norm(A x + a)) )."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, width)
        self.norm_votes = RowNorm(width)
        self.norm = RowNorm(width)

    def forward(self, x: Tensor, votes: Tensor, real: Tensor | None = None) -> Tensor:
        """x, votes: [N, width].  real: [N] bool or None.  Returns [N, width] unit norm."""
        return unit(x * (self.norm_votes(votes, real) + self.norm(self.fc(x), real)).sigmoid())


class Reasoning(nn.Module):
    """Layers of batch normalisation (optional), Mish or ReLU, and a linear map, all of one width."""

    def __init__(self, width: int, layers: int, batch_norm: bool = True, mish: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.extend([RowNorm(width)] if batch_norm else [])
            self.layers.extend([nn.Mish() if mish else nn.ReLU(), nn.Linear(width, width)])

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x: [N, width] -> [N, width].  real: [N] bool or None."""
        for layer in self.layers:
            x = layer(x, real) if isinstance(layer, RowNorm) else layer(x)
        return x


class CollaborativeGating(nn.Module):
    """Every expert is gated by what its pairs with the available experts say (Collaborative Experts, 2019).

    votes_i = sum_j av_i av_j q(e_i, e_j) / sum_j av_i av_j,  q = two experts through one shared network;
    e_i <- gate_i(e_i, votes_i). One expert after the other, each seeing those before it already gated: the
    order is part of the model, and released weights were trained in it.
    """

    def __init__(
        self,
        experts: int,
        width: int,
        *,
        pair_layers: int = 3,
        vote_layers: int = 0,
        include_self: bool = True,
        batch_norm: bool = True,
        mish: bool = True,
    ) -> None:
        super().__init__()
        self.include_self = include_self
        self.pair = nn.Linear(2 * width, width)
        self.pair_reasoning = Reasoning(width, pair_layers - 1, batch_norm, mish)
        self.vote_reasoning = Reasoning(width, vote_layers, batch_norm, mish)
        self.gates = nn.ModuleList(CollaborativeGate(width) for _ in range(experts))

    def forward(self, experts: Sequence[Tensor], available: Tensor, legacy: bool = False) -> list[Tensor]:
        """experts: one [V, width] each.  available: [V, E] bool.  Returns the gated experts, [V, width] each.

        legacy: missing experts enter the batch statistics, as in the reference.
        """
        gated = list(experts)
        for i, gate in enumerate(self.gates):
            others = [j for j in range(len(gated)) if j != i or self.include_self]
            both = available[:, others] & available[:, i : i + 1]
            said = torch.zeros_like(gated[i])
            # One call per pair: in training, each pair is normalised by its own statistics.
            for j, real in zip(others, both.T, strict=True):
                q = self.pair(torch.cat([gated[i], gated[j]], -1))
                q = self.pair_reasoning(q, None if legacy else real)
                said = said + q.masked_fill(~real.unsqueeze(-1), 0.0)
            votes = said / (both.sum(1, keepdim=True) + _COUNT_EPS)
            real_i = None if legacy else available[:, i]
            gated[i] = gate(gated[i], self.vote_reasoning(votes, real_i), real_i)
        return gated


def offsets(widths: Sequence[int]) -> list[slice]:
    """Where each of the concatenated vectors lies."""
    ends = [0]
    for width in widths:
        ends.append(ends[-1] + width)
    return [slice(a, b) for a, b in pairwise(ends)]
