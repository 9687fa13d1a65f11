"""Auxiliary supervision of an image tower by what a picture is known to contain."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy against a distribution over classes; rows without any class count as zero loss.

    logits: [B, C].  target: [B, C], rows sum to one or are all zero.  Returns a scalar, the mean over B.
    """
    return -(target * F.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
