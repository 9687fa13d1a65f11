"""Our EERCF gives the official scores, losses, gradients and two-stage ranking."""

import pytest
import torch
from golden import Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert.core import OURS, head_from_official
from vidsift.convert.eercf import FAMILY, describe
from vidsift.evaluation.legacy_metrics import clip4clip_metrics
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.losses.correlation import correlation_constraint
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.methods.eercf import EERCF, STRONG, WEAK, gated_scores, weak_scores, weighted
from vidsift.models.pooling import text_gated_weights
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

GOLDEN = Golden("eercf")
NAMES = {
    "video": "sentence_video",
    "frame_weak": "sentence_frame_weak",
    "frame_strong": "sentence_frame_strong",
    "patch_weak": "sentence_patch_weak",
    "patch_strong": "sentence_patch_strong",
}


@pytest.fixture
def model() -> EERCF:
    weights = GOLDEN.weights("w/")
    found = describe(weights)
    assert found.frames == GOLDEN.meta["F"]
    assert found.settings["layers"] == GOLDEN.meta["temporal_layers"]
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN.meta["D"], max_words=8)
    tokenizer = build_word_tokenizer(["a"], max_length=8)
    built = new_clip_model(tokenizer, shape, method=found.method, legacy=True, **found.settings).eval()
    head_from_official(built, weights, FAMILY)
    return built


def features(
    model: EERCF, n: int | None = None, prefix: str = "", grad: bool = False
) -> tuple[dict[str, torch.Tensor], TextFeatures, ClipFeatures]:
    keys = ("sequence", "frames", "patches")
    raw = {key: GOLDEN[f"in/{prefix}{key}"][:n].requires_grad_(grad) for key in keys}
    sentence, mask = raw["sequence"].squeeze(1), GOLDEN.mask(f"in/{prefix}video_mask")[:n]
    text = model.text_features(
        sentence, sentence.unsqueeze(1), torch.ones(len(sentence), 1, dtype=torch.bool)
    )
    return raw, text, model.clip_features(raw["frames"], mask, raw["patches"])


def test_features_and_the_five_scores(model: EERCF) -> None:
    _, text, clips = features(model)
    assert_close(text.sentence, GOLDEN["out/eval_sentence_output"])
    assert_close(clips.frames, GOLDEN["out/eval_frame_features"])
    assert_close(clips.patches, GOLDEN["out/eval_visual_patches"])
    patch_weights = text_gated_weights(
        clips.patches.flatten(1, 2), text.sentence, torch.ones(len(clips), 24, dtype=torch.bool), 0.01
    )
    assert_close(patch_weights, GOLDEN["out/eval_sentence2patches_weights"])
    assert_close(clips.coarse, GOLDEN["out/eval_video_output"])
    assert_close(clips.extra["contextual"], GOLDEN["out/eval_visual_output_norm"])
    assert_close(model.frame_relevance(text, clips), GOLDEN["out/eval_sentence2frames_weights"])
    scores = model.scores(text, clips)
    assert list(scores) == list(NAMES)
    for name, score in scores.items():
        assert_close(model.backbone.logits(score), GOLDEN[f"out/eval_{NAMES[name]}_logits"], name=name)


def test_scores_as_functions_of_cached_vectors(model: EERCF) -> None:
    _, text, clips = features(model)
    all_real = torch.ones_like(clips.mask)
    weak = weak_scores(text.sentence, clips.frames, model.frame_mixing, all_real)
    values = clips.extra["contextual"], clips.extra["gram"]
    strong = gated_scores(text.sentence, clips.frames, *values, all_real)
    assert_close(model.backbone.logits(weak), GOLDEN["out/eval_sentence_frame_weak_logits"])
    assert_close(model.backbone.logits(strong), GOLDEN["out/eval_sentence_frame_strong_logits"])


def test_scores_and_vectors_in_training(model: EERCF) -> None:
    _, text, clips = features(model, GOLDEN.meta["n_loss"])
    for name, score in model.training_scores(text, clips).items():
        assert_close(model.backbone.logits(score), GOLDEN[f"out/train_{NAMES[name]}_logits"], name=name)
    cosines = torch.einsum("nd,nfd->nf", text.sentence, clips.frames)
    assert_close(cosines.unsqueeze(-1), GOLDEN["out/train_sentence2frames_sim"])
    vectors = model.own_vectors(text, clips)
    assert_close(vectors["frame_strong"], GOLDEN["out/train_visual_output_adapt"])
    assert_close(vectors["patch_strong"], GOLDEN["out/train_visual_output_adapt_patch"])
    levels = {"video": clips.coarse, "frame": vectors["frame_strong"], "patch": vectors["patch_strong"]}
    for level, x in levels.items():
        value = correlation_constraint(text.sentence, x, legacy=True)
        assert_close(value, GOLDEN[f"out/train_pearson_{level}_level"], name=level)


@pytest.mark.parametrize("setting", ["default", "allterms"])
def test_losses_and_gradients(model: EERCF, setting: str) -> None:
    w = GOLDEN.meta[f"weights_{setting}"]
    raw, text, clips = features(model, GOLDEN.meta["n_loss"], grad=True)
    scores, vectors = model.training_scores(text, clips), model.own_vectors(text, clips)
    strong_weights = {"frame_strong": w["strongframe_weight"], "patch_strong": w["strongpatch_weight"]}
    weak_weights = {
        "video": w["video_weight"],
        "frame_weak": w["weakframe_weight"],
        "patch_weak": w["weakpatch_weight"],
    }
    if setting == "default":
        assert (weak_weights, strong_weights) == (WEAK, STRONG)
    weak = symmetric_info_nce(model.backbone.logits(weighted(scores, weak_weights)))
    strong = symmetric_info_nce(model.backbone.logits(weighted(scores, strong_weights)))
    inter = w["weak_loss_weight"] * weak + w["strong_loss_weight"] * strong
    intra = (
        w["cdcl_video_weight"] * correlation_constraint(text.sentence, clips.coarse, legacy=True)
        + w["cdcl_frame_weight"] * correlation_constraint(text.sentence, vectors["frame_strong"], legacy=True)
        + w["cdcl_patch_weight"] * correlation_constraint(text.sentence, vectors["patch_strong"], legacy=True)
    )
    loss = inter + w["cdcl_loss_weight"] * intra
    loss.backward()
    stored = {"weak": weak, "strong": strong, "inter": inter, "intra": intra}
    for name, value in stored.items():
        assert_close(value, GOLDEN[f"out/train_{setting}_{name}_loss"], name=name)
    assert_close(loss, GOLDEN[f"out/train_{setting}_loss"])
    for key, value in raw.items():
        assert_gradient(value.grad, GOLDEN[f"grad/{setting}_{key}"], name=key)
    checked = 0
    for key, parameter in model.named_parameters():
        if key.startswith(OURS) and key != f"{OURS}logit_scale":
            continue
        name = "clip.logit_scale" if key.startswith(OURS) else FAMILY.rename(key)
        assert_gradient_stats(parameter.grad, GOLDEN[f"gradstat_{setting}/{name}"], name)
        checked += 1
    assert checked == len(GOLDEN.keys(f"gradstat_{setting}/"))


def test_two_stage_scores_of_the_official_evaluation(model: EERCF) -> None:
    _, text, clips = features(model, prefix="rerank_")
    stage_one = model.backbone.logits(model.coarse_scores(text, clips))
    assert_close(stage_one, GOLDEN["out/rerank_stage1"])
    final = model.two_stage(text, clips, GOLDEN.meta["rerantopk"])
    assert_close(final, GOLDEN["out/rerank_final"])
    assert torch.equal(final.argsort(dim=1, descending=True), GOLDEN["out/rerank_ranking"])
    k = GOLDEN.meta["rerantopk"]
    assert torch.equal(stage_one.topk(k, 1).indices.sort(1).values, GOLDEN["out/rerank_selected_topk"])
    scores = model.scores(text, clips)
    for ours, theirs in (
        ("frame_weak", "weakframe"),
        ("frame_strong", "strongframe"),
        ("patch_weak", "weakpatch"),
    ):
        assert_close(model.backbone.logits(scores[ours]), GOLDEN[f"out/rerank_{theirs}"], name=ours)
    ranked = final.detach().numpy()
    figures = {"t2v": clip4clip_metrics(ranked), "v2t": clip4clip_metrics(ranked.T)}
    for direction, found in figures.items():
        for name, ours in (("R1",) * 2, ("R5",) * 2, ("R10",) * 2, ("MedianR", "MedR"), ("MeanR",) * 2):
            assert found[ours] == pytest.approx(float(GOLDEN[f"out/rerank_{direction}_{name}"])), name
    returned = float(GOLDEN["out/rerank_returned_score"])
    assert sum(figures["t2v"][name] for name in ("R1", "R5", "R10")) == pytest.approx(returned)


def test_dual_softmax_before_the_candidates_are_lifted() -> None:
    """The official `cal_new`, which its evaluation never calls."""
    scores = [GOLDEN[f"in/cal_new_{name}"] for name in ("main", "rerank")]
    first, second = (x * x.softmax(0) * len(x) for x in scores)
    best = first.topk(GOLDEN.meta["rerantopk"], 1).indices
    lifted = first.scatter(1, best, second.gather(1, best) + 100)
    assert_close(lifted, GOLDEN["out/cal_new"])
