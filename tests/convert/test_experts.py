"""Released checkpoints of CE and MoEE become models without a backbone, strictly, and go back bit for bit."""

from pathlib import Path

import pytest
import torch

from vidsift.convert import ce
from vidsift.convert.core import from_official, to_official
from vidsift.errors import ConversionError, ModelFormatError
from vidsift.models.base import RetrievalModel
from vidsift.models.experts import ExpertMethod
from vidsift.models.text import TextTokenizer
from vidsift.models.tokenizer import build_word_tokenizer

# The shapes of a released MSR-VTT model but for the widths that nothing is read from.
POOLED = {"audio": 8 * 128, "face": 512, "i3d.i3d.0": 1024, **dict.fromkeys(ce._RGB, 2048), "ocr": 43 * 300}
POOLED |= {"r2p1d.r2p1d-ig65m.0": 512, "scene.densenet161.0": 2208, "speech": 19 * 300}
TOKENS = {"audio": (128, 8), "ocr": (300, 43), "speech": (300, 19)}
SHARED, TEXT, CLUSTERS = 4, 6, 5


def checkpoint(method: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def linear(name: str, width_out: int, width_in: int) -> None:
        state[f"{name}.weight"] = torch.randn(width_out, width_in, generator=generator)
        state[f"{name}.bias"] = torch.randn(width_out, generator=generator)

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = torch.rand(width, generator=generator)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def vlad(name: str, dim: int, clusters: int, ghosts: int = 0) -> None:
        state[f"{name}.clusters"] = torch.randn(dim, clusters + ghosts, generator=generator)
        state[f"{name}.clusters2"] = torch.randn(1, dim, clusters, generator=generator)
        norm(f"{name}.batch_norm", clusters + ghosts)

    vlad("text_pooling", TEXT, CLUSTERS, 1)
    for name, (dim, clusters) in TOKENS.items():
        vlad(f"pooling.{name}", dim, clusters)
    linear("ce.moe_fc", len(POOLED), TEXT * CLUSTERS)
    for i, width in enumerate(POOLED.values()):
        if method == "ce":
            linear(f"ce.video_dim_reduce.{i}.fc", SHARED, width)
            norm(f"ce.video_GU.{i}.cg.batch_norm2", SHARED)
        else:
            linear(f"ce.video_GU.{i}.fc", SHARED, width)
        for side in ("video", "text"):
            linear(f"ce.{side}_GU.{i}.cg.fc", SHARED, SHARED)
            norm(f"ce.{side}_GU.{i}.cg.batch_norm", SHARED)
        linear(f"ce.text_GU.{i}.fc", SHARED, TEXT * CLUSTERS)
    if method == "ce":
        linear("ce.g_reason_1", SHARED, 2 * SHARED)
        for layer in (0, 3):
            norm(f"ce.g_reason_shared.{layer}", SHARED)
            linear(f"ce.g_reason_shared.{layer + 2}", SHARED, SHARED)
    return state


@pytest.fixture
def tokenizer() -> TextTokenizer:
    return TextTokenizer.from_transformers(build_word_tokenizer(["a"], max_length=8), max_length=8)


@pytest.mark.parametrize("method", ["ce", "moee"])
def test_a_released_checkpoint_becomes_a_model_and_goes_back(
    method: str, tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    state = checkpoint(method)
    state["ce.moe_cg.fc.weight"] = torch.zeros(1)
    model, report = from_official(state, ce.FAMILY, tokenizer)
    assert report.method == method
    assert [e["name"] for e in report.settings["experts"]] == list(POOLED)
    counters = {k for k in state if k.endswith("num_batches_tracked")}
    assert {key for key, _ in report.skipped} == counters | {"ce.moe_cg.fc.weight"}
    model.save_pretrained(tmp_path)
    back = to_official(RetrievalModel.from_pretrained(tmp_path), ce.FAMILY)
    assert back.keys() == state.keys() - {key for key, _ in report.skipped}
    assert all(torch.equal(back[key], state[key]) for key in back)


@pytest.mark.parametrize("method", ["ce", "moee"])
def test_the_model_scores_extracted_features_and_says_what_it_cannot_take(
    method: str, tokenizer: TextTokenizer
) -> None:
    model, _ = from_official(checkpoint(method), ce.FAMILY, tokenizer)
    assert isinstance(model, ExpertMethod)
    features = {
        name: torch.randn(3, 7, TOKENS[name][0]) if name in TOKENS else torch.randn(3, width)
        for name, width in POOLED.items()
        if name != "face"
    }
    clips = model.encode_experts(features)
    text = model.encode_words(torch.randn(2, 4, TEXT), torch.ones(2, 4, dtype=torch.bool))
    scores = model.similarity(text, clips)
    assert scores.shape == (2, 3)
    assert scores.abs().max() <= 1
    assert not clips.extra["available"][:, list(POOLED).index("face")].any()
    with pytest.raises(ModelFormatError, match="encode_experts"):
        model.encode_video(torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ModelFormatError, match="encode_words"):
        model.encode_text(*model.tokenize(["a"]))


@pytest.mark.parametrize("key", ["ce.moe_fc.weight", "ce.text_GU.3.cg.fc.bias", "text_pooling.clusters2"])
def test_a_missing_key_is_named(key: str, tokenizer: TextTokenizer) -> None:
    state = checkpoint("ce")
    del state[key]
    with pytest.raises(ConversionError, match=key):
        from_official(state, ce.FAMILY, tokenizer)


def test_a_wrong_shape_or_a_foreign_key_is_named(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ConversionError, match=r"ce\.g_reason_1\.bias"):
        from_official(checkpoint("ce") | {"ce.g_reason_1.bias": torch.zeros(9)}, ce.FAMILY, tokenizer)
    with pytest.raises(ConversionError, match=r"pool_frames\.linear_proj\.bias.*xpool"):
        from_official(
            checkpoint("ce") | {"pool_frames.linear_proj.bias": torch.zeros(4)}, ce.FAMILY, tokenizer
        )


@pytest.mark.parametrize("normed", [True, False])
def test_other_depths_of_the_networks_between_experts_are_read_from_the_keys(
    normed: bool, tokenizer: TextTokenizer
) -> None:
    step = 3 if normed else 2
    state = {k: v for k, v in checkpoint("ce").items() if "reason_shared" not in k}
    parts = {"weight": (SHARED, SHARED), "bias": (SHARED,)}
    norm = {"weight": (SHARED,), "bias": (SHARED,), "running_mean": (SHARED,), "running_var": (SHARED,)}
    for prefix, layers in (("ce.g_reason_shared", 1), ("ce.h_reason", 2)):
        for i in range(layers):
            state |= {f"{prefix}.{step * (i + 1) - 1}.{k}": torch.rand(v) for k, v in parts.items()}
            if normed:
                state |= {f"{prefix}.{step * i}.{k}": torch.rand(v) for k, v in norm.items()}
    model, report = from_official(state, ce.FAMILY, tokenizer)
    settings = report.settings
    assert (settings["pair_layers"], settings["vote_layers"], settings["reason_norm"]) == (2, 2, normed)
    back = to_official(model, ce.FAMILY)
    assert back.keys() == {k for k in state if not k.endswith("num_batches_tracked")}


def test_experts_of_other_data_sets_are_placed_by_their_widths_or_refused() -> None:
    assert ce._names([9, 12, 7], {"audio": (4, 3)}) == ("expert0", "audio", "expert2")
    with pytest.raises(ConversionError, match=r"pooling\.audio"):
        ce._names([12, 12, 7], {"audio": (4, 3)})
