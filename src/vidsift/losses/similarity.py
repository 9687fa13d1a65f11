"""TeachText's distillation: the student's similarity matrix follows that of its teachers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def similarity_matching(student: Tensor, teachers: Tensor) -> Tensor:
    """Smooth-L1 distance to the mean of the teachers' similarity matrices (TeachText, ICCV 2021).

    L = mean_ij l(S_ij - mean_k Z_kij),  l(d) = d^2 / 2 for |d| < 1, else |d| - 1/2

    student: [B, B] similarities, rows = texts.  teachers: [B, B], or [K, B, B] for K teachers, on the same
    scale as the student's (the official code does not check it).  Only the student gets a gradient.
    Returns a scalar.
    """
    target = teachers.detach()
    if target.ndim == 3:
        target = target.mean(0)
    if target.shape != student.shape:
        raise ValueError(f"student {tuple(student.shape)}, teachers {tuple(teachers.shape)}: sizes differ")
    return F.smooth_l1_loss(student, target)
