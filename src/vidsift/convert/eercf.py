"""EERCF's checkpoints: CLIP4Clip's temporal stack and two square matrices, with F baked in."""

from __future__ import annotations

import re

from vidsift.convert.core import Description, Family, State, baked, count_layers
from vidsift.convert.towers import stack_name
from vidsift.errors import ConversionError

POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks"
_MATRICES = {"sentence_video": "global_mat_weight", "frame_mixing": "frame_logit_weight"}
_FOREIGN = re.compile(r"local_mat_weight|word_(logit|mat)_weight2?|frame_mat_weight2?")


def describe(state: State) -> Description:
    """F from the matrix over frames. The official model always scores patches, so ours does too."""
    frames = baked(state, "frame_logit_weight")
    foreign = next((key for key in state if _FOREIGN.fullmatch(key)), None)
    if foreign is not None:
        raise ConversionError(f"{foreign}: not a key of eercf")
    settings = {"frames": frames, "layers": count_layers(state, f"{BLOCKS}."), "patches": True}
    if POSITIONS in state:
        settings["positions"] = len(state[POSITIONS])
    return Description("eercf", settings, frames=frames)


def rename(key: str) -> str:
    """Our key of the head -> the official one."""
    if key.startswith("temporal."):
        return stack_name(key.removeprefix("temporal."), POSITIONS, BLOCKS)
    return _MATRICES[key]


FAMILY = Family(
    name="eercf",
    describe=describe,
    rename=rename,
    marks=(r"global_mat_weight",),
    unused={r"(cross|similarity_dense)\..+": "a cross encoder beside a loose head, never used"},
)
