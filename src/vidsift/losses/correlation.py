"""EERCF's constraint that every dimension of the clip vector varies as that of its sentence does."""

from __future__ import annotations

import torch
from torch import Tensor

# A dimension that varies less than this share of its own length is constant up to rounding in fp32.
_CONSTANT = 1e-6


def correlation_constraint(
    text: Tensor, clips: Tensor, diagonal: float = 0.14, off_diagonal: float = 0.0, legacy: bool = False
) -> Tensor:
    """Correlate each dimension of matching texts and clips (EERCF, AAAI 2024; after Barlow Twins, 2021).

        c_de = Pearson correlation of text dimension d with clip dimension e over the batch
        L    = diagonal * sum_d (c_dd - 1)^2 + off_diagonal * sum_{d != e} c_de^2

    text, clips: [B, D], row i of one matches row i of the other.  diagonal, off_diagonal: the official
        constants; with the second at 0 only the dimensions' own correlations count.
    legacy: standardise with B - 1 and average with B, as the official code does, so that a perfect
        correlation counts as (B - 1) / B and a constant dimension, or a batch of one, gives NaN. Otherwise a
        constant dimension correlates with nothing and gets no gradient.
    Returns a scalar, a sum over dimensions.
    """
    count = len(text)
    if legacy:
        x, y = (z - z.mean(0) for z in (text, clips))
        x, y = (z / (z.square().sum(0) / (count - 1)).sqrt() for z in (x, y))
        x = x / count
    else:
        x, y = _standardised(text), _standardised(clips)
    own = (x * y).sum(0)
    loss: Tensor = diagonal * (own - 1).square().sum()
    if off_diagonal:
        loss = loss + off_diagonal * ((x.T @ y).square().sum() - own.square().sum())
    return loss


def _standardised(x: Tensor) -> Tensor:
    """Columns without their mean, at unit length; zero, with a zero gradient, where a column is constant."""
    centred = x - x.mean(0)
    length = torch.linalg.vector_norm(centred, dim=0)
    constant = length <= _CONSTANT * torch.linalg.vector_norm(x, dim=0)
    found: Tensor = (centred / length.masked_fill(constant, 1.0)).masked_fill(constant, 0.0)
    return found
