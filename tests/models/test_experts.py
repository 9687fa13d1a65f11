"""Expert models: missing experts and padding have no say in default mode, and had one in the reference."""

from dataclasses import asdict, replace

import pytest
import torch

from vidsift.models.expert_layers import CollaborativeGating, NetVLAD, RowNorm
from vidsift.models.experts import Expert, ExpertMethod
from vidsift.models.methods.ce import CollaborativeExperts
from vidsift.models.methods.moee import MixtureOfExperts
from vidsift.models.pooling import unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

EXPERTS = (Expert("audio", 6, clusters=3, width=5), Expert("face", 4), Expert("rgb", 8, width=7))
METHODS = ["ce", "moee"]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(method: str, **settings: object) -> ExpertMethod:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=12, max_words=8)
    words = build_word_tokenizer(["a"], max_length=8)
    built = new_clip_model(words, shape, method=method, **{"experts": EXPERTS, **settings})
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():  # running statistics and biases that matter
        for name, value in built.head.state_dict().items():
            value.add_(torch.rand(value.shape, generator=generator) * (0.5 if "running" in name else 0.1))
    return built.eval()


def videos(v: int = 5) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Clip 1 has no face, clip 2 nothing at all; clips 0, 3 and 4 have all."""
    features = {"audio": normal(v, 4, 6), "face": normal(v, 4, seed=1), "rgb": normal(v, 8, seed=2)}
    there = torch.ones(v, dtype=torch.bool)
    there[2] = False
    face = there.clone()
    face[1] = False
    audio = there.unsqueeze(1).repeat(1, 4)
    audio[3, 2:] = False
    return features, {"audio": audio, "face": face, "rgb": there}


def texts(built: ExpertMethod, count: int = 3) -> object:
    mask = torch.ones(count, 5, dtype=torch.bool)
    mask[0, 2:] = False
    return built.encode_words(normal(count, 5, 12, seed=3), mask)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("garbage", [9.0, float("nan")])
def test_what_stands_in_place_of_a_missing_expert_or_token_is_never_read(method: str, garbage: float) -> None:
    for training in (False, True):
        built = model(method).train(training)
        features, masks = videos()
        dirty = {k: x.masked_fill(~masks[k].unsqueeze(-1), garbage) for k, x in features.items()}
        clean, other = (
            built.similarity(texts(built), built.encode_experts(x, masks)) for x in (features, dirty)
        )
        assert torch.equal(clean, other)
        assert torch.isfinite(clean).all()


@pytest.mark.parametrize("method", METHODS)
def test_more_padding_changes_no_score_but_does_in_legacy(method: str) -> None:
    for legacy in (False, True):
        built = model(method, legacy=legacy)
        features, masks = videos()
        longer = {"audio": torch.nn.functional.pad(features["audio"], [0, 0, 0, 3])}
        mask = {"audio": torch.nn.functional.pad(masks["audio"], [0, 3])}
        text = texts(built)
        wide = torch.nn.functional.pad(text.words, [0, 0, 0, 3])
        padded = built.encode_words(wide, torch.nn.functional.pad(text.mask, [0, 3]))
        one = built.similarity(text, built.encode_experts(features, masks))
        two = built.similarity(padded, built.encode_experts(features | longer, masks | mask))
        assert torch.allclose(one, two, atol=1e-5) is not legacy


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_expert_moves_no_statistics_but_does_in_legacy(method: str) -> None:
    for legacy in (False, True):
        features, masks = videos()
        kept = torch.tensor([0, 1, 3, 4])
        whole, rest = model(method, legacy=legacy).train(), model(method, legacy=legacy).train()
        whole.encode_experts(features, masks)
        rest.encode_experts({k: x[kept] for k, x in features.items()}, {k: m[kept] for k, m in masks.items()})
        same = [
            torch.allclose(a, b, atol=1e-6)
            for a, b in zip(whole.head.buffers(), rest.head.buffers(), strict=True)
        ]
        assert all(same) is not legacy


@pytest.mark.parametrize("method", METHODS)
def test_an_expert_that_is_left_out_counts_as_missing_everywhere(method: str) -> None:
    built = model(method)
    features, masks = videos()
    nowhere = masks | {"face": torch.zeros(5, dtype=torch.bool)}
    left_out = built.encode_experts({k: x for k, x in features.items() if k != "face"}, masks)
    assert torch.equal(
        built.similarity(texts(built), left_out),
        built.similarity(texts(built), built.encode_experts(features, nowhere)),
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_clip_without_experts_scores_zero_with_a_finite_gradient(method: str, legacy: bool) -> None:
    built = model(method, legacy=legacy)
    features, masks = videos()
    features = {k: x.requires_grad_() for k, x in features.items()}
    scores = built.cosines(texts(built), built.encode_experts(features, masks))
    scores.sum().backward()
    assert torch.equal(scores[:, 2], torch.zeros(3))
    assert all(torch.isfinite(x.grad).all() for x in features.values())
    assert all(torch.isfinite(p.grad).all() for p in built.head.parameters() if p.grad is not None)


@pytest.mark.parametrize("method", METHODS)
def test_the_score_mixes_the_available_experts_with_the_text_s_weights(method: str) -> None:
    built = model(method)
    text, clips = texts(built), built.encode_experts(*videos())
    weights = text.extra["mixture"].unsqueeze(1) * clips.extra["available"]
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-9)
    cosines = torch.stack(
        [text.extra["embedding"][:, s] @ clips.extra["embedding"][:, s].T for s in built.head.slots], -1
    )
    assert torch.allclose(built.cosines(text, clips), (weights * cosines).sum(-1), atol=1e-6)
    assert torch.allclose(text.extra["mixture"].sum(-1), torch.ones(3))


@pytest.mark.parametrize("method", METHODS)
def test_the_coarse_vector_ranks_clips_with_the_same_experts_as_the_score_does(method: str) -> None:
    built = model(method)
    features, _ = videos(12)
    text, clips = texts(built), built.encode_experts(features)
    assert torch.allclose(clips.coarse.norm(dim=-1), torch.ones(12))
    assert text.sentence.shape[1] == clips.coarse.shape[1] == built.width
    recall, score = text.sentence @ clips.coarse.T, built.similarity(text, clips)
    assert torch.equal(recall.argsort(-1), score.argsort(-1))


def test_gating_is_sequential_so_the_order_of_experts_matters() -> None:
    torch.manual_seed(0)
    gating = CollaborativeGating(3, 6).eval()
    for gate in gating.gates:
        gate.load_state_dict(gating.gates[0].state_dict())
    experts, there = [unit(normal(4, 6, seed=i)) for i in range(3)], torch.ones(4, 3, dtype=torch.bool)
    forward, backward = gating(experts, there), gating(experts[::-1], there)[::-1]
    assert not torch.allclose(forward[0], backward[0], atol=1e-6)


def test_an_expert_hears_only_experts_that_are_there() -> None:
    torch.manual_seed(0)
    gating = CollaborativeGating(3, 6).eval()
    experts, there = [unit(normal(4, 6, seed=i)) for i in range(3)], torch.ones(4, 3, dtype=torch.bool)
    there[:, 1] = False
    other = [experts[0], experts[1].flip(0), experts[2]]
    one, two = gating(experts, there), gating(other, there)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[2], two[2])


def test_row_norm_is_batch_norm_over_the_real_rows() -> None:
    ours, theirs = RowNorm(5).train(), torch.nn.BatchNorm1d(5).train()
    x, real = normal(7, 5), torch.tensor([1, 1, 0, 1, 0, 1, 1], dtype=torch.bool)
    found = ours(x, real)
    assert torch.allclose(found[real], theirs(x[real]), atol=1e-6)
    assert not found[~real].any()
    assert torch.allclose(ours.running_var, theirs.running_var)
    before = ours.running_mean.clone()
    assert torch.isfinite(ours(x, torch.arange(7) == 3)).all()  # one row has no variance
    assert torch.equal(ours.running_mean, before)


def test_netvlad_of_an_empty_set_is_zero() -> None:
    vlad = NetVLAD(4, 3, ghosts=1)
    mask = torch.tensor([[True, True], [False, False]])
    found = vlad(normal(2, 2, 4), mask)
    assert not found[1].any()
    assert found[0].norm().item() == pytest.approx(1.0, abs=1e-5)


def test_experts_of_another_width_are_refused_by_name() -> None:
    features, masks = videos()
    with pytest.raises(ValueError, match="'face'"):
        model("ce").encode_experts(features | {"face": normal(5, 9)}, masks)


@pytest.mark.parametrize("method", METHODS)
def test_from_pixels_the_appearance_expert_says_which_frames_answer(method: str) -> None:
    built = model(method, experts=())
    pixels = torch.randint(0, 255, (3, 4, 3, 16, 16), dtype=torch.uint8)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0]], dtype=torch.bool)
    clips = built.encode_video(pixels, mask)
    assert clips.extra["available"].all()
    assert clips.frames.shape == (3, 4, built.width)
    relevance = built.frame_relevance(built.encode_text(*built.tokenize(["a", "a a"])), clips)
    assert torch.allclose(relevance.sum(-1), torch.ones(2, 3))
    assert not relevance[:, ~mask].any()


def test_settings_survive_json() -> None:
    for cls in (CollaborativeExperts, MixtureOfExperts):
        config = cls.config_class(experts=EXPERTS)
        assert cls.config_class(**asdict(config)) == config
        assert replace(config, text_dim=3).experts == EXPERTS
