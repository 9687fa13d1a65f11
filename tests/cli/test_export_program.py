"""`vidsift export`: a model with compiled towers that indexes and answers like the one it came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vidsift.datasets.storyboard import load_split
from vidsift.datasets.storyboard.library import write_library

pytestmark = pytest.mark.system
STORY = load_split("test", videos=3)


def run(*words: Any, code: int = 0) -> subprocess.CompletedProcess[str]:
    program = [Path(sys.executable).with_name("vidsift"), *map(str, words)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    write_library(STORY, folder / "videos")
    return folder


def test_an_exported_model_indexes_and_answers_like_its_source(place: Path) -> None:
    said = json.loads(
        run("export", "vidsift-tiny", "--to", place / "fast", "--videos", 20, "--json", "-q").stdout
    )
    assert said["precision"] == "fp32"
    assert said["pictures"][0] > 0.9999
    assert said["r1"][0] == said["r1"][1] > 80
    query = STORY.captions[0].text
    answers = []
    for model, name in ((place / "fast", "a"), ("vidsift-tiny", "b")):
        run("index", place / "videos", "--index", place / name, "--model", model, "-q")
        found = json.loads(run("search", query, "--index", place / name, "--json").stdout)
        answers.append([(hit["path"], round(hit["score"], 3)) for hit in found["hits"]])
    assert answers[0] == answers[1]
    assert len(answers[0]) == 3
    # In fp32 it is the same model, so that either may go on with the other's index.
    run("index", place / "videos", "--index", place / "a", "--model", "vidsift-tiny", "-q")


def test_int8_is_calibrated_with_the_videos_that_are_named(place: Path) -> None:
    words = ("export", "clip-tiny", "--to", place / "small", "--precision", "int8", "--videos", 10, "--json")
    done = run(*words, "--calibrate", place / "videos")
    said = json.loads(done.stdout)
    assert said["precision"] == "int8"
    assert said["pictures"][1] > 0.97
    kept = json.loads((place / "small" / "openvino" / "towers.json").read_text())
    assert kept["parity"]["r1"] == said["r1"]
    again = run(*words, code=3)
    assert "is there already" in again.stderr
    nothing = run(*words[:3], place / "other", "--precision", "int8", "--calibrate", place / "small", code=3)
    assert "no video there to calibrate with" in nothing.stderr
