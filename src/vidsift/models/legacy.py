"""What the official code does to padding and to norms, kept to reproduce its numbers exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from vidsift.models.base import RetrievalModel


def encode_padding_too(
    model: RetrievalModel, frames: Tensor, mask: Tensor, patches: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Run the backbone on every frame: [V, F, D] and [V, F, P, D] or None, raw.

    frames: uint8 [V, F, 3, H, W].  mask: [V, F] bool. The official loaders fill missing frames with zeros
    *after* normalisation, so whatever stands there is replaced by the mean colour first.
    """
    mean = 255.0 * torch.tensor(model.preprocess.mean, device=frames.device).view(3, 1, 1)
    pictures = torch.where(mask.to(frames.device)[..., None, None, None], frames.float(), mean)
    return model.encode_real_frames(pictures, torch.ones_like(mask), patches)


def plain_unit(x: Tensor) -> Tensor:
    """x / |x| over the last axis without a guard: a zero vector becomes NaN."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / norm
