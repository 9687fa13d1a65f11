"""X-CLIP's checkpoints: CLIP4Clip's temporal stack, and eight square matrices with F and W baked in."""

from __future__ import annotations

from vidsift.convert.core import Description, Family, State, baked, count_layers
from vidsift.convert.towers import stack_name

POSITIONS, BLOCKS = "frame_position_embeddings.weight", "transformerClip.resblocks"
_MATRICES = {
    "sentence_video": "global_mat_weight",
    "word_frame": "local_mat_weight",
    "word_video": "word_logit_weight",
    "sentence_frame": "frame_logit_weight",
    "words_first": "word_mat_weight",
    "words_last": "word_mat_weight2",
    "frames_first": "frame_mat_weight",
    "frames_last": "frame_mat_weight2",
}


def describe(state: State) -> Description:
    """W and F from the matrices; without a temporal stack, frames are pooled as they are."""
    words, frames = baked(state, "word_mat_weight"), baked(state, "frame_mat_weight")
    settings = {"words": words, "frames": frames, "layers": count_layers(state, f"{BLOCKS}.")}
    if POSITIONS in state:
        settings["positions"] = len(state[POSITIONS])
    return Description("xclip", settings, frames=frames, words=words)


def rename(key: str) -> str:
    """Our key of the head -> the official one."""
    if key.startswith("temporal."):
        return stack_name(key.removeprefix("temporal."), POSITIONS, BLOCKS)
    return _MATRICES[key.removeprefix("head.")]


FAMILY = Family(
    name="xclip",
    describe=describe,
    rename=rename,
    marks=(r"local_mat_weight", r"word_mat_weight2?"),
    unused={r"(cross|similarity_dense)\..+": "a cross encoder beside a loose head, never used"},
)
