"""From a recipe to what its run needs: the model, the data, the caches, the teachers' signals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError, RecipeError
from vidsift.experts.opening import Means, open_expert
from vidsift.experts.store import Sources, open_sources, open_stores
from vidsift.experts.store import describe as describe_expert
from vidsift.features.extract import extract_clips, extract_texts, store_name, tower_fingerprint
from vidsift.features.inputs import Inputs
from vidsift.features.rowstore import RowStore
from vidsift.models import ClipFeatures, RetrievalModel, create_model, load_model
from vidsift.models.compact import with_compact_text
from vidsift.models.experts import Expert, ExpertMethod
from vidsift.models.registry import method_class
from vidsift.models.text_encoders import load_text_encoder
from vidsift.training.data import load_pairs
from vidsift.training.distributed import World
from vidsift.training.optimiser import freeze
from vidsift.training.recipe import Recipe
from vidsift.training.sampler import Sampler
from vidsift.training.teachers import Teacher, TeacherCache, Texts, distill
from vidsift.training.teachers import store_name as teacher_name
from vidsift.training.validation import Gallery, all_scores, text_to_video
from vidsift.training.weights import WORTHLESS, folds, read_weights
from vidsift.video import Geometry

Progress = Callable[[str, int, int], None]
DEFAULT_EXPERTS = ("appearance", "frames")


def build_model(recipe: Recipe, base: RetrievalModel, captions: Sequence[str] = ()) -> RetrievalModel:
    """The recipe's method over its backbone, the method's layers drawn from the seed.

    base: what the recipe's backbone is loaded as; its weights become the model's.
    captions: of the training set, for a text encoder that is made of them.
    Raises RecipeError for a setting that the method does not have.
    """
    if recipe.compact is not None:
        return _compact(recipe, base)
    backbone, tokenizer, settings = base.backbone, base.tokenizer, dict(recipe.method.settings)
    if recipe.features.text is not None or recipe.features.experts:
        if not issubclass(method_class(recipe.method.name), ExpertMethod):
            raise RecipeError(
                f"features.experts, features.text: {recipe.method.name} sees pictures, moee and ce experts"
            )
        if recipe.features.text is not None:
            backbone, tokenizer = load_text_encoder(recipe.features.text, captions)
        settings["experts"] = _experts(recipe)
    torch.manual_seed(recipe.seed)
    try:
        model = create_model(
            recipe.method.name,
            backbone,
            tokenizer,
            frames_per_clip=recipe.method.frames,
            search=base.search,
            **settings,
        )
    except TypeError as error:
        raise RecipeError(f"method.settings: {error}") from error
    model.requires_grad_(True)
    return model


def _compact(recipe: Recipe, base: RetrievalModel) -> RetrievalModel:
    """The recipe's backbone, a whole model, with a new text tower."""
    assert recipe.compact is not None
    if (recipe.method.name, recipe.method.frames) != (base.method, base.frames_per_clip):
        raise RecipeError(
            f"compact: {recipe.backbone} is a {base.method} of {base.frames_per_clip} frames; give method "
            "that name and those frames"
        )
    torch.manual_seed(recipe.seed)
    section = recipe.compact
    try:
        model = with_compact_text(base, section.layers, section.width, section.heads)
    except ValueError as error:
        raise RecipeError(f"compact: {error}") from error
    return model.requires_grad_(True)


def _experts(recipe: Recipe) -> tuple[Expert, ...]:
    """The entries of the recipe's experts in a model's configuration."""
    means = Means(recipe.backbone, recipe.method.frames)
    found = []
    for name in recipe.features.experts or DEFAULT_EXPERTS:
        source = open_expert(name, means)
        found.append(
            describe_expert(source, means.resolved(name), recipe.features.clusters, recipe.features.width)
        )
    if len({expert.name for expert in found}) < len(found):
        raise RecipeError(f"features.experts: {', '.join(recipe.features.experts)} names one twice")
    return tuple(found)


@dataclass(frozen=True)
class Setup:
    """A model and how its training and validation sets reach it.

    reference: how the training set reaches the text tower that a compact one follows.
    """

    model: RetrievalModel
    train: Inputs
    val: Inputs
    teachers: TeacherCache | None = None
    reference: Inputs | None = None


def prepare(recipe: Recipe, world: World, progress: Progress | None = None, teachers: bool = True) -> Setup:
    """Build the model and open its data; what is missing in caches is made first, by one process
    (of every machine that does not see the first one's folders).

    teachers: whether to have them say what they know of the training set, if the objective needs it.

    Raises DataError for data or caches that cannot be used, RecipeError for an impossible recipe.
    """
    base = load_model(recipe.backbone)
    train, val = load_pairs(recipe, base.preprocess.geometry)
    model = build_model(recipe, base, train.captions).to(world.device)
    sources = open_sources(model)
    freeze(model, recipe.optimiser.lr)
    world.once_a_machine(
        lambda: [open_inputs(recipe, model, pairs, progress, sources) for pairs in (train, val)]
    )
    # A clip without any frame would be a negative of every text, and its captions have no positive.
    seen, held = (
        open_inputs(recipe, model, pairs, sources=sources).without_empty() for pairs in (train, val)
    )
    seen = _chosen(seen, recipe)
    reference = None
    if recipe.objective.text_regression is not None:
        world.once_a_machine(lambda: _open_reference(recipe, train, progress))
        reference = _open_reference(recipe, train)
        reference.caption_rows = seen.caption_rows
    clips = len(seen.pairs.clips)
    if clips < recipe.batch:
        raise DataError(f"{clips} training clips do not fill one batch of {recipe.batch}: lower batch")
    signals = None
    if teachers and recipe.objective.needs_teachers:
        world.once_a_machine(lambda: open_teachers(recipe, model, seen, held, progress))
        fine = recipe.objective.fine_teaching
        stores = open_teachers(recipe, model, seen, held)
        planned = recipe.teachers is not None and recipe.teachers.scores == "batches"
        temperature = fine.temperature if fine else None
        signals = TeacherCache(stores, seen.pairs, planned, temperature)
    return Setup(model, seen, held, signals, reference)


def _open_reference(recipe: Recipe, pairs: PairSet, progress: Progress | None = None) -> Inputs:
    """What the text tower of the backbone says of all captions, through a store."""
    base = load_model(recipe.backbone).eval()
    folder = store_name(recipe.features.folder, pairs, recipe.backbone, base, "text")
    texts = extract_texts(base, pairs, folder, _titled(progress, f"texts of {pairs.name} to follow"))
    return Inputs(base, pairs, None, texts)


def _chosen(train: Inputs, recipe: Recipe) -> Inputs:
    """The training set without a fold that is left out, and with the weights of a denoiser."""
    if recipe.data.weights is not None:
        weights = read_weights(recipe.data.weights, train.pairs)
        worth = np.bincount(train.pairs.clip_of, weights, minlength=len(train.pairs.clips))
        train = copy(train)
        train.pairs = replace(train.pairs, weights=weights)
        train = train.without(worth <= 0, WORTHLESS)
    if recipe.data.fold is not None:
        k, count = recipe.data.fold
        train = train.without(folds(train.pairs, count, recipe.seed) == k, "clips of the fold left out")
    return train


def open_inputs(
    recipe: Recipe,
    model: RetrievalModel,
    pairs: PairSet,
    progress: Progress | None = None,
    sources: Sources | None = None,
) -> Inputs:
    """How a set reaches the model: through stores of what its frozen towers say, where they are frozen.

    sources: the model's experts, if they are open already.
    """
    clips: RowStore | None = None
    texts: RowStore | None = None
    on_bad = recipe.data.on_bad
    sources = open_sources(model) if sources is None else sources
    experts = open_stores(sources, pairs, recipe.features.folder, on_bad, progress)
    if model.sees_frames and recipe.features.cache and not recipe.optimiser.lr.vision:
        folder = store_name(recipe.features.folder, pairs, recipe.backbone, model, "vision")
        report = _titled(progress, f"clips of {pairs.name}")
        clips = extract_clips(model, pairs, folder, recipe.data.on_bad, report)
    if recipe.features.cache and not recipe.optimiser.lr.text:
        report = _titled(progress, f"captions of {pairs.name}")
        folder = store_name(recipe.features.folder, pairs, _text_source(recipe, model), model, "text")
        texts = extract_texts(model, pairs, folder, report)
    return Inputs(model, pairs, clips, texts, on_bad, experts)


def _text_source(recipe: Recipe, model: RetrievalModel) -> str:
    """What the text tower is called in the name of its store."""
    if recipe.features.text is None:
        return recipe.backbone
    # Vectors made of captions are others for other captions, and in their last bits on other machines.
    return f"{recipe.features.text.replace(':', '-')}-{tower_fingerprint(model, 'text')[:8]}"


def _titled(progress: Progress | None, title: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, rows: progress(title, done, rows)


def open_teachers(
    recipe: Recipe,
    student: RetrievalModel,
    inputs: Inputs,
    val: Inputs,
    progress: Progress | None = None,
) -> list[Teacher]:
    """The caches of the recipe's teachers for a training set, made where something is missing.

    student, inputs, val: of the run; a teacher with the same frozen vision tower shares its cached features.
    Raises DataError for a teacher that has to say which frames matter and sees none, or others.
    """
    assert recipe.teachers is not None
    pairs, found = inputs.pairs, []
    matching = recipe.objective.similarity_matching
    plan = None
    if recipe.teachers.scores == "batches":
        plan = Sampler(pairs, recipe.batch, recipe.seed).plan(recipe.steps)
    for name in recipe.teachers.models:
        teacher = load_model(name, student.device).eval().requires_grad_(False)
        _check_frames(recipe, name, teacher)
        folder = teacher_name(recipe.teachers.cache, pairs, teacher, plan)
        if not inputs.whole:
            folder = folder.with_name(f"{folder.name}_part-{pairs.identity()[:8]}")
        report = _titled(progress, f"teacher {folder.name}")

        def features(teacher: RetrievalModel = teacher) -> tuple[Texts, ClipFeatures]:
            own = teacher_inputs(recipe, student, inputs, teacher, progress)
            return lambda numbers: own.encode_texts(teacher, numbers), own.encode_clips(teacher)

        store = distill(teacher, pairs, features, folder, plan, report)
        recall = 1.0
        if matching is not None and matching.aggregate == "weighted":
            own = teacher_inputs(recipe, student, val, teacher, progress)
            gallery = Gallery(*own.encode_all(teacher), val.pairs.clip_of)
            recall = text_to_video(all_scores(teacher, gallery), gallery.clip_of).r1
        with torch.inference_mode():
            bias, top = teacher.backbone.logits(torch.tensor([0.0, 1.0], device=teacher.device)).tolist()
        found.append(Teacher(store, top - bias, bias, recall))
    return found


def teacher_inputs(
    recipe: Recipe,
    student: RetrievalModel,
    inputs: Inputs,
    teacher: RetrievalModel,
    progress: Progress | None = None,
) -> Inputs:
    """How a set of the run reaches another model: by its own experts, or by the clips that are cached."""
    on_bad = recipe.data.on_bad
    # Stores hold whole sets; one of a part lies apart.
    folder = recipe.features.folder / ("" if inputs.whole else f"part-{inputs.pairs.clips.identity()[:8]}")
    experts = open_stores(open_sources(teacher), inputs.pairs, folder, on_bad, progress)
    seen = inputs.pairs
    if teacher.sees_frames and (not student.sees_frames or _look(teacher) != _look(student)):
        seen = replace(seen, clips=seen.clips.view(*_look(teacher)))
    own = Inputs(teacher, seen, on_bad=on_bad, experts=experts)
    if _same_tower(student, inputs, teacher):
        own.clips, own.clip_rows = inputs.clips, inputs.clip_rows
    return own


def _look(model: RetrievalModel) -> tuple[int, Geometry]:
    """In how many frames, of what shape, a model sees a clip."""
    return model.frames_per_clip, model.preprocess.geometry


def _check_frames(recipe: Recipe, name: str, teacher: RetrievalModel) -> None:
    if recipe.objective.fine_teaching is None:
        return
    if not teacher.sees_frames:
        raise DataError(f"{name}: this teacher sees experts and no frames, so it cannot say which matter")
    if teacher.frames_per_clip != recipe.method.frames:
        raise DataError(
            f"{name}: this teacher sees {teacher.frames_per_clip} frames a clip, the student "
            f"{recipe.method.frames}; their weights over frames cannot be compared"
        )


def _same_tower(student: RetrievalModel, inputs: Inputs, teacher: RetrievalModel) -> bool:
    """Whether the student's cached clips are what this teacher's own vision tower would say."""
    if not teacher.sees_frames or inputs.clips is None:
        return False
    if teacher.frames_per_clip != student.frames_per_clip:
        return False
    if teacher.uses_patches and "patches" not in inputs.clips:
        return False
    return tower_fingerprint(student, "vision") == tower_fingerprint(teacher, "vision")
