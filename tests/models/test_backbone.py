"""The backbone wrapper against transformers' own image and text features, in every family."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vidsift.errors import ModelFormatError
from vidsift.models.backbone import FAMILIES, Backbone, build_backbone

ALL = pytest.mark.parametrize("family", sorted(FAMILIES))
Make = Callable[..., Backbone]


def normalised(backbone: Backbone, frames: Tensor) -> Tensor:
    mean = torch.tensor(backbone.preprocess.mean).view(3, 1, 1)
    std = torch.tensor(backbone.preprocess.std).view(3, 1, 1)
    return (frames.double() / 255 - mean) / std


def own_image_features(backbone: Backbone, frames: Tensor) -> Tensor:
    """transformers' answer, fed as its processors would feed it."""
    pixels = normalised(backbone, frames).float()
    if backbone.model_type != "siglip2":
        return backbone.model.get_image_features(pixel_values=pixels).pooler_output
    from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

    side = backbone.config.vision_config.patch_size
    flat = torch.stack([torch.from_numpy(convert_image_to_patches(p.numpy(), side)) for p in pixels])
    grid = pixels.shape[-1] // side
    return backbone.model.get_image_features(
        pixel_values=flat,
        pixel_attention_mask=torch.ones(flat.shape[:2], dtype=torch.int64),
        spatial_shapes=torch.tensor([[grid, grid]] * len(flat)),
    ).pooler_output


@ALL
@torch.inference_mode()
def test_frame_vectors_are_transformers_image_features(family: str, make_backbone: Make, frames: Any) -> None:
    backbone = make_backbone(family)
    batch = frames(5)
    ours = backbone.encode_frames(batch)
    torch.testing.assert_close(ours.frames, own_image_features(backbone, batch), rtol=1e-4, atol=1e-5)
    assert ours.frames.shape == (5, backbone.width)
    assert ours.patches is None


@ALL
@torch.inference_mode()
def test_sentence_is_transformers_text_feature(family: str, make_backbone: Make) -> None:
    backbone = make_backbone(family)
    full = backbone.max_words
    ids = torch.full((3, full), backbone.pad_id)
    for row, words in enumerate([[4, 5], [], [5, 6, 7, 8, 9]]):
        ids[row, : len(words) + 2] = torch.tensor([2, *words, 3])
    theirs = backbone.model.get_text_features(input_ids=ids).pooler_output
    longest = 7
    ours = backbone.encode_tokens(ids[:, :longest], ids[:, :longest] != backbone.pad_id)
    torch.testing.assert_close(ours.sentence, theirs, rtol=1e-4, atol=1e-5)
    assert ours.words.shape == (3, longest, backbone.width)


@ALL
@torch.inference_mode()
def test_logits_are_transformers_logits(family: str, make_backbone: Make, frames: Any) -> None:
    backbone = make_backbone(family)
    batch = frames(2)
    cosine = torch.tensor([[0.3, -0.2]])
    scale = backbone.model.logit_scale.exp()
    bias = getattr(backbone.model, "logit_bias", 0.0)
    assert torch.equal(backbone.logits(cosine), cosine * scale + bias)
    if family == "siglip":
        ids = torch.full((1, backbone.max_words), 3)
        out = backbone.model(input_ids=ids, pixel_values=normalised(backbone, batch).float())
        cosine = torch.nn.functional.cosine_similarity(out.text_embeds, out.image_embeds)
        torch.testing.assert_close(backbone.logits(cosine), out.logits_per_text[0])


@ALL
@torch.inference_mode()
def test_one_more_pad_token_never_changes_a_vector(family: str, make_backbone: Make) -> None:
    backbone = make_backbone(family)
    ids = torch.tensor([[2, 4, 5, 3], [2, 3, 0, 0]])
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    short = backbone.encode_tokens(ids, mask)
    # The padding is an end-of-text id: only the mask may decide what is padding.
    padded = torch.nn.functional.pad(ids, [0, 3], value=3)
    long = backbone.encode_tokens(padded, torch.nn.functional.pad(mask, [0, 3]))
    torch.testing.assert_close(long.sentence, short.sentence, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(long.words[:, :4][mask], short.words[mask], rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_clip_words_and_patches_go_through_final_norm_and_projection(
    make_backbone: Make, frames: Any
) -> None:
    backbone = make_backbone("clip")
    model = backbone.model
    ids = torch.tensor([[2, 4, 5, 3]])
    words = backbone.encode_tokens(ids, torch.ones_like(ids, dtype=torch.bool)).words
    # A causal tower: the vector of a word is the sentence vector of the text that ends there.
    shorter = model.text_model(input_ids=ids[:, :2]).last_hidden_state[:, 1]
    torch.testing.assert_close(words[:, 1], model.text_projection(shorter), rtol=1e-4, atol=1e-5)

    out = backbone.encode_frames(frames(2), patches=True)
    tokens = model.vision_model(pixel_values=backbone.normalise(frames(2))).last_hidden_state
    every = model.visual_projection(model.vision_model.post_layernorm(tokens))
    torch.testing.assert_close(torch.cat([out.frames[:, None], out.patches], 1), every, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
@torch.inference_mode()
def test_siglip_patch_vector_is_the_head_attending_to_that_patch_alone(
    family: str, make_backbone: Make, frames: Any
) -> None:
    backbone = make_backbone(family)
    seen: list[Tensor] = []
    head = backbone.model.vision_model.head
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    out = backbone.encode_frames(frames(2), patches=True)
    hook.remove()
    assert out.patches is not None
    for p in (0, 7):
        torch.testing.assert_close(out.patches[:, p], head(seen[0][:, p : p + 1]), rtol=1e-4, atol=1e-5)


@ALL
def test_pictures_of_another_size_are_refused(family: str, make_backbone: Make) -> None:
    with pytest.raises(ValueError, match=r"\[N, 3, 32, 32\]"):
        make_backbone(family).encode_frames(torch.zeros(1, 3, 40, 40, dtype=torch.uint8))


@ALL
def test_no_pictures_give_empty_vectors(family: str, make_backbone: Make, frames: Any) -> None:
    backbone = make_backbone(family)
    out = backbone.encode_frames(frames(0), patches=True)
    assert out.patches is not None
    assert out.frames.shape == (0, backbone.width)
    assert out.patches.shape[2] == backbone.width


def test_normalising_leaves_the_given_pictures_alone(make_backbone: Make, frames: Any) -> None:
    batch = frames(2).float()
    before = batch.clone()
    make_backbone().normalise(batch)
    assert torch.equal(batch, before)


def test_a_model_that_is_no_dual_encoder_is_refused_with_the_supported_ones() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ModelFormatError, match=r"'bert'.*clip.*siglip"):
        build_backbone(BertModel(config))
