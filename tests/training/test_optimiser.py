"""Rates follow a line and a cosine; only weight matrices decay, and identity matrices are none."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from vidsift.models import ClipShape, build_word_tokenizer, new_clip_model
from vidsift.training.optimiser import factor, freeze, make_optimiser, part_of, set_rates
from vidsift.training.recipe import LearningRates, OptimiserSection

SHAPE = ClipShape(16, 8, 16, 1, 16, 1, 16, 8)


def build(method: str) -> nn.Module:
    return new_clip_model(build_word_tokenizer(["a"]), SHAPE, method=method, frames_per_clip=3)


def decayed(model: nn.Module, section: OptimiserSection) -> set[str]:
    """Names of the parameters whose group has weight decay."""
    trained = freeze(model, section.lr)
    optimiser = make_optimiser(trained, section, 10, model.undecayed)
    ids = {id(p) for group in optimiser.param_groups if group["weight_decay"] for p in group["params"]}
    return {name for name, parameter in trained if id(parameter) in ids}


def test_rates_rise_from_the_first_step_and_fall_to_nothing_without_a_jump() -> None:
    found = [factor(step, 100, 0.1) for step in range(101)]
    assert found[0] > 0
    assert max(found) == pytest.approx(1.0)
    assert found.index(max(found)) == 10
    assert found[100] == pytest.approx(0.0, abs=1e-9)
    assert max(abs(a - b) for a, b in pairwise(found)) < 0.1
    assert found[:11] == sorted(found[:11])
    assert found[10:] == sorted(found[10:], reverse=True)


def test_every_part_has_its_own_rate_and_a_rate_of_zero_freezes_it() -> None:
    model = build("xclip")
    section = OptimiserSection(lr=LearningRates(vision=0, text=1e-3, head=2e-3, scale=3e-3))
    trained = freeze(model, section.lr)
    assert {part_of(name) for name, _ in trained} == {"text", "head", "scale"}
    optimiser = make_optimiser(trained, section, 10)
    set_rates(optimiser, 5, 10, 0.5)
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    for name, parameter in trained:
        assert rates[id(parameter)] == pytest.approx(getattr(section.lr, part_of(name)))


@pytest.mark.parametrize("method", ["xclip", "eercf", "vidsift"])
def test_matrices_that_start_as_the_identity_do_not_decay(method: str) -> None:
    model = build(method)
    names = decayed(model, OptimiserSection(weight_decay=0.2))
    identities = {
        name
        for name, p in model.named_parameters()
        if p.ndim == 2 and p.shape[0] == p.shape[1] and torch.equal(p, torch.eye(len(p)))
    }
    assert identities
    assert not identities & names


def test_biases_norms_and_the_logit_scale_do_not_decay_but_weights_do() -> None:
    model = build("xpool")
    names = decayed(model, OptimiserSection(lr=LearningRates(vision=1e-4), weight_decay=0.2))
    assert "head.linear.weight" in names
    assert all(dict(model.named_parameters())[name].ndim > 1 for name in names)
    assert not any("bias" in name or "norm" in name or "logit_scale" in name for name in names)
