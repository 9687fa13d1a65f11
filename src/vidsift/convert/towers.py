"""CLIP's two towers between OpenAI's naming and transformers': the same numbers, split and transposed."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from vidsift.errors import ConversionError

State = Mapping[str, Tensor]
Name = Callable[[str], str]

# One to one, no change of the numbers.
_SAME = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# OpenAI multiplies from the right, a linear layer from the left.
_TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_TOWERS = {
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_PARTS = ("weight", "bias")
# Where each width shows: (OpenAI key, axis).
_VISION_WIDTH = (
    ("visual.class_embedding", 0),
    ("visual.conv1.weight", 0),
    ("visual.positional_embedding", 1),
    ("visual.ln_pre.weight", 0),
    ("visual.ln_post.weight", 0),
    ("visual.proj", 0),
)
_TEXT_WIDTH = (
    ("token_embedding.weight", 1),
    ("positional_embedding", 1),
    ("ln_final.weight", 0),
    ("text_projection", 0),
)
_JOINT_WIDTH = (("visual.proj", 1), ("text_projection", 1))


def clip_config(state: State, name: Name = str) -> dict[str, Any]:
    """The configuration of the transformers CLIP that holds these towers, read from the shapes.

    state: OpenAI naming.  name: a key as the checkpoint has it, for error messages.
    Raises ConversionError, naming the key, for towers that are not a CLIP vision transformer's.
    """
    for key in state:
        if key.startswith(("visual.layer1.", "visual.attnpool.")):
            raise ConversionError(
                f"{name(key)}: a CLIP with a ResNet tower; only vision transformers convert"
            )
        if key == "visual.conv2.weight":
            raise ConversionError(
                f"{name(key)}: trained with linear_patch 3d, whose convolution over frames is not supported"
            )
    for key in (*_SAME, *_TRANSPOSED):
        if key not in state:
            raise ConversionError(f"{name(key)}: missing from the checkpoint")
    vision, text = _agreed(state, name, _VISION_WIDTH), _agreed(state, name, _TEXT_WIDTH)
    joint = _agreed(state, name, (*_JOINT_WIDTH, ("ln_final.weight", 0)))
    patch = _size(state, name, "visual.conv1.weight", 3)
    places = _size(state, name, "visual.positional_embedding", 0)
    grid = math.isqrt(max(0, places - 1))
    if grid * grid != places - 1:
        raise ConversionError(
            f"{name('visual.positional_embedding')}: {places} positions are not a class token and a square"
        )
    vocabulary = _size(state, name, "token_embedding.weight", 0)
    return {
        "projection_dim": joint,
        "vision_config": {
            **_tower_shape(vision, _layers(state, "visual.transformer.resblocks.")),
            "image_size": grid * patch,
            "patch_size": patch,
            "projection_dim": joint,
        },
        "text_config": {
            **_tower_shape(text, _layers(state, "transformer.resblocks.")),
            "max_position_embeddings": _size(state, name, "positional_embedding", 0),
            "vocab_size": vocabulary,
            "projection_dim": joint,
            # The official tower reads a text at its largest id, which is the end-of-text token.
            "eos_token_id": vocabulary - 1,
            "bos_token_id": vocabulary - 2,
            "pad_token_id": 0,
        },
    }


def _size(state: State, name: Name, key: str, axis: int) -> int:
    shape = tuple(state[key].shape)
    if len(shape) <= axis:
        raise ConversionError(f"{name(key)}: shape {shape} has no axis {axis}")
    return int(shape[axis])


def _agreed(state: State, name: Name, tensors: tuple[tuple[str, int], ...]) -> int:
    """The width that most of these tensors have, so that the one that is wrong can be named."""
    sizes = Counter(_size(state, name, key, axis) for key, axis in tensors)
    return sizes.most_common(1)[0][0]


def transformers_config(state: State, name: Name = str) -> dict[str, Any]:
    """The same as `clip_config`, from a state dict in transformers' naming."""
    theirs = {**_SAME, **_TRANSPOSED}
    usual = {}
    for ours, key in theirs.items():
        if key not in state:
            raise ConversionError(f"{name(key)}: missing from the checkpoint")
        turned = ours in _TRANSPOSED and state[key].ndim == 2
        usual[ours] = state[key].T if turned else state[key]
    config = clip_config(usual, lambda key: name(theirs[key]))
    for tower in ("vision", "text"):
        config[f"{tower}_config"]["num_hidden_layers"] = _layers(state, f"{tower}_model.encoder.layers.")
    return config


def _tower_shape(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }


def _layers(state: State, start: str) -> int:
    numbers = {m.group(1) for k in state if (m := re.match(re.escape(start) + r"(\d+)\.", k))}
    return len(numbers)


def _names(vision_layers: int, text_layers: int) -> dict[str, str]:
    """OpenAI key -> transformers key of everything that is renamed only."""
    names = dict(_SAME)
    for (ours, theirs), count in zip(_TOWERS.items(), (vision_layers, text_layers), strict=True):
        for i in range(count):
            for block, layer in _BLOCK.items():
                names.update({f"{ours}{i}.{block}.{p}": f"{theirs}{i}.{layer}.{p}" for p in _PARTS})
    return names


def _split(vision_layers: int, text_layers: int) -> dict[str, tuple[str, str, str]]:
    """OpenAI key of a joint q, k, v tensor -> the three transformers keys."""
    found = {}
    for (ours, theirs), count in zip(_TOWERS.items(), (vision_layers, text_layers), strict=True):
        for i in range(count):
            for p in _PARTS:
                q, k, v = (f"{theirs}{i}.self_attn.{x}_proj.{p}" for x in "qkv")
                found[f"{ours}{i}.attn.in_proj_{p}"] = (q, k, v)
    return found


def openai_keys(config: Mapping[str, Any]) -> set[str]:
    """Every key of a CLIP of this configuration, in OpenAI's naming."""
    counts = config["vision_config"]["num_hidden_layers"], config["text_config"]["num_hidden_layers"]
    return {*_names(*counts), *_split(*counts), *_TRANSPOSED}


def to_transformers(state: State, config: Mapping[str, Any], name: Name = str) -> dict[str, Tensor]:
    """OpenAI's tensors as a transformers `CLIPModel`'s, in float32.

    state: at least `openai_keys(config)`.  Raises ConversionError naming the first missing key.
    """
    counts = config["vision_config"]["num_hidden_layers"], config["text_config"]["num_hidden_layers"]
    missing = sorted(openai_keys(config) - set(state))
    if missing:
        raise ConversionError(f"{name(missing[0])}: missing from the checkpoint")
    found = {theirs: state[ours].float() for ours, theirs in _names(*counts).items()}
    for ours, theirs in _TRANSPOSED.items():
        found[theirs] = state[ours].float().T.contiguous()
    for ours, parts in _split(*counts).items():
        if len(state[ours]) % 3:
            raise ConversionError(f"{name(ours)}: {len(state[ours])} rows are no query, key and value")
        found.update(zip(parts, (x.clone() for x in state[ours].float().chunk(3)), strict=True))
    return found


def to_openai(state: State) -> dict[str, Tensor]:
    """The way back: a transformers `CLIPModel`'s tensors under OpenAI's keys, bit for bit."""
    counts = _layers(state, "vision_model.encoder.layers."), _layers(state, "text_model.encoder.layers.")
    found = {ours: state[theirs].clone() for ours, theirs in _names(*counts).items()}
    for ours, theirs in _TRANSPOSED.items():
        found[ours] = state[theirs].T.contiguous()
    for ours, parts in _split(*counts).items():
        found[ours] = torch.cat([state[part] for part in parts])
    return found


def openai_name(key: str) -> str:
    """Where transformers' key comes from in OpenAI's naming, for messages about one tensor."""
    layers = re.search(r"layers\.(\d+)\.", key)
    count = int(layers.group(1)) + 1 if layers else 0
    names = {theirs: ours for ours, theirs in {**_names(count, count), **_TRANSPOSED}.items()}
    for ours, parts in _split(count, count).items():
        names.update(dict.fromkeys(parts, ours))
    return names.get(key, key)


_STACK = {
    "norm1": "ln_1",
    "norm2": "ln_2",
    "out": "attn.out_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def stack_name(key: str, positions: str, blocks: str) -> str:
    """Official name of a tensor of our `TemporalStack`.

    key: ours within the stack, such as `positions` or `blocks.2.qkv.weight`.  positions, blocks: the official
    names of the position table and of the list of blocks, such as `transformerClip.resblocks`.
    """
    if key == "positions":
        return positions
    _, number, layer, part = key.split(".")
    tail = f"attn.in_proj_{part}" if layer == "qkv" else f"{_STACK[layer]}.{part}"
    return f"{blocks}.{number}.{tail}"
