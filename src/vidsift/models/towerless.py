"""A backbone without towers, for models whose features were extracted elsewhere (MoEE, CE)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from vidsift.errors import ModelFormatError
from vidsift.models.backbone import Backbone, FrameVectors, TextVectors
from vidsift.models.preprocess import PreprocessSpec

MODEL_TYPE = "features"


class FeaturesConfig:
    """What a backbone's configuration says, where there is only a width.  width: of the token embeddings."""

    model_type = MODEL_TYPE

    def __init__(self, width: int) -> None:
        self.width = width
        self.text_config, self.vision_config = SimpleNamespace(pad_token_id=0), SimpleNamespace()

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `from_dict` is the way back."""
        return {"model_type": self.model_type, "width": self.width}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FeaturesConfig:
        """Rebuild from `to_dict`'s values."""
        return cls(int(values["width"]))


class FeaturesModel(nn.Module):
    """No layers: stands where other backbones have their dual encoder."""

    def __init__(self, config: FeaturesConfig) -> None:
        super().__init__()
        self.config = config


class TowerlessBackbone(Backbone):
    """What backbones without a picture tower share."""

    @property
    def width(self) -> int:
        return int(self.config.width)

    @property
    def image_size(self) -> int:
        return 0

    def default_preprocess(self) -> PreprocessSpec:
        return PreprocessSpec(size=0)


class FeaturesBackbone(TowerlessBackbone):
    """Says what is missing when pictures or texts come in; scores stay as they are."""

    def logits(self, cosine: Tensor) -> Tensor:
        return cosine

    def encode_frames(self, frames: Tensor, patches: bool = False) -> FrameVectors:
        raise ModelFormatError(
            "this model was trained on extracted features and has no picture tower: give it expert features "
            "(encode_experts)"
        )

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> TextVectors:
        raise ModelFormatError(
            "this model was trained on extracted features and has no text tower: give it token embeddings "
            "(encode_words)"
        )
