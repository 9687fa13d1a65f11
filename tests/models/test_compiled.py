"""Compiled towers: the vectors of torch, the same model to everybody else, no surprise without them."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidsift.errors import ModelFormatError
from vidsift.models import compiled, load_model
from vidsift.models.compact import with_compact_text
from vidsift.models.compiled import write_compiled
from vidsift.models.towerless import FeaturesBackbone, FeaturesConfig, FeaturesModel

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 3, 3, 32, 32), dtype=np.uint8)
MASK = np.array([[True, True, True], [True, True, False]])
TEXTS = ["a red star", "big blue ball moves left then right on sky", "green"]


@pytest.fixture
def export(tmp_path: Path, make_model: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    """method, precision, family -> the model by torch and the same over compiled towers."""

    def make(method: str = "meanp", precision: Any = "fp32", family: str = "clip") -> tuple[Any, Any]:
        model = make_model(method, family)
        folder = tmp_path / f"{method}-{precision}-{family}"
        model.save_pretrained(folder)
        write_compiled(model, folder, precision, list(PIXELS.reshape(-1, 3, 32, 32)))
        return model, load_model(str(folder))

    return make


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
@pytest.mark.parametrize("method", ["meanp", "xpool", "xclip"])
def test_vectors_and_scores_are_those_of_torch(export: Any, method: str, family: str) -> None:
    model, fast = export(method, family=family)
    assert fast.backbone.compiled is not None
    with torch.inference_mode():
        found = []
        for one in (model, fast):
            clips = one.encode_video(torch.from_numpy(PIXELS), torch.from_numpy(MASK))
            text = one.encode_text(*one.tokenize(TEXTS))
            found.append((clips.coarse, text.sentence, one.similarity(text, clips)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=2e-4)
    assert fast.fingerprint() == model.fingerprint()


def test_a_longer_or_shorter_text_is_as_good_as_the_one_that_was_traced(export: Any) -> None:
    model, fast = export()
    for text in ("a", "red", " ".join(["star"] * 9)):
        np.testing.assert_allclose(
            fast.encode_queries([text, "a ball"]), model.encode_queries([text, "a ball"]), atol=1e-5
        )


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_less_precision_is_another_model_whose_sentences_are_the_same(export: Any, precision: str) -> None:
    model, fast = export(precision=precision)
    assert fast.fingerprint() != model.fingerprint()
    np.testing.assert_allclose(fast.encode_queries(TEXTS), model.encode_queries(TEXTS), atol=1e-5)
    a, b = (m.encode_video_np(PIXELS, MASK)["coarse"] for m in (model, fast))
    assert (a * b).sum(1).min() > 0.95


def test_gradients_and_new_weights_never_meet_the_compiled_towers(export: Any) -> None:
    _, fast = export()
    pixels = torch.from_numpy(PIXELS[0])
    assert fast.backbone.encode_frames(pixels).frames.requires_grad
    assert copy.deepcopy(fast).backbone.compiled is fast.backbone.compiled
    compact = with_compact_text(fast, layers=1, width=32, heads=2)
    assert compact.backbone.compiled is None


def test_without_openvino_torch_stands_in_or_the_way_out_is_said(
    export: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model, fast = export()
    _, coarse = export(precision="bf16")
    usual = importlib.util.find_spec
    monkeypatch.setattr(
        compiled.importlib.util, "find_spec", lambda name: None if name == "openvino" else usual(name)
    )
    again = load_model(fast.name)
    assert again.backbone.compiled is None
    assert "OpenVINO is not installed" in caplog.text
    assert again.fingerprint() == model.fingerprint()
    with pytest.raises(ModelFormatError, match=r"bf16.*vidsift\[openvino\]"):
        load_model(coarse.name)
    with pytest.raises(ModelFormatError, match="needs OpenVINO"):
        write_compiled(model, Path(fast.name), "fp32")


def test_what_cannot_be_compiled_is_refused_with_the_reason(tmp_path: Path, make_model: Any) -> None:
    with pytest.raises(ModelFormatError, match="mixes frames"):
        write_compiled(make_model("ts2net"), tmp_path, "fp32")
    model = make_model()
    model.backbone = FeaturesBackbone(FeaturesModel(FeaturesConfig(32)))
    with pytest.raises(ModelFormatError, match="no picture tower"):
        write_compiled(model, tmp_path, "fp32")


@pytest.mark.parametrize("damage", ["{", "{}", '{"towers": {"precision": "fp32"}}'])
def test_damaged_settings_are_named(export: Any, damage: str) -> None:
    _, fast = export()
    (Path(fast.name) / "openvino" / "towers.json").write_text(damage)
    with pytest.raises(ModelFormatError, match=r"towers\.json.*export the model again"):
        load_model(fast.name)


def test_a_damaged_tower_is_named(export: Any) -> None:
    _, fast = export()
    (Path(fast.name) / "openvino" / "text.xml").write_text("<net")
    with pytest.raises(ModelFormatError, match=r"text\.xml: cannot be compiled"):
        load_model(fast.name).encode_queries(["a"])


def test_settings_say_what_was_compiled(export: Any) -> None:
    model, fast = export(precision="bf16")
    said = json.loads((Path(fast.name) / "openvino" / "towers.json").read_text())["towers"]
    assert said["reference"] == model.fingerprint()
    assert said["precision"] == "bf16"
