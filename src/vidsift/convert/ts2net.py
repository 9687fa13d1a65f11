"""TS2-Net's checkpoints: wrapped attention in the towers, a temporal stack, and the token selector."""

from __future__ import annotations

import re

from vidsift.convert.core import Description, Family, State, count_layers
from vidsift.convert.towers import stack_name

POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks"
_SCORER = "visual_token_selector.score_predictor"
_LAYERS = {"norm": "in_conv.0", "inner": "in_conv.1", "outer": "out_conv.0", "last": "out_conv.2"}
_WRAPPED = re.compile(r"(?:clip\.)?(visual\.transformer\.resblocks\.(\d+)\.attn\.)net\.")
# The official code wraps these, whatever it is asked for.
_SHIFTED = (10, 11)


def describe(state: State) -> Description:
    """The shifted blocks are those whose attention is wrapped."""
    found = sorted({int(m.group(2)) for key in state if (m := _WRAPPED.match(key))})
    settings = {"layers": count_layers(state, f"{BLOCKS}."), "shift_blocks": tuple(found or _SHIFTED)}
    if POSITIONS in state:
        settings["positions"] = len(state[POSITIONS])
    return Description("ts2net", settings)


def rename(key: str) -> str:
    """Our key of the head -> the official one."""
    if key.startswith("temporal."):
        return stack_name(key.removeprefix("temporal."), POSITIONS, BLOCKS)
    _, layer, part = key.split(".")
    return f"{_SCORER}.{_LAYERS[layer]}.{part}"


def unwrapped(key: str) -> str:
    """A key of a tower without the wrapper around shifted attention."""
    match = _WRAPPED.match(key)
    return key if match is None else match.group(1) + key[match.end() :]


def wrapped(key: str) -> str:
    """The way back, for the blocks that the official code shifts."""
    for block in _SHIFTED:
        start = f"visual.transformer.resblocks.{block}.attn."
        if key.startswith(start):
            return f"{start}net.{key.removeprefix(start)}"
    return key


FAMILY = Family(
    name="ts2net",
    describe=describe,
    rename=rename,
    marks=(r"visual_token_selector\..+", r"clip\.visual\.transformer\.resblocks\.\d+\.attn\.net\..+"),
    unused={
        r"text_token_selector\..+": "built, but never used",
        r"visual_prompt_encoder\..+": "built, but never used",
        r"(cross|similarity_dense)\..+": "a cross encoder beside a loose head, never used",
    },
    tower_key=unwrapped,
    tower_rename=wrapped,
)
