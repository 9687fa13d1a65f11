"""Our X-Pool gives the official numbers and gradients, through the same features that an index keeps."""

import numpy as np
import pytest
import torch
from golden import Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert.core import head_from_official
from vidsift.convert.xpool import FAMILY
from vidsift.evaluation.legacy_metrics import by_video, xpool_t2v, xpool_v2t
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.methods.xpool import XPool
from vidsift.models.pooling import masked_mean, text_gated_score, text_gated_weights, top_k_pool, unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

GOLDEN = Golden("xpool")
WEIGHTS = {f"pool_frames.{key}": value for key, value in GOLDEN.weights("w/").items()}


@pytest.fixture
def model() -> XPool:
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN["in/text"].shape[1], max_words=8)
    model = new_clip_model(build_word_tokenizer(["a"], max_length=8), shape, method="xpool").eval()
    head_from_official(model, WEIGHTS | {"clip.logit_scale": GOLDEN["in/logit_scale"]}, FAMILY)
    return model


def features(model: XPool, text: torch.Tensor, frames: torch.Tensor) -> tuple[TextFeatures, ClipFeatures]:
    words = torch.zeros(len(text), 1, text.shape[1])
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    return model.text_features(text, words, mask.new_ones(len(text), 1)), model.clip_features(frames, mask)


def test_scores_and_attention(model: XPool) -> None:
    text, clips = features(model, GOLDEN["in/text"], GOLDEN["in/frames"])
    assert_close(model.cosines(text, clips), GOLDEN["out/sim"])
    assert_close(model.similarity(text, clips) / GOLDEN["in/logit_scale"].exp(), GOLDEN["out/sim"])
    assert_close(
        model.frame_relevance(text, clips).permute(1, 2, 0).unsqueeze(1), GOLDEN["out/attention_weights"]
    )


def test_the_definition_of_the_pool(model: XPool) -> None:
    text, clips = features(model, GOLDEN["in/text"], GOLDEN["in/frames"])
    keys, attended = model.head.attended(GOLDEN["in/frames"])
    weights = model.head.weights(text.extra["query"], keys, clips.mask).flatten(2)
    assert_close(model.head.pooled(weights, attended).transpose(0, 1), GOLDEN["out/pooled"])


def test_loss_and_gradients(model: XPool) -> None:
    text = GOLDEN["in/text"][GOLDEN["in/loss_text_rows"]].requires_grad_()
    frames = GOLDEN["in/frames"].requires_grad_()
    pair = features(model, text, frames)
    assert_close(model.cosines(*pair), GOLDEN["out/loss_sim"])
    loss = symmetric_info_nce(model.similarity(*pair))
    assert_close(loss, GOLDEN["out/loss"])
    loss.backward()
    assert_gradient(text.grad, GOLDEN["grad/text"])
    assert_gradient(frames.grad, GOLDEN["grad/frames"])
    assert_gradient(model.backbone.model.logit_scale.grad, GOLDEN["grad/logit_scale"])
    for key, parameter in model.head.named_parameters():
        official = FAMILY.rename(f"head.{key}")
        stored = GOLDEN[f"gradstat/{official.removeprefix('pool_frames.')}"]
        # The key bias adds the same to every logit of a softmax: its gradient is zero in exact arithmetic.
        assert_gradient_stats(parameter.grad, stored, official, zero="k_proj.bias" in official)


def test_metrics_of_several_captions_per_video(model: XPool) -> None:
    counts = GOLDEN["in/caption_video_index"].bincount().tolist()
    scores = model.cosines(*features(model, GOLDEN["in/text"], GOLDEN["in/frames"]))
    grouped = by_video(scores.detach().numpy(), counts)
    padding = GOLDEN["out/sim_per_video_id_is_padding"].numpy()
    assert np.array_equal(np.isneginf(grouped), padding)
    assert_close(torch.from_numpy(grouped[~padding]), GOLDEN["out/sim_per_video_id"][~padding])
    for direction, metrics in (("t2v", xpool_t2v(grouped)), ("v2t", xpool_v2t(grouped))):
        for name in ("R1", "R5", "R10", "R50", "R100", "MedR", "MeanR"):
            assert metrics[name] == pytest.approx(float(GOLDEN[f"out/{direction}_{name}"])), name


def test_baselines_that_the_paper_compares_with() -> None:
    text, frames = unit(GOLDEN["in/text"]), unit(GOLDEN["in/frames"])
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    mean = masked_mean(frames, mask)
    assert_close(mean, GOLDEN["out/baseline_avg_pooled"])
    assert_close(text @ unit(mean).T, GOLDEN["out/baseline_avg_sim"])
    best = top_k_pool(frames, text, mask, k=3)
    assert_close(best.transpose(0, 1), GOLDEN["out/baseline_topk_pooled"])
    assert_close(torch.einsum("td,tvd->tv", text, unit(best)), GOLDEN["out/baseline_topk_sim"])
    weights = text_gated_weights(frames, text, mask, 0.01)
    pooled = torch.einsum("tvf,vfd->vtd", weights, frames)
    assert_close(pooled, GOLDEN["out/baseline_attention_pooled"])
    assert_close(text_gated_score(frames, text, mask, 0.01), GOLDEN["out/baseline_attention_sim"])
