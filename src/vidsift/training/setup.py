"""From a recipe to what its run needs: the model, the data, the caches, the teachers' signals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError, RecipeError
from vidsift.features.extract import extract_clips, extract_texts, store_name, tower_fingerprint
from vidsift.features.inputs import Inputs
from vidsift.features.rowstore import RowStore
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures, create_model, load_model
from vidsift.training.data import load_pairs
from vidsift.training.distributed import World
from vidsift.training.optimiser import freeze
from vidsift.training.recipe import Recipe
from vidsift.training.sampler import Sampler
from vidsift.training.teachers import TeacherCache, distill
from vidsift.training.teachers import store_name as teacher_name

Progress = Callable[[str, int, int], None]


def build_model(recipe: Recipe) -> RetrievalModel:
    """The recipe's method over its backbone, the method's layers drawn from the seed.

    Raises RecipeError for a setting that the method does not have.
    """
    base = load_model(recipe.backbone)
    torch.manual_seed(recipe.seed)
    try:
        model = create_model(
            recipe.method.name,
            base.backbone,
            base.tokenizer,
            frames_per_clip=recipe.method.frames,
            search=base.search,
            **recipe.method.settings,
        )
    except TypeError as error:
        raise RecipeError(f"method.settings: {error}") from error
    model.requires_grad_(True)
    return model


@dataclass(frozen=True)
class Setup:
    """A model and how its training and validation sets reach it."""

    model: RetrievalModel
    train: Inputs
    val: Inputs
    teachers: TeacherCache | None = None


def prepare(recipe: Recipe, world: World, progress: Progress | None = None, teachers: bool = True) -> Setup:
    """Build the model and open its data; what is missing in caches is made first, by one process.

    teachers: whether to have them say what they know of the training set, if the objective needs it.

    Raises DataError for data or caches that cannot be used, RecipeError for an impossible recipe.
    """
    model = build_model(recipe).to(world.device)
    freeze(model, recipe.optimiser.lr)
    train, val = load_pairs(recipe, model.preprocess.geometry)
    if world.leads:
        for pairs in (train, val):
            open_inputs(recipe, model, pairs, progress)
    world.wait()
    inputs = [open_inputs(recipe, model, pairs) for pairs in (train, val)]
    # A clip without any frame would be a negative of every text, and its captions have no positive.
    inputs = [one.without_empty() for one in inputs]
    clips = len(inputs[0].pairs.clips)
    if clips < recipe.batch:
        raise DataError(f"{clips} training clips do not fill one batch of {recipe.batch}: lower batch")
    signals = None
    if teachers and recipe.objective.needs_teachers:
        if world.leads:
            open_teachers(recipe, model, inputs[0], progress)
        world.wait()
        fine = recipe.objective.fine_teaching
        stores = open_teachers(recipe, model, inputs[0])
        planned = recipe.teachers is not None and recipe.teachers.scores == "batches"
        temperature = fine.temperature if fine else 1.0
        signals = TeacherCache(stores, inputs[0].pairs, planned, temperature)
    return Setup(model, inputs[0], inputs[1], signals)


def open_inputs(
    recipe: Recipe, model: RetrievalModel, pairs: PairSet, progress: Progress | None = None
) -> Inputs:
    """How a set reaches the model: through stores of what its frozen towers say, where they are frozen."""
    clips: RowStore | None = None
    texts: RowStore | None = None
    if recipe.features.cache and not recipe.optimiser.lr.vision:
        folder = store_name(recipe.features.folder, pairs, recipe.backbone, model, "vision")
        report = _titled(progress, f"clips of {pairs.name}")
        clips = extract_clips(model, pairs, folder, recipe.data.on_bad, report)
    if recipe.features.cache and not recipe.optimiser.lr.text:
        report = _titled(progress, f"captions of {pairs.name}")
        folder = store_name(recipe.features.folder, pairs, recipe.backbone, model, "text")
        texts = extract_texts(model, pairs, folder, report)
    return Inputs(model, pairs, clips, texts, recipe.data.on_bad)


def _titled(progress: Progress | None, title: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, rows: progress(title, done, rows)


def open_teachers(
    recipe: Recipe, student: RetrievalModel, inputs: Inputs, progress: Progress | None = None
) -> list[RowStore]:
    """The caches of the recipe's teachers for a training set, made where something is missing.

    student, inputs: of the run; a teacher with the same frozen vision tower shares its cached features.
    Raises DataError for a teacher whose frames per clip are not the student's.
    """
    assert recipe.teachers is not None
    pairs, stores = inputs.pairs, []
    plan = None
    if recipe.teachers.scores == "batches":
        plan = Sampler(pairs, recipe.batch, recipe.seed).plan(recipe.steps)
    for name in recipe.teachers.models:
        teacher = load_model(name, student.device).eval().requires_grad_(False)
        if teacher.frames_per_clip != recipe.method.frames:
            raise DataError(
                f"{name}: this teacher sees {teacher.frames_per_clip} frames a clip, the student "
                f"{recipe.method.frames}; their weights over frames cannot be compared"
            )
        folder = teacher_name(recipe.teachers.cache, pairs, teacher, plan)
        report = _titled(progress, f"teacher {folder.name}")

        def features(teacher: RetrievalModel = teacher) -> tuple[TextFeatures, ClipFeatures]:
            own = Inputs(teacher, pairs, on_bad=recipe.data.on_bad)
            if _same_tower(student, inputs, teacher):
                own.clips, own.clip_rows = inputs.clips, inputs.clip_rows
            return own.encode_all(teacher)

        stores.append(distill(teacher, pairs, features, folder, plan, report))
    return stores


def _same_tower(student: RetrievalModel, inputs: Inputs, teacher: RetrievalModel) -> bool:
    """Whether the student's cached clips are what this teacher's own vision tower would say."""
    if inputs.clips is None or (teacher.uses_patches and "patches" not in inputs.clips):
        return False
    return tower_fingerprint(student, "vision") == tower_fingerprint(teacher, "vision")
