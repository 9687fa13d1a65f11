"""A recipe is read strictly: unknown keys, bad values and bad overrides are named."""

from pathlib import Path

import pytest

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


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_is_valid(path: Path) -> None:
    assert load_recipe(path).steps > 0


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
