"""Masked and text-gated pooling: exact against a plain loop, and finite where nothing is real."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidsift.models.pooling import (
    masked_mean,
    masked_softmax,
    text_gated_pool,
    text_gated_score,
    text_gated_weights,
    unit,
)


def sample(seed: int, t: int, v: int, f: int, d: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """frames, sentence, mask with at least one clip of every kind the mask can make."""
    generator = torch.Generator().manual_seed(seed)
    frames = unit(torch.randn(v, f, d, generator=generator, dtype=torch.float64))
    sentence = unit(torch.randn(t, d, generator=generator, dtype=torch.float64))
    return frames, sentence, torch.rand(v, f, generator=generator) < 0.6


shapes = given(st.integers(0, 2**20), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))


@settings(max_examples=50, deadline=None)
@shapes
def test_text_gated_pool_is_the_published_formula_over_real_frames(seed: int, t: int, v: int, f: int) -> None:
    frames, sentence, mask = sample(seed, t, v, f)
    pooled = text_gated_pool(frames, sentence, mask, 0.1)
    for i in range(t):
        for j in range(v):
            real = frames[j][mask[j]]
            expected = torch.zeros(frames.shape[-1], dtype=torch.float64)
            if len(real):
                weights = torch.softmax(real @ sentence[i] / 0.1, 0)
                expected = weights @ real / (weights @ real).norm()
            torch.testing.assert_close(pooled[i, j], expected)


@settings(max_examples=50, deadline=None)
@shapes
def test_text_gated_score_is_the_cosine_with_the_pooled_vector(seed: int, t: int, v: int, f: int) -> None:
    frames, sentence, mask = sample(seed, t, v, f)
    expected = torch.einsum("td,tvd->tv", sentence, text_gated_pool(frames, sentence, mask))
    torch.testing.assert_close(text_gated_score(frames, sentence, mask), expected)


@settings(max_examples=50, deadline=None)
@shapes
def test_text_gated_weights_sum_to_one_over_real_frames_only(seed: int, t: int, v: int, f: int) -> None:
    frames, sentence, mask = sample(seed, t, v, f)
    weights = text_gated_weights(frames, sentence, mask)
    assert torch.all(weights.masked_select(~mask.expand_as(weights)) == 0)
    torch.testing.assert_close(weights.sum(-1), mask.any(-1).double().expand(t, v))


def test_what_lies_in_masked_frames_never_matters() -> None:
    frames, sentence, mask = sample(3, 2, 3, 5)
    other = torch.where(mask[..., None], frames, torch.full_like(frames, 7.0))
    assert torch.equal(text_gated_weights(other, sentence, mask), text_gated_weights(frames, sentence, mask))
    assert torch.equal(masked_mean(other, mask), masked_mean(frames, mask))


def test_nothing_real_gives_zeros_and_finite_gradients() -> None:
    frames = torch.randn(2, 3, 4, requires_grad=True)
    sentence = unit(torch.randn(2, 4)).requires_grad_()
    mask = torch.tensor([[False] * 3, [True, False, True]])
    vectors = unit(frames * mask[..., None])
    total = (
        text_gated_score(vectors, sentence, mask).sum()
        + text_gated_pool(vectors, sentence, mask).sum()
        + unit(masked_mean(vectors, mask)).sum()
    )
    total.backward()
    assert torch.isfinite(total)
    for leaf in (frames, sentence):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
        assert leaf.grad.abs().max() < 1e3
    assert text_gated_score(vectors, sentence, mask)[:, 0].abs().max() == 0


def test_masked_softmax_survives_half_precision_extremes() -> None:
    logits = torch.tensor([[6e4, -6e4, 0.0]], dtype=torch.float16)
    weights = masked_softmax(logits, torch.tensor([[False, True, True]]))
    assert weights.tolist() == [[0.0, 0.0, 1.0]]


def test_unit_keeps_zero_and_scales_tiny_vectors() -> None:
    x = torch.tensor([[0.0, 0.0], [3e-8, 4e-8]])
    torch.testing.assert_close(unit(x), torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
