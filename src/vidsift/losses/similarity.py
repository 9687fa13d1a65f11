"""TeachText's distillation: the student's similarity matrix follows that of its teachers."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Aggregate = Literal["mean", "weighted", "each"]


def similarity_matching(student: Tensor, teachers: Tensor, weights: Tensor | None = None) -> Tensor:
    """Smooth-L1 distance to the (weighted) mean of the teachers' similarity matrices (TeachText, ICCV 2021).

    L = mean_ij l(S_ij - sum_k w_k Z_kij),  l(d) = d^2 / 2 for |d| < 1, else |d| - 1/2

    student: [B, B] similarities, rows = texts.  teachers: [B, B], or [K, B, B] for K teachers, on the same
    scale as the student's (the official code does not check it).  weights: [K], made to sum to one; None
    takes the mean, as the paper does.  Only the student gets a gradient.  Returns a scalar.
    """
    target = teachers.detach()
    if target.ndim == 3 and weights is None:
        target = target.mean(0)
    elif target.ndim == 3:
        assert weights is not None
        share = (weights / weights.sum()).to(target)
        target = (share.view(-1, 1, 1) * target).sum(0)
    if target.shape != student.shape:
        raise ValueError(f"student {tuple(student.shape)}, teachers {tuple(teachers.shape)}: sizes differ")
    return F.smooth_l1_loss(student, target)
