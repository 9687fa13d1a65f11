"""Tiny random models of every backbone family, and folders of them as the hub would hold them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from vidsift.models.backbone import Backbone, build_backbone
from vidsift.models.registry import create_model
from vidsift.models.text import TextTokenizer
from vidsift.models.tokenizer import build_word_tokenizer, clip_text_ids

_TEXT = "a red blue green star gem ball moves left right on black sky then big small"
WORDS = _TEXT.split()
FAMILIES = ["clip", "metaclip_2", "siglip", "siglip2"]
WIDTH, SIDE, PATCH, POSITIONS = 32, 32, 8, 12

_TOWER = {"hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def hf_model(family: str, seed: int = 0) -> Any:
    """A tiny random transformers dual encoder whose parameters are all far from zero."""
    ids = clip_text_ids(build_word_tokenizer(WORDS))
    text = {**_TOWER, "max_position_embeddings": POSITIONS, **ids}
    vision = {**_TOWER, "patch_size": PATCH, "image_size": SIDE}
    torch.manual_seed(seed)
    if family in ("clip", "metaclip_2"):
        prefix = {"clip": "CLIP", "metaclip_2": "MetaClip2"}[family]
        config = getattr(transformers, f"{prefix}Config")(
            text_config={**text, "projection_dim": WIDTH}, vision_config=vision, projection_dim=WIDTH
        )
        model = getattr(transformers, f"{prefix}Model")(config)
    elif family == "siglip":
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    else:
        vision = {**_TOWER, "patch_size": PATCH, "num_patches": (SIDE // PATCH) ** 2}
        model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval()


def word_tokens() -> TextTokenizer:
    return TextTokenizer.from_transformers(build_word_tokenizer(WORDS), max_length=POSITIONS)


@pytest.fixture
def make_backbone() -> Callable[..., Backbone]:
    """family, seed -> a tiny backbone."""
    return lambda family="clip", seed=0: build_backbone(hf_model(family, seed)).eval()


@pytest.fixture
def make_model() -> Callable[..., Any]:
    """method (with `+variant`), family, seed, settings -> a tiny model in eval mode."""

    def make(method: str = "meanp", family: str = "clip", seed: int = 0, **settings: Any) -> Any:
        backbone = build_backbone(hf_model(family, seed))
        method, *switches = method.split("+")
        settings |= dict.fromkeys(switches, True)
        return create_model(method, backbone, word_tokens(), **settings).eval()

    return make


@pytest.fixture
def hub_folder(tmp_path: Path) -> Callable[..., Path]:
    """family -> a folder with what a hub repository of that family holds."""

    def make(family: str = "clip", name: str = "plain") -> Path:
        folder = tmp_path / name
        hf_model(family).save_pretrained(folder)
        build_word_tokenizer(WORDS, max_length=POSITIONS).save_pretrained(folder)
        half = [0.5, 0.5, 0.5]
        values: dict[str, Any] = {"image_mean": half, "image_std": half, "do_resize": True}
        if family == "siglip":
            values["size"] = {"height": SIDE, "width": SIDE}
        elif family != "siglip2":
            values |= {"size": {"shortest_edge": SIDE}, "do_center_crop": True}
            values["crop_size"] = {"height": SIDE, "width": SIDE}
        (folder / "preprocessor_config.json").write_text(json.dumps(values))
        return folder

    return make


def pictures(*shape: int, seed: int = 1) -> torch.Tensor:
    """Random uint8 pictures [*shape, 3, SIDE, SIDE]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (*shape, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)


@pytest.fixture
def frames() -> Callable[..., torch.Tensor]:
    """V, F -> random uint8 pictures."""
    return pictures
