"""One wrapper over transformers' dual encoders: frame, patch, sentence and word vectors in a joint space."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from vidsift.errors import ModelFormatError
from vidsift.models.preprocess import CLIP_MEAN, CLIP_STD, HALF, PreprocessSpec

if TYPE_CHECKING:
    from vidsift.models.compiled import CompiledTowers

# transformers' model_type -> module and class prefix. Imported one by one: importing all costs seconds.
FAMILIES = {
    "clip": ("transformers.models.clip", "CLIP"),
    "metaclip_2": ("transformers.models.metaclip_2", "MetaClip2"),
    "siglip": ("transformers.models.siglip", "Siglip"),
    "siglip2": ("transformers.models.siglip2", "Siglip2"),
}


@dataclass(frozen=True)
class FrameVectors:
    """frames: [N, D] pooled picture vectors.  patches: [N, P, D] or None.  Joint space, not normalised."""

    frames: Tensor
    patches: Tensor | None


@dataclass(frozen=True)
class TextVectors:
    """sentence: [T, D] pooled.  words: [T, W, D] every token through the same projection.  Not normalised."""

    sentence: Tensor
    words: Tensor


class Backbone(nn.Module):
    """A dual encoder of transformers behind one interface; build it with `build_backbone`.

    Vectors are raw (not unit norm), because methods differ in what they normalise and when.
    """

    default_mean: ClassVar[tuple[float, float, float]] = CLIP_MEAN
    default_std: ClassVar[tuple[float, float, float]] = CLIP_STD
    default_mode: ClassVar[Any] = "crop"

    def __init__(self, model: nn.Module, preprocess: PreprocessSpec | None = None, pad_id: int | None = None):
        super().__init__()
        self.model: Any = model
        self.compiled: CompiledTowers | None = None
        self.preprocess = preprocess or self.default_preprocess()
        self.pad_id = int(self.config.text_config.pad_token_id or 0) if pad_id is None else pad_id
        scale = torch.tensor(self.preprocess.std).mul(255.0).reciprocal().view(1, 3, 1, 1)
        shift = torch.tensor(self.preprocess.mean).div(torch.tensor(self.preprocess.std)).view(1, 3, 1, 1)
        self.pixel_scale: Tensor
        self.pixel_shift: Tensor
        self.register_buffer("pixel_scale", scale, persistent=False)
        self.register_buffer("pixel_shift", shift, persistent=False)

    @property
    def config(self) -> Any:
        """transformers' configuration of the dual encoder."""
        return self.model.config

    # -- what it is ----------------------------------------------------------------------------------

    @property
    def model_type(self) -> str:
        """transformers' name of the family, such as `clip`."""
        return str(self.config.model_type)

    @property
    def width(self) -> int:
        """D, the width of the joint space."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.pixel_scale.device

    @property
    def image_size(self) -> int:
        """Side of the square pictures that the vision tower takes, in pixels."""
        return int(self.config.vision_config.image_size)

    @property
    def max_words(self) -> int:
        """Length of the text tower's position table."""
        return int(self.config.text_config.max_position_embeddings)

    @property
    def vision_layers(self) -> nn.ModuleList:
        """The vision tower's transformer blocks, first to last."""
        layers: nn.ModuleList = self.model.vision_model.encoder.layers
        return layers

    @property
    def text_layers(self) -> nn.ModuleList:
        """The text tower's transformer blocks, first to last."""
        layers: nn.ModuleList = self.model.text_model.encoder.layers
        return layers

    def default_preprocess(self) -> PreprocessSpec:
        """What this family was trained with, when the model folder does not say."""
        return PreprocessSpec(
            size=self.image_size, mode=self.default_mode, mean=self.default_mean, std=self.default_std
        )

    def logits(self, cosine: Tensor) -> Tensor:
        """Scale cosines as the backbone was trained to: exp(logit_scale) times, plus a bias for SigLIP."""
        scaled: Tensor = cosine * self.model.logit_scale.exp()
        return scaled

    def cosines(self, logits: Tensor) -> Tensor:
        """The inverse of `logits`."""
        zero, one = self.logits(torch.tensor([0.0, 1.0], device=logits.device))
        found: Tensor = (logits - zero) / (one - zero)
        return found

    # -- pictures ------------------------------------------------------------------------------------

    def normalise(self, frames: Tensor) -> Tensor:
        """uint8 (or 0..255 float) pictures [N, 3, H, W] -> what the vision tower takes, in its dtype."""
        # Moved as bytes, a quarter of the traffic; then one copy, changed in place.
        pixels = frames.to(self.pixel_scale.device, non_blocking=True).to(self.pixel_scale.dtype, copy=True)
        return pixels.mul_(self.pixel_scale).sub_(self.pixel_shift)

    def encode_frames(self, frames: Tensor, patches: bool = False) -> FrameVectors:
        """Encode pictures [N, 3, H, W] (uint8); patch vectors only when asked for.

        Raises ValueError for pictures of another size than `image_size`.
        """
        size = self.image_size
        if frames.ndim != 4 or frames.shape[1:] != (3, size, size):
            raise ValueError(
                f"frames of shape {tuple(frames.shape)}: this model takes [N, 3, {size}, {size}]"
            )
        if frames.shape[0] == 0:
            grid = size // int(self.config.vision_config.patch_size)
            none = self.pixel_scale.new_zeros(0, grid * grid, self.width)
            return FrameVectors(self.pixel_scale.new_zeros(0, self.width), none if patches else None)
        fast = self.compiled
        if fast is not None and frames.dtype == torch.uint8 and fast.serves(self.device, patches):
            return fast.encode_frames(frames, patches)
        return self.encode_frames_by_torch(frames, patches)

    def encode_frames_by_torch(self, frames: Tensor, patches: bool) -> FrameVectors:
        """`encode_frames` by torch, whatever else is at hand."""
        return self._encode_pixels(self.normalise(frames), patches)

    def _encode_pixels(self, pixels: Tensor, patches: bool) -> FrameVectors:
        raise NotImplementedError

    # -- texts ---------------------------------------------------------------------------------------

    def encode_tokens(self, ids: Tensor, mask: Tensor) -> TextVectors:
        """Encode texts.  ids: [T, W] int64, padded on the right.  mask: [T, W] bool, True on real tokens."""
        if self.compiled is not None and self.compiled.serves(self.device, False):
            return self.compiled.encode_tokens(ids, mask)
        return self.encode_tokens_by_torch(ids, mask)

    def encode_tokens_by_torch(self, ids: Tensor, mask: Tensor) -> TextVectors:
        """`encode_tokens` by torch, whatever else is at hand."""
        raise NotImplementedError


class ClipBackbone(Backbone):
    """CLIP and MetaCLIP 2: causal text pooled at EOS, linear projections into the joint space.

    Patches: as in OpenAI's code, the final LayerNorm and the projection are applied to every token; the
    frame vector is the class token's row, the patch vectors are the others.
    Padding is invisible to the sentence: a causal mask lets EOS see only what precedes it.
    """

    @property
    def width(self) -> int:
        return int(self.config.projection_dim)

    def _encode_pixels(self, pixels: Tensor, patches: bool) -> FrameVectors:
        tower = self.model.vision_model
        out = tower(pixel_values=pixels)
        frames = self.model.visual_projection(out.pooler_output)
        if not patches:
            return FrameVectors(frames, None)
        tokens = tower.post_layernorm(out.last_hidden_state[:, 1:])
        return FrameVectors(frames, self.model.visual_projection(tokens))

    def encode_tokens_by_torch(self, ids: Tensor, mask: Tensor) -> TextVectors:
        # The tower finds EOS by looking at ids, so nothing behind the mask may look like one.
        ids = ids.masked_fill(~mask, self.pad_id)
        out = self.model.text_model(input_ids=ids)
        project = self.model.text_projection
        return TextVectors(project(out.pooler_output), project(out.last_hidden_state))


class SiglipBackbone(Backbone):
    """SigLIP, and the fixed-resolution checkpoints of SigLIP 2, which use the same classes.

    Texts: the tower attends in both directions without a mask and pools the last position, padding or not,
    so it is run at the full length it was trained with whatever W is given; words are cut back to W.
    Patches: an attention head pools the picture, there is no projection; a patch vector is what that head
    gives when it attends to this patch alone.
    """

    default_mean = HALF
    default_std = HALF
    default_mode = "squash"

    def __init__(self, model: nn.Module, preprocess: PreprocessSpec | None = None, pad_id: int | None = None):
        super().__init__(model, preprocess, pad_id)
        if not self.config.vision_config.vision_use_head:
            raise ModelFormatError("this SigLIP has no pooling head, so it gives no picture vector")

    @property
    def width(self) -> int:
        return int(self.config.vision_config.hidden_size)

    def logits(self, cosine: Tensor) -> Tensor:
        scaled: Tensor = cosine * self.model.logit_scale.exp() + self.model.logit_bias
        return scaled

    def _encode_pixels(self, pixels: Tensor, patches: bool) -> FrameVectors:
        out = self.model.vision_model(pixel_values=pixels)
        found = self._patch_vectors(out.last_hidden_state) if patches else None
        return FrameVectors(out.pooler_output, found)

    def _patch_vectors(self, tokens: Tensor) -> Tensor:
        """Pool each token of [N, P, hidden] alone: attention over a single value returns that value."""
        head = self.model.vision_model.head
        _, _, weight = head.attention.in_proj_weight.chunk(3)
        _, _, bias = head.attention.in_proj_bias.chunk(3)
        x = head.attention.out_proj(nn.functional.linear(tokens, weight, bias))
        pooled: Tensor = x + head.mlp(head.layernorm(x))
        return pooled

    def encode_tokens_by_torch(self, ids: Tensor, mask: Tensor) -> TextVectors:
        given, full = ids.shape[1], self.max_words
        ids = ids.masked_fill(~mask, self.pad_id)
        if given < full:
            ids = nn.functional.pad(ids, [0, full - given], value=self.pad_id)
        out = self.model.text_model(input_ids=ids)
        words = self.model.text_model.head(out.last_hidden_state[:, :given])
        return TextVectors(out.pooler_output, words)


class Siglip2Backbone(SiglipBackbone):
    """SigLIP 2 with native resolution (NaFlex), used at its square grid of patches.

    The tower takes flattened patches. All our pictures are squares of the position table's own grid, so the
    table is used as it is; transformers would interpolate it anew for every picture, to the same values.
    """

    @property
    def image_size(self) -> int:
        vision = self.config.vision_config
        grid = math.isqrt(vision.num_patches)
        if grid * grid != vision.num_patches:
            raise ModelFormatError(f"{vision.num_patches} patches do not make a square picture")
        return grid * int(vision.patch_size)

    def _encode_pixels(self, pixels: Tensor, patches: bool) -> FrameVectors:
        tower = self.model.vision_model
        side = int(self.config.vision_config.patch_size)
        n, grid = pixels.shape[0], pixels.shape[-1] // side
        flat = pixels.view(n, 3, grid, side, grid, side).permute(0, 2, 4, 3, 5, 1).reshape(n, grid * grid, -1)
        embeddings = tower.embeddings.patch_embedding(flat) + tower.embeddings.position_embedding.weight
        tokens = tower.post_layernorm(tower.encoder(inputs_embeds=embeddings).last_hidden_state)
        return FrameVectors(tower.head(tokens), self._patch_vectors(tokens) if patches else None)


_WRAPPERS: dict[str, type[Backbone]] = {
    "clip": ClipBackbone,
    "metaclip_2": ClipBackbone,
    "siglip": SiglipBackbone,
    "siglip2": Siglip2Backbone,
}


_TEXT = "vidsift.models.text_encoders"
# Our own backbones without a picture tower: module, model, configuration, wrapper. They import this module.
_TOWERLESS = {
    "features": (
        *("vidsift.models.towerless", "FeaturesModel", "FeaturesConfig"),
        "vidsift.models.towerless.FeaturesBackbone",
    ),
    "words": (f"{_TEXT}.static", "WordsModel", "WordsConfig", f"{_TEXT}.base.TextBackbone"),
    "text-encoder": (f"{_TEXT}.hub", "HubTextModel", "HubTextConfig", f"{_TEXT}.base.TextBackbone"),
}


def hf_classes(model_type: str) -> tuple[Any, Any]:
    """Return transformers' (model class, config class) of a family.

    Raises ModelFormatError for a family that is not a supported dual encoder.
    """
    if model_type in _TOWERLESS:
        module, model_name, config_name, _ = _TOWERLESS[model_type]
        found = importlib.import_module(module)
        return getattr(found, model_name), getattr(found, config_name)
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelFormatError(
            f"model_type {model_type!r} is not a supported dual encoder; supported: {known}"
        )
    package, prefix = FAMILIES[model_type]
    family = package.rsplit(".", 1)[1]
    model = getattr(importlib.import_module(f"{package}.modeling_{family}"), f"{prefix}Model")
    config = getattr(importlib.import_module(f"{package}.configuration_{family}"), f"{prefix}Config")
    return model, config


def build_backbone(
    model: Any, preprocess: PreprocessSpec | None = None, pad_id: int | None = None
) -> Backbone:
    """Wrap a transformers dual encoder (a `CLIPModel`, `SiglipModel`, ...).

    preprocess: its pictures; None takes the family's usual values.  pad_id: the tokenizer's pad id, which
    the configurations of published checkpoints often state wrongly; None trusts the configuration.
    Raises ModelFormatError for a model that is not a supported dual encoder.
    """
    model_type = str(model.config.model_type)
    if model_type in _TOWERLESS:
        wrapper = _TOWERLESS[model_type][3]
        module = importlib.import_module(wrapper.rpartition(".")[0])
        found: Backbone = getattr(module, wrapper.rpartition(".")[2])(model, preprocess, pad_id)
        return found
    if model_type not in _WRAPPERS:
        hf_classes(model_type)
    return _WRAPPERS[model_type](model, preprocess, pad_id)
