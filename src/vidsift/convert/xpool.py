"""X-Pool's checkpoints: one pooling block beside a CLIP under transformers' names."""

from __future__ import annotations

from vidsift.convert.core import Description, Family, State

# Our layer -> the official one; every one has a weight and a bias.
_LAYERS = {
    "query": "cross_attn.q_proj",
    "key": "cross_attn.k_proj",
    "value": "cross_attn.v_proj",
    "out": "cross_attn.out_proj",
    "linear": "linear_proj",
    "norm_in": "layer_norm1",
    "norm_attended": "layer_norm2",
    "norm_out": "layer_norm3",
}


def describe(state: State) -> Description:
    """X-Pool, with one head: the number of heads is not in the shapes, and all released models have one."""
    return Description("xpool")


def rename(key: str) -> str:
    """Our key of the pooling block -> the official one."""
    _, layer, part = key.split(".")
    return f"pool_frames.{_LAYERS[layer]}.{part}"


FAMILY = Family(
    name="xpool",
    describe=describe,
    rename=rename,
    marks=(r"pool_frames\..+",),
    towers="huggingface",
)
