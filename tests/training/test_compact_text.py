"""A compact text tower follows the old one, leaves clips alone, and searches the old model's index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.errors import ModelFormatError, ModelMismatchError, RecipeError
from vidsift.index import Index
from vidsift.ingest import index_paths
from vidsift.losses.regression import embedding_regression
from vidsift.models import load_model
from vidsift.models.compact import text_cost, with_compact_text
from vidsift.models.text_encoders import load_text_encoder
from vidsift.models.towerless import FeaturesBackbone
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe

Make = Callable[..., Recipe]


def compact(make_recipe: Make, tmp_path: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "backbone": "vidsift-tiny",
        "compact": {"layers": 1, "width": 32},
        "method": {"name": "vidsift", "frames": 12, "settings": {}},
        "objective": {"contrastive": {}, "text_regression": {}, "similarity_matching": {"weight": 5.0}},
        "teachers": {"models": ["vidsift-tiny"], "cache": str(tmp_path / "said")},
        "optimiser": {"lr": {"text": 0.003, "head": 0, "scale": 0}},
        "steps": 40,
    }
    return make_recipe("vidsift", **(values | changes))


def test_a_new_tower_leaves_the_rest_as_it_is() -> None:
    old = load_model("vidsift-tiny")
    new = with_compact_text(old, 1, 32)
    frames = torch.randint(0, 255, (2, 12, 3, 64, 64), dtype=torch.uint8)
    mask = torch.ones(2, 12, dtype=torch.bool)
    with torch.inference_mode():
        ours, theirs = (m.encode_video(frames, mask) for m in (old, new))
    torch.testing.assert_close(ours.coarse, theirs.coarse, rtol=0, atol=0)
    assert new.same_clips_as == (old.fingerprint(),)
    assert new.fingerprint() != old.fingerprint()
    assert text_cost(new)[0] < text_cost(old)[0] / 10
    # The embeddings keep what a projection can keep of which words are alike.
    before, after = (m.backbone.model.text_model.embeddings.token_embedding.weight for m in (old, new))
    alike = [torch.corrcoef(w.float() - w.float().mean(0)).flatten() for w in (before, after)]
    assert torch.corrcoef(torch.stack(alike))[0, 1] > 0.6


def test_a_distilled_tower_answers_nearly_as_the_old_one(make_recipe: Make, tmp_path: Path) -> None:
    train(compact(make_recipe, tmp_path, steps=1), tmp_path / "short")
    train(compact(make_recipe, tmp_path), tmp_path / "run")
    old = load_model("vidsift-tiny")
    short, model = (load_model(str(tmp_path / name / "model")) for name in ("short", "run"))
    texts = [caption.text for caption in draw_set(3, 20).captions]
    apart = [
        np.mean(1 - (old.encode_queries(texts) * m.encode_queries(texts)).sum(1)) for m in (short, model)
    ]
    assert apart[1] < 0.6 * apart[0]
    assert model.same_clips_as == (old.fingerprint(),)


def test_an_index_of_the_old_model_is_searched_by_the_new_one(make_recipe: Make, tmp_path: Path) -> None:
    write_library(draw_set(3, 4), tmp_path / "videos")
    old = load_model("vidsift-tiny")
    index_paths([tmp_path / "videos"], tmp_path / "index", old)
    new = with_compact_text(old, 1, 32)
    new.save_pretrained(tmp_path / "new")
    model = load_model(str(tmp_path / "new"))
    found = Index.open(tmp_path / "index").search("a red circle", model, k=2)
    assert len(found.hits) == 2
    with torch.no_grad():
        new.backbone.model.visual_projection.weight.add_(0.1)
    new.same_clips_as = ()
    with pytest.raises(ModelMismatchError):
        Index.open(tmp_path / "index").search("a red circle", new, k=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {"lr": {"text": 0.001, "head": 0.001}}}, "only the text tower is trained"),
        ({"compact": None}, "there is no text tower to follow"),
    ],
)
def test_impossible_recipes_are_refused(
    changes: dict[str, Any], message: str, make_recipe: Make, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        compact(make_recipe, tmp_path, **changes)


def test_what_cannot_be_made_compact_is_refused(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a vidsift of 12 frames"):
        train(
            compact(make_recipe, tmp_path, method={"name": "meanp", "frames": 12, "settings": {}}),
            tmp_path / "a",
        )
    with pytest.raises(RecipeError, match="a width of 33 cannot be shared"):
        train(compact(make_recipe, tmp_path, compact={"layers": 1, "width": 33}), tmp_path / "b")
    backbone, tokenizer = load_text_encoder("words", ["a red ball"])
    from vidsift.models import create_model
    from vidsift.models.experts import Expert

    words = create_model("moee", backbone, tokenizer, experts=(Expert("colour", 4, 0, 4),))
    with pytest.raises(ModelFormatError, match="CLIP family"):
        with_compact_text(words, 1, 32)
    assert not issubclass(FeaturesBackbone, type(backbone))


def test_regression_is_zero_where_vectors_point_the_same_way() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, requires_grad=True)
    mask = torch.tensor([[True] * 4, [True, False, False, False], [False] * 4])
    assert embedding_regression(x, 2 * x.detach(), mask).item() == pytest.approx(0, abs=1e-6)
    other = torch.randn(3, 4, 5)
    loss = embedding_regression(x, other, mask)
    loss.backward()
    assert x.grad is not None
    assert not x.grad[2].any()
    cosines = torch.nn.functional.cosine_similarity(x, other, dim=-1)
    assert loss.item() == pytest.approx(float((1 - cosines).detach()[mask].mean()))
    with pytest.raises(ValueError, match="sizes differ"):
        embedding_regression(x, other[:2])
