"""Text vectors that follow those of another text tower in the same space."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def embedding_regression(vectors: Tensor, reference: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of 1 - cosine between vectors and what they are to follow.

    vectors, reference: [..., D]; only the first get a gradient.  mask: [...] bool, which of them count.
    Returns a scalar.  Raises ValueError for shapes that differ.
    """
    if vectors.shape != reference.shape:
        raise ValueError(f"vectors {tuple(vectors.shape)}, reference {tuple(reference.shape)}: sizes differ")
    apart = 1 - F.cosine_similarity(vectors.float(), reference.detach().float(), dim=-1)
    return (apart if mask is None else apart[mask]).mean()
