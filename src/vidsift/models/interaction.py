"""Scores of vectors against vectors by attention, and the learned square matrices that mix its weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sized(matrix: Tensor, length: int) -> Tensor:
    """A learned [N, N] matrix for sequences of another length: its corner, or continued as the identity.

    Such a matrix starts as the identity, so positions beyond it are treated as a fresh one would treat them.
    """
    missing = length - matrix.shape[0]
    if missing <= 0:
        return matrix[:length, :length]
    padded = F.pad(matrix, [0, missing, 0, missing])
    new = torch.arange(length - missing, length, device=matrix.device)
    return padded.index_put((new, new), padded.new_ones(()))


def attend(values: Tensor, matrix: Tensor | None, mask: Tensor | None = None, dim: int = 0) -> Tensor:
    """sum_k (softmax(x) M)_k x_k: the attention-weighted sum of scores (X-CLIP, ACM MM 2022, AOSM).

    values: scores x divided by the temperature, attended over their first (dim 0) or last but one axis
        (dim -2), which is removed; the result is in the same unit. A softmax over the innermost axis would be
        20 times slower at the lengths of clips.
    matrix: M, [N, N], multiplies the weights from the right; None is the identity.
    mask: bool, broadcastable to values, True on real entries; masked ones have no weight and no value, and
        where nothing is real the result is 0.  None counts every entry.
    """
    logits = values
    if mask is not None:
        values = values.masked_fill(~mask, 0.0)
        logits = values.masked_fill(~mask, torch.finfo(values.dtype).min)
    weights = logits.softmax(dim)
    if matrix is not None:
        # (w M) . x = w . (M x): one product of matrices over everything at once.
        values = (matrix @ values.flatten(1)).view_as(values) if dim == 0 else _left(matrix, values)
    if torch.is_grad_enabled():
        return (weights * values).sum(dim)
    return weights.mul_(values).sum(dim)


def _left(matrix: Tensor, values: Tensor) -> Tensor:
    """matrix @ values, without the copies into another layout that `@` makes for a batch of values."""
    batch = values.reshape(-1, *values.shape[-2:])
    return torch.bmm(matrix.expand(len(batch), -1, -1), batch).view_as(values)


def needed(mask: Tensor) -> Tensor | None:
    """The mask, or None when everything is real and masking would only cost time."""
    return None if bool(mask.all()) else mask


def real_length(mask: Tensor) -> int:
    """Length of the longest row of a mask [N, L], at least 1; what follows it is padding in every row."""
    used = mask.any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1
