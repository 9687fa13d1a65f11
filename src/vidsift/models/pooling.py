"""Masked and text-gated pooling: pure functions of cached features that several methods share."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-12


def unit(x: Tensor) -> Tensor:
    """Scale to unit length over the last axis; a zero vector stays zero and gives a finite gradient."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm.masked_fill(norm < EPS, 1.0)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the second axis of the real entries only.

    x: [N, L, D].  mask: [N, L] bool, True on real entries.  Returns [N, D]; a row without real entries
    gives zeros.
    """
    weight = mask.to(x.dtype).unsqueeze(-1)
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of the real entries only.

    logits: [..., L].  mask: broadcastable to logits, bool, True on real entries.  Returns [..., L]: zero on
    masked entries, rows sum to 1, a row without real entries gives zeros, never NaN.
    """
    logits = logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
    return logits.softmax(-1).masked_fill(~mask, 0.0)


def text_gated_weights(frames: Tensor, sentence: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    """Weigh the frames of every clip by how well each answers every sentence (EERCF, AAAI 2024, eq. 3).

    frames: [V, F, D] unit norm.  sentence: [T, D] unit norm.  mask: [V, F] bool, True on real frames.
    Returns [T, V, F]; rows sum to 1 over real frames, an all-masked clip gives zeros.
    """
    cosine = torch.einsum("td,vfd->tvf", sentence, frames)
    return masked_softmax(cosine / temperature, mask.unsqueeze(0))


def text_gated_pool(frames: Tensor, sentence: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    """Pool frames by how well each answers the sentence (EERCF, AAAI 2024, eq. 3-4; official tau 0.1).

    frames: [V, F, D] unit norm.  sentence: [T, D] unit norm.  mask: [V, F] bool, True on real frames.
    Returns [T, V, D] unit norm; an all-masked clip gives a zero vector, never NaN.
    """
    weights = text_gated_weights(frames, sentence, mask, temperature)
    return unit(torch.einsum("tvf,vfd->tvd", weights, frames))


def text_gated_score(frames: Tensor, sentence: Tensor, mask: Tensor, temperature: float = 0.1) -> Tensor:
    """Cosine between every sentence and the frames pooled for it, without building [T, V, D].

    With frame cosines c, weights a and the clip's Gram matrix G, the score is (a.c) / sqrt(a G a): the same
    number as `sentence . text_gated_pool(...)` at F/D of the cost.
    frames: [V, F, D] unit norm.  sentence: [T, D] unit norm.  mask: [V, F] bool, True on real frames.
    Returns [T, V]; an all-masked clip scores 0.
    """
    cosine = torch.einsum("td,vfd->tvf", sentence, frames)
    weights = masked_softmax(cosine / temperature, mask.unsqueeze(0))
    gram = torch.einsum("vfd,vgd->vfg", frames, frames)
    square = torch.einsum("tvf,vfg,tvg->tv", weights, gram, weights)
    empty = square < EPS
    pooled = (weights * cosine).sum(-1)
    return (pooled / square.masked_fill(empty, 1.0).sqrt()).masked_fill(empty, 0.0)


def top_k_pool(frames: Tensor, sentence: Tensor, mask: Tensor, k: int = 3) -> Tensor:
    """Add up the k frames that answer the sentence best (a baseline of X-Pool, CVPR 2022).

    frames: [V, F, D] unit norm.  sentence: [T, D] unit norm.  mask: [V, F] bool, True on real frames.
    Returns [T, V, D], not normalised; fewer than k frames are added up all, an all-masked clip gives zeros.
    """
    cosine = torch.einsum("td,vfd->tvf", sentence, frames).masked_fill(~mask, -torch.inf)
    best = cosine.topk(min(k, frames.shape[1]), dim=-1)
    chosen = torch.zeros_like(cosine).scatter(-1, best.indices, 1.0).masked_fill(~mask, 0.0)
    return torch.einsum("tvf,vfd->tvd", chosen, frames)
