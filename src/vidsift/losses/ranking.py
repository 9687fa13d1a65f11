"""The bidirectional max-margin ranking loss of MoEE and Collaborative Experts."""

from __future__ import annotations

import torch
from torch import Tensor


def max_margin(
    scores: Tensor, margin: float = 0.2, ids: Tensor | None = None, with_diagonal: bool = False
) -> Tensor:
    """Every matching pair beats its rivals, in both directions, by a margin (Collaborative Experts, 2019).

    L = mean over i != j of [ relu(margin - s_ii + s_ij), relu(margin - s_ii + s_ji) ]

    scores: [B, B], rows = texts, columns = clips, the diagonal holds the matching pairs.
    ids: [B] integers that name each pair's clip; two captions of one clip are then no rivals.
    with_diagonal: average over all 2 B^2 terms, the diagonal ones being the margin itself (CE's
        `fix_norm: false`); only the value changes, and the gradient by the factor (B - 1) / B.
    Returns a scalar, 0 when there is no rival at all.
    """
    own = scores.diagonal().unsqueeze(1)
    rivals = ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    if ids is not None:
        rivals &= ids.unsqueeze(0) != ids.unsqueeze(1)
    if with_diagonal:
        rivals |= torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    terms = (margin - own + scores).relu() + (margin - own + scores.T).relu()
    return terms.masked_fill(~rivals, 0.0).sum() / (2 * rivals.sum()).clamp_min(1)
