"""The recipe of a pretraining run: the model, its stages, and when to look at it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from vidsift.training.settings import Section


class VisionSection(Section):
    """The image tower: a CLIP vision transformer."""

    image_size: int = Field(64, gt=0)
    patch_size: int = Field(16, gt=0)
    width: int = Field(128, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)


class TextSection(Section):
    """The text tower: a CLIP text transformer over the world's words."""

    width: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    max_words: int = Field(48, gt=2)


class ModelSection(Section):
    """The towers to train from scratch. `mean`, `std`: the pixel normalisation, the same for all channels."""

    vision: VisionSection = VisionSection()
    text: TextSection = TextSection()
    width: int = Field(128, gt=0)
    mean: float = 0.45
    std: float = 0.27


class FadeSection(Section):
    """Frames begin as white shapes on black and take on their colours between two shares of the stage."""

    start: float = Field(0.0, ge=0, le=1)
    end: float = Field(1.0, ge=0, le=1)


class StageSection(Section):
    """One stage of training: what is shown, for how long, at which rate, and under which objective."""

    name: str
    data: Literal["frames", "videos"]
    steps: int = Field(gt=0)
    batch: int = Field(gt=1)
    lr: float = Field(gt=0)
    # The rate falls linearly from `lr` to `lr_end` over the last `decay` share of the stage.
    lr_end: float | None = Field(None, ge=0)
    decay: float = Field(0.0, ge=0, le=1)
    warmup: int = Field(0, ge=0)
    two_sprites: float = Field(0.5, ge=0, le=1)
    fade: FadeSection | None = None
    captions_per_item: int = Field(1, gt=0)
    hard_negatives: int = Field(0, ge=0)
    attributes: float = Field(0.0, ge=0)
    # videos only: share of the coarse (mean-pooled) loss; the rest goes to the mixed coarse and fine score.
    coarse: float = Field(0.3, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.decay and self.lr_end is None:
            raise ValueError("decay needs lr_end")
        if self.fade and self.data != "frames":
            raise ValueError("fade works on frames only")
        return self


class OptimiserSection(Section):
    """AdamW with decay on matrices only."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    initial_scale: float = Field(14.0, gt=0)
    max_scale: float = Field(100.0, gt=0)


class PretrainRecipe(Section):
    """One run: the model, its stages, and when to look at it."""

    name: str
    world: Literal["storyboard"] = "storyboard"
    seed: int = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = Field(1, gt=0)
    model: ModelSection = ModelSection()
    optimiser: OptimiserSection = OptimiserSection()
    stages: tuple[StageSection, ...] = Field(min_length=1)
    log_every: int = Field(20, gt=0)
    checkpoint_every: int = Field(200, gt=0)
    validate_every: int = Field(1000, gt=0)
    validation_videos: int = Field(200, gt=1)

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> tuple[int, int]:
        """The stage that a global step belongs to and the step's number within it."""
        for number, stage in enumerate(self.stages):
            if step < stage.steps:
                return number, step
            step -= stage.steps
        raise IndexError("past the last stage")
