"""Our X-CLIP gives the official contrasts, losses and gradients, from the official tensors' names."""

import pytest
import torch
from golden import Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert.core import OURS, head_from_official
from vidsift.convert.xclip import FAMILY, describe
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.interaction import attend
from vidsift.models.methods.xclip import XClip
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

GOLDEN = Golden("xclip")


@pytest.fixture(params=["seqTransf", "meanP"])
def case(request: pytest.FixtureRequest) -> tuple[str, XClip]:
    head = request.param
    weights = GOLDEN.weights(f"w_{head}/")
    found = describe(weights)
    assert (found.words, found.frames) == (GOLDEN.meta["L"], GOLDEN.meta["F"])
    assert found.settings["layers"] == (GOLDEN.meta["temporal_layers"] if head == "seqTransf" else 0)
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN.meta["D"], max_words=8)
    tokenizer = build_word_tokenizer(["a"], max_length=8)
    model = new_clip_model(tokenizer, shape, method=found.method, legacy=True, **found.settings).eval()
    head_from_official(model, weights, FAMILY)
    return head, model


def features(
    model: XClip, n: int | None = None, grad: bool = False
) -> tuple[dict[str, torch.Tensor], TextFeatures, ClipFeatures]:
    raw = {key: GOLDEN[f"in/{key}"][:n].requires_grad_(grad) for key in ("sequence", "words", "frames")}
    text = model.text_features(raw["sequence"].squeeze(1), raw["words"], GOLDEN.mask("in/text_mask")[:n])
    return raw, text, model.clip_features(raw["frames"], GOLDEN.mask("in/video_mask")[:n])


def test_similarity_and_each_contrast(case: tuple[str, XClip]) -> None:
    head, model = case
    _, text, clips = features(model)
    assert_close(clips.coarse, GOLDEN[f"out/{head}_video_output"])
    assert_close(clips.frames, GOLDEN[f"out/{head}_frame_features"])
    assert_close(text.sentence, GOLDEN[f"out/{head}_sentence_output"])
    assert_close(torch.nn.functional.normalize(text.words, dim=-1), GOLDEN[f"out/{head}_word_features"])
    assert_close(model.similarity(text, clips), GOLDEN[f"out/{head}_sim"])
    for name, part in model.contrasts(text, clips)._asdict().items():
        stored = {"frame_word": "frame_word_logits"}.get(name, f"{name}_logits")
        assert_close(model.backbone.logits(part), GOLDEN[f"out/{head}_{stored}"], name=name)


def test_attention_over_words_and_over_frames(case: tuple[str, XClip]) -> None:
    head, model = case
    _, text, clips = features(model)
    words = torch.nn.functional.normalize(text.words, dim=-1)
    pairs = torch.einsum("twd,de,vfe->ftwv", words, model.head.word_frame, clips.frames) / 0.01
    assert_close(pairs.permute(1, 2, 3, 0) * 0.01, GOLDEN[f"out/{head}_fine_grained_sim_scores"])
    over_words = attend(pairs, model.head.words_first, dim=-2) * 0.01
    over_frames = attend(pairs, model.head.frames_first) * 0.01
    assert_close(over_words.permute(1, 2, 0), GOLDEN[f"out/{head}_word_level_logit"])
    assert_close(over_frames, GOLDEN[f"out/{head}_frame_level_logit"])
    by_word = attend(over_frames / 0.01, model.head.words_last, dim=-2) * 0.01
    by_frame = attend(over_words / 0.01, model.head.frames_last) * 0.01
    assert_close(by_word, GOLDEN[f"out/{head}_video2word_logits"])
    assert_close(by_frame, GOLDEN[f"out/{head}_sent2frame_logits"])


def test_loss_and_gradients(case: tuple[str, XClip]) -> None:
    head, model = case
    raw, text, clips = features(model, GOLDEN.meta["n_loss"], grad=True)
    loss = symmetric_info_nce(model.similarity(text, clips))
    loss.backward()
    assert_close(loss, GOLDEN[f"out/{head}_loss"])
    for key, value in raw.items():
        assert_gradient(value.grad, GOLDEN[f"grad/{head}_{key}"], name=key)
    checked = 0
    for key, parameter in model.named_parameters():
        if key.startswith(OURS) and key != f"{OURS}logit_scale":
            continue
        name = "clip.logit_scale" if key.startswith(OURS) else FAMILY.rename(key)
        assert_gradient_stats(parameter.grad, GOLDEN[f"gradstat_{head}/{name}"], name)
        checked += 1
    assert checked == len(GOLDEN.keys(f"gradstat_{head}/"))
