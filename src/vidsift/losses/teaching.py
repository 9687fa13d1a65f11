"""TeachCLIP's two ways of teaching a student: by the teacher's scores, and by its weights over frames."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Teaching = Literal["pearson", "cross_entropy", "smooth_l1"]
# A row that varies less than this share of its own length is constant up to rounding in fp32.
_CONSTANT = 1e-6


def coarse_teaching(student: Tensor, teacher: Tensor, kind: Teaching = "pearson") -> Tensor:
    """Make the student rank a batch as the teacher does (TeachCLIP, CVPR 2024, coarse-grained teaching).

    With p, q the row softmax of student and teacher, and the same on the transposed matrices added:
    `pearson`: mean_i [1 - rho(p_i, q_i)] (0..4 in sum; a constant row correlates with nothing: rho 0);
    `cross_entropy`: mean_ij of -q_ij log p_ij, which is the usual cross-entropy divided by B, as published;
    `smooth_l1`: mean_ij of the smooth-L1 distance of the raw logits (beta 1; not doubled).

    student, teacher: [B, B] logits with their scales, rows = texts.  Only the student gets a gradient.
    Returns a scalar. The official code averages the values over several teachers.
    """
    teacher = teacher.detach()
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student, teacher)
    one_way = _correlation_rows if kind == "pearson" else _cross_entropy_rows
    return one_way(student, teacher) + one_way(student.T, teacher.T)


def _correlation_rows(student: Tensor, teacher: Tensor) -> Tensor:
    return (1 - pearson(student.softmax(-1), teacher.softmax(-1))).mean()


def _cross_entropy_rows(student: Tensor, teacher: Tensor) -> Tensor:
    return -(teacher.softmax(-1) * student.log_softmax(-1)).mean()


def fine_teaching(
    student_weights: Tensor,
    teacher_weights: Tensor,
    mask: Tensor | None = None,
    kind: Teaching = "cross_entropy",
) -> Tensor:
    """Make the student weigh frames as the teacher does (TeachCLIP, CVPR 2024, fine-grained teaching).

    With student weights w and teacher weights y over the frames of a clip: `cross_entropy`: mean over all
    entries of -y log w (as published, so divided by F);  `pearson`: mean over clips of 1 - rho(y, w);
    `smooth_l1`: mean over all entries (beta 1).

    student_weights, teacher_weights: [B, F], rows sum to one.  Only the student gets a gradient.
    mask: [B, F] bool, True on real frames. Both rows are renormalised over them, which equals masking the
        softmax that made them, and means run over real frames (over clips that have any): what stands in
        padding changes nothing.  None counts every entry, padding included, as the official code does.
    Returns a scalar; a batch without real frames gives 0, and a weight of 0 a finite loss.
    """
    teacher_weights = teacher_weights.detach()
    if mask is None:
        mask = torch.ones_like(student_weights, dtype=torch.bool)
    else:
        student_weights = _over_real(student_weights, mask)
        teacher_weights = _over_real(teacher_weights, mask)
    if kind == "pearson":
        clips = mask.any(-1)
        return _mean(1 - pearson(teacher_weights, student_weights, mask), clips)
    if kind == "smooth_l1":
        return _mean(F.smooth_l1_loss(student_weights, teacher_weights, reduction="none"), mask)
    log = student_weights.clamp_min(torch.finfo(student_weights.dtype).tiny).log()
    return _mean(-teacher_weights * log, mask)


def pearson(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson correlation along the last axis: <x - mean x, y - mean y> / (|x - mean x| |y - mean y|).

    x, y: [..., N].  mask: the same shape, bool; entries that are False do not exist.
    Returns [...]; 0, with a zero gradient, where either is constant, never NaN.
    """
    x, nothing_in_x = _centred_unit(x, mask)
    y, nothing_in_y = _centred_unit(y, mask)
    return (x * y).sum(-1).masked_fill(nothing_in_x | nothing_in_y, 0.0)


def _centred_unit(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """x without its mean, at unit length, and where that is impossible because x is constant."""
    if mask is None:
        centred = x - x.mean(-1, keepdim=True)
    else:
        x = x.masked_fill(~mask, 0.0)
        mean = x.sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(1)
        centred = (x - mean).masked_fill(~mask, 0.0)
    length = torch.linalg.vector_norm(centred, dim=-1, keepdim=True)
    constant = length <= _CONSTANT * torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return centred / length.masked_fill(constant, 1.0), constant.squeeze(-1)


def _over_real(weights: Tensor, mask: Tensor) -> Tensor:
    """Weights of real frames only, their sum one again; zeros where nothing is left."""
    weights = weights.masked_fill(~mask, 0.0)
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total <= 0, 1.0)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp_min(1)
