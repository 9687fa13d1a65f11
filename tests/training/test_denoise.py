"""Wrong captions are found by models that never saw them, and what is left can be trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.errors import DataError, RecipeError
from vidsift.training.denoise import fit_odds, judge, precision_recall, share_of_wrong
from vidsift.training.denoising_report import write_denoising
from vidsift.training.distributed import World
from vidsift.training.loop import train
from vidsift.training.recipe import Recipe
from vidsift.training.setup import prepare

Make = Callable[..., Recipe]


def test_the_share_of_wrong_captions_is_found_from_scores() -> None:
    rng = np.random.default_rng(0)
    right, wrong = rng.normal(3, 1, 3000), rng.normal(0, 1, 3000)
    slope, offset = fit_odds(right, wrong)
    # Two normal distributions of one width: the log odds are 3 x - 4.5.
    assert (slope, offset) == (pytest.approx(3, abs=0.3), pytest.approx(-4.5, abs=0.5))
    for share in (0.05, 0.3, 0.6):
        count = round(4000 * share)
        scores = np.concatenate([rng.normal(0, 1, count), rng.normal(3, 1, 4000 - count)])
        noise, posterior = share_of_wrong(slope * scores + offset)
        assert noise == pytest.approx(share, abs=0.03)
        # Calibrated: of captions that are right with 0.4 to 0.6, about half are.
        truth = np.arange(4000) >= count
        middle = (posterior > 0.4) & (posterior < 0.6)
        assert 0.25 < truth[middle].mean() < 0.75


def test_scores_that_part_perfectly_have_an_end() -> None:
    slope, offset = fit_odds(np.array([5.0, 6.0]), np.array([0.0, 1.0]))
    assert np.isfinite([slope, offset]).all()
    assert slope > 0
    noise, posterior = share_of_wrong(np.full(10, 20.0))
    assert noise < 1e-3
    assert posterior.min() > 0.99


@given(st.lists(st.tuples(st.floats(-5, 5), st.booleans()), min_size=1, max_size=30))
def test_precision_and_recall_are_those_of_dropping_the_lowest(rows: list[tuple[float, bool]]) -> None:
    score, wrong = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    precision, recall = precision_recall(score, wrong)
    order = np.argsort(score, kind="stable")
    for count in range(1, len(rows) + 1):
        dropped = wrong[order[:count]]
        assert precision[count - 1] == pytest.approx(dropped.mean())
        assert recall[count - 1] == pytest.approx(dropped.sum() / max(1, wrong.sum()))


def noisy(make_recipe: Make, tmp_path: Path, **changes: Any) -> Recipe:
    """A quick model over frozen frames and words that learns something from 400 videos in 120 steps."""
    values: dict[str, Any] = {
        "data": {"train_videos": 400, "val_videos": 60, "corrupt": 0.4},
        "features": {
            "folder": str(tmp_path / "features"),
            "experts": ["frames"],
            "text": "words",
            "width": 64,
        },
        "method": {"name": "moee", "frames": 6, "settings": {"text_clusters": 2}},
        "objective": {"contrastive": {}, "max_margin": {}},
        "optimiser": {"lr": {"text": 0, "head": 0.003, "scale": 0}},
        "validation": {"every": 60},
        "steps": 120,
        "batch": 32,
    }
    return make_recipe("moee", **(values | changes))


@pytest.mark.slow
def test_noise_that_was_put_in_is_found_and_training_without_it_is_better(
    make_recipe: Make, tmp_path: Path
) -> None:
    recipe = noisy(make_recipe, tmp_path)
    found = judge([recipe], tmp_path / "judges", count=2)
    figures = write_denoising(found, tmp_path / "out", soft=False, threshold=0.5)
    known = figures["injected"]
    assert known["share"] == pytest.approx(0.4)
    assert known["auc"] > 0.8
    assert known["precision"] > 0.65
    assert figures["estimated_noise"] == pytest.approx(0.4, abs=0.12)
    for name in ("scores.png", "precision-recall.png", "report.md", "captions.jsonl"):
        assert (tmp_path / "out" / name).stat().st_size > 0
    weights = json.loads((tmp_path / "out" / "weights.json").read_text())["weights"]
    assert len(weights) == 2000
    assert sum(w > 0 for w in weights) == figures["kept"]
    # The same judges again: their runs are taken as they are.
    again = judge([recipe], tmp_path / "judges", count=2)
    np.testing.assert_array_equal(again.score, found.score)
    data = {"train_videos": 400, "val_videos": 60, "corrupt": 0.4}
    clean = noisy(make_recipe, tmp_path, data=data | {"weights": str(tmp_path / "out" / "weights.json")})
    setup = prepare(clean, World())
    assert len(setup.train.pairs.clips) == figures["clips_left"]
    before, after = (train(r, tmp_path / n)["t2v"]["r5"] for r, n in ((recipe, "noisy"), (clean, "clean")))
    assert after > before


def test_files_are_cleaned_into_a_table_that_trains(make_recipe: Make, tmp_path: Path) -> None:
    story = draw_set(11, 12)
    write_library(story, tmp_path / "videos")
    rows = (tmp_path / "videos" / "captions.jsonl").read_text().splitlines()
    table = [json.loads(row) for row in rows]
    lines = [json.dumps({"video": r["video"], "caption": r["text"]}) for r in table]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    data = {
        "source": "jsonl",
        "train": str(tmp_path / "train.jsonl"),
        "val": None,
        "root": str(tmp_path / "videos"),
        "holdout": 0.3,
        "train_videos": None,
        "val_videos": None,
    }
    recipe = make_recipe("meanp", data=data, batch=3, steps=3)
    found = judge([recipe], tmp_path / "judges", count=2, threshold=0.05)
    write_denoising(found, tmp_path / "out", soft=True, threshold=0.05)
    kept = [json.loads(line) for line in (tmp_path / "out" / "captions.jsonl").read_text().splitlines()]
    assert kept
    assert all(Path(row["video"]).is_file() and row["caption"] for row in kept)
    again = make_recipe(
        "meanp", data=data | {"train": str(tmp_path / "out" / "captions.jsonl")}, batch=2, steps=2
    )
    assert train(again, tmp_path / "again")["t2v"]["queries"] > 0


def test_judges_that_tell_nothing_are_not_believed(
    make_recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsift.training.denoise.fit_odds", lambda right, wrong: (-0.1, 0.0))
    with pytest.raises(DataError, match="no better than chance"):
        judge([make_recipe("meanp", steps=1, batch=4)], tmp_path, count=2)


def test_judges_that_would_keep_nothing_are_refused(make_recipe: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="take no caption for right"):
        judge([make_recipe("meanp", steps=1, batch=4)], tmp_path, count=2, threshold=1 - 1e-12)


def test_judges_of_different_data_are_refused(make_recipe: Make, tmp_path: Path) -> None:
    first, other = make_recipe("meanp"), make_recipe("meanp", data={"train_videos": 10})
    with pytest.raises(RecipeError, match="need the same data"):
        judge([first, other], tmp_path)
    with pytest.raises(RecipeError, match="makes folds and weights itself"):
        judge([make_recipe("meanp", data={"fold": [0, 2]})], tmp_path)
