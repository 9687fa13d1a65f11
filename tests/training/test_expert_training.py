"""Students that see experts, and students that are taught by those who see more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidsift.datasets.pairs import PairSet, story_pairs
from vidsift.errors import DataError, ModelFormatError, RecipeError
from vidsift.ingest import index_paths
from vidsift.models import load_model
from vidsift.training.distributed import World
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe
from vidsift.training.sampler import Sampler
from vidsift.training.setup import prepare, teacher_inputs
from vidsift.training.weights import corrupt, folds, read_weights, write_weights
from vidsift.video import Geometry

Make = Callable[..., Recipe]
MARGIN = {"contrastive": {}, "max_margin": {"margin": 0.2}}


def seeing(make_recipe: Make, tmp_path: Path, method: str = "moee", **changes: Any) -> Recipe:
    """A recipe over experts, sound and words among them."""
    return make_recipe(
        method,
        data={"channels": True},
        features={
            "folder": str(tmp_path / "features"),
            "experts": ["appearance", "audio", "speech"],
            "text": "words",
            "width": 16,
        },
        method={"name": method, "frames": 3, "settings": {"text_clusters": 2}},
        objective=MARGIN,
        **changes,
    )


@pytest.mark.parametrize("method", ["moee", "ce"])
def test_a_model_over_experts_is_trained_saved_and_asked(
    method: str, make_recipe: Make, tmp_path: Path
) -> None:
    recipe = seeing(make_recipe, tmp_path, method)
    final = train(recipe, tmp_path / "run")
    model = load_model(str(tmp_path / "run" / "model"))
    assert [e.source for e in model.config.experts] == ["appearance:clip-tiny", "audio", "speech:clip-tiny"]
    setup = prepare(recipe, World())
    text, clips = setup.val.encode_all(model)
    with torch.inference_mode():
        scores = model.similarity(text, clips)
    assert torch.isfinite(scores).all()
    found = (scores.argmax(1).numpy() == setup.val.pairs.clip_of).mean() * 100
    assert final["t2v"]["r1"] == pytest.approx(found, abs=4)
    # Some clips have no sound, some no words; none has nothing.
    available = clips.extra["available"]
    assert available[:, 0].all()
    assert 0 < available[:, 1:].float().mean() < 1


def test_experts_do_not_care_in_how_many_frames_the_student_sees(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = seeing(make_recipe, tmp_path)
    prepare(recipe, World())
    monkeypatch.setattr("vidsift.experts.audio.Audio.extract", lambda *_: pytest.fail("asked again"))
    other = recipe.model_copy(update={"method": recipe.method.model_copy(update={"frames": 4})})
    assert prepare(other, World()).model.frames_per_clip == 4


def test_a_model_over_experts_cannot_be_indexed_and_says_so(make_recipe: Make, tmp_path: Path) -> None:
    train(seeing(make_recipe, tmp_path), tmp_path / "run")
    (tmp_path / "videos").mkdir()
    with pytest.raises(ModelFormatError, match="has no picture tower"):
        index_paths([tmp_path / "videos"], tmp_path / "index", load_model(str(tmp_path / "run" / "model")))


def test_experts_run_once(make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = seeing(make_recipe, tmp_path)
    prepare(recipe, World())
    monkeypatch.setattr("vidsift.experts.audio.Audio.extract", lambda *_: pytest.fail("asked again"))
    prepare(recipe, World())


def test_a_student_with_pictures_learns_from_one_with_sound_and_words(
    make_recipe: Make, tmp_path: Path
) -> None:
    train(seeing(make_recipe, tmp_path), tmp_path / "teacher")
    models = [str(tmp_path / "teacher" / "model")] * 2
    for aggregate in ("mean", "weighted", "each"):
        recipe = make_recipe(
            "meanp",
            data={"channels": True},
            teachers={"models": models, "cache": str(tmp_path / "said")},
            objective={"similarity_matching": {"weight": 5.0, "aggregate": aggregate}},
        )
        final = train(recipe, tmp_path / aggregate)
        assert final["t2v"]["queries"] == 30
    setup = prepare(recipe, World())
    assert setup.teachers is not None
    captions = Sampler(setup.train.pairs, recipe.batch, recipe.seed).captions_of(1)
    signals = setup.teachers.read(1, captions)
    teacher = load_model(models[0])
    own = teacher_inputs(recipe, setup.model, setup.train, teacher)
    clips = own.encode_clips(teacher).select(torch.from_numpy(own.pairs.clip_of[captions]))
    with torch.inference_mode():
        cosines = teacher.cosines(own.encode_texts(teacher, captions), clips)
    torch.testing.assert_close(signals.cosines[0], cosines, rtol=0, atol=2e-4)


def test_teachers_by_text_join_those_of_teachclip_in_the_united_student(
    make_recipe: Make, tmp_path: Path
) -> None:
    """Two objectives on two kinds of teachers: one with sound and words, one that sees frames."""
    train(seeing(make_recipe, tmp_path), tmp_path / "teacher")
    recipe = make_recipe(
        "vidsift",
        data={"channels": True},
        teachers={
            "models": [str(tmp_path / "teacher" / "model"), "vidsift-tiny"],
            "cache": str(tmp_path / "s"),
        },
        objective={
            "contrastive": {"similarity": 1.0, "coarse": 0.5},
            "coarse_teaching": {"of": "coarse"},
            "similarity_matching": {"of": "coarse", "aggregate": "each"},
        },
        optimiser={"lr": {"text": 0.0003, "head": 0.001}},
    )
    final = train(recipe, tmp_path / "run")
    log = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "coarse_teaching" in log
    assert "similarity_matching" in log
    assert final["t2v"]["queries"] == 30


def test_what_sees_no_frames_cannot_teach_which_matter(make_recipe: Make, tmp_path: Path) -> None:
    train(seeing(make_recipe, tmp_path), tmp_path / "teacher")
    recipe = make_recipe(
        "teachclip",
        data={"channels": True},
        teachers={"models": [str(tmp_path / "teacher" / "model")], "cache": str(tmp_path / "said")},
        objective={"fine_teaching": {}},
    )
    with pytest.raises(DataError, match="sees experts and no frames"):
        prepare(recipe, World())


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"experts": ["appearance", "appearance:clip-tiny", "appearance"]}, "names one twice"),
        ({"experts": ["smell"]}, "no expert 'smell'"),
    ],
)
def test_impossible_experts_are_refused(
    features: dict[str, Any], message: str, make_recipe: Make, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=message):
        prepare(make_recipe("moee", features=features, method={"name": "moee", "settings": {}}), World())
    with pytest.raises(RecipeError, match="meanp sees pictures"):
        prepare(make_recipe("meanp", features={"experts": ["colour"]}), World())


# -- weights, noise, folds -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> PairSet:
    return story_pairs("train", 20, 3, Geometry(64))


@pytest.mark.parametrize("share", [0.1, 0.4, 0.8])
def test_noise_gives_captions_of_other_clips(share: float, pairs: PairSet) -> None:
    noisy, wrong = corrupt(pairs, share, seed=3)
    assert wrong.sum() == round(share * 100)
    assert sorted(noisy.captions) == sorted(pairs.captions)
    assert all(noisy.captions[n] == pairs.captions[n] for n in np.flatnonzero(~wrong))
    # Where a text went, its old clip is not: texts may repeat, so compare whole groups.
    for clip in range(20):
        own = {pairs.captions[n] for n in np.flatnonzero(pairs.clip_of == clip)}
        others = {pairs.captions[n] for n in np.flatnonzero(pairs.clip_of != clip)}
        moved = {noisy.captions[n] for n in np.flatnonzero((pairs.clip_of == clip) & wrong)}
        assert not moved & (own - others)
    assert corrupt(pairs, share, seed=3)[0].captions == noisy.captions
    assert noisy.identity() != pairs.identity()
    assert noisy.shelf == pairs.name


def test_captions_are_drawn_by_their_weights(pairs: PairSet, tmp_path: Path) -> None:
    from dataclasses import replace

    weights = np.zeros(100, np.float32)
    weights[::5], weights[1::5] = 3.0, 1.0
    drawn = Sampler(replace(pairs, weights=weights), 10, 0).plan(400).ravel()
    counts = np.bincount(drawn, minlength=100).reshape(20, 5)
    assert not counts[:, 2:].any()
    assert counts[:, 0].sum() / counts[:, :2].sum() == pytest.approx(0.75, abs=0.03)
    assert (counts.sum(1) == 200).all()


def test_clips_that_are_worth_nothing_are_left_out(make_recipe: Make, tmp_path: Path) -> None:
    recipe = make_recipe("meanp")
    whole = prepare(recipe, World()).train.pairs
    weights = np.ones(len(whole.captions), np.float32)
    weights[whole.clip_of < 3] = 0
    write_weights(tmp_path / "w.json", whole, weights)
    lighter = make_recipe("meanp", data={"weights": str(tmp_path / "w.json")})
    setup = prepare(lighter, World())
    assert len(setup.train.pairs.clips) == len(whole.clips) - 3
    assert train(lighter, tmp_path / "run")["t2v"]["queries"] == 30
    np.testing.assert_array_equal(read_weights(tmp_path / "w.json", whole), weights)
    with pytest.raises(DataError, match="of other captions or clips"):
        read_weights(tmp_path / "w.json", setup.train.pairs)
    (tmp_path / "w.json").write_text("{}")
    with pytest.raises(DataError, match="not the weights"):
        read_weights(tmp_path / "w.json", whole)


def test_folds_part_the_videos_and_are_left_out(make_recipe: Make, pairs: PairSet) -> None:
    part = folds(pairs, 3, seed=1)
    assert sorted(np.bincount(part)) == [6, 7, 7]
    sets = []
    for k in range(3):
        setup = prepare(make_recipe("meanp", data={"fold": [k, 3]}), World())
        sets.append(set(setup.train.pairs.captions))
        assert len(setup.train.pairs.clips) in (13, 14)
    assert len(sets[0] | sets[1]) > len(sets[0])
    with pytest.raises(DataError, match="cannot be parted into 30"):
        folds(pairs, 30, seed=1)
