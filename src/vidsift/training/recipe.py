"""A recipe: the YAML file that describes one training run completely."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vidsift.errors import RecipeError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VisionSection(_Section):
    """The image tower: a CLIP vision transformer."""

    image_size: int = Field(64, gt=0)
    patch_size: int = Field(16, gt=0)
    width: int = Field(128, gt=0)
    layers: int = Field(4, gt=0)
    heads: int = Field(4, gt=0)


class TextSection(_Section):
    """The text tower: a CLIP text transformer over the world's words."""

    width: int = Field(128, gt=0)
    layers: int = Field(2, gt=0)
    heads: int = Field(4, gt=0)
    max_words: int = Field(48, gt=2)


class ModelSection(_Section):
    """The towers to train from scratch. `mean`, `std`: the pixel normalisation, the same for all channels."""

    vision: VisionSection = VisionSection()
    text: TextSection = TextSection()
    width: int = Field(128, gt=0)
    mean: float = 0.45
    std: float = 0.27


class FadeSection(_Section):
    """Frames begin as white shapes on black and take on their colours between two shares of the stage."""

    start: float = Field(0.0, ge=0, le=1)
    end: float = Field(1.0, ge=0, le=1)


class StageSection(_Section):
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


class OptimiserSection(_Section):
    """AdamW with decay on matrices only."""

    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.05, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    initial_scale: float = Field(14.0, gt=0)
    max_scale: float = Field(100.0, gt=0)


class Recipe(_Section):
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


def load_recipe(path: Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key=value` overrides (dotted keys; list items by number, `stages.0.steps=10`).

    Raises RecipeError naming the file and the key, with a suggestion for a mistyped one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a YAML mapping of keys, found {type(raw).__name__}")
    for override in overrides or []:
        _override(raw, override)
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        raise RecipeError(f"{path}: " + "; ".join(_explain(e) for e in error.errors())) from error


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator:
        raise RecipeError(f"{override!r}: an override is key=value, e.g. seed=1")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{override!r}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    node: Any = raw
    for parent in parents:
        if isinstance(node, dict):
            node = node.setdefault(parent, {})
        elif isinstance(node, list) and parent.isdecimal() and int(parent) < len(node):
            node = node[int(parent)]
        else:
            raise RecipeError(f"{override!r}: there is no {parent!r} to set anything in")
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise RecipeError(f"{override!r}: there is no {last!r} to set")


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg']}"
    known = sorted({name for section in _sections() for name in section.model_fields})
    close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
    return f"{where}: unknown key" + (f"; did you mean {close[0]!r}?" if close else "")


def _sections() -> list[type[BaseModel]]:
    return [Recipe, *_Section.__subclasses__()]
