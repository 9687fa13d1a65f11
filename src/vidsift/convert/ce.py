"""Released checkpoints of Collaborative Experts, MoEE and TeachText: their settings and their tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vidsift.errors import ModelFormatError

# The expert lists of the released models, in the order of their indices (alphabetical). A checkpoint names
# only the experts with tokens, so the list that fits its shapes is taken.
_RGB = ("imagenet.resnext101_32x48d.0", "imagenet.senet154.0")
_MOTION = ("r2p1d.r2p1d-ig65m.0", "r2p1d.r2p1d-ig65m-kinetics.0")
RELEASED = (
    ("audio", "face", "i3d.i3d.0", *_RGB, "ocr", _MOTION[0], "scene.densenet161.0", "speech"),
    ("face", "i3d.i3d.0", *_RGB, "ocr", _MOTION[0], "scene.densenet161.0"),
    ("audio", *_RGB, *reversed(_MOTION), "scene.densenet161.0", "speech"),
    (*_RGB, *reversed(_MOTION), "scene.densenet161.0"),
)
# Dimensions of the averaged experts in the released features; face is smaller in some data sets.
_DIMS = {"i3d": (1024,), "imagenet": (2048,), "r2p1d": (512,), "scene": (2208,), "face": (512, 128)}
# Not part of the model: the step counter of batch normalisation, and layers that the official loader drops.
_SKIPPED = re.compile(r"num_batches_tracked$|^ce\.(moe_fc_bottleneck1|moe_cg|moe_fc_proj)\.")
_RENAMED = (
    (r"text_pool\.(clusters|norm|centres)(.*)", r"text_pooling.\1\2"),
    (r"mixture\.(.*)", r"ce.moe_fc.\1"),
    (r"text_units\.(\d+)\.fc\.(.*)", r"ce.text_GU.\1.fc.\2"),
    (r"text_units\.(\d+)\.gate\.(.*)", r"ce.text_GU.\1.cg.fc.\2"),
    (r"text_units\.(\d+)\.norm\.(.*)", r"ce.text_GU.\1.cg.batch_norm.\2"),
    (r"video_units\.(\d+)\.fc\.(.*)", r"ce.video_GU.\1.fc.\2"),
    (r"video_units\.(\d+)\.gate\.(.*)", r"ce.video_GU.\1.cg.fc.\2"),
    (r"video_units\.(\d+)\.norm\.(.*)", r"ce.video_GU.\1.cg.batch_norm.\2"),
    (r"video_units\.(\d+)\.(weight|bias)", r"ce.video_dim_reduce.\1.fc.\2"),
    (r"gating\.pair\.(.*)", r"ce.g_reason_1.\1"),
    (r"gating\.gates\.(\d+)\.fc\.(.*)", r"ce.video_GU.\1.cg.fc.\2"),
    (r"gating\.gates\.(\d+)\.norm_votes\.(.*)", r"ce.video_GU.\1.cg.batch_norm.\2"),
    (r"gating\.gates\.(\d+)\.norm\.(.*)", r"ce.video_GU.\1.cg.batch_norm2.\2"),
)
_REASONING = {"pair_reasoning": "ce.g_reason_shared", "vote_reasoning": "ce.h_reason"}


def read_settings(
    state: Mapping[str, Tensor], experts: Sequence[str] | None = None
) -> tuple[str, dict[str, Any]]:
    """What a checkpoint's shapes say: the method, `ce` or `moee`, and the settings of its configuration.

    experts: the names of the experts in the order of the weights; None tries the released lists.
    Not in the shapes, so left at the released values: the activation (Mish) and whether an expert votes on
    itself (it does).  Raises ModelFormatError, naming the key, when something is missing or does not fit.
    """
    method = "ce" if "ce.g_reason_1.weight" in state else "moee"
    part = "video_dim_reduce" if method == "ce" else "video_GU"
    count = _need(state, "ce.moe_fc.weight").shape[0]
    pooled = [_need(state, f"ce.{part}.{i}.fc.weight").shape[1] for i in range(count)]
    widths = [_need(state, f"ce.text_GU.{i}.fc.weight").shape[0] for i in range(count)]
    tokens = {
        key.split(".")[1]: tuple(value.shape[1:])
        for key, value in state.items()
        if key.startswith("pooling.") and key.endswith(".clusters2")
    }
    names = tuple(experts) if experts is not None else _released(pooled, tokens)
    if len(names) != count:
        raise ModelFormatError(f"ce.moe_fc.weight: {count} experts, but the names {', '.join(names)}")
    unnamed = set(tokens) - set(names)
    if unnamed:
        raise ModelFormatError(f"pooling.{min(unnamed)}.clusters: no such expert in {', '.join(names)}")
    found = []
    for name, dim, width in zip(names, pooled, widths, strict=True):
        one, clusters = tokens.get(name, (dim, 0))
        if one * (clusters or 1) != dim:
            raise ModelFormatError(f"pooling.{name}.clusters: {one} x {clusters} is not the width {dim}")
        found.append({"name": name, "dim": one, "clusters": clusters, "width": 0 if width == dim else width})
    text_dim, assigned = _need(state, "text_pooling.clusters").shape
    kept = _need(state, "text_pooling.clusters2").shape[-1]
    settings: dict[str, Any] = {
        "experts": found,
        "text_dim": text_dim,
        "text_clusters": kept,
        "text_ghosts": assigned - kept,
    }
    if method == "ce":
        settings |= {
            "shared_dim": widths[0],
            "pair_layers": 1 + _layers(state, "ce.g_reason_shared"),
            "vote_layers": _layers(state, "ce.h_reason"),
            "reason_norm": any(
                f"{name}.0.running_mean" in state for name in ("ce.g_reason_shared", "ce.h_reason")
            ),
        }
    return method, settings


def from_official(
    state: Mapping[str, Tensor], ours: Mapping[str, Tensor], experts: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint under the names of our network, and the keys that are not used.

    ours: the state dict of an `ExpertNetwork` built from `read_settings`.
    Raises ModelFormatError, naming the key, for a missing tensor or one of another shape.
    """
    found, used = {}, set()
    for key, value in ours.items():
        official = official_key(key, experts, ours)
        tensor = _need(state, official).float()
        used.add(official)
        if tensor.ndim == 3 and tensor.shape[0] == 1:  # NetVLAD's centres
            tensor = tensor.squeeze(0)
        if tensor.shape != value.shape:
            raise ModelFormatError(f"{official}: {tuple(tensor.shape)}, expected {tuple(value.shape)}")
        found[key] = tensor
    rest = sorted(set(state) - used)
    foreign = [key for key in rest if not _SKIPPED.search(key)]
    if foreign:
        raise ModelFormatError(f"{foreign[0]}: not part of such a model ({len(foreign)} unknown keys)")
    return found, rest


def to_official(ours: Mapping[str, Tensor], experts: Sequence[str]) -> dict[str, Tensor]:
    """The inverse of `from_official`: an `ExpertNetwork`'s state dict under the official names."""
    return {
        official_key(key, experts, ours): value.unsqueeze(0) if key.endswith("centres") else value
        for key, value in ours.items()
    }


def official_key(key: str, experts: Sequence[str], ours: Mapping[str, Tensor]) -> str:
    """The official name of one of our network's tensors."""
    head, _, rest = key.partition(".")
    if head == "pools":
        index, _, rest = rest.partition(".")
        return _vlad(f"pooling.{experts[int(index)]}.{rest}")
    layer, _, rest = rest.partition(".")
    if head == "gating" and layer in _REASONING:
        # A flat sequence of (norm,) activation, linear.
        kind, index, tensor = rest.split(".")
        normed = any(k.startswith(f"gating.{layer}.norms.") for k in ours)
        position = int(index) * (3 if normed else 2) + (0 if kind == "norms" else 2 if normed else 1)
        return f"{_REASONING[layer]}.{position}.{tensor}"
    for pattern, replacement in _RENAMED:
        match = re.fullmatch(pattern, key)
        if match:
            return _vlad(match.expand(replacement)) if head == "text_pool" else match.expand(replacement)
    raise KeyError(key)


def _vlad(key: str) -> str:
    return key.replace(".norm.", ".batch_norm.").replace(".centres", ".clusters2")


def _layers(state: Mapping[str, Tensor], prefix: str) -> int:
    return sum(key.startswith(f"{prefix}.") and value.ndim == 2 for key, value in state.items())


def _released(pooled: Sequence[int], tokens: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The released list whose shapes these are."""
    for names in RELEASED:
        if len(names) == len(pooled) and set(tokens) <= set(names):
            dims = [
                (tokens[name][0] * tokens[name][1],) if name in tokens else _DIMS.get(name.split(".")[0], ())
                for name in names
            ]
            if all(width in allowed for width, allowed in zip(pooled, dims, strict=True)):
                return names
    raise ModelFormatError(
        f"ce.moe_fc.weight: {len(pooled)} experts of widths {', '.join(map(str, pooled))} are none of the "
        "released lists; name the experts in the order of the weights"
    )


def _need(state: Mapping[str, Tensor], key: str) -> Tensor:
    if key not in state:
        raise ModelFormatError(f"{key}: missing; a checkpoint of Collaborative Experts or MoEE has it")
    return state[key]
