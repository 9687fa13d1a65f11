"""`vidsift search` by sentence, picture, example and words, among some of the videos."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.render import render_at
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.errors import QueryError
from vidsift.ingest import index_paths
from vidsift.models import load_model
from vidsift.video import Geometry, VideoError
from vidsift.video.still import read_image

STORY = draw_set(21, 6)
LINE = "The captain sails for Lisbon"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("search")
    paths = write_library(STORY, folder / "videos")
    paths[2].with_suffix(".en.srt").write_text(f"1\n00:00:01,500 --> 00:00:03,000\n{LINE}\n\n")
    model = load_model("clip-tiny")
    index_paths([folder / "videos"], folder / "index", model)
    index_paths(paths[0], folder / "silent", model, workers=0)
    return folder, paths


def search(place: tuple[Path, list[Path]], *words: object) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["search", *map(str, words), "--index", str(place[0] / "index"), "--json"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    hits: list[dict[str, Any]] = json.loads(done.output)["hits"]
    return hits


def told(index: Path, *words: str) -> str:
    """What the program prints for people."""
    done = CliRunner().invoke(app, ["search", *words, "--index", str(index)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_picture_of_a_video_finds_it(place: tuple[Path, list[Path]], tmp_path: Path) -> None:
    found = []
    for number, video in enumerate(STORY.videos):
        scene = video.scenes[video.content[0]]
        frame = render_at(video, round((scene.start_seconds + scene.end_seconds) * 5))
        picture = tmp_path / f"{number}.png"
        Image.fromarray(frame.repeat(4, 0).repeat(4, 1)).save(picture)
        hits = search(place, "--image", picture, "-k", 1)
        found.append(hits[0]["path"] == str(place[1][number]))
    assert sum(found) >= 5


def test_others_like_a_clip_are_found_and_not_itself(place: tuple[Path, list[Path]]) -> None:
    for file in (place[1][2], f"{place[1][2]}@1.5"):
        hits = search(place, "--like", file, "-k", 3)
        assert len(hits) == 3
        assert str(place[1][2]) not in {hit["path"] for hit in hits}
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_terms_are_scored_apart(place: tuple[Path, list[Path]]) -> None:
    alone = {hit["path"]: hit["score"] for hit in search(place, STORY.captions[0].text, "-k", 99)}
    other = {hit["path"]: hit["score"] for hit in search(place, "a tree", "-k", 99)}
    both = search(place, f"2 * {STORY.captions[0].text} - a tree", "-k", 99)
    for hit in both:
        wanted = (2 * alone[hit["path"]] - other[hit["path"]]) / 3
        assert hit["score"] == pytest.approx(wanted, abs=1e-3)


def test_filters_join_a_sentence(place: tuple[Path, list[Path]]) -> None:
    hits = search(place, "a red circle", "--path", "*00004.mp4", "--where", "codec=h264")
    assert [hit["path"] for hit in hits] == [str(place[1][4])]
    assert search(place, "a red circle", "--after", 100) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "ask with one thing"),
        (("a red circle", "--like", "x.mp4"), "ask with one thing"),
        (("a dog + ",), "a term has no words"),
        (("--like", "nowhere.mp4"), "holds no clip of it"),
        (("a red circle", "--where", "codec"), "is KEY=VALUE"),
    ],
)
def test_questions_without_meaning_are_refused(
    place: tuple[Path, list[Path]], words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(QueryError, match=message):
        search(place, *words)


def test_a_time_without_a_clip_is_said(place: tuple[Path, list[Path]]) -> None:
    with pytest.raises(QueryError, match=r"no clip at 60 s; its last ends at 6 s"):
        search(place, "--like", f"{place[1][0]}@60")


def test_pictures_are_upright_and_shaped_as_the_model_wants(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, :30, 0] = 255  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(wide).save(tmp_path / "turned.png", exif=exif)
    squashed = read_image(tmp_path / "turned.png", Geometry(10, "squash"))
    assert squashed.shape == (3, 10, 10)
    assert squashed[0, :, :4].max() < 60  # turned, red is on the right
    assert squashed[0, :, 6:].min() > 200
    cropped = read_image(tmp_path / "turned.png", Geometry(20))
    assert cropped.shape == (3, 20, 20)
    (tmp_path / "x.jpg").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"x\.jpg.*cannot be read as a picture"):
        read_image(tmp_path / "x.jpg", Geometry(10))


def test_a_line_is_found_and_shown_under_its_video(place: tuple[Path, list[Path]]) -> None:
    found = search(place, "a captain in Lisbon", "-k", "2")
    assert Path(found[0]["path"]).name == "story-00002.mp4"
    assert found[0]["cue"] == {"start": 1.5, "end": 3.0, "text": LINE}
    assert found[0]["moment"] == {"start": 1.5, "end": 3.0, "best": 1.5}
    assert "words" in found[0]["channels"]
    assert (found[1]["channels"], found[1]["cue"]) == (["pictures"], None)
    lines = told(place[0] / "index", "a captain in Lisbon", "-k", "2").splitlines()
    assert "0:01.5-0:03.0" in lines[0]
    assert lines[1].strip() in (f'by {by}: "{LINE}"' for by in ("words", "pictures and words"))
    assert len(lines) == 3


def test_channels_are_searched_apart(place: tuple[Path, list[Path]]) -> None:
    assert len(search(place, "captain", "--channel", "words")) == 1
    pictures = search(place, "captain", "--channel", "pictures")
    assert len(pictures) == 6
    assert {tuple(hit["channels"]) for hit in pictures} == {("pictures",)}
    assert "nobody says that" in told(place[0] / "index", "zebra", "--channel", "words")
    assert "no subtitles came with" in told(place[0] / "silent", "captain", "--channel", "words")
