"""Released checkpoints of Collaborative Experts, MoEE and TeachText, which work on extracted features."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from vidsift.convert.core import Description, Family, State, count_layers
from vidsift.errors import ConversionError
from vidsift.models.backbone import build_backbone
from vidsift.models.base import RetrievalModel
from vidsift.models.registry import create_model
from vidsift.models.text import TextTokenizer
from vidsift.models.towerless import FeaturesConfig, FeaturesModel

# The expert lists of the released models, in the order of their indices (alphabetical). A checkpoint names
# only the experts with tokens, so the list that fits its shapes is taken.
_RGB = ("imagenet.resnext101_32x48d.0", "imagenet.senet154.0")
_MOTION = ("r2p1d.r2p1d-ig65m-kinetics.0", "r2p1d.r2p1d-ig65m.0")
_SCENE = "scene.densenet161.0"
RELEASED = (
    ("audio", "face", "i3d.i3d.0", *_RGB, "ocr", _MOTION[1], _SCENE, "speech"),
    ("face", "i3d.i3d.0", *_RGB, "ocr", _MOTION[1], _SCENE),
    ("audio", *_RGB, *_MOTION, _SCENE, "speech"),
    (*_RGB, *_MOTION, _SCENE),
)
# Widths of the averaged experts in the released features; face is smaller in one data set.
_DIMS = {"i3d": (1024,), "imagenet": (2048,), "r2p1d": (512,), "scene": (2208,), "face": (512, 128)}
_MIXTURE = "ce.moe_fc.weight"
_PAIRS, _VOTES = "ce.g_reason_shared", "ce.h_reason"
_RENAMED = (
    (r"mixture\.(.*)", r"ce.moe_fc.\1"),
    (r"(text|video)_units\.(\d+)\.fc\.(.*)", r"ce.\1_GU.\2.fc.\3"),
    (r"(text|video)_units\.(\d+)\.gate\.(.*)", r"ce.\1_GU.\2.cg.fc.\3"),
    (r"(text|video)_units\.(\d+)\.norm\.(.*)", r"ce.\1_GU.\2.cg.batch_norm.\3"),
    (r"video_units\.(\d+)\.(weight|bias)", r"ce.video_dim_reduce.\1.fc.\2"),
    (r"gating\.pair\.(.*)", r"ce.g_reason_1.\1"),
    (r"gating\.pair_reasoning\.layers\.(.*)", rf"{_PAIRS}.\1"),
    (r"gating\.vote_reasoning\.layers\.(.*)", rf"{_VOTES}.\1"),
    (r"gating\.gates\.(\d+)\.fc\.(.*)", r"ce.video_GU.\1.cg.fc.\2"),
    (r"gating\.gates\.(\d+)\.norm_votes\.(.*)", r"ce.video_GU.\1.cg.batch_norm.\2"),
    (r"gating\.gates\.(\d+)\.norm\.(.*)", r"ce.video_GU.\1.cg.batch_norm2.\2"),
    (r"text_pool\.(.*)", r"text_pooling.\1"),
    (r"pools\.(.*)", r"pooling.\1"),
)


def describe(state: State) -> Description:
    """The method, `ce` or `moee`, and its settings, read from keys and shapes.

    Not in the shapes, so taken as in every released model: the activation (Mish), and that an expert votes on
    itself.  Raises ConversionError, naming the key, when something is missing or does not fit.
    """
    method = "ce" if any(key.startswith(("ce.g_reason", "ce.video_dim_reduce.")) for key in state) else "moee"
    part = "video_dim_reduce" if method == "ce" else "video_GU"
    count = count_layers(state, "ce.text_GU.")
    pooled = [_shape(state, f"ce.{part}.{i}.fc.weight")[1] for i in range(count)]
    widths = [_shape(state, f"ce.text_GU.{i}.fc.weight")[0] for i in range(count)]
    tokens: dict[str, tuple[int, int]] = {}
    for key in state:
        if found := re.fullmatch(r"pooling\.(.+)\.(clusters2?|batch_norm\.\w+)", key):
            _, dim, clusters = _shape(state, f"pooling.{found.group(1)}.clusters2")
            tokens[found.group(1)] = dim, clusters
    experts: list[dict[str, Any]] = []
    for name, width_in, width in zip(_names(pooled, tokens), pooled, widths, strict=True):
        dim, clusters = tokens.get(name, (width_in, 0))
        experts.append({"name": name, "dim": dim, "clusters": clusters, "width": width})
    kept = _shape(state, "text_pooling.clusters2")[-1]
    text_dim, assigned = _shape(state, "text_pooling.clusters")
    # The width that most tensors have, so that the one that is wrong can be named.
    text_dim = _most(
        [text_dim, _shape(state, "text_pooling.clusters2")[1], _shape(state, _MIXTURE)[1] // kept]
    )
    settings: dict[str, Any] = {
        "experts": experts,
        "text_dim": text_dim,
        "text_clusters": kept,
        "text_ghosts": assigned - kept,
    }
    if method == "ce":
        settings |= {
            "shared_dim": _most(widths),
            "pair_layers": 1 + _linears(state, _PAIRS),
            "vote_layers": _linears(state, _VOTES),
            "reason_norm": f"{_PAIRS}.0.running_mean" in state or f"{_VOTES}.0.running_mean" in state,
        }
    return Description(method, settings)


def rename(key: str) -> str:
    """Our key of a network -> the official one."""
    key = key.removeprefix("head.")
    for pattern, replacement in _RENAMED:
        if match := re.fullmatch(pattern, key):
            official = match.expand(replacement)
            if official.startswith(("text_pooling.", "pooling.")):
                return official.replace(".norm.", ".batch_norm.").replace(".centres", ".clusters2")
            return official
    raise KeyError(key)


def build(state: State, known: Description, tokenizer: TextTokenizer) -> RetrievalModel:
    """The method over no backbone: it takes token embeddings and expert features as they were extracted."""
    backbone = build_backbone(FeaturesModel(FeaturesConfig(known.settings["text_dim"])))
    return create_model(
        known.method, backbone, tokenizer, frames_per_clip=known.frames or 1, **known.settings
    )


def _names(pooled: Sequence[int], tokens: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    """Names of the experts: a released list of these shapes, else by where the named ones can be."""
    for names in RELEASED:
        if len(names) == len(pooled) and set(tokens) <= set(names):
            allowed = [
                (tokens[n][0] * tokens[n][1],) if n in tokens else _DIMS.get(n.split(".")[0], ())
                for n in names
            ]
            if all(width in widths for width, widths in zip(pooled, allowed, strict=True)):
                return names
    named = sorted(tokens)
    fits = [
        places
        for places in combinations(range(len(pooled)), len(named))
        if all(pooled[i] == tokens[n][0] * tokens[n][1] for i, n in zip(places, named, strict=True))
    ]
    if len(fits) != 1:
        raise ConversionError(
            f"pooling.{named[0]}.clusters2: {len(fits)} of the experts, of widths {pooled}, can be this one"
        )
    by_place = dict(zip(fits[0], named, strict=True))
    return tuple(by_place.get(i, f"expert{i}") for i in range(len(pooled)))


def _most(sizes: Sequence[int]) -> int:
    return Counter(sizes).most_common(1)[0][0]


def _linears(state: State, prefix: str) -> int:
    return sum(key.startswith(f"{prefix}.") and value.ndim == 2 for key, value in state.items())


def _shape(state: State, key: str) -> tuple[int, ...]:
    if key not in state:
        raise ConversionError(f"{key}: missing from the checkpoint")
    return tuple(state[key].shape)


FAMILY = Family(
    name="ce",
    describe=describe,
    rename=rename,
    marks=(r"ce\.moe_fc\.weight",),
    unused={
        r".*\.num_batches_tracked": "a step counter that normalisation with a fixed momentum never reads",
        r"ce\.(moe_fc_bottleneck1|moe_cg|moe_fc_proj)\..+": "deprecated; the official loader drops it too",
    },
    towers=None,
    prefix="",
    build=build,
    # numpy: the best validation score so far is one of its numbers.
    ignore=(
        r"parse_config\..+",
        r"collections\..+",
        r"pathlib\..+",
        r"logging\..+",
        r"logger\..+",
        r"numpy\..+",
        r"_codecs\.encode",
    ),
)
