"""The shared block is CLIP's, the temporal stack starts from the text tower, and padding is never seen."""

import pytest
import torch
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from vidsift.models.layers import FramePeaks, ResidualBlock, TemporalStack, head_count, key_bias
from vidsift.models.methods import clip4clip
from vidsift.models.methods.clip4clip import CrossEncoder
from vidsift.models.pooling import unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return module.eval()


@torch.no_grad()
def test_a_block_with_a_text_layer_s_weights_is_that_layer() -> None:
    config = CLIPTextConfig(hidden_size=128, intermediate_size=512, num_attention_heads=2)
    theirs = shaken(CLIPEncoderLayer(config))
    ours = ResidualBlock(128, heads=2, eps=1e-5)
    ours.copy_from(theirs)
    x = normal(3, 5, 128)
    expected = theirs(x, attention_mask=None)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_computing_only_the_first_rows_gives_the_same_rows() -> None:
    block, x, mask = shaken(ResidualBlock(16, 2)), normal(4, 6, 16), normal(4, 6) > -0.5
    whole = block(x, key_bias(mask))
    torch.testing.assert_close(block(x, key_bias(mask), queries=2), whole[:, :2])


@pytest.mark.parametrize(("width", "heads"), [(512, 8), (768, 12), (64, 1), (32, 1), (130, 2), (200, 2)])
def test_there_is_a_head_for_every_64_channels_where_they_divide(width: int, heads: int) -> None:
    assert head_count(width) == heads


@torch.no_grad()
@pytest.mark.parametrize("legacy", [False, True])
def test_masked_entries_are_not_attended_to(legacy: bool) -> None:
    stack, x = shaken(TemporalStack(16, layers=2)), normal(2, 6, 16)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 6])
    other = torch.where(mask.unsqueeze(-1), x, 50 + normal(2, 6, 16, seed=1))
    torch.testing.assert_close(stack(x, mask, legacy)[mask], stack(other, mask, legacy)[mask])
    alone = stack(x[:1, :4], mask[:1, :4], legacy)
    torch.testing.assert_close(stack(x, mask, legacy)[:1, :4], alone)


@torch.no_grad()
def test_a_sequence_longer_than_the_table_keeps_the_positions_of_its_start() -> None:
    stack, x = shaken(TemporalStack(16, layers=1, positions=5)), normal(1, 12, 16)
    mask = torch.arange(12).unsqueeze(0) < 4
    torch.testing.assert_close(stack(x, mask)[:, :4], stack(x[:, :4], mask[:, :4]))
    assert stack(x, torch.ones_like(mask)).isfinite().all()


def test_the_temporal_stack_starts_as_the_text_tower() -> None:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, text_width=24, text_layers=3, projection=24, max_words=8)
    model = new_clip_model(build_word_tokenizer(["a"]), shape, method="seqtransf", layers=2, positions=10)
    text = model.backbone.model.text_model
    table = text.embeddings.position_embedding.weight
    assert torch.equal(model.temporal.positions[:8], table)
    for block, layer in zip(model.temporal.blocks, text.encoder.layers, strict=False):
        assert torch.equal(block.qkv.weight[24:48], layer.self_attn.k_proj.weight)
        assert torch.equal(block.up.weight, layer.mlp.fc1.weight)
        assert torch.equal(block.norm2.bias, layer.layer_norm2.bias)


@torch.no_grad()
def test_scoring_pairs_in_small_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head = shaken(CrossEncoder(16, layers=2, positions=20, dropout=0.1))
    text, frames, mask = normal(5, 16), normal(7, 4, 16, seed=1), normal(7, 4, seed=2) > 0
    whole = head(text, frames, mask)
    assert whole.shape == (5, 7)
    for tokens in (1, 12, 40):
        monkeypatch.setattr(clip4clip, "_PAIR_TOKENS", tokens)
        torch.testing.assert_close(head(text, frames, mask), whole)
    assert head(text[:0], frames, mask).shape == (0, 7)
    assert head(text, frames[:0], mask[:0]).shape == (5, 0)


def test_peaks_are_of_real_frames_and_start_near_nothing() -> None:
    torch.manual_seed(0)
    peaks = FramePeaks(8)
    frames, mask = (
        unit(torch.randn(3, 5, 8)),
        torch.tensor([[True] * 5, [True, True] + [False] * 3, [False] * 5]),
    )
    assert peaks(frames, mask).abs().max() < 0.2, "starts near nothing"
    torch.nn.init.normal_(peaks.down.weight)
    torch.nn.init.normal_(peaks.down.bias)
    found = peaks(frames, mask)
    assert (found[2] == 0).all()
    assert found[:2].abs().min() > 0
    # Neither order, repetition nor what stands behind the mask matters; what a frame adds does.
    torch.testing.assert_close(peaks(frames.flip(1)[:1], mask[:1]), found[:1])
    twice = torch.cat([frames[:1], frames[:1]], 1)
    torch.testing.assert_close(peaks(twice, torch.ones(1, 10, dtype=torch.bool)), found[:1])
    torch.testing.assert_close(peaks(frames.masked_fill(~mask.unsqueeze(-1), 9.0), mask), found)
    assert not torch.allclose(peaks(frames[:1, :4], mask[:1, :4]), found[:1])
    found.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in peaks.parameters())


@torch.no_grad()
def test_peaks_change_a_student_s_coarse_vector_and_nothing_else(make_model, frames) -> None:
    plain, peaked = make_model("teachclip", seed=3), make_model("teachclip", seed=3, peaks=True)
    peaked.load_state_dict(plain.state_dict(), strict=False)
    pixels, mask = frames(2, 4), torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    before, after = plain.encode_video(pixels, mask), peaked.encode_video(pixels, mask)
    torch.testing.assert_close(after.coarse.norm(dim=-1), torch.ones(2))
    assert 1e-4 < (before.coarse - after.coarse).abs().max() < 0.2
    torch.testing.assert_close(after.frames, before.frames)
    torch.testing.assert_close(after.extra["logits"], before.extra["logits"])
