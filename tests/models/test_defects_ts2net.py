"""What TS2-Net gets wrong is there with `legacy` and gone without; its shift follows each call's frames."""

import copy

import pytest
import torch

from vidsift.models.methods.ts2net import TS2Net
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.models.tokens import Neighbours, perturbed_top_tokens, shift_tokens, shifting, top_tokens

D = 24


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(**settings: object) -> TS2Net:
    torch.manual_seed(0)
    shape = ClipShape(16, 4, 16, 3, text_width=D, text_layers=2, projection=D, max_words=8)
    built = new_clip_model(
        build_word_tokenizer(["a"], max_length=8), shape, method="ts2net", layers=1, **settings
    )
    with torch.no_grad():
        for p in built.parameters():
            p.add_(torch.randn_like(p), alpha=0.1)
    return built.eval()


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, 16, 16), dtype=torch.uint8, generator=generator)


def lengths(*n: int, frames: int = 5) -> torch.Tensor:
    return torch.arange(frames) < torch.tensor(n).unsqueeze(1)


@torch.no_grad()
def test_two_evaluations_differ_in_legacy_only() -> None:
    for legacy in (True, False):
        built = model(legacy=legacy)
        one, two = (built.encode_video(pictures(2, 5), lengths(5, 3)).frames for _ in range(2))
        assert torch.equal(one, two) is not legacy


@torch.no_grad()
def test_noise_in_training_repeats_under_the_same_seed() -> None:
    built = model().train()
    frames, patches = normal(2, 5, D), normal(2, 5, 16, D, seed=1)
    torch.manual_seed(3)
    one, two = built.select(frames, patches), built.select(frames, patches)
    torch.manual_seed(3)
    assert torch.equal(built.select(frames, patches), one)
    assert not torch.equal(one, two)


@torch.no_grad()
def test_the_mask_is_tiled_in_legacy_only() -> None:
    mask = lengths(5, 12, frames=12)
    tiled = torch.tensor([1, 1, 0] * 4).bool()
    assert torch.equal(model(legacy=True).scored_mask(mask)[0], tiled)
    assert torch.equal(model().scored_mask(mask), mask)
    tokens, other = normal(2, 12, 4, D), normal(2, 12, 4, D, seed=1)
    other = torch.where(mask[..., None, None], tokens, other)
    for legacy in (True, False):
        built = model(legacy=legacy)
        one, two = (built.token_features(x, mask) for x in (tokens, other))
        same = torch.allclose(one.frames[0, :5], two.frames[0, :5], atol=1e-6)
        assert same is not legacy
        torch.testing.assert_close(one.frames[1], two.frames[1])


@torch.no_grad()
def test_tokens_come_out_of_padding_in_legacy_only() -> None:
    """The last real frame's own tokens, before any selection or temporal stack."""
    mask = lengths(3, 5)
    seen, padded = pictures(2, 5), pictures(2, 5, seed=4)
    padded = torch.where(mask[..., None, None, None], seen, padded)
    for legacy in (True, False):
        built = model(legacy=legacy)
        whole = torch.ones_like(mask) if legacy else mask
        one, two = (built.encode_real_frames(x, whole, patches=True)[0] for x in (seen, padded))
        assert torch.allclose(one[0, 2], two[0, 2], atol=1e-6) is not legacy
        torch.testing.assert_close(one[1], two[1])


@torch.no_grad()
def test_the_shift_follows_the_number_of_frames_of_the_call() -> None:
    built = model()
    for frames in (1, 2, 7):
        seen = pictures(3, frames)
        together = built.encode_real_frames(seen, torch.ones(3, frames, dtype=torch.bool))[0]
        for v in range(3):
            alone = built.encode_real_frames(seen[v : v + 1], torch.ones(1, frames, dtype=torch.bool))[0]
            torch.testing.assert_close(alone[0], together[v], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_only_the_configured_blocks_shift_and_only_inside_an_encoding() -> None:
    seen, whole = pictures(1, 4), torch.ones(1, 4, dtype=torch.bool)
    plain = model().backbone.encode_frames(seen[0]).frames
    never = model(shift_blocks=[]).encode_real_frames(seen, whole)[0][0]
    assert torch.equal(plain, never)
    found = [model(shift_blocks=b).encode_real_frames(seen, whole)[0] for b in ((-1,), (2,), (0,), (1, 2))]
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-4)
    assert torch.equal(found[3], model().encode_real_frames(seen, whole)[0])
    assert model(shift_blocks=[1, 2]).config == model(shift_blocks=(1, 2)).config


@torch.no_grad()
def test_a_copy_of_the_model_shifts_too() -> None:
    built = model()
    copied = copy.deepcopy(built)
    seen, mask = pictures(2, 4), lengths(4, 2, frames=4)
    assert torch.equal(copied.encode_video(seen, mask).frames, built.encode_video(seen, mask).frames)


def test_shifting_ends_with_its_block_even_when_that_fails() -> None:
    built = model()
    plain = built.backbone.encode_frames(pictures(4)).frames
    with pytest.raises(RuntimeError), shifting(torch.ones(1, 4, dtype=torch.bool)):
        raise RuntimeError
    assert torch.equal(built.backbone.encode_frames(pictures(4)).frames, plain)


def test_gradient_checkpointing_of_the_tower_is_refused_not_silently_wrong() -> None:
    built = model().train()
    layer = built.backbone.vision_layers[0]
    layer.gradient_checkpointing = True
    with pytest.raises(ValueError, match="checkpointed"):
        built.encode_video(pictures(1, 2), lengths(2, frames=2))
    layer.gradient_checkpointing = False
    assert built.encode_video(pictures(1, 2), lengths(2, frames=2)).coarse.shape == (1, D)


def test_neighbours_are_the_real_frames_of_the_same_clip() -> None:
    found = Neighbours(torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool())
    assert found.before.tolist() == [0, 0, 1, 3, 4, 4]
    assert found.after.tolist() == [1, 2, 2, 3, 5, 5]
    assert Neighbours(torch.zeros(2, 3, dtype=torch.bool)).before.shape == (0,)


@pytest.mark.parametrize(("tokens", "back", "forth"), [(50, 7, 7), (197, 7, 7), (5, 1, 1), (3, 1, 0)])
def test_whole_tokens_move_and_the_class_token_never_does(tokens: int, back: int, forth: int) -> None:
    x = torch.arange(3.0)[:, None, None].expand(3, tokens, 2)
    moved = shift_tokens(x, Neighbours(torch.ones(1, 3, dtype=torch.bool)))
    middle = moved[1, :, 0]
    assert middle[0] == 1
    assert int((middle == 0).sum()) in (back, back + 1)
    assert int((middle == 2).sum()) in (forth, forth + 1)
    assert torch.equal(moved[..., 0], moved[..., 1])


def test_the_best_tokens_in_order_of_position_ties_to_the_earlier() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9, 0.2], [0.3, 0.3, 0.3, 0.3, 0.3]])
    found = top_tokens(scores, 3)
    assert found.argmax(-1).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert torch.equal(found.sum(-1), torch.ones(2, 3))


def test_noise_averages_choices_and_vanishing_noise_is_the_exact_choice() -> None:
    scores = normal(3, 9)
    exact = top_tokens(scores, 2)
    torch.testing.assert_close(perturbed_top_tokens(scores, 2, 50, 1e-6), exact)
    soft = perturbed_top_tokens(scores, 2, 500, 0.5)
    torch.testing.assert_close(soft.sum(-1), torch.ones(3, 2))
    assert not torch.equal(soft, exact)


def test_chunks_of_noise_give_what_all_at_once_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, noise = normal(4, 9), normal(4, 20, 9, seed=1)
    whole = perturbed_top_tokens(scores, 2, 20, 0.3, noise)
    monkeypatch.setattr("vidsift.models.tokens._NOISE", 1)
    assert torch.equal(perturbed_top_tokens(scores, 2, 20, 0.3, noise), whole)


@torch.no_grad()
def test_a_clip_of_a_single_frame_is_scored() -> None:
    built = model()
    clips = built.encode_video(pictures(1, 1), lengths(1, frames=1))
    text = built.encode_text(*built.tokenize(["a"]))
    cosine = built.backbone.logits(text.sentence @ clips.frames[0].T)
    torch.testing.assert_close(built.similarity(text, clips), cosine)


@torch.no_grad()
def test_the_temporal_stack_takes_more_tokens_than_it_has_positions() -> None:
    built = model(positions=20)
    clips = built.encode_video(pictures(1, 64), torch.ones(1, 64, dtype=torch.bool))
    assert torch.isfinite(clips.frames).all()
