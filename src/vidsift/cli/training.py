"""`vidsift train`, `vidsift extract` and `vidsift distill-cache`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsift.cli.output import Bars, say, say_json

if TYPE_CHECKING:
    from vidsift.training.progress import TrainProgress
    from vidsift.training.recipe import Recipe

RecipeFile = Annotated[Path, typer.Argument(help="A recipe, such as recipes/storyboard/teachclip.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value settings over the recipe.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; default runs/<recipe name>.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Train a model by a recipe; the same command resumes a run that was stopped."""
    from vidsift.training.folder import MODEL
    from vidsift.training.pretraining.recipe import PretrainRecipe
    from vidsift.training.recipe import load_recipe

    settings = load_recipe(recipe, overrides)
    folder = out or Path("runs") / settings.name
    with ExitStack() as stack:
        bars = Bars(stack, quiet)
        if isinstance(settings, PretrainRecipe):
            from vidsift.training.pretraining.loop import pretrain

            final = pretrain(settings, folder, _steps(bars))
        else:
            from vidsift.training.loop import train as train_method

            final = train_method(settings, folder, _steps(bars))
    if not final:
        return  # one of several processes, and not the one that writes
    if as_json:
        say_json({"model": str((folder / MODEL).resolve()), "validation": final})
        return
    say(f"model saved in {folder / MODEL}")
    found = final["retrieval"]["two_stage"] if "retrieval" in final else final["t2v"]
    say(f"validation: R@1 {found['r1']:.1f}, R@5 {found['r5']:.1f} of {found['queries']} queries")


def _steps(bars: Bars, title: str = "training") -> Callable[[TrainProgress], None]:
    """Caches are filled, then steps are made."""

    def show(p: TrainProgress) -> None:
        if p.loss is None:
            bars.rows(p.stage, p.step, p.steps)
        else:
            bars.advance(title, "steps")(p.step, p.steps, f"{p.stage}, loss {p.loss:.3f}")

    return show


def extract(
    recipe: RecipeFile,
    overrides: Overrides = None,
    experts: Annotated[
        str | None,
        typer.Option("--experts", help="Experts instead of the recipe's, e.g. appearance,motion,audio."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run the frozen towers and the experts of a recipe once over its data; training reads what they said."""
    from vidsift.training.distributed import World
    from vidsift.training.setup import prepare

    if experts is not None:
        names = [name.strip() for name in experts.split(",") if name.strip()]
        overrides = [*(overrides or []), f"features.experts={names}"]
    settings = _method_recipe(recipe, overrides)
    with ExitStack() as stack:
        setup = prepare(settings, World(), Bars(stack, quiet).rows, teachers=False)
    folders = [str(f.resolve()) for i in (setup.train, setup.val) for f in i.folders]
    if as_json:
        say_json({"stores": folders})
    elif folders:
        say("\n".join(folders))
    else:
        say("nothing to keep: this recipe trains both towers, or has features.cache: false")


def distill_cache(
    recipe: RecipeFile, overrides: Overrides = None, quiet: Quiet = False, as_json: AsJson = False
) -> None:
    """Run the teachers of a recipe once over its training data, and write down what they say."""
    from vidsift.errors import RecipeError
    from vidsift.training.distributed import World
    from vidsift.training.setup import prepare

    settings = _method_recipe(recipe, overrides)
    if settings.teachers is None or not settings.objective.needs_teachers:
        raise RecipeError(f"{recipe}: has no teachers whose words could be kept")
    with ExitStack() as stack:
        setup = prepare(settings, World(), Bars(stack, quiet).rows)
    assert setup.teachers is not None
    folders = [str(folder.resolve()) for folder in setup.teachers.folders]
    if as_json:
        say_json({"stores": folders})
    else:
        say("\n".join(folders))


def teachers(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: runs/<recipe name>-teachers.")] = None,
    factors: Annotated[
        bool, typer.Option("--factors", help="Vectors whose products are the scores, not the scores.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write what a recipe's teachers say of all its training pairs as .npy files, for use elsewhere.

    Scores of all captions and all clips, float16, and the mean of the teachers; made in blocks.
    """
    from vidsift.errors import RecipeError
    from vidsift.models import load_model
    from vidsift.training.distributed import World
    from vidsift.training.export import export_factors, export_scores
    from vidsift.training.setup import prepare, teacher_inputs

    settings = _method_recipe(recipe, overrides)
    if settings.teachers is None:
        raise RecipeError(f"{recipe}: has no teachers: give teachers.models")
    folder = out or Path("runs") / f"{settings.name}-teachers"
    with ExitStack() as stack:
        bars = Bars(stack, quiet)
        setup = prepare(settings, World(), bars.rows, teachers=False)
        opened = []
        for name in settings.teachers.models:
            model = load_model(name).eval().requires_grad_(False)
            inputs = teacher_inputs(settings, setup.model, setup.train, model, bars.rows)
            opened.append((model, inputs))
        if factors:
            paths = []
            for number, (model, inputs) in enumerate(opened):
                show = partial(bars.rows, f"vectors of {model.name}")
                paths += export_factors(model, inputs, folder, show, number)
        else:
            paths = export_scores(opened, folder, partial(bars.rows, "scores"))
    if as_json:
        say_json({"files": [str(path.resolve()) for path in paths]})
    else:
        say("\n".join(map(str, paths)))


def denoise(
    recipe: RecipeFile,
    overrides: Overrides = None,
    judges: Annotated[
        list[Path] | None, typer.Option("--with", help="Further recipes whose models judge, too.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: runs/<recipe name>-denoised.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts of the training videos.")] = 3,
    threshold: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Least probability of a caption that is kept.")
    ] = 0.5,
    soft: Annotated[
        bool, typer.Option("--soft", help="Weigh captions by that probability instead of dropping some.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Judge every training caption by models that did not train on it; write weights and a cleaned table.

    Train on the rest with data.weights=OUT/weights.json.
    """
    from vidsift.training.denoise import judge
    from vidsift.training.denoising_report import CLEANED, PAGE, WEIGHTS, write_denoising

    recipes = [_method_recipe(path, overrides) for path in (recipe, *(judges or []))]
    folder = out or Path("runs") / f"{recipes[0].name}-denoised"
    with ExitStack() as stack:
        bars = Bars(stack, quiet)
        found = judge(recipes, folder / "judges", folds, threshold, lambda title: _steps(bars, title))
    figures = write_denoising(found, folder, soft, threshold)
    if as_json:
        say_json(figures | {"weights": str((folder / WEIGHTS).resolve())})
        return
    noise = f"{figures['estimated_noise']:.1%} look wrong"
    say(f"kept {figures['kept']} of {figures['captions']} captions, {noise}")
    if "injected" in figures:
        known = figures["injected"]
        say(f"of those put in: precision {known['precision']:.3f}, recall {known['recall']:.3f}")
    say(f"report in {folder / PAGE}, captions in {folder / CLEANED}")
    say(f"train on them with data.weights={folder / WEIGHTS}")


def _method_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    from vidsift.errors import RecipeError
    from vidsift.training.recipe import Recipe, load_recipe

    settings = load_recipe(path, overrides)
    if not isinstance(settings, Recipe):
        raise RecipeError(f"{path}: pretrains from rendered pictures and keeps no features")
    return settings
