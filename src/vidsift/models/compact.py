"""A smaller text tower in place of a model's own: on a CPU it is most of what a query waits for."""

from __future__ import annotations

import copy

import torch
from torch import nn

from vidsift.errors import ModelFormatError
from vidsift.models.backbone import ClipBackbone, build_backbone, hf_classes
from vidsift.models.base import RetrievalModel


def with_compact_text(
    model: RetrievalModel, layers: int, width: int, heads: int | None = None
) -> RetrievalModel:
    """The same model with a new text tower of fewer layers or a smaller width, to be distilled.

    Everything else keeps its weights, so clips get the same vectors and an index of the old model serves the
    new one (`same_clips_as`). Word and position embeddings start as the old ones on their main axes, the
    layers as new. heads: of attention; None takes one per 64 of width, at least two.
    Raises ModelFormatError for a backbone that is not of the CLIP family, ValueError for sizes that do not
    fit.
    """
    if not isinstance(model.backbone, ClipBackbone):
        raise ModelFormatError(f"{model.name}: only text towers of the CLIP family can be made compact")
    heads = heads or max(2, width // 64)
    if width % heads:
        raise ValueError(f"a width of {width} cannot be shared by {heads} heads")
    found = copy.deepcopy(model)
    old = model.backbone.model
    values = copy.deepcopy(old.config.to_dict())
    values["text_config"] |= {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
    }
    model_class, config_class = hf_classes(model.backbone.model_type)
    new = model_class(config_class.from_dict(values))
    kept = {k: v for k, v in old.state_dict().items() if not k.startswith("text_")}
    new.load_state_dict(kept, strict=False)
    for name in ("token_embedding", "position_embedding"):
        source, target = (getattr(m.text_model.embeddings, name).weight for m in (old, new))
        _start_as(target, source)
    found.backbone = build_backbone(new, model.preprocess, model.backbone.pad_id)
    found.same_clips_as = (*model.same_clips_as, model.fingerprint())
    found.name = f"{model.name}, {layers} x {width} text"
    return found.eval()


@torch.no_grad()
def _start_as(target: nn.Parameter, source: nn.Parameter) -> None:
    """Rows of `source` on as many of their main axes as `target` is wide; as they are, if it is as wide."""
    width = min(target.shape[1], source.shape[1])
    if width == source.shape[1]:
        target[:, :width] = source
        return
    rows = source.float()
    _, _, axes = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    target[:, : len(axes[:width])] = (rows @ axes[:width].T).to(target)


def text_cost(model: RetrievalModel, words: int = 16) -> tuple[int, int]:
    """Multiply-accumulates of the text tower for one text of so many tokens, and its parameters without the
    embeddings, of which a text only looks some up.

    Raises ModelFormatError for a backbone that is not of the CLIP family.
    """
    if not isinstance(model.backbone, ClipBackbone):
        raise ModelFormatError(f"{model.name}: the cost of this text tower is not known")
    config = model.backbone.config.text_config
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = layers * (4 * width * width + 2 * width * inner)
    attention = layers * 2 * words * words * width
    projection = width * model.backbone.width
    return words * (weights + projection) + attention, weights + projection
