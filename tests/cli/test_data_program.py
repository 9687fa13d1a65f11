"""`vidsift data`: what there is, small examples, whether they are whole, one table of a split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.datasets.catalogue import DATASETS, open_split
from vidsift.errors import DataError


def run(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["data", *map(str, words)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example") / "msvd"
    text = run("example", "msvd", "--root", folder, "--train", 3, "--val", 2, "--test", 2, "-q")
    assert "7 storyboard videos in the layout of msvd" in text
    return folder


def test_the_list_says_where_every_data_set_comes_from() -> None:
    rows: list[dict[str, Any]] = json.loads(run("list", "--json"))["datasets"]
    assert {row["name"] for row in rows} == set(DATASETS)
    assert all(row["homepage"].startswith("http") and row["licence"] and row["splits"] for row in rows)
    text = run("list")
    assert all(row["title"] in text and row["licence"] in text for row in rows)


def test_an_example_is_whole_until_a_video_goes(root: Path, tmp_path: Path) -> None:
    found = json.loads(run("check", "msvd", "--root", root, "-q", "--json"))
    assert [(s["name"], s["videos"], s["present"]) for s in found["splits"]] == [
        ("train", 3, 3),
        ("val", 2, 2),
        ("test", 2, 2),
    ]
    videos = sorted(path for path in root.rglob("*") if path.suffix in (".mp4", ".avi"))
    hidden = videos[0].rename(tmp_path / videos[0].name)
    try:
        text = run("check", "msvd", "--root", root, "-q", code=1)
        assert f"missing: {videos[0].stem}" in text
    finally:
        hidden.rename(videos[0])
    whole = videos[1].read_bytes()
    videos[1].write_bytes(b"not a video")
    try:
        text = run("check", "msvd", "--root", root, "-q", code=1)
        assert any("corrupt: " in line and videos[1].name in line for line in text.splitlines())
        assert "corrupt" not in run("check", "msvd", "--root", root, "-q", "--names-only").split("\n", 1)[1]
    finally:
        videos[1].write_bytes(whole)


def test_a_split_written_as_a_table_is_read_back_as_the_same_pairs(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "test.jsonl"
    assert "captions of 2 videos (test)" in run("manifest", "msvd", "--root", root, "--to", table)
    _, own = open_split("msvd", root, None)
    _, back = open_split("jsonl", root, str(table))
    assert [c.text for c in back.captions] == [c.text for c in own.captions]
    assert len(back.videos) == len(own.videos) == 2


def test_an_unknown_data_set_is_refused_with_a_suggestion(root: Path) -> None:
    done = CliRunner().invoke(app, ["data", "check", "msvdd", "--root", str(root)])
    assert isinstance(done.exception, DataError)
    assert "msvd" in str(done.exception)
