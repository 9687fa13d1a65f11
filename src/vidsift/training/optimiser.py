"""The optimiser of a recipe: one learning rate per part of the model, decay on weight matrices only."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from vidsift.models import RetrievalModel
from vidsift.training.bertadam import BertAdam
from vidsift.training.recipe import LearningRates, OptimiserSection

PARTS = tuple(LearningRates.model_fields)


def part_of(name: str) -> str:
    """The part (`vision`, `text`, `scale`, `head`) to which a parameter of a model belongs."""
    inside = name.removeprefix("backbone.model.")
    if inside == name:
        return "head"
    if inside.startswith("logit_"):
        return "scale"
    return "vision" if inside.startswith(("vision_", "visual_")) else "text"


def freeze(model: RetrievalModel, rates: LearningRates) -> list[tuple[str, nn.Parameter]]:
    """Turn gradients off where the rate is 0; returns what is left to train, by name."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(getattr(rates, part_of(name)) > 0)
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def make_optimiser(
    trained: list[tuple[str, nn.Parameter]],
    section: OptimiserSection,
    steps: int,
    undecayed: frozenset[str] = frozenset(),
) -> torch.optim.Optimizer:
    """AdamW or BertAdam over what is trained; the group's `peak` is its part's rate.

    undecayed: last names of matrices without weight decay (a model's `undecayed`), as vectors are.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        decays = parameter.ndim > 1 and name.rpartition(".")[2] not in undecayed
        groups.setdefault((part_of(name), decays), []).append(parameter)
    described: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": getattr(section.lr, part),
            "peak": getattr(section.lr, part),
            "weight_decay": section.weight_decay if decays else 0.0,
        }
        for (part, decays), parameters in groups.items()
    ]
    if section.kind == "bertadam":
        return BertAdam(
            described,
            lr=0.0,
            total_steps=steps,
            warmup=section.warmup,
            betas=section.betas,
            max_grad_norm=1.0,
        )
    return torch.optim.AdamW(described, betas=section.betas)


def factor(step: int, steps: int, warmup: float) -> float:
    """What rates are multiplied with at a step: a line up over `warmup` of all steps, then a cosine to 0."""
    rising = warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    done = (step - rising) / max(1.0, steps - rising)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def set_rates(optimiser: torch.optim.Optimizer, step: int, steps: int, warmup: float) -> None:
    """Give every group its rate for a step.  BertAdam keeps a schedule of its own."""
    if isinstance(optimiser, BertAdam):
        return
    for group in optimiser.param_groups:
        group["lr"] = group["peak"] * factor(step, steps, warmup)
