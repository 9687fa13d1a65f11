"""Our X-Pool gives the official numbers and gradients, through the same features that an index keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vidsift.convert import xpool as convert
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.methods.xpool import XPool
from vidsift.models.pooling import masked_mean, text_gated_score, text_gated_weights, top_k_pool, unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

with np.load(Path(__file__).parent / "golden" / "xpool.npz") as _file:
    GOLDEN = {key: torch.from_numpy(_file[key]) for key in _file if _file[key].dtype.kind in "fib"}
WEIGHTS = {f"pool_frames.{key[2:]}": value for key, value in GOLDEN.items() if key.startswith("w/")}


def assert_golden(value: torch.Tensor, key: str, relative: float = 1e-5) -> None:
    stored = GOLDEN[key]
    assert value.shape == stored.shape, key
    assert (value - stored).abs().max() <= 1e-7 + relative * stored.abs().max(), key


@pytest.fixture
def model() -> XPool:
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN["in/text"].shape[1], max_words=8)
    model = new_clip_model(build_word_tokenizer(["a"], max_length=8), shape, method="xpool").eval()
    missing, unexpected = model.load_state_dict(convert.from_official(WEIGHTS), strict=False)
    assert not unexpected
    assert all(key.startswith("backbone.") for key in missing)
    with torch.no_grad():
        model.backbone.model.logit_scale.copy_(GOLDEN["in/logit_scale"])
    return model


def features(model: XPool, text: torch.Tensor, frames: torch.Tensor) -> tuple[TextFeatures, ClipFeatures]:
    words = torch.zeros(len(text), 1, text.shape[1])
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    return model.text_features(text, words, mask.new_ones(len(text), 1)), model.clip_features(frames, mask)


def test_scores_and_attention(model: XPool) -> None:
    text, clips = features(model, GOLDEN["in/text"], GOLDEN["in/frames"])
    assert_golden(model.cosines(text, clips), "out/sim")
    assert_golden(model.similarity(text, clips) / GOLDEN["in/logit_scale"].exp(), "out/sim")
    assert_golden(model.frame_relevance(text, clips).permute(1, 2, 0).unsqueeze(1), "out/attention_weights")


def test_the_definition_of_the_pool(model: XPool) -> None:
    text, clips = features(model, GOLDEN["in/text"], GOLDEN["in/frames"])
    keys, attended = model.head.attended(GOLDEN["in/frames"])
    weights = model.head.weights(text.extra["query"], keys, clips.mask).flatten(2)
    assert_golden(model.head.pooled(weights, attended).transpose(0, 1), "out/pooled")


def test_loss_and_gradients(model: XPool) -> None:
    text = GOLDEN["in/text"][GOLDEN["in/loss_text_rows"]].clone().requires_grad_()
    frames = GOLDEN["in/frames"].clone().requires_grad_()
    pair = features(model, text, frames)
    assert_golden(model.cosines(*pair), "out/loss_sim")
    loss = symmetric_info_nce(model.similarity(*pair))
    assert_golden(loss.detach(), "out/loss")
    loss.backward()
    assert_golden(text.grad, "grad/text", 1e-4)
    assert_golden(frames.grad, "grad/frames", 1e-4)
    assert_golden(model.backbone.model.logit_scale.grad, "grad/logit_scale", 1e-4)
    for official, ours in convert.KEYS.items():
        grad = model.get_parameter(ours).grad
        norm, total = GOLDEN[f"gradstat/{official.removeprefix('pool_frames.')}"]
        if "k_proj.bias" in official:
            assert grad.norm() < 1e-6  # adds the same to every logit of a softmax: zero in exact arithmetic
            continue
        assert abs(grad.norm() - norm) <= 1e-7 + 1e-4 * norm, official
        assert abs(grad.sum() - total) <= 1e-6 + 1e-4 * norm, official


def test_baselines_that_the_paper_compares_with() -> None:
    text, frames = unit(GOLDEN["in/text"]), unit(GOLDEN["in/frames"])
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    mean = masked_mean(frames, mask)
    assert_golden(mean, "out/baseline_avg_pooled")
    assert_golden(text @ unit(mean).T, "out/baseline_avg_sim")
    best = top_k_pool(frames, text, mask, k=3)
    assert_golden(best.transpose(0, 1), "out/baseline_topk_pooled")
    assert_golden(torch.einsum("td,tvd->tv", text, unit(best)), "out/baseline_topk_sim")
    weights = text_gated_weights(frames, text, mask, 0.01)
    pooled = torch.einsum("tvf,vfd->vtd", weights, frames)
    assert_golden(pooled, "out/baseline_attention_pooled")
    assert_golden(text_gated_score(frames, text, mask, 0.01), "out/baseline_attention_sim")


def test_the_mapping_is_its_own_inverse(model: XPool) -> None:
    back = convert.to_official(model.state_dict())
    assert back.keys() == WEIGHTS.keys()
    assert all(torch.equal(back[key], WEIGHTS[key]) for key in WEIGHTS)
