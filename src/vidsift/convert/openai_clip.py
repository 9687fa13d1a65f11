"""OpenAI's own CLIP archives (`ViT-B-32.pt`): the towers alone, which become mean pooling's backbone."""

from __future__ import annotations

from vidsift.convert.core import Description, Family, State
from vidsift.errors import ConversionError


def describe(state: State) -> Description:
    """The default method: the archive has no head."""
    if "logit_scale" not in state:
        raise ConversionError("logit_scale: missing from the checkpoint")
    return Description("meanp")


def rename(key: str) -> str:
    """No layer of ours is in the archive."""
    raise ConversionError(f"{key}: OpenAI's CLIP has no such layer")


FAMILY = Family(
    name="openai-clip",
    describe=describe,
    rename=rename,
    unused={
        "input_resolution|context_length|vocab_size": "a number that the shapes tell too",
        r"(.+\.)?attn_mask": "the causal mask, which is made anew",
    },
    prefix="",
)
