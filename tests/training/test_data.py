"""Training on files: what is missing, broken, empty or in two splits stops the run, or is counted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidsift.datasets.pairs import describe
from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.errors import DataError
from vidsift.training.data import load_pairs
from vidsift.training.recipe import Recipe
from vidsift.video import Geometry

Make = Callable[..., Recipe]
GEOMETRY = Geometry(size=48)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    write_library(draw_set(1, 6, captions_per_video=2), folder)
    return folder


@pytest.fixture
def table(library: Path, tmp_path: Path) -> Callable[..., Path]:
    """rows -> a table in the test's folder; None takes all that the library says."""

    def write(name: str, rows: list[tuple[str, str]]) -> Path:
        lines = [json.dumps({"video": video, "caption": caption}) for video, caption in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write


def files(make_recipe: Make, library: Path, train: Path, val: Path | None = None, **data: Any) -> Recipe:
    recipe = make_recipe("teachclip")
    section = {"source": "jsonl", "root": str(library), "train": str(train), "val": val and str(val)}
    return Recipe.model_validate(recipe.model_dump(mode="json") | {"data": section | data})


def names(library: Path) -> list[str]:
    return sorted(path.name for path in library.glob("*.mp4"))


def test_files_give_their_frames_and_captions(
    make_recipe: Make, library: Path, table: Callable[..., Path]
) -> None:
    own = names(library)
    train, val = (
        table("train.jsonl", [(own[0], "a"), (own[1], "b"), (own[0], "c")]),
        table("val.jsonl", [(own[2], "d")]),
    )
    pairs, held = load_pairs(files(make_recipe, library, train, val), GEOMETRY)
    assert pairs.captions == ("a", "b", "c")
    assert pairs.clip_of.tolist() == [0, 1, 0]
    pixels, mask = pairs.clips.read(1)
    assert pixels.shape == (3, 3, 48, 48)
    assert mask.all()
    assert held.captions == ("d",)
    assert pairs.identity() == load_pairs(files(make_recipe, library, train, val), GEOMETRY)[0].identity()
    assert pairs.identity() != held.identity()


def test_a_file_that_changes_is_another_data_set(
    make_recipe: Make, library: Path, table: Callable[..., Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in names(library)[:2]:
        (copy / name).write_bytes((library / name).read_bytes())
    own = names(copy)
    recipe = files(make_recipe, copy, table("t.jsonl", [(own[0], "a")]), table("v.jsonl", [(own[1], "b")]))
    before = load_pairs(recipe, GEOMETRY)[0].identity()
    (copy / own[0]).write_bytes((library / names(library)[3]).read_bytes())
    assert load_pairs(recipe, GEOMETRY)[0].identity() != before


@pytest.mark.parametrize(
    ("bad", "message", "counted"),
    [
        (("none.mp4", "a dog"), "1 of 3 videos cannot be read, first .*none", {"unreadable videos": 1}),
        (("broken.mp4", "a dog"), r"1 of 3 videos cannot be read, first .*broken", {"unreadable videos": 1}),
        ((None, "  "), r"t\.jsonl:3: 1 captions are empty", {"empty captions": 1}),
    ],
    ids=["missing", "broken", "empty caption"],
)
def test_bad_data_stops_the_run_or_is_counted(
    bad: tuple[str | None, str],
    message: str,
    counted: dict[str, int],
    make_recipe: Make,
    library: Path,
    table: Callable[..., Path],
) -> None:
    own = names(library)
    (library / "broken.mp4").write_bytes(b"\0" * 100)
    try:
        train = table("t.jsonl", [(own[0], "a"), (own[1], "b"), (bad[0] or own[0], bad[1])])
        val = table("v.jsonl", [(own[2], "c")])
        with pytest.raises(DataError, match=message):
            load_pairs(files(make_recipe, library, train, val), GEOMETRY)
        pairs, _ = load_pairs(files(make_recipe, library, train, val, on_bad="skip"), GEOMETRY)
        assert pairs.captions == ("a", "b")
        assert describe(pairs) == {"clips": 2, "captions": 2, "skipped": counted}
    finally:
        (library / "broken.mp4").unlink()


def test_nothing_left_is_an_error(make_recipe: Make, library: Path, table: Callable[..., Path]) -> None:
    train, val = table("t.jsonl", [("none.mp4", "a")]), table("v.jsonl", [(names(library)[0], "c")])
    with pytest.raises(DataError, match="nothing is left"):
        load_pairs(files(make_recipe, library, train, val, on_bad="skip"), GEOMETRY)


def test_a_video_in_both_splits_is_refused(
    make_recipe: Make, library: Path, table: Callable[..., Path]
) -> None:
    own = names(library)
    train, val = table("t.jsonl", [(own[0], "a"), (own[1], "b")]), table("v.jsonl", [(own[1], "c")])
    with pytest.raises(DataError, match="both the training and the validation"):
        load_pairs(files(make_recipe, library, train, val), GEOMETRY)


def test_a_share_of_the_videos_is_held_out_without_a_validation_table(
    make_recipe: Make, library: Path, table: Callable[..., Path]
) -> None:
    train = table("t.jsonl", [(name, f"{name} {n}") for name in names(library) for n in range(2)])
    recipe = files(make_recipe, library, train, holdout=0.34)
    pairs, held = load_pairs(recipe, GEOMETRY)
    assert (len(pairs.clips), len(held.clips)) == (4, 2)
    ours, theirs = ({p.clips.name(n) for n in range(len(p.clips))} for p in (pairs, held))
    assert not ours & theirs
    for part in (pairs, held):
        for caption, clip in zip(part.captions, part.clip_of.tolist(), strict=True):
            assert caption.startswith(Path(part.clips.name(clip)).name)
    again = load_pairs(recipe, GEOMETRY)[1]
    assert again.captions == held.captions
    assert np.array_equal(again.clip_of, held.clip_of)
