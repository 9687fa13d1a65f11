"""What teachers say as files: the scores that they give, and vectors whose products are these scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.errors import DataError
from vidsift.models import create_model, load_model
from vidsift.training.distributed import World
from vidsift.training.export import cosines, export_factors, export_scores
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe
from vidsift.training.setup import prepare, teacher_inputs

Make = Callable[..., Recipe]


@pytest.fixture
def teacher(make_recipe: Make, tmp_path: Path) -> Path:
    """A model over experts of which some are missing."""
    recipe = make_recipe(
        "moee",
        data={"channels": True},
        features={"folder": str(tmp_path / "features"), "experts": ["appearance", "audio"], "width": 16},
        method={"name": "moee", "frames": 3, "settings": {"text_clusters": 2}},
        objective={"contrastive": {}, "max_margin": {}},
        optimiser={"lr": {"text": 0}},
        steps=2,
    )
    train(recipe, tmp_path / "teacher")
    return tmp_path / "teacher" / "model"


def test_scores_and_factors_are_what_the_teacher_says(
    make_recipe: Make, tmp_path: Path, teacher: Path
) -> None:
    recipe = make_recipe("meanp", data={"channels": True})
    setup = prepare(recipe, World())
    opened = []
    for name in (str(teacher), "clip-tiny"):
        model = load_model(name)
        opened.append((model, teacher_inputs(recipe, setup.model, setup.train, model)))
    seen: list[tuple[int, int]] = []
    paths = export_scores(opened, tmp_path / "out", lambda done, rows: seen.append((done, rows)))
    assert [p.relative_to(tmp_path / "out").as_posix() for p in paths] == [
        "0-teacher/scores.npy",
        "1-clip-tiny/scores.npy",
        "mean.npy",
    ]
    assert seen[-1] == (100, 100)
    said = []
    for (model, inputs), path in zip(opened, paths, strict=False):
        expected = cosines(model, inputs.encode_texts(model, np.arange(100)), inputs.encode_clips(model))
        np.testing.assert_allclose(np.load(path), expected, atol=2e-3)
        said.append(expected)
    np.testing.assert_allclose(np.load(paths[2]), np.mean(said, 0), atol=2e-3)
    assert json.loads((tmp_path / "out" / "0-teacher" / "about.json").read_text())["captions"] == 100
    # Factors: of experts with their mixture, of one vector each.
    folder = tmp_path / "factors" / "0-teacher"
    export_factors(*opened[0], tmp_path / "factors")
    parts = {
        n: np.load(folder / f"{n}.npy").astype(np.float32) for n in ("texts", "clips", "mixture", "available")
    }
    product = parts["texts"] @ parts["clips"].T / (parts["mixture"] @ parts["available"].T)
    np.testing.assert_allclose(product, said[0], atol=5e-3)
    export_factors(*opened[1], tmp_path / "factors")
    folder = tmp_path / "factors" / "0-clip-tiny"
    product = (
        np.load(folder / "texts.npy").astype(np.float32) @ np.load(folder / "clips.npy").astype(np.float32).T
    )
    np.testing.assert_allclose(product, said[1], atol=5e-3)


def test_scores_that_are_no_products_are_refused_as_factors(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("meanp")
    setup = prepare(recipe, World())
    base = load_model("clip-tiny")
    torch.manual_seed(0)
    model = create_model("xclip", base.backbone, base.tokenizer, frames_per_clip=3, layers=1).eval()
    with pytest.raises(DataError, match="xclip are no products of two vectors"):
        export_factors(model, teacher_inputs(recipe, setup.model, setup.train, model), tmp_path)


def test_the_command_writes_the_files(make_recipe: Make, tmp_path: Path) -> None:
    import yaml

    recipe = make_recipe("meanp", teachers={"models": ["clip-tiny"]})
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_none=True)))
    done = CliRunner().invoke(app, ["teachers", str(path), "--out", str(tmp_path / "out"), "-q", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    files = json.loads(done.output)["files"]
    assert [np.load(f).shape for f in files] == [(100, 20)]
    done = CliRunner().invoke(
        app, ["teachers", str(path), "--out", str(tmp_path / "f"), "--factors", "-q", "--json"]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    assert len(json.loads(done.output)["files"]) == 2
