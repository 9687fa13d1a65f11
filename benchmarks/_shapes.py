"""Models of published shapes with random weights: cost does not depend on the weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from vidsift.models import ClipShape, RetrievalModel, build_word_tokenizer, load_model, new_clip_model

VIT_B_32 = ClipShape(
    image_size=224,
    patch_size=32,
    vision_width=768,
    vision_layers=12,
    text_width=512,
    text_layers=12,
    projection=512,
    max_words=77,
)
VIT_B_16 = replace(VIT_B_32, patch_size=16)


def random_model(
    folder: Path,
    seed: int = 0,
    shape: ClipShape = VIT_B_32,
    words: tuple[str, ...] = ("a",),
    frames: int = 12,
) -> RetrievalModel:
    """A model of this shape, saved and loaded like any other."""
    torch.manual_seed(seed)
    new_clip_model(build_word_tokenizer(list(words)), shape, frames_per_clip=frames).save_pretrained(folder)
    return load_model(str(folder))
