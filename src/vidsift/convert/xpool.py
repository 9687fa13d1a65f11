"""X-Pool's own layers between its released checkpoints and our `XPool`: the same tensors, other names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PREFIX = "pool_frames."
# Official layer -> ours; every one has a weight and a bias.
LAYERS = {
    "cross_attn.q_proj": "query",
    "cross_attn.k_proj": "key",
    "cross_attn.v_proj": "value",
    "cross_attn.out_proj": "out",
    "linear_proj": "linear",
    "layer_norm1": "norm_in",
    "layer_norm2": "norm_attended",
    "layer_norm3": "norm_out",
}
KEYS = {
    f"{PREFIX}{official}.{part}": f"head.{ours}.{part}"
    for official, ours in LAYERS.items()
    for part in ("weight", "bias")
}


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's tensors of a released state dict, by our names; KeyError names the first missing key."""
    return {ours: state[official].float() for official, ours in KEYS.items()}


def to_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_official`, over our model's state dict."""
    return {official: state[ours] for official, ours in KEYS.items()}
