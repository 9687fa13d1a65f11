"""Every data set's whole chain on storyboard videos in its layout: check, all recipes two steps, eval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.datasets.catalogue import DATASETS, find_dataset
from vidsift.datasets.dataset import Example
from vidsift.datasets.example import render_examples
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe, load_recipe

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# Teachers before those whom they teach.
METHODS = (
    "meanp",
    "seqtransf",
    "xclip",
    "ts2net",
    "xpool",
    "teachtext-teacher",
    "teachclip",
    "eercf",
    "vidsift",
    "vidsift-taught",
    "teachtext",
)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Example]]:
    return render_examples(tmp_path_factory.mktemp("examples"), (8, 3, 3))


def small(name: str, method: str, root: Path, runs: Path) -> Recipe:
    """A data set's recipe with the bundled backbone, two steps, and its paths below the test's folder."""
    path = RECIPES / name / f"{method}.yaml"
    teachers = yaml.safe_load(path.read_text()).get("teachers", {}).get("models", [])
    changes = [
        "backbone=clip-tiny",
        f"data.root={root}",
        f"features.folder={runs / 'features'}",
        "data.holdout=0.4",
        "method.frames=3",
        "precision=fp32",
        "steps=2",
        "batch=4",
        "chunk=3",
        "threads=1",
        "validation.every=2",
        "validation.candidates=[1, 2]",
    ]
    if teachers:
        below = [str(runs / Path(teacher).parent.name / "model") for teacher in teachers]
        changes += [f"teachers.models={json.dumps(below)}", f"teachers.cache={runs / 'teachers'}"]
    recipe = load_recipe(path, changes)
    assert isinstance(recipe, Recipe)
    return recipe


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_every_recipe_of_a_data_set_trains_and_its_models_are_measured(
    name: str, examples: dict[str, list[Example]], tmp_path: Path
) -> None:
    root, runs = tmp_path / "data", tmp_path / "runs"
    find_dataset(name).write_example(root, examples)
    checked = CliRunner().invoke(app, ["data", "check", name, "--root", str(root), "--json", "-q"])
    assert checked.exit_code == 0, checked.output
    assert {path.stem for path in (RECIPES / name).glob("*.yaml")} == {*METHODS, "data"}
    for method in METHODS:
        recipe = small(name, method, root, runs)
        assert recipe.name == f"{name}-{method}"
        final = train(recipe, runs / recipe.name)
        assert final["t2v"]["queries"] > 0, method
    model = runs / f"{name}-vidsift-taught" / "model"
    options = [
        "--dataset",
        name,
        "--root",
        str(root),
        "--features",
        str(tmp_path / "features"),
        "-q",
        "--json",
    ]
    shown = CliRunner().invoke(app, ["eval", str(model), *options, "--out", str(tmp_path / "report")])
    assert shown.exit_code == 0, shown.output
    report = json.loads(shown.output)
    assert report["protocol"]["split"] == find_dataset(name).test
    assert report["protocol"]["gallery"] == 3
    assert report["protocol"]["paragraphs"] == find_dataset(name).paragraphs
    assert {row["score"] for row in report["rows"]} == {"coarse", "similarity", "two-stage"}
    assert (tmp_path / "report" / "report.html").is_file()


def test_nothing_is_trained_or_selected_on_a_test_split() -> None:
    for path in RECIPES.glob("*/data.yaml"):
        data = yaml.safe_load(path.read_text())["data"]
        dataset = find_dataset(data["source"])
        assert dataset.splits[data["train"]] == "train"
        assert "val" not in data or dataset.splits[data["val"]] == "val"
