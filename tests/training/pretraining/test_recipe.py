"""A recipe is read strictly: unknown keys, bad values and bad overrides are named."""

from pathlib import Path

import pytest
import yaml

from vidsift.errors import RecipeError
from vidsift.training.pretraining.loop import learning_rate
from vidsift.training.pretraining.recipe import StageSection
from vidsift.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[3]
MINIMAL = "name: x\nstages:\n  - {name: a, data: frames, steps: 2, batch: 4, lr: 0.001}\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


SHIPPED = sorted((ROOT / "recipes").rglob("*.yaml"))
# What recipes share is no recipe by itself.
SHARED = [path for path in SHIPPED if path.parent.name == "base" or path.name == "data.yaml"]


@pytest.mark.parametrize("path", sorted({*SHIPPED} - {*SHARED}), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).steps > 0


def test_every_shared_part_is_used() -> None:
    used = set()
    for path in SHIPPED:
        bases = yaml.safe_load(path.read_text()).get("extends", [])
        for base in [bases] if isinstance(bases, str) else bases:
            used.add((path.parent / base).resolve())
    assert {path.resolve() for path in SHARED} <= used


def test_a_recipe_goes_over_those_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(
        MINIMAL + "seed: 1\nthreads: 1\nmodel: {vision: {layers: 2, heads: 2}}\n"
    )
    (tmp_path / "second.yaml").write_text("extends: first.yaml\nseed: 2\nthreads: 2\n")
    (tmp_path / "third.yaml").write_text("threads: 3\n")
    text = "extends: [second.yaml, third.yaml]\nname: y\nmodel: {vision: {layers: 4}}\n"
    recipe = load_recipe(write(tmp_path, text), ["model.vision.heads=4"])
    assert (recipe.name, recipe.seed, recipe.threads, recipe.steps) == ("y", 2, 3, 2)
    assert (recipe.model.vision.layers, recipe.model.vision.heads) == (4, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: recipe.yaml\n", "recipe.yaml: extends itself"),
        ("extends: other.yaml\n", "recipe.yaml: extends itself"),
        ("extends: {a: b}\n", "extends takes the names of recipe files"),
        ("extends: [nowhere.yaml]\n", "nowhere.yaml: cannot read the recipe"),
    ],
)
def test_a_bad_base_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "other.yaml").write_text("extends: recipe.yaml\n")
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_overrides_reach_into_sections_and_lists(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL), ["seed=3", "stages.0.steps=7", "model.vision.layers=2"])
    assert (recipe.seed, recipe.steps, recipe.model.vision.layers) == (3, 7, 2)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (MINIMAL + "sede: 1\n", [], "sede: unknown key; did you mean 'seed'"),
        (MINIMAL + "threads: 0\n", [], "threads: Input should be greater than 0"),
        ("name: x\nstages: []\n", [], "stages: "),
        ("- a\n", [], "a recipe is a YAML mapping"),
        ("name: [\n", [], "not valid YAML"),
        (MINIMAL, ["seed"], "an override is key=value"),
        (MINIMAL, ["stages.5.steps=1"], "there is no '5'"),
        (MINIMAL, ["stages.0.batsh=9"], "did you mean 'batch'"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_place_and_the_way_out(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message.replace("?", r"\?")):
        load_recipe(write(tmp_path, text), overrides)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_the_rate_warms_up_stays_and_falls() -> None:
    stage = StageSection(
        name="s", data="frames", steps=100, batch=4, lr=1.0, lr_end=0.1, decay=0.5, warmup=10
    )
    rates = [learning_rate(stage, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[99] == pytest.approx(0.1, abs=0.02)
