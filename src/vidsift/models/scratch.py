"""New, randomly initialised CLIP models of any size, for training from nothing and for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vidsift.models.backbone import build_backbone, hf_classes
from vidsift.models.base import RetrievalModel
from vidsift.models.preprocess import PreprocessSpec
from vidsift.models.registry import DEFAULT_METHOD, create_model
from vidsift.models.text import TextTokenizer
from vidsift.models.tokenizer import clip_text_ids


@dataclass(frozen=True)
class ClipShape:
    """Sizes of a CLIP: pictures and patches in pixels, layers, widths, heads (None: 64 wide, at least two).

    activation: of the MLPs, by transformers' name; `quick_gelu` is OpenAI's.
    """

    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 128
    text_layers: int = 2
    projection: int = 128
    max_words: int = 48
    vision_heads: int | None = None
    text_heads: int | None = None
    activation: str = "quick_gelu"


def new_clip_model(
    tokenizer: Any,
    shape: ClipShape | None = None,
    *,
    method: str = DEFAULT_METHOD,
    preprocess: PreprocessSpec | None = None,
    frames_per_clip: int = 12,
    **settings: Any,
) -> RetrievalModel:
    """Build a method over a fresh `transformers.CLIPModel`; seed torch first for a repeatable start.

    tokenizer: a fast transformers tokenizer, as `build_word_tokenizer` gives.  settings: of the method.
    Returned in training mode.
    """
    s = shape or ClipShape()
    model_class, config_class = hf_classes("clip")
    model = model_class(
        config_class(
            text_config={
                "hidden_size": s.text_width,
                "intermediate_size": 4 * s.text_width,
                "num_hidden_layers": s.text_layers,
                "num_attention_heads": s.text_heads or max(2, s.text_width // 64),
                "hidden_act": s.activation,
                "max_position_embeddings": s.max_words,
                "projection_dim": s.projection,
                **clip_text_ids(tokenizer),
            },
            vision_config={
                "hidden_size": s.vision_width,
                "intermediate_size": 4 * s.vision_width,
                "num_hidden_layers": s.vision_layers,
                "num_attention_heads": s.vision_heads or max(2, s.vision_width // 64),
                "hidden_act": s.activation,
                "image_size": s.image_size,
                "patch_size": s.patch_size,
                "projection_dim": s.projection,
            },
            projection_dim=s.projection,
        )
    )
    words = TextTokenizer.from_transformers(tokenizer, max_length=s.max_words)
    backbone = build_backbone(model, preprocess, words.pad_id)
    return create_model(method, backbone, words, frames_per_clip=frames_per_clip, **settings).train()
