"""The symmetric contrastive loss (InfoNCE) over a score matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def symmetric_info_nce(
    scores: Tensor,
    ignore: Tensor | None = None,
    negatives: Tensor | None = None,
    ids: Tensor | None = None,
) -> Tensor:
    """Mean of the text-to-video and the video-to-text cross-entropy (CLIP, 2021; CLIP4Clip, eq. 4-6).

    scores: [B, B] logits, rows = texts, columns = clips, the diagonal holds the matching pairs.
    ignore: [B, B] bool, True where an off-diagonal pair is no negative (the same sentence twice, say).
    negatives: [E, B] logits of further texts that match no clip of the batch; they are only ever rivals of
        the matching text in the video-to-text direction (hard negative captions, as in NegCLIP, ICLR 2023).
    ids: [B] integers that name each pair's clip; two captions of one clip are then no negatives of each
        other. The official CLIP4Clip code counts them (None here), about 7 pairs per batch of 128 on MSVD.
    Returns a scalar.
    """
    target = torch.arange(scores.shape[0], device=scores.device)
    if ids is not None:
        same = ids.unsqueeze(0) == ids.unsqueeze(1)
        ignore = same if ignore is None else ignore | same
    if ignore is not None:
        off_diagonal = ~torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(ignore & off_diagonal, float("-inf"))
    rivals = scores.T if negatives is None else torch.cat([scores, negatives]).T
    return (F.cross_entropy(scores, target) + F.cross_entropy(rivals, target)) / 2
