"""CLIP4Clip's checkpoints: the head is told by the keys, the towers are OpenAI's under `clip.`."""

from __future__ import annotations

import re

from vidsift.convert.core import Description, Family, State, count_layers
from vidsift.convert.towers import stack_name

POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks"
# Built, at random, by models made without the flag that says that the head is a loose one.
UNUSED_CROSS = {r"(cross|similarity_dense)\..+": "a cross encoder beside a loose head, never used"}
_CROSS = {
    "cross.norm": "cross.pooler.ln_pool",
    "cross.dense": "cross.pooler.dense",
    "cross.score": "similarity_dense",
}


def describe(state: State) -> Description:
    """seqTransf, seqLSTM, tightTransf or meanP, by whose layers are there."""
    if any(key.startswith(f"{BLOCKS}.") for key in state):
        rows = len(state[POSITIONS]) if POSITIONS in state else 77
        settings = {"layers": count_layers(state, f"{BLOCKS}."), "positions": rows}
        return Description("seqtransf", settings, unused=UNUSED_CROSS)
    if any(key.startswith("lstm_visual.") for key in state):
        unread = {re.escape(POSITIONS): "made for every sequential head, but the LSTM never reads it"}
        return Description("seqlstm", unused={**UNUSED_CROSS, **unread})
    if any(key.startswith("cross.") for key in state):
        table = state.get("cross.embeddings.position_embeddings.weight")
        layers = count_layers(state, "cross.transformer.resblocks.")
        return Description(
            "tighttransf", {"layers": layers, "positions": 77 if table is None else len(table)}
        )
    return Description("meanp")


def rename(key: str) -> str:
    """Our key of a head -> the official one."""
    if key.startswith("temporal."):
        return stack_name(key.removeprefix("temporal."), POSITIONS, BLOCKS)
    if key.startswith("cross.stack."):
        table = "cross.embeddings.position_embeddings.weight"
        return stack_name(key.removeprefix("cross.stack."), table, "cross.transformer.resblocks")
    if key.startswith("lstm."):
        return f"lstm_visual.{key.removeprefix('lstm.')}"
    layer, _, part = key.rpartition(".")
    return f"{_CROSS[layer]}.{part}"


FAMILY = Family(
    name="clip4clip",
    describe=describe,
    rename=rename,
    marks=(r"lstm_visual\..+",),
)
