"""Retrieval models: one file per method, over one backbone wrapper."""

from vidsift.models.base import ClipFeatures, MethodConfig, RetrievalModel, SearchWeights, TextFeatures
from vidsift.models.loading import DEFAULT_MODEL, best_device, bundled_models, load_model
from vidsift.models.pooling import text_gated_pool, text_gated_score, text_gated_weights
from vidsift.models.preprocess import PreprocessSpec
from vidsift.models.presets import PRESETS, Preset
from vidsift.models.registry import create_model, list_methods, register
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

__all__ = [
    "DEFAULT_MODEL",
    "PRESETS",
    "ClipFeatures",
    "ClipShape",
    "MethodConfig",
    "PreprocessSpec",
    "Preset",
    "RetrievalModel",
    "SearchWeights",
    "TextFeatures",
    "best_device",
    "build_word_tokenizer",
    "bundled_models",
    "create_model",
    "list_methods",
    "load_model",
    "new_clip_model",
    "register",
    "text_gated_pool",
    "text_gated_score",
    "text_gated_weights",
]
