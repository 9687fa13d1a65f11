"""The terms of the loss are those that the recipe names, with published weights where it names a preset."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.losses.teaching import coarse_teaching, fine_teaching
from vidsift.models import ClipShape, RetrievalModel, build_word_tokenizer, new_clip_model
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.training.objective import Objective
from vidsift.training.recipe import ObjectiveSection, Recipe
from vidsift.training.teachers import TeacherSignals

Make = Callable[..., Recipe]
SHAPE = ClipShape(16, 8, 16, 1, 16, 1, 16, 8)


def build(method: str) -> tuple[RetrievalModel, TextFeatures, ClipFeatures]:
    torch.manual_seed(0)
    model = new_clip_model(build_word_tokenizer(["a", "b"]), SHAPE, method=method, frames_per_clip=3).eval()
    frames = torch.randn(4, 3, 16)
    mask = torch.tensor([[True] * 3, [True] * 2 + [False], [True] * 3, [True] * 3])
    text = model.text_features(torch.randn(4, 16), torch.randn(4, 5, 16), torch.ones(4, 5, dtype=torch.bool))
    return model, text, model.clip_features(frames, mask)


def signals() -> TeacherSignals:
    rng = torch.Generator().manual_seed(1)
    return TeacherSignals(
        torch.randn(2, 4, 4, generator=rng) * 3, torch.rand(2, 4, 3, generator=rng).softmax(-1)
    )


def section(make_recipe: Make, **objective: Any) -> ObjectiveSection:
    return make_recipe("teachclip", objective=objective, teachers={"models": ["x"]}).objective


def test_the_official_weights_of_teachclip(make_recipe: Make) -> None:
    model, text, clips = build("teachclip")
    ids, said = torch.arange(4), signals()
    terms = Objective(section(make_recipe, preset="teachclip-code"), model)(model, text, clips, ids, said)
    logits = model.similarity(text, clips)
    weights = model.taught_weights(text, clips).diagonal(dim1=0, dim2=1).T
    coarse = torch.stack([coarse_teaching(logits, z) for z in said.scores]).mean()
    fine = torch.stack([fine_teaching(weights, y, clips.mask) for y in said.weights]).mean()
    expected = 0.2 * symmetric_info_nce(logits) + coarse + 2 * fine
    torch.testing.assert_close(terms["loss"], expected)


def test_the_paper_s_sum_counts_a_clip_s_frames(make_recipe: Make) -> None:
    model, text, clips = build("teachclip")
    ids, said = torch.arange(4), signals()
    terms = Objective(section(make_recipe, preset="teachclip-paper"), model)(model, text, clips, ids, said)
    code = Objective(section(make_recipe, preset="teachclip-code"), model)(model, text, clips, ids, said)
    # 11 real frames in 4 clips.
    torch.testing.assert_close(terms["fine_teaching"], code["fine_teaching"] * 11 / 4)
    parts = terms["contrastive_similarity"] + terms["coarse_teaching"] + terms["fine_teaching"]
    torch.testing.assert_close(terms["loss"], parts)


def test_the_official_weights_of_eercf(make_recipe: Make) -> None:
    model, text, clips = build("eercf")
    terms = Objective(section(make_recipe, preset="eercf"), model)(model, text, clips, torch.arange(4))
    expected = (
        0.8 * terms["contrastive_weak"] + 0.2 * terms["contrastive_strong"] + 0.001 * terms["correlation"]
    )
    torch.testing.assert_close(terms["loss"], expected)


def test_what_stands_beside_a_preset_goes_over_it(make_recipe: Make) -> None:
    found = section(make_recipe, preset="teachclip-code", fine_teaching={"temperature": 0.1})
    assert found.fine_teaching is not None
    assert (found.fine_teaching.temperature, found.fine_teaching.weight) == (0.1, 2.0)
    assert section(make_recipe, preset="teachclip-code", coarse_teaching=None).coarse_teaching is None
    with pytest.raises(ValidationError, match="no objective preset 'teachclip'"):
        section(make_recipe, preset="teachclip")


def test_captions_of_the_same_clip_are_no_negatives_unless_asked_for(make_recipe: Make) -> None:
    model, text, clips = build("teachclip")
    ids = torch.tensor([0, 1, 0, 2])
    apart = Objective(section(make_recipe), model)(model, text, clips, ids)["loss"]
    counted = Objective(section(make_recipe, same_clip_negatives=True), model)(model, text, clips, ids)[
        "loss"
    ]
    logits = model.similarity(text, clips)
    torch.testing.assert_close(apart, symmetric_info_nce(logits, ids=ids))
    torch.testing.assert_close(counted, symmetric_info_nce(logits))
    assert apart < counted


def test_a_score_that_the_method_does_not_have_is_named(make_recipe: Make) -> None:
    model, _, _ = build("teachclip")
    with pytest.raises(ValueError, match="teachclip has no score 'strong'; it has similarity, coarse"):
        Objective(section(make_recipe, contrastive={"strong": 1.0}), model)


def test_teaching_without_teachers_is_refused_when_the_recipe_is_read(make_recipe: Make) -> None:
    with pytest.raises(ValidationError, match=r"add teachers\.models"):
        make_recipe("teachclip", objective={"preset": "teachclip-code"})


def test_padding_never_reaches_the_loss(make_recipe: Make) -> None:
    model, text, clips = build("vidsift")
    said = signals()
    objective = Objective(
        section(
            make_recipe,
            contrastive={"similarity": 1.0, "coarse": 0.5},
            coarse_teaching={"of": "coarse"},
            fine_teaching={"temperature": 0.1},
            correlation={"weight": 0.01},
        ),
        model,
    )
    before = objective(model, text, clips, torch.arange(4), said)["loss"]
    said.weights[:, 1, 2] = 0.9
    torch.testing.assert_close(objective(model, text, clips, torch.arange(4), said)["loss"], before)
