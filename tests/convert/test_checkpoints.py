"""Every published format converts strictly and comes back bit for bit; a wrong checkpoint names its key."""

import re
from dataclasses import replace

import pytest
import torch
from official import CHECKPOINTS, FULL, TINY, UNUSED, Sizes, random_state, tokenizer
from torch import Tensor

from vidsift.convert.core import Report, families, find_family, from_official, to_official
from vidsift.errors import ConversionError
from vidsift.models import create_model
from vidsift.models.base import RetrievalModel

NAMES = sorted(name for name, (family, _, _) in CHECKPOINTS.items() if family in families())


def convert(name: str, state: dict[str, Tensor], size: Sizes = TINY) -> tuple[RetrievalModel, Report]:
    family = find_family(CHECKPOINTS[name][0])
    return from_official(state, family, tokenizer(size.vocabulary))


def whole(name: str, size: Sizes, dtype: torch.dtype = torch.float32) -> None:
    """Converts, with everything accounted for, and back."""
    family, method, shapes = CHECKPOINTS[name]
    state = random_state(shapes(size), dtype=dtype)
    model, report = convert(name, state, size)
    assert model.method == report.method == method
    assert not model.training
    unused = UNUSED.get(name, set())
    assert {key for key, _ in report.skipped} == unused
    assert all(why for _, why in report.skipped)
    assert set(report.mapped) == set(state) - unused
    back = to_official(model, find_family(family))
    assert back.keys() == set(report.mapped)
    assert all(torch.equal(back[key], state[key].float()) for key in report.mapped)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_a_small_checkpoint_converts_and_comes_back_bit_for_bit(name: str) -> None:
    whole(name, TINY)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_vit_b_32_checkpoint_in_half_precision_converts_and_comes_back(name: str) -> None:
    whole(name, FULL, torch.float16)


def some(keys: list[str]) -> list[str]:
    """Every key outside the numbered layers, and 25 of all."""
    numbered = re.compile(r".*\.\d+\..*")
    return sorted({*keys[:: max(1, len(keys) // 25)], *(k for k in keys if not numbered.fullmatch(k))})


@pytest.mark.parametrize("name", NAMES)
def test_every_missing_key_is_named(name: str) -> None:
    state = random_state(CHECKPOINTS[name][2](TINY))
    keys = sorted(set(state) - UNUSED.get(name, set()))
    for key in some(keys):
        with pytest.raises(ConversionError) as error:
            convert(name, {k: v for k, v in state.items() if k != key})
        assert str(error.value).startswith(f"{key}: "), str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_every_wrong_shape_is_named(name: str) -> None:
    state = random_state(CHECKPOINTS[name][2](TINY))
    keys = sorted(set(state) - UNUSED.get(name, set()))
    # These tables have a free number of rows; any other number is another model.
    free = ("positional_embedding", "position_embeddings.weight", "token_embedding.weight")
    for key in some(keys):
        value = state[key]
        axis = value.ndim - 1 if key.endswith(free) or "position_embedding" in key else 0
        wrong = torch.cat([value, value], axis) if value.ndim else value.expand(2)
        with pytest.raises(ConversionError) as error:
            convert(name, state | {key: wrong})
        assert str(error.value).startswith(f"{key}: "), str(error.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_family_is_refused_with_a_key_of_it(name: str) -> None:
    own = CHECKPOINTS[name][0]
    state = random_state(CHECKPOINTS[name][2](TINY))
    for other in families().values():
        if other.name == own:
            continue
        with pytest.raises(ConversionError) as error:
            from_official(state, other, tokenizer(TINY.vocabulary))
        assert ":" in str(error.value)


def test_the_right_family_is_suggested() -> None:
    for name, tried in (
        ("teachclip", "clip4clip"),
        ("xclip", "clip4clip"),
        ("xpool", "clip4clip"),
        ("xclip", "eercf"),
        ("eercf", "xclip"),
        ("eercf", "clip4clip"),
    ):
        state = random_state(CHECKPOINTS[name][2](TINY))
        with pytest.raises(ConversionError) as error:
            from_official(state, find_family(tried), tokenizer(TINY.vocabulary))
        assert re.findall(r"--from (\S+)", str(error.value)) == [name]


def test_an_unknown_key_is_named() -> None:
    state = random_state(CHECKPOINTS["teachclip"][2](TINY)) | {"clip.visual.extra": torch.zeros(3)}
    with pytest.raises(ConversionError, match=r"clip\.visual\.extra"):
        convert("teachclip", state)
    state = random_state(CHECKPOINTS["teachclip"][2](TINY)) | {"projector.weight": torch.zeros(3)}
    with pytest.raises(ConversionError, match=r"projector\.weight"):
        convert("teachclip", state)


def test_an_unused_cross_encoder_is_skipped_with_the_reason() -> None:
    shapes = CHECKPOINTS["clip4clip-seqTransf"][2](TINY) | CHECKPOINTS["clip4clip-tightTransf"][2](TINY)
    model, report = convert("clip4clip-seqTransf", random_state(shapes))
    assert model.method == "seqtransf"
    assert {key.split(".")[0] for key, _ in report.skipped} == {"cross", "similarity_dense"}
    assert all("never used" in why for _, why in report.skipped)


def test_sizes_are_read_from_the_shapes() -> None:
    model, report = convert("clip4clip-seqTransf", random_state(CHECKPOINTS["clip4clip-seqTransf"][2](TINY)))
    vision = model.backbone.config.vision_config
    assert (vision.image_size, vision.patch_size, vision.num_hidden_layers) == (12, 4, 12)
    assert vision.hidden_act == model.backbone.config.text_config.hidden_act == "quick_gelu"
    assert vision.layer_norm_eps == model.backbone.config.text_config.layer_norm_eps == 1e-5
    assert report.settings["layers"] == 2
    assert (report.max_words, report.frames_per_clip) == (77, 12)


def test_a_tokenizer_of_another_vocabulary_is_refused() -> None:
    state = random_state(CHECKPOINTS["clip4clip-meanP"][2](TINY))
    with pytest.raises(ConversionError, match=r"expects \[58, 59\]"):
        from_official(state, find_family("clip4clip"), tokenizer(TINY.vocabulary + 1))


def test_convolution_over_frames_and_resnet_towers_are_refused() -> None:
    state = random_state(CHECKPOINTS["clip4clip-meanP"][2](TINY))
    with pytest.raises(ConversionError, match=r"clip\.visual\.conv2\.weight.*linear_patch 3d"):
        convert("clip4clip-meanP", state | {"clip.visual.conv2.weight": torch.zeros(64, 3, 3, 4, 4)})
    state = random_state(CHECKPOINTS["openai-clip"][2](TINY)) | {
        "visual.layer1.0.conv1.weight": torch.zeros(1)
    }
    with pytest.raises(ConversionError, match="ResNet"):
        convert("openai-clip", state)


def test_a_logit_scale_that_training_never_reaches_is_noted() -> None:
    state = random_state(CHECKPOINTS["clip4clip-meanP"][2](TINY))
    assert not any("logit_scale" in note for note in convert("clip4clip-meanP", state)[1].notes)
    _, report = convert("clip4clip-meanP", state | {"clip.logit_scale": torch.tensor(5.0)})
    assert "logit_scale is 5.000" in report.notes[-1]


def test_layers_and_positions_that_no_released_model_has_are_noted() -> None:
    usual = replace(TINY, text_layers=12, temporal_layers=4)
    shapes = CHECKPOINTS["clip4clip-seqTransf"][2]
    assert not convert("clip4clip-seqTransf", random_state(shapes(usual)), usual)[1].notes
    for size, note in (
        (replace(usual, vision_layers=11), "the vision tower has 11 layers; released models have 12 or 24"),
        (replace(usual, text_layers=11), "the text tower has 11 layers; released models have 12"),
        (replace(usual, temporal_layers=3), "the temporal stack has 3 layers"),
    ):
        assert note in convert("clip4clip-seqTransf", random_state(shapes(size)), size)[1].notes[0]
    state = random_state(shapes(usual))
    for key in ("clip.positional_embedding", "frame_position_embeddings.weight"):
        doubled = state | {key: torch.cat([state[key]] * 2)}
        assert "154 positions" in convert("clip4clip-seqTransf", doubled, usual)[1].notes[0]


def test_the_legacy_switch_is_set_only_where_there_is_one() -> None:
    state = random_state(CHECKPOINTS["teachclip"][2](TINY))
    model, _ = from_official(state, find_family("teachclip"), tokenizer(TINY.vocabulary), legacy=True)
    assert model.config.legacy
    state = random_state(CHECKPOINTS["openai-clip"][2](TINY))
    from_official(state, find_family("openai-clip"), tokenizer(TINY.vocabulary), legacy=True)


def test_a_student_with_layers_of_ours_is_no_official_checkpoint() -> None:
    plain, _ = convert("teachclip", random_state(CHECKPOINTS["teachclip"][2](TINY)))
    peaked = create_model(
        "teachclip", plain.backbone, plain.tokenizer, peaks=True, layers=plain.config.layers
    )
    with pytest.raises(ConversionError, match=r"peaks\.\w+\.\w+: TeachCLIP's student has no such layer"):
        to_official(peaked, find_family("teachclip"))
