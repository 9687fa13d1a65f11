"""Our TS2-Net gives the official token shift, selection, scores and gradients, noise included."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import FOLDER, Golden, assert_close, assert_gradient, assert_gradient_stats

from vidsift.convert import towers
from vidsift.convert.core import OURS, head_from_official
from vidsift.convert.ts2net import FAMILY, describe, unwrapped, wrapped
from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models.backbone import build_backbone, hf_classes
from vidsift.models.methods.ts2net import TS2Net
from vidsift.models.preprocess import PreprocessSpec
from vidsift.models.registry import create_model
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.text import TextTokenizer
from vidsift.models.tokenizer import build_word_tokenizer
from vidsift.models.tokens import Neighbours, TokenScorer, perturbed_top_tokens, shift_tokens

GOLDEN = Golden("ts2net")
SHARED = Path(os.environ.get("VIDSIFT_SHARED", FOLDER.parents[3] / "shared")) / "golden" / "ts2net_a.npz"


@pytest.fixture
def model() -> TS2Net:
    weights = GOLDEN.weights("w/")
    settings = dict(describe(weights).settings)
    assert settings.pop("shift_blocks") == (10, 11)
    shape = ClipShape(16, 8, 16, 1, 16, 1, projection=GOLDEN.meta["embed"], max_words=8)
    tokenizer = build_word_tokenizer(["a"], max_length=8)
    built = new_clip_model(tokenizer, shape, method="ts2net", legacy=True, **settings).eval()
    head_from_official(built, weights, FAMILY)
    return built


@pytest.mark.parametrize("tokens", [26, 50, 197])
def test_token_shift(tokens: int) -> None:
    x, frames = GOLDEN[f"in/shift_L{tokens}_x"], int(GOLDEN[f"in/shift_L{tokens}_frames"])
    mask = torch.ones(x.shape[1] // frames, frames, dtype=torch.bool)
    shifted = shift_tokens(x.transpose(0, 1), Neighbours(mask), GOLDEN.meta["n_div"])
    assert torch.equal(shifted.transpose(0, 1), GOLDEN[f"out/shift_L{tokens}_y"])


def selector(model: TS2Net) -> TokenScorer:
    """The selector of the bare fixture, which has a width of its own."""
    weights = GOLDEN.weights("w_select/")
    scorer = TokenScorer(GOLDEN.meta["select"]["E"])
    scorer.load_state_dict(
        {k: weights[FAMILY.rename(f"scorer.{k}").split(".", 1)[1]] for k in scorer.state_dict()}
    )
    model.scorer = scorer
    return scorer


def test_token_selection_and_its_gradient(model: TS2Net) -> None:
    scorer, sizes = selector(model), GOLDEN.meta["select"]
    raw = GOLDEN["in/select_x"].requires_grad_()
    tokens = raw.view(sizes["B"], sizes["F"], sizes["N"], sizes["E"])
    noise = GOLDEN["in/select_noise"]
    scores = scorer(tokens.flatten(0, 1))
    assert_close(scores, GOLDEN["out/select_scores"][:, 1:])
    k, samples, sigma = (GOLDEN.meta[x] for x in ("K_patches_selected", "num_samples", "sigma"))
    indicator = perturbed_top_tokens(scores, k, samples, sigma, noise)
    assert_close(indicator, GOLDEN["out/select_indicator"], 1e-6)
    chosen = model.select(tokens[:, :, 0], tokens[:, :, 1:], noise).flatten(1, 2)
    assert_close(chosen, GOLDEN["out/select_y"])
    (chosen * GOLDEN["in/select_cotangent"]).sum().backward()
    assert_gradient(raw.grad, GOLDEN["grad/select_x"])
    for key, parameter in scorer.named_parameters():
        name = FAMILY.rename(f"scorer.{key}").split(".", 1)[1]
        assert_gradient_stats(parameter.grad, GOLDEN[f"gradstat_select/{name}"], name)


def test_scores_of_the_head_with_its_tiled_mask(model: TS2Net) -> None:
    tokens, mask = GOLDEN["in/head_tokens"], GOLDEN.mask("in/head_video_mask")
    tokens = tokens.view(*mask.shape, -1, tokens.shape[-1])
    sentence = GOLDEN["in/head_sequence"].squeeze(1)
    text = model.text_features(
        sentence, sentence.unsqueeze(1), torch.ones(len(sentence), 1, dtype=torch.bool)
    )
    assert torch.equal(model.scored_mask(mask), GOLDEN.mask("out/head_effective_frame_mask"))
    assert_close(model.contextual_tokens(tokens, mask), GOLDEN["out/head_frame_embed"])
    scores = model.similarity(text, model.token_features(tokens, mask))
    for name in ("sim", "sim_semantic", "sim_global"):  # one text token: the two components are the same
        assert_close(scores, GOLDEN[f"out/head_{name}"], name=name)
    full = model.token_features(tokens, torch.ones_like(mask))
    assert_close(model.similarity(text, full), GOLDEN["out/head_fullmask_sim"])


def test_loss_and_gradients_of_the_head(model: TS2Net) -> None:
    n = GOLDEN.meta["n_loss"]
    tokens, mask = GOLDEN["in/head_tokens"][:n].requires_grad_(), GOLDEN.mask("in/head_video_mask")[:n]
    sequence = GOLDEN["in/head_sequence"][:n].requires_grad_()
    words = torch.ones(n, 1, dtype=torch.bool)
    text = model.text_features(sequence.squeeze(1), sequence.detach(), words)
    clips = model.token_features(tokens.view(*mask.shape, -1, tokens.shape[-1]), mask)
    loss = symmetric_info_nce(model.similarity(text, clips))
    loss.backward()
    assert_close(loss, GOLDEN["out/head_loss"])
    assert_gradient(tokens.grad, GOLDEN["grad/head_tokens"])
    assert_gradient(sequence.grad, GOLDEN["grad/head_sequence"])
    checked = 0
    for key, parameter in model.named_parameters():
        if key.startswith("scorer.") or (key.startswith(OURS) and key != f"{OURS}logit_scale"):
            continue
        name = "clip.logit_scale" if key.startswith(OURS) else FAMILY.rename(key)
        assert_gradient_stats(parameter.grad, GOLDEN[f"gradstat_head/{name}"], name)
        checked += 1
    assert checked == len(GOLDEN.keys("gradstat_head/"))


def test_the_last_two_blocks_and_what_follows() -> None:
    """From the hidden state before block 10 on, so that the fixture stays small."""
    meta, weights = GOLDEN.meta, {unwrapped(k): v for k, v in GOLDEN.weights("w/clip.").items()}
    shape = ClipShape(
        meta["res"], meta["patch"], meta["vwidth"], 2, 16, 1, projection=meta["embed"], max_words=8
    )
    tokenizer = build_word_tokenizer(["a"], max_length=8)
    model = new_clip_model(tokenizer, shape, method="ts2net", layers=2).eval()
    tower = model.backbone.model.vision_model
    for i, layer in enumerate(model.backbone.vision_layers):
        # Heads 64 wide, here one: fewer than `ClipShape` makes.
        layer.self_attn.num_heads = meta["vwidth"] // 64
        layer.self_attn.head_dim, layer.self_attn.scale = 64, 64**-0.5
        official = {
            k.removeprefix(f"visual.transformer.resblocks.{10 + i}."): v
            for k, v in weights.items()
            if k.startswith(f"visual.transformer.resblocks.{10 + i}.")
        }
        own = {}
        for part in ("weight", "bias"):
            for letter, x in zip("qkv", official[f"attn.in_proj_{part}"].chunk(3), strict=True):
                own[f"self_attn.{letter}_proj.{part}"] = x
            for ours, theirs in (
                ("self_attn.out_proj", "attn.out_proj"),
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                own[f"{ours}.{part}"] = official[f"{theirs}.{part}"]
        layer.load_state_dict(own)
    tower.post_layernorm.load_state_dict({p: weights[f"visual.ln_post.{p}"] for p in ("weight", "bias")})
    model.backbone.model.visual_projection.load_state_dict({"weight": weights["visual.proj"].T})
    tower.pre_layrnorm.register_forward_hook(lambda *_: GOLDEN["out/e2e_block10_in"].transpose(0, 1))
    left: list[torch.Tensor] = []
    for layer in model.backbone.vision_layers:
        layer.register_forward_hook(lambda _, __, out: left.append(out[0] if isinstance(out, tuple) else out))
    stored = GOLDEN["out/e2e_tokens"]
    v, f = stored.shape[:2]
    pictures = torch.zeros(v, f, 3, meta["res"], meta["res"], dtype=torch.uint8)
    frames, patches = model.encode_real_frames(pictures, torch.ones(v, f, dtype=torch.bool), patches=True)
    assert_close(torch.cat([frames.unsqueeze(2), patches], 2), stored)
    for number, hidden in zip((10, 11), left, strict=True):
        assert_close(hidden.transpose(0, 1), GOLDEN[f"out/e2e_block{number}_out"], name=f"block {number}")


def test_scores_from_the_selected_tokens_of_pixels(model: TS2Net) -> None:
    mask, sentence = GOLDEN.mask("in/e2e_video_mask"), GOLDEN["out/e2e_text_embed"].squeeze(1)
    tokens = GOLDEN["out/e2e_selected_tokens"].view(*mask.shape, -1, sentence.shape[1])
    words = torch.ones(len(sentence), 1, dtype=torch.bool)
    text = model.text_features(sentence, sentence.unsqueeze(1), words)
    scores = model.similarity(text, model.token_features(tokens, mask))
    for name in ("sim", "sim_semantic", "sim_global"):
        assert_close(scores, GOLDEN[f"out/e2e_{name}"], name=name)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_file(), reason="needs the whole fixture")
def test_pixels_and_ids_to_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(SHARED) as file:
        whole = {k: torch.from_numpy(file[k]) for k in file if file[k].dtype.kind in "fi"}
    weights = {k[2:]: v for k, v in whole.items() if k.startswith("w/")}
    clip = {unwrapped(k[5:]): v for k, v in weights.items() if k.startswith("clip.")}
    config = towers.clip_config(clip)
    model_class, config_class = hf_classes("clip")
    tower = model_class(config_class(**config))
    tower.load_state_dict(towers.to_transformers(clip, config))
    plain = PreprocessSpec(config["vision_config"]["image_size"], "crop", (0.0,) * 3, (1 / 255,) * 3)
    tokenizer = TextTokenizer.from_transformers(build_word_tokenizer(["a"], max_length=8), max_length=8)
    built = create_model(
        "ts2net", build_backbone(tower, plain, 0), tokenizer, legacy=True, **describe(weights).settings
    ).eval()
    head_from_official(built, weights, FAMILY)
    monkeypatch.setattr(
        "vidsift.models.methods.ts2net.perturbed_top_tokens",
        lambda scores, k, samples, sigma, noise, generator: perturbed_top_tokens(
            scores, k, samples, sigma, whole["in/e2e_noise"]
        ),
    )
    clips = built.encode_video(whole["in/e2e_video"], whole["in/e2e_video_mask"].bool())
    text = built.encode_text(whole["in/e2e_text_ids"], whole["in/e2e_text_mask"].bool())
    assert_close(built.similarity(text, clips), whole["out/e2e_sim"])


def test_the_wrapper_of_shifted_attention_goes_and_comes_back() -> None:
    keys = [k.removeprefix("clip.") for k in GOLDEN.keys("w/") if k.startswith("clip.visual.transformer")]
    assert any(".attn.net." in key for key in keys)
    assert not any(".attn.net." in unwrapped(key) for key in keys)
    assert [wrapped(unwrapped(key)) for key in keys] == keys
