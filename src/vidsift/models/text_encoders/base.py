"""What backbones without a picture tower share: a text tower, and scores with a scale that can be trained."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vidsift.errors import ModelFormatError
from vidsift.models.backbone import FrameVectors, TextVectors
from vidsift.models.towerless import TowerlessBackbone

# Where the logit scale starts: cosines of experts spread wider than those of contrastive pretraining.
START_SCALE = 20.0


class TextConfig:
    """What a backbone's configuration says, where there is only a text tower.  width: of token vectors."""

    model_type: ClassVar[str]

    def __init__(self, width: int, pad_id: int = 0) -> None:
        self.width, self.pad_id = width, pad_id
        self.text_config = SimpleNamespace(pad_token_id=pad_id)
        self.vision_config = SimpleNamespace()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` is the way back."""
        return {"model_type": self.model_type, "width": self.width, "pad_id": self.pad_id}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TextConfig:
        """Rebuild from `to_dict`'s values."""
        return cls(**{key: value for key, value in values.items() if key != "model_type"})


class TextModel(nn.Module):
    """A text tower and a logit scale; parameters of the tower begin with `text_`."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.logit_scale = nn.Parameter(torch.tensor(math.log(START_SCALE)))

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token vectors [T, W, width] of ids [T, W] with their mask."""
        raise NotImplementedError


class TextBackbone(TowerlessBackbone):
    """Texts become token vectors and their mean; pictures are refused with the way out."""

    def encode_frames(self, frames: Tensor, patches: bool = False) -> FrameVectors:
        raise ModelFormatError(
            "this model reads texts only and has no picture tower: its clips come as expert features "
            "(features.experts in a recipe, encode_experts in code)"
        )

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> TextVectors:
        words = self.model.encode(ids, mask).masked_fill(~mask.unsqueeze(-1), 0.0)
        return TextVectors(words.sum(1) / mask.sum(1, keepdim=True).clamp_min(1), words)
