"""Model folders, ours and Hugging Face's: config.json, model.safetensors and tokenizer files."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vidsift.errors import ModelFormatError
from vidsift.models.backbone import Backbone, ClipBackbone, build_backbone, hf_classes
from vidsift.models.background import read_background, write_background
from vidsift.models.base import RetrievalModel, SearchWeights
from vidsift.models.compiled import open_compiled
from vidsift.models.preprocess import PreprocessSpec, read_preprocess
from vidsift.models.registry import DEFAULT_METHOD, create_model
from vidsift.models.text import Cleaning, TextTokenizer

FORMAT_VERSION = 1
_CLUTTER = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("id2label", "label2id", "problem_type", "is_encoder_decoder", "chunk_size_feed_forward"),
    *("output_attentions", "output_hidden_states", "return_dict"),
}
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model(model: RetrievalModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder; `read_model` reads it back bit for bit when dtype is the weights' own."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "vidsift": FORMAT_VERSION,
        "method": model.method,
        "method_config": asdict(model.config),
        "frames_per_clip": model.frames_per_clip,
        "max_words": model.max_words,
        "text": {"cleaning": model.tokenizer.cleaning, "pad_id": model.backbone.pad_id},
        "preprocess": model.preprocess.to_dict(),
        "search": asdict(model.search),
        **({"same_clips_as": list(model.same_clips_as)} if model.same_clips_as else {}),
        "backbone": _essential(model.backbone.config.to_dict()),
    }
    weights = {
        key: value.detach().to(device="cpu", dtype=dtype if value.is_floating_point() else None).contiguous()
        for key, value in model.state_dict().items()
    }
    # T5 ties its embeddings; the file format wants each tensor to be its own.
    seen: set[int] = set()
    for key, value in weights.items():
        if value.data_ptr() in seen:
            weights[key] = value.clone()
        seen.add(value.data_ptr())
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    model.tokenizer.save(folder)
    write_background(folder, model.background)
    # Last, so that a folder with a configuration is a whole model.
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors makes it readable to us alone


def _essential(values: dict[str, Any]) -> dict[str, Any]:
    """A transformers configuration without what says nothing about the network."""
    return {k: _essential(v) if isinstance(v, dict) else v for k, v in values.items() if k not in _CLUTTER}


def read_model(folder: Path) -> RetrievalModel:
    """Load a model folder in eval mode, float32, on the CPU: one of ours, or a plain Hugging Face one.

    A Hugging Face dual encoder becomes the backbone of the default method.
    Raises ModelFormatError, naming the file, when something in the folder cannot be used.
    """
    config = read_json(folder / CONFIG)
    if "vidsift" in config:
        model = _read_ours(folder, config)
    elif "model_type" in config:
        model = _read_plain(folder, config)
    else:
        raise ModelFormatError(f"{folder / CONFIG}: neither a vidsift model nor a Hugging Face one")
    model.name = folder.resolve().name
    model.backbone.compiled = open_compiled(folder, model.width)
    return model.eval()


def _read_ours(folder: Path, config: dict[str, Any]) -> RetrievalModel:
    if config["vidsift"] != FORMAT_VERSION:
        raise ModelFormatError(
            f"{folder / CONFIG}: format {config['vidsift']!r}, but this vidsift reads only {FORMAT_VERSION}"
        )
    try:
        preprocess = PreprocessSpec.from_dict(config["preprocess"])
        text = config["text"]
        backbone = _empty_backbone(config["backbone"], preprocess, text["pad_id"])
        tokenizer = TextTokenizer.from_folder(
            folder, max_length=config["max_words"], cleaning=text["cleaning"]
        )
        model = create_model(
            config["method"],
            backbone,
            tokenizer,
            frames_per_clip=config["frames_per_clip"],
            search=SearchWeights(**config["search"]),
            **config["method_config"],
        )
    except (KeyError, TypeError) as error:
        raise ModelFormatError(f"{folder / CONFIG}: {type(error).__name__} {error}") from error
    model.same_clips_as = tuple(config.get("same_clips_as", ()))
    model.background = read_background(folder)
    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelFormatError(f"{path}: {error}") from error
    weights = {k: v.float() if v.is_floating_point() else v for k, v in weights.items()}
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelFormatError(f"{path}: {error}") from error
    return model


def _empty_backbone(values: dict[str, Any], preprocess: PreprocessSpec, pad_id: int) -> Backbone:
    """A backbone whose weights are about to be replaced: random initialisation would only cost time."""
    from transformers.initialization import no_init_weights

    model_class, config_class = hf_classes(str(values["model_type"]))
    with no_init_weights():
        model = model_class(config_class.from_dict(values))
    return build_backbone(model, preprocess, pad_id)


def _read_plain(folder: Path, config: dict[str, Any]) -> RetrievalModel:
    model_class, _ = hf_classes(str(config["model_type"]))
    safe = any(folder.glob("*.safetensors"))
    if not safe and not any(folder.glob("pytorch_model*.bin")):
        raise ModelFormatError(f"{folder}: no weights (model.safetensors) beside {CONFIG}")
    try:
        # A .bin is read by torch.load(weights_only=True), transformers' default: no code is unpickled.
        model, report = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=safe,
            weights_only=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except UnpicklingError as error:
        raise ModelFormatError(
            f"{folder}: the .bin holds more than weights, which would run code; save it as model.safetensors"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelFormatError(f"{folder}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelFormatError(f"{folder}: {len(missing)} weights are missing, first {missing[0]!r}")
    bare = build_backbone(model)
    tokenizer = TextTokenizer.from_folder(
        folder,
        max_length=bare.max_words,
        cleaning=_cleaning(folder, str(config["model_type"])),
        default_pad_id=bare.pad_id,
    )
    if isinstance(bare, ClipBackbone):
        _check_eos(folder, bare, tokenizer)
    preprocess = read_preprocess(folder, bare.default_preprocess())
    backbone = build_backbone(model, preprocess, tokenizer.pad_id)
    return create_model(DEFAULT_METHOD, backbone, tokenizer)


def _check_eos(folder: Path, backbone: ClipBackbone, tokenizer: TextTokenizer) -> None:
    """A CLIP text tower pools where it finds EOS; with a tokenizer that ends otherwise it gives nonsense."""
    ids = tokenizer([""])[0][0].tolist()
    eos = backbone.config.text_config.eos_token_id
    # An eos_token_id of 2 is a slip of old published configurations: transformers takes the largest id then.
    wanted = max(ids) if eos == 2 else eos
    if not ids or ids[-1] != wanted:
        raise ModelFormatError(
            f"{folder}: the tokenizer ends texts with {ids[-1:]}, the model looks for {wanted}"
        )


def _cleaning(folder: Path, model_type: str) -> Cleaning:
    """How texts were cleaned in a family's training; the tokenizer files alone do not tell."""
    if model_type not in ("siglip", "siglip2"):
        return "none"
    path = folder / "tokenizer_config.json"
    name = str(read_json(path).get("tokenizer_class", "")) if path.is_file() else ""
    return "canonical" if name.startswith("SiglipTokenizer") else "lower"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a model folder.  Raises ModelFormatError, naming the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelFormatError(f"{path}: missing, so this folder is not a model") from error
    except (OSError, ValueError) as error:
        raise ModelFormatError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise ModelFormatError(f"{path}: expected an object")
    return values
