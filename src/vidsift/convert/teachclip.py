"""TeachCLIP's student checkpoints: CLIP4Clip's seqTransf and the two layers of attentional aggregation."""

from __future__ import annotations

from vidsift.convert.core import Description, Family, State, count_layers
from vidsift.convert.towers import stack_name
from vidsift.errors import ConversionError

POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks"
_LAYERS = {"hidden": "frameLinear", "weigh": "frameLinear2"}


def describe(state: State) -> Description:
    """The student, with as many temporal layers and positions as are there."""
    rows = len(state[POSITIONS]) if POSITIONS in state else 77
    return Description("teachclip", {"layers": count_layers(state, f"{BLOCKS}."), "positions": rows})


def rename(key: str) -> str:
    """Our key of a head -> the official one."""
    if key.startswith("temporal."):
        return stack_name(key.removeprefix("temporal."), POSITIONS, BLOCKS)
    layer, _, part = key.rpartition(".")
    if layer not in _LAYERS:
        raise ConversionError(f"{key}: TeachCLIP's student has no such layer; only one without `peaks` is it")
    return f"{_LAYERS[layer]}.{part}"


FAMILY = Family(
    name="teachclip",
    describe=describe,
    rename=rename,
    marks=(r"frameLinear2?\..+",),
    unused={
        r"(cross|similarity_dense)\..+": "a cross encoder that the feature extraction builds, never used",
        r"frametransformer\..+": "made at the start of training, never used",
    },
)
