"""What TeachCLIP's student gets wrong is there with `legacy` and gone without."""

import torch

from vidsift.losses.teaching import fine_teaching
from vidsift.models.methods.teachclip import TeachClip
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

D = 24


def model(legacy: bool, **settings: object) -> TeachClip:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, text_width=D, text_layers=2, projection=D, max_words=8)
    built = new_clip_model(
        build_word_tokenizer(["a"]), shape, method="teachclip", legacy=legacy, **settings
    ).eval()
    with torch.no_grad():
        for p in (*built.hidden.parameters(), *built.weigh.parameters()):
            p.add_(torch.randn_like(p), alpha=0.5)
    return built


def clips(built: TeachClip, padding: float, lengths: tuple[int, ...] = (5, 2)) -> torch.Tensor:
    mask = torch.arange(5) < torch.tensor(lengths).unsqueeze(1)
    frames = torch.randn(len(lengths), 5, D, generator=torch.Generator().manual_seed(2))
    return built.clip_features(frames.masked_fill(~mask.unsqueeze(-1), padding), mask)


@torch.no_grad()
def test_padded_frames_take_weight_and_change_the_vector() -> None:
    one, other = (clips(model(legacy=True), padding) for padding in (0.5, -2.0))
    weights = model(legacy=True).frame_weights(one)
    assert (weights[1, 2:] > 0).all()
    assert not torch.allclose(one.coarse[1], other.coarse[1], atol=1e-3)
    torch.testing.assert_close(one.coarse[0], other.coarse[0])

    built = model(legacy=False)
    one, other = (clips(built, padding) for padding in (0.5, -2.0))
    weights = built.frame_weights(one)
    assert (weights[1, 2:] == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2))
    torch.testing.assert_close(one.coarse, other.coarse)


@torch.no_grad()
def test_padding_of_a_short_clip_can_take_all_the_weight() -> None:
    built = model(legacy=True)
    found = built.frame_weights(clips(built, 3.0, (1, 1)))[:, 0]
    fixed = model(legacy=False)
    assert (found < 0.5).all()
    torch.testing.assert_close(fixed.frame_weights(clips(fixed, 3.0, (1, 1)))[:, 0], torch.ones(2))


@torch.no_grad()
def test_an_empty_clip_stands_for_its_padding() -> None:
    legacy, fixed = model(legacy=True), model(legacy=False)
    torch.testing.assert_close(clips(legacy, 0.5, (3, 0)).coarse.norm(dim=-1), torch.ones(2))
    found = clips(fixed, 0.5, (3, 0))
    assert (found.coarse[1] == 0).all()
    assert (fixed.frame_weights(found)[1] == 0).all()


def test_teaching_reaches_padding_only_in_legacy() -> None:
    target = torch.full((2, 5), 0.2)
    for legacy in (True, False):
        built = model(legacy)
        mask = torch.arange(5) < torch.tensor([[5], [2]])
        frames = torch.randn(2, 5, D, requires_grad=True)
        found = built.clip_features(frames, mask)
        fine_teaching(built.frame_weights(found), target, None if legacy else mask).backward()
        assert bool((frames.grad[1, 2:] != 0).any()) is legacy


@torch.no_grad()
def test_pictures_behind_the_mask_are_the_official_grey_in_legacy() -> None:
    """The official loaders pad with zeros after normalisation; what stands in the padding does not matter."""
    built = model(legacy=True)
    frames = torch.randint(0, 256, (1, 4, 3, 16, 16), dtype=torch.uint8)
    mask = torch.tensor([[True, True, False, False]])
    black = frames.masked_fill(~mask[..., None, None, None], 0)
    found, other = built.encode_video(frames, mask), built.encode_video(black, mask)
    torch.testing.assert_close(found.coarse, other.coarse)
    grey = built.backbone._encode_pixels(torch.zeros(1, 3, 16, 16), False).frames
    raw = built.backbone._encode_pixels(built.backbone.normalise(frames[0, :2]), False).frames
    expected = built.clip_features(torch.cat([raw, grey, grey]).unsqueeze(0), mask)
    torch.testing.assert_close(found.coarse, expected.coarse, rtol=1e-4, atol=1e-5)
