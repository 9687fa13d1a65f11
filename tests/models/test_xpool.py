"""X-Pool's folded score is its definition, at any number of heads, frames and texts; padding stays unseen."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidsift.models.methods import xpool
from vidsift.models.methods.xpool import XPool, XPoolHead
from vidsift.models.pooling import unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: torch.nn.Module) -> None:
    """Away from the identity, so that every term of the formula counts."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.3)


def model(**settings: object) -> XPool:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=12, max_words=8)
    built = new_clip_model(build_word_tokenizer(["a"], max_length=8), shape, method="xpool", **settings)
    shaken(built.head)
    return built.eval()


@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_the_folded_score_is_the_cosine_with_the_pool(heads: int, frames: int, clips: int, seed: int) -> None:
    head = XPoolHead(12, heads).eval().double()
    shaken(head)
    video, text = normal(clips, frames, 12, seed=seed).double(), normal(3, 12, seed=seed + 1).double()
    mask = normal(clips, frames, seed=seed + 2) > -0.5
    keys, attended = head.attended(video)
    weights = head.weights(head.queries(text), keys, mask).flatten(2)
    expected = torch.einsum("td,tvd->tv", unit(text), unit(head.pooled(weights, attended)))
    assert torch.allclose(head.cosines(weights, unit(text), *head.folded(attended, mask)), expected)


def test_attention_over_heads_is_torch_s_multi_head_attention() -> None:
    head = XPoolHead(12, heads=3).eval()
    shaken(head)
    reference = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    parts = (head.query, head.key, head.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        reference.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        reference.out_proj.load_state_dict(head.out.state_dict())
    video, text = normal(1, 5, 12), normal(4, 12, seed=1)
    keys, attended = head.attended(video)
    mask = torch.tensor([[True, True, True, True, False]])
    weights = head.weights(head.queries(text), keys, mask).flatten(2)
    ours = torch.einsum("tvn,vnd->tvd", weights, attended).squeeze(1)
    normed = head.norm_in(video)
    expected, _ = reference(head.norm_in(text).unsqueeze(0), normed, normed, key_padding_mask=~mask)
    assert torch.allclose(ours, expected[0], atol=1e-6)


def test_blocks_of_texts_give_the_scores_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = model(heads=2)
    mask = torch.ones(4, 5, dtype=torch.bool)
    clips = built.clip_features(normal(4, 5, 12), mask)
    text = built.text_features(normal(7, 12), normal(7, 1, 12), torch.ones(7, 1, dtype=torch.bool))
    whole = built.similarity(text, clips)
    monkeypatch.setattr(xpool, "_BLOCK", 1)
    assert torch.allclose(built.similarity(text, clips), whole, atol=1e-5)


def test_training_with_dropout_takes_the_definition_and_agrees_when_nothing_is_dropped() -> None:
    built = model(dropout=0.4)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]], dtype=torch.bool)
    frames, words = normal(2, 3, 12), torch.ones(2, 1, dtype=torch.bool)
    text = built.text_features(normal(2, 12), normal(2, 1, 12), words)
    expected = built.cosines(text, built.clip_features(frames, mask))
    trained = built.train().clip_features(frames, mask)
    assert set(trained.extra) == {"keys", "attended"}
    assert not torch.equal(built.cosines(text, trained), built.cosines(text, trained))
    assert torch.allclose(built.eval().cosines(text, trained), expected, atol=1e-6)


def test_a_masked_frame_changes_scores_in_legacy_only() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    frames = normal(2, 3, 12)
    other = frames.clone()
    other[0, 2] = 9.0
    for legacy in (False, True):
        built = model(legacy=legacy)
        text = built.text_features(normal(3, 12), normal(3, 1, 12), torch.ones(3, 1, dtype=torch.bool))
        one, two = (built.similarity(text, built.clip_features(x, mask)) for x in (frames, other))
        assert torch.equal(one[:, 0], two[:, 0]) is not legacy
        assert torch.equal(one[:, 1], two[:, 1])


def test_an_empty_clip_scores_zero_with_a_finite_gradient() -> None:
    built = model()
    mask = torch.tensor([[0, 0, 0], [1, 1, 1]], dtype=torch.bool)
    frames = torch.zeros(2, 3, 12).index_copy(0, torch.tensor([1]), normal(1, 3, 12)).requires_grad_()
    text = built.text_features(normal(2, 12), normal(2, 1, 12), torch.ones(2, 1, dtype=torch.bool))
    scores = built.cosines(text, built.clip_features(frames, mask))
    scores.sum().backward()
    assert torch.equal(scores[:, 0], torch.zeros(2))
    assert torch.isfinite(frames.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in built.head.parameters())


def test_a_fresh_head_ranks_by_the_frames_themselves() -> None:
    head = XPoolHead(8)
    assert torch.equal(head.query.weight, torch.eye(8))
    assert not head.linear.bias.any()


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="5 heads"):
        XPoolHead(12, heads=5)
