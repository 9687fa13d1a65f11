"""What every registered method promises; a new method is tested by being registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures, list_methods
from vidsift.models.registry import method_class
from vidsift.models.storage import read_model

METHODS = pytest.mark.parametrize(
    "method",
    [name for m in list_methods() for name in (m, *(f"{m}+{v}" for v in method_class(m).variants))],
)
TEXTS = ["a red star moves left", "", "small blue gem on black then a green ball", "sky"]

Make = Callable[..., RetrievalModel]


def clip_mask(*lengths: int, frames: int = 5) -> Tensor:
    return torch.tensor([[f < n for f in range(frames)] for n in lengths])


def encode(model: RetrievalModel, pictures: Tensor, mask: Tensor) -> tuple[TextFeatures, ClipFeatures]:
    return model.encode_text(*model.tokenize(TEXTS)), model.encode_video(pictures, mask)


def both(model: RetrievalModel, text: TextFeatures, clips: ClipFeatures) -> tuple[Tensor, Tensor]:
    return model.similarity(text, clips), model.frame_relevance(text, clips)


def parts(clips: ClipFeatures) -> dict[str, Tensor]:
    found = {"coarse": clips.coarse, "frames": clips.frames, **clips.extra}
    return found if clips.patches is None else {**found, "patches": clips.patches}


@METHODS
@torch.inference_mode()
def test_shapes_with_more_texts_than_clips_and_odd_lengths(
    method: str, make_model: Make, frames: Any
) -> None:
    model = make_model(method)
    text, clips = encode(model, frames(3, 5), clip_mask(5, 3, 1))
    width = model.width
    assert text.sentence.shape == (4, width)
    assert text.mask.shape == text.words.shape[:2] == (4, 11)
    assert clips.coarse.shape == (3, width)
    assert clips.frames.shape == (3, 5, width)
    scores, relevance = both(model, text, clips)
    assert scores.shape == (4, 3)
    assert relevance.shape == (4, 3, 5)


@METHODS
@torch.inference_mode()
def test_sentence_coarse_and_real_frame_vectors_have_unit_norm(
    method: str, make_model: Make, frames: Any
) -> None:
    text, clips = encode(make_model(method), frames(2, 5), clip_mask(5, 2))
    for vectors in (text.sentence, clips.coarse, clips.frames[clips.mask]):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert clips.frames[~clips.mask].abs().max() == 0


@METHODS
@torch.inference_mode()
def test_relevance_sums_to_one_over_real_frames(method: str, make_model: Make, frames: Any) -> None:
    model = make_model(method)
    mask = clip_mask(5, 3, 1, 0)
    _, relevance = both(model, *encode(model, frames(4, 5), mask))
    assert (relevance >= 0).all()
    assert relevance.masked_select(~mask.expand_as(relevance)).abs().max() == 0
    torch.testing.assert_close(relevance.sum(-1), mask.any(-1).float().expand(4, 4))


@METHODS
@torch.inference_mode()
def test_one_clip_alone_scores_as_in_company(method: str, make_model: Make, frames: Any) -> None:
    model = make_model(method)
    pictures, mask = frames(3, 5), clip_mask(5, 3, 4)
    text, clips = encode(model, pictures, mask)
    together = both(model, text, clips)
    for v in range(3):
        alone = both(model, text, model.encode_video(pictures[v : v + 1], mask[v : v + 1]))
        for got, expected in zip(alone, (together[0][:, v : v + 1], together[1][:, v : v + 1]), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    single = both(model, text.select(slice(2, 3)), clips)
    torch.testing.assert_close(single[0], together[0][2:3], rtol=1e-4, atol=1e-5)


@METHODS
@torch.inference_mode()
def test_permuted_and_repeated_clips_permute_and_repeat_the_scores(
    method: str, make_model: Make, frames: Any
) -> None:
    model = make_model(method)
    text, clips = encode(model, frames(3, 5), clip_mask(5, 3, 4))
    scores, relevance = both(model, text, clips)
    order = [2, 0, 1, 1]
    moved = both(model, text, clips.select(order))
    torch.testing.assert_close(moved[0], scores[:, order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved[1], relevance[:, order], rtol=1e-4, atol=1e-5)


@METHODS
@torch.inference_mode()
def test_a_padded_frame_never_changes_anything(method: str, make_model: Make, frames: Any) -> None:
    model = make_model(method)
    pictures, mask = frames(3, 5), clip_mask(5, 3, 1)
    longer = torch.cat([pictures, frames(3, 2, seed=9)], 1)
    other = torch.where(mask[..., None, None, None], pictures, 255 - pictures)
    text, clips = encode(model, pictures, mask)
    expected = both(model, text, clips)
    filled = both(model, text, model.encode_video(other, mask))
    padded = both(model, text, model.encode_video(longer, torch.nn.functional.pad(mask, [0, 2])))
    for got in (filled, (padded[0], padded[1][..., :5])):
        torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got[1], expected[1], rtol=1e-4, atol=1e-5)
    assert padded[1][..., 5:].abs().max() == 0


@METHODS
@pytest.mark.parametrize("family", ["clip", "siglip"])
@torch.inference_mode()
def test_a_padded_word_never_changes_anything(
    method: str, family: str, make_model: Make, frames: Any
) -> None:
    model = make_model(method, family)
    ids, mask = model.tokenize(TEXTS)
    clips = model.encode_video(frames(2, 3), clip_mask(3, 2, frames=3))
    expected = both(model, model.encode_text(ids, mask), clips)
    padded = torch.nn.functional.pad(ids, [0, 1], value=5), torch.nn.functional.pad(mask, [0, 1])
    for got, wanted in zip(both(model, model.encode_text(*padded), clips), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    for row, text in enumerate(TEXTS):
        got = model.similarity(model.encode_text(*model.tokenize([text])), clips)
        torch.testing.assert_close(got, expected[0][row : row + 1], rtol=1e-4, atol=1e-5)


@METHODS
def test_a_clip_without_real_frames_stays_finite_forward_and_backward(
    method: str, make_model: Make, frames: Any
) -> None:
    model = make_model(method)
    text, clips = encode(model, frames(2, 5), clip_mask(0, 3))
    scores, relevance = both(model, text, clips)
    (scores.sum() + relevance.square().sum()).backward()
    assert torch.isfinite(scores).all()
    assert relevance[:, 0].abs().max() == 0
    assert clips.coarse[0].abs().max() == 0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@METHODS
@torch.inference_mode()
def test_two_evaluations_agree_bit_for_bit(method: str, make_model: Make, frames: Any) -> None:
    model = make_model(method)
    first = both(model, *encode(model, frames(3, 5), clip_mask(5, 3, 1)))
    second = both(model, *encode(model, frames(3, 5), clip_mask(5, 3, 1)))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@METHODS
@torch.inference_mode()
def test_save_and_load_is_bit_exact(method: str, make_model: Make, frames: Any, tmp_path: Path) -> None:
    model = make_model(method, frames_per_clip=7)
    model.save_pretrained(tmp_path / "m")
    again = read_model(tmp_path / "m")
    assert type(again) is type(model)
    assert again.config == model.config
    assert again.frames_per_clip == 7
    assert again.fingerprint() == model.fingerprint()
    assert not again.training
    text, clips = encode(model, frames(3, 5), clip_mask(5, 3, 1))
    text2, clips2 = encode(again, frames(3, 5), clip_mask(5, 3, 1))
    assert torch.equal(text.sentence, text2.sentence)
    for name, part in parts(clips).items():
        assert torch.equal(part, parts(clips2)[name]), name
    assert torch.equal(model.similarity(text, clips), again.similarity(text2, clips2))


@METHODS
@torch.inference_mode()
def test_scores_need_only_the_parts_that_the_index_keeps(method: str, make_model: Make, frames: Any) -> None:
    model = make_model(method)
    text, clips = encode(model, frames(3, 5), clip_mask(5, 3, 1))
    assert model.index_parts <= parts(clips).keys()
    kept = model.encode_video_np(frames(3, 5).numpy(), clip_mask(5, 3, 1).numpy())
    assert kept.keys() == model.index_parts
    tensors = {name: torch.from_numpy(part) for name, part in kept.items()}
    rebuilt = ClipFeatures(
        coarse=tensors.pop("coarse"),
        frames=tensors.pop("frames"),
        mask=clips.mask,
        patches=tensors.pop("patches", None),
        extra=tensors,
    )
    for got, expected in zip(both(model, text, rebuilt), both(model, text, clips), strict=True):
        assert torch.equal(got, expected)


@METHODS
@torch.inference_mode()
def test_scores_survive_to_select_and_cat(method: str, make_model: Make, frames: Any) -> None:
    model = make_model(method)
    text, clips = encode(model, frames(3, 5), clip_mask(5, 3, 1))
    joined = ClipFeatures.cat([clips.select([0]), clips.select(slice(1, 3))]).to("cpu")
    texts = TextFeatures.cat([text.select([0, 1]), text.select(torch.tensor([2, 3]))]).to("cpu")
    assert (len(joined), len(texts)) == (3, 4)
    for got, expected in zip(both(model, texts, joined), both(model, text, clips), strict=True):
        assert torch.equal(got, expected)


@METHODS
def test_bfloat16_autocast_is_finite_forward_and_backward_and_close(
    method: str, make_model: Make, frames: Any
) -> None:
    model = make_model(method)
    with torch.no_grad():
        expected, _ = both(model, *encode(model, frames(3, 5), clip_mask(5, 3, 1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores, relevance = both(model, *encode(model, frames(3, 5), clip_mask(5, 3, 1)))
        scores.float().sum().backward()
    assert torch.isfinite(scores).all()
    assert torch.isfinite(relevance).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    scores, scale = scores.detach(), expected.abs().max().item()
    torch.testing.assert_close(scores.float(), expected, rtol=0, atol=0.1 * max(scale, 1.0))


@METHODS
@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
def test_gradient_reaches_every_parameter(method: str, family: str, make_model: Make, frames: Any) -> None:
    model = make_model(method, family).train()
    torch.manual_seed(0)
    scores, relevance = both(model, *encode(model, frames(4, 5), clip_mask(5, 3, 4, 5)))
    (scores * torch.randn_like(scores)).sum().add((relevance * torch.randn_like(relevance)).sum()).backward()
    for name, parameter in model.named_parameters():
        if not model.scaled and name.startswith("backbone.model.logit_"):
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # Some biases cancel in a softmax by construction; no matrix does.
        assert parameter.ndim < 2 or parameter.grad.abs().max() > 0, name


@METHODS
def test_numpy_queries_are_unit_vectors_that_recall_by_the_coarse_vectors(
    method: str, make_model: Make, frames: Any
) -> None:
    model = make_model(method)
    vectors = model.encode_queries(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), np.ones(4), rtol=1e-5)
    kept = model.encode_video_np(frames(3, 5).numpy(), clip_mask(5, 3, 1).numpy())
    assert (vectors @ kept["coarse"].T).shape == (4, 3)
    alone = np.concatenate([model.encode_queries([text]) for text in TEXTS])
    np.testing.assert_allclose(alone, vectors, rtol=1e-4, atol=1e-5)


@METHODS
def test_frames_and_mask_that_do_not_fit_are_refused(method: str, make_model: Make, frames: Any) -> None:
    with pytest.raises(ValueError, match=r"\[V, F, 3, H, W\]"):
        make_model(method).encode_video(frames(2, 5), clip_mask(5, 3, frames=6))
