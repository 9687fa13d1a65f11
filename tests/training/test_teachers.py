"""What teachers say is written down once, read back as they said it, and refused when they have changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vidsift.errors import DataError
from vidsift.models import RetrievalModel, create_model, load_model
from vidsift.training.distributed import World
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe
from vidsift.training.sampler import Sampler
from vidsift.training.setup import Setup, prepare
from vidsift.training.teachers import paired, sharpened

Make = Callable[..., Recipe]
METHODS = ("xclip", "ts2net", "xpool")


@pytest.fixture
def teachers(tmp_path: Path) -> dict[str, Path]:
    """Freshly made teachers of three methods, saved."""
    base = load_model("clip-tiny")
    found = {}
    for method in METHODS:
        torch.manual_seed(1)
        model = create_model(method, base.backbone, base.tokenizer, frames_per_clip=3)
        found[method] = tmp_path / method / "model"
        model.save_pretrained(found[method])
    return found


def taught(make_recipe: Make, tmp_path: Path, *models: Path, **section: Any) -> Recipe:
    return make_recipe(
        "teachclip",
        teachers={"models": [str(m) for m in models], "cache": str(tmp_path / "said"), **section},
        objective={"preset": "teachclip-code", "fine_teaching": {"temperature": 0.1}},
    )


def said(recipe: Recipe, setup: Setup, teacher: RetrievalModel, captions: Any) -> tuple[Any, Any]:
    """Scores and weights of a batch, asked of the teacher itself."""
    clips, texts = setup.train.read_clips(setup.train.pairs.clip_of[captions]), setup.train.pairs.captions
    with torch.inference_mode():
        text = teacher.encode_text(*teacher.tokenize([texts[c] for c in captions]))
        if clips.pixels is None and not teacher.uses_patches and not teacher.tower_settings:
            features = clips.encode(teacher)
        else:
            pixels = [setup.train.pairs.clips.read(int(c)) for c in setup.train.pairs.clip_of[captions]]
            features = teacher.encode_video(
                torch.from_numpy(np.stack([p for p, _ in pixels])),
                torch.from_numpy(np.stack([m for _, m in pixels])),
            )
        weights = paired(teacher.teaching_weights(text, features))
        return teacher.similarity(text, features), weights


@pytest.mark.parametrize("scores", ["batches", "all"])
def test_a_batch_reads_what_its_teachers_would_say(
    scores: str, make_recipe: Make, tmp_path: Path, teachers: dict[str, Path]
) -> None:
    recipe = taught(make_recipe, tmp_path, *teachers.values(), scores=scores)
    setup = prepare(recipe, World())
    assert setup.teachers is not None
    sampler = Sampler(setup.train.pairs, recipe.batch, recipe.seed)
    for step in (0, 3):
        captions = sampler.captions_of(step)
        signals = setup.teachers.read(step, captions)
        for place, method in enumerate(METHODS):
            teacher = load_model(str(teachers[method])).eval()
            expected, weights = said(recipe, setup, teacher, captions)
            spread = float(expected.max() - expected.min())
            torch.testing.assert_close(signals.scores[place], expected, rtol=0, atol=2e-4 * spread + 1e-4)
            sharp = sharpened(weights, 0.1)
            torch.testing.assert_close(signals.weights[place], sharp, rtol=1e-2, atol=1e-3)


def test_teachers_are_asked_once(
    make_recipe: Make, tmp_path: Path, teachers: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = taught(make_recipe, tmp_path, teachers["xclip"])
    prepare(recipe, World())
    monkeypatch.setattr(
        "vidsift.models.methods.xclip.XClip.similarity", lambda *_: pytest.fail("asked again")
    )
    final = train(recipe, tmp_path / "run")
    assert final["t2v"]["queries"] == 30


def test_a_teacher_that_was_trained_on_is_refused_not_read(
    make_recipe: Make, tmp_path: Path, teachers: dict[str, Path]
) -> None:
    recipe = taught(make_recipe, tmp_path, teachers["xclip"])
    prepare(recipe, World())
    model = load_model(str(teachers["xclip"]))
    with torch.no_grad():
        model.head.sentence_video.add_(0.1)
    model.save_pretrained(teachers["xclip"])
    with pytest.raises(DataError, match=r"made of something else \(teacher was"):
        prepare(recipe, World())


def test_a_teacher_of_other_frames_is_refused(
    make_recipe: Make, tmp_path: Path, teachers: dict[str, Path]
) -> None:
    model = load_model(str(teachers["xclip"]))
    model.frames_per_clip = 5
    model.save_pretrained(teachers["xclip"])
    with pytest.raises(DataError, match="sees 5 frames a clip, the student 3"):
        prepare(taught(make_recipe, tmp_path, teachers["xclip"]), World())


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 4.0))
def test_sharpened_weights_are_the_softmax_at_that_temperature(seed: int, temperature: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 5, generator=rng)
    mask = torch.tensor([[True] * 5, [True] * 2 + [False] * 3, [False] * 5])
    plain = logits.masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
    expected = (logits / temperature).masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0.0)
    torch.testing.assert_close(sharpened(plain, temperature), expected, rtol=1e-4, atol=1e-6)
