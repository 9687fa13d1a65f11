"""TeachCLIP's student gives the official vectors, weights, total loss and gradients, padding and all."""

import pytest
import torch
from golden import Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert.core import OURS, count_layers, find_family, head_from_official
from vidsift.convert.teachclip import FAMILY, describe
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.losses.teaching import coarse_teaching, fine_teaching
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.methods.teachclip import TeachClip
from vidsift.models.pooling import masked_mean, unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.training.teachers import paired

GOLDEN = Golden("teachclip")
TEACHERS = ("xclip", "ts2net", "xpool")
KINDS = {"pear": "pearson", "ce": "cross_entropy", "l1": "smooth_l1"}
VARIANTS = sorted(k.removesuffix("_total") for k in GOLDEN.keys("out/loss_") if k.endswith("_total"))


@pytest.fixture
def model() -> TeachClip:
    weights = GOLDEN.weights("w_student/")
    found = describe(weights)
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN.meta["D"], max_words=8)
    tokenizer = build_word_tokenizer(["a"], max_length=8)
    model = new_clip_model(tokenizer, shape, method=found.method, legacy=True, **found.settings).eval()
    head_from_official(model, weights, FAMILY)
    return model


def features(
    model: TeachClip, sequence: torch.Tensor, frames: torch.Tensor
) -> tuple[TextFeatures, ClipFeatures]:
    sentence = sequence.squeeze(1)
    words = torch.zeros(len(sentence), 1, sentence.shape[1])
    mask = GOLDEN.mask("in/video_mask")[: len(frames)]
    return model.text_features(sentence, words, words[..., 0] == 0), model.clip_features(frames, mask)


def test_vectors_weights_and_scores(model: TeachClip) -> None:
    text, clips = features(model, GOLDEN["in/sequence"], GOLDEN["in/frames"])
    assert_close(clips.frames, GOLDEN["out/frame_embed_normalised"], name="frames")
    assert_close(clips.extra["logits"].unsqueeze(-1), GOLDEN["out/frame_logits"], name="logits")
    assert_close(model.frame_weights(clips).unsqueeze(-1), GOLDEN["out/frame_weights"], name="weights")
    relevance = model.frame_relevance(text, clips)
    assert_close(relevance[-1].unsqueeze(-1), GOLDEN["out/frame_weights"], name="relevance")
    assert_close(clips.coarse, GOLDEN["out/video_embed_afa"], name="coarse")
    assert_close(unit(GOLDEN["out/video_embed_extracted"]), clips.coarse.detach(), name="extracted")
    assert_close(model.similarity(text, clips), GOLDEN["out/sim_afa"], name="scores")


def test_mean_pooling_of_its_frames(model: TeachClip) -> None:
    text, clips = features(model, GOLDEN["in/sequence"], GOLDEN["in/frames"])
    mean = unit(masked_mean(clips.frames, clips.mask))
    assert_close(mean, GOLDEN["out/video_embed_mean"], name="mean")
    assert_close(model.backbone.logits(text.sentence @ mean.T), GOLDEN["out/sim_mean"], name="scores")


@pytest.mark.parametrize("teacher", TEACHERS)
def test_what_each_teacher_says(teacher: str) -> None:
    weights = GOLDEN.weights(f"w_teacher_{teacher}/")
    scale = GOLDEN.meta["teacher_logit_scales"][teacher]
    family = find_family(teacher)
    # TeachCLIP's TS2-Net teacher selects tokens elsewhere: there is no selector, and no tower, in its head.
    described = {} if teacher == "ts2net" else dict(family.describe(weights).settings)
    if teacher == "ts2net":
        described["layers"] = count_layers(weights, "transformerClip.resblocks.")
    width = 512 if teacher == "xpool" else GOLDEN.meta["D"]
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=width, max_words=8)
    built = new_clip_model(
        build_word_tokenizer(["a"], max_length=8), shape, method=teacher, legacy=True, **described
    ).eval()
    unused = {family.rename(k): v for k, v in built.state_dict().items() if k.startswith("scorer.")}
    head_from_official(built, unused | weights, family)
    if "clip.logit_scale" not in weights:  # X-Pool's is in its CLIP
        built.backbone.model.logit_scale.data.fill_(scale)
    n = GOLDEN.meta["n_loss"]
    mask = GOLDEN.mask("in/video_mask")[:n]
    if teacher == "xpool":
        sentence, frames = GOLDEN["in/teacher_xpool_text"][:n], GOLDEN["in/teacher_xpool_frames"][:n]
        clips = built.clip_features(frames, mask)
        words, real = sentence.unsqueeze(1), torch.ones(n, 1, dtype=torch.bool)
    elif teacher == "ts2net":
        sentence = GOLDEN["in/teacher_ts2net_sequence"][:n].squeeze(1)
        tokens = GOLDEN["in/teacher_ts2net_tokens"][:n]
        clips = built.token_features(tokens.view(*mask.shape, -1, tokens.shape[-1]), mask)
        words, real = sentence.unsqueeze(1), torch.ones(n, 1, dtype=torch.bool)
    else:
        sentence = GOLDEN["in/teacher_xclip_sequence"][:n].squeeze(1)
        clips = built.clip_features(GOLDEN["in/teacher_xclip_frames"][:n], mask)
        words, real = GOLDEN["in/teacher_xclip_words"][:n], GOLDEN.mask("in/text_mask")[:n]
    text = built.text_features(sentence, words, real)
    assert_close(built.similarity(text, clips), GOLDEN[f"out/teacher_{teacher}_sim"], name="scores")
    relevance = paired(built.teaching_weights(text, clips))
    assert_close(relevance, GOLDEN[f"out/teacher_{teacher}_relevance"], name="relevance")


def total_loss(model: TeachClip, variant: str, text: TextFeatures, clips: ClipFeatures) -> torch.Tensor:
    coarse, fine, count = variant.split("_")
    teachers = TEACHERS[: int(count[0])]
    scores, weights = model.similarity(text, clips), model.frame_weights(clips)
    assert_close(scores, GOLDEN["out/train_sim"], name="scores")
    assert_close(weights, GOLDEN["out/train_frame_weights"], name="weights")
    sims = [GOLDEN[f"out/teacher_{t}_sim"] for t in teachers]
    relevance = [GOLDEN[f"out/teacher_{t}_relevance"] for t in teachers]
    parts = (
        symmetric_info_nce(scores),
        torch.stack([coarse_teaching(scores, z, KINDS[coarse]) for z in sims]).mean(),
        torch.stack([fine_teaching(weights, y, kind=KINDS[fine]) for y in relevance]).mean(),
    )
    for part, name in zip(parts, ("gt", "distill", "fine"), strict=True):
        assert_close(part, GOLDEN[f"out/loss_{variant}_{name}"], name=name)
    shares = "loss_weights_ce" if coarse == "ce" else "loss_weights_pear_or_l1"
    return sum(w * p for w, p in zip(GOLDEN.meta[shares], parts, strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_total_loss(model: TeachClip, variant: str) -> None:
    n = GOLDEN.meta["n_loss"]
    text, clips = features(model, GOLDEN["in/sequence"][:n], GOLDEN["in/frames"][:n])
    assert_close(total_loss(model, variant, text, clips), GOLDEN[f"out/loss_{variant}_total"], name=variant)


def test_gradients_of_the_published_configuration(model: TeachClip) -> None:
    n = GOLDEN.meta["n_loss"]
    sequence = GOLDEN["in/sequence"][:n].requires_grad_()
    frames = GOLDEN["in/frames"][:n].requires_grad_()
    total_loss(model, "pear_ce_2t", *features(model, sequence, frames)).backward()
    assert_gradient(sequence.grad, GOLDEN["grad/sequence"], name="sequence")
    assert_gradient(frames.grad, GOLDEN["grad/frames"], name="frames")
    parameters = {FAMILY.rename(k): p for k, p in model.named_parameters() if not k.startswith(OURS)}
    parameters["clip.logit_scale"] = model.backbone.model.logit_scale
    assert set(parameters) == set(GOLDEN.keys("gradstat/"))
    for name, parameter in parameters.items():
        zero = name == "frameLinear2.bias"
        assert_gradient_stats(parameter.grad, GOLDEN[f"gradstat/{name}"], name, zero)
