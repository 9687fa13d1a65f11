"""The installed program on real files: JSON shapes, exit codes, odd names, and what a newcomer gets wrong."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidsift import Index, load_model
from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.models import DEFAULT_MODEL

pytestmark = pytest.mark.system

PROGRAM = Path(sys.executable).with_name("vidsift")
SHARED = Path(os.environ.get("VIDSIFT_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def run(*arguments: str | Path, code: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(PROGRAM), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def run_json(*arguments: str | Path, code: int = 0) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout)
    return answer


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    write_library(draw_set(500, 12), folder)
    return folder


@pytest.fixture(scope="module")
def index(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    report = run_json("index", library, "--index", folder, "--quiet")
    assert report["added"] == report["clips"] == 12
    return folder


def test_help_comes_within_half_a_second() -> None:
    def seconds() -> float:
        """Processor time, which other programs on the machine do not stretch as they do the clock."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_index_json_has_the_documented_shape(library: Path, index: Path) -> None:
    report = run_json("index", library, "--index", index)
    counts = {"added": 0, "updated": 0, "removed": 0, "unchanged": 12, "renamed": 0, "clips": 12}
    assert {name: report[name] for name in counts} == counts
    assert report["failed"] == report["partial"] == []
    assert isinstance(report["seconds"], float)
    assert set(report) == {*counts, "failed", "partial", "seconds", "stages"}


def test_search_json_has_the_documented_shape(library: Path, index: Path) -> None:
    caption = json.loads((library / "captions.jsonl").read_text().splitlines()[0])
    answer = run_json("search", caption["text"], "--index", index, "-k", "3")
    assert set(answer) == {"query", "took_ms", "relevant", "hits"}
    assert answer["query"] == caption["text"]
    assert set(answer["took_ms"]) == {"encode", "recall", "rerank"}
    assert len(answer["hits"]) == 3
    scores = [hit["score"] for hit in answer["hits"]]
    assert scores == sorted(scores, reverse=True)
    for hit in answer["hits"]:
        told = {"confidence", "level", "alike", "channels"}
        assert set(hit) - {"cue"} == {"path", "score", "start", "end", "moment", "metadata"} | told
        assert set(hit["moment"]) == {"start", "end", "best"}
        assert hit["start"] <= hit["moment"]["start"] <= hit["moment"]["best"] <= hit["moment"]["end"]
        assert hit["moment"]["end"] <= hit["end"]
        assert Path(hit["path"]).is_file()


def test_a_caption_finds_its_video(library: Path, index: Path) -> None:
    lines = [json.loads(line) for line in (library / "captions.jsonl").read_text().splitlines()]
    opened, model = Index.open(index), load_model()
    first = [Path(opened.search(line["text"], model, k=1).hits[0].path).name for line in lines]
    assert np.mean([a == line["video"] for a, line in zip(first, lines, strict=True)]) > 0.85


def test_plain_search_prints_one_line_a_hit(index: Path) -> None:
    lines = run("search", "a red star", "--index", index, "-k", "2").stdout.splitlines()
    hits = [line for line in lines if not line.startswith("nothing in this index")]
    assert len(hits) == 2
    assert all(".mp4" in line and "%" in line for line in hits)


def test_info_and_remove(library: Path, index: Path, tmp_path: Path) -> None:
    copy = tmp_path / "index"
    shutil.copytree(index, copy)
    assert run_json("info", "--index", copy)["clips"] == 12
    report = run_json("remove", library / "story-00003.mp4", "--index", copy)
    assert (report["removed"], report["clips"]) == (1, 11)
    assert (library / "story-00003.mp4").exists()
    assert "11 of 11 files" in run("info", "--index", copy).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "a car", "--index", "nowhere"], 3, "nowhere"),
        (["info", "--index", "nowhere"], 3, "nowhere"),
        (["index", "missing-folder", "--index", "i"], 3, "missing-folder"),
        (["index", ".", "--index", "i", "--model", "clip-tinny"], 3, "did you mean 'clip-tiny'"),
        (["train", "missing.yaml"], 2, "missing.yaml"),
        (["search", "a car"], 2, "--index"),
        (["serch"], 2, "search"),
        (["search", "\udcff", "--index", "."], 3, "no index here"),
        (["storyboard", "--out", "/dev/null"], 3, "/dev/null"),
    ],
)
def test_wrong_use_says_what_is_wrong_and_what_to_do(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = run(*arguments, code=code, cwd=tmp_path)
    assert message in done.stderr
    assert done.stdout == ""


def test_a_query_that_is_no_text_is_wrong_use(index: Path) -> None:
    assert "empty" in run("search", "  ", "--index", index, code=2).stderr
    assert "UTF-8" in run("search", "\udcff", "--index", index, code=2).stderr


def test_odd_names_nested_folders_links_and_a_read_only_folder(library: Path, tmp_path: Path) -> None:
    videos = tmp_path / "my videos"
    deep = videos / "a" / "b  c" / "Ünïcode – 日本語"
    deep.mkdir(parents=True)
    names = [
        "with space.mp4",
        "quote'\"s.mp4",
        "naïve – café 🎬.MP4",
        "l" * 196 + ".mp4",
        "-dash.mp4",
        "new\nline.mp4",
    ]
    sources = [library / f"story-{k:05d}.mp4" for k in range(len(names))]
    for name, source in zip(names, sources, strict=True):
        shutil.copy(source, deep / name)
    (videos / "link.mp4").symlink_to(library / "story-00010.mp4")
    (videos / "loop").symlink_to(videos, target_is_directory=True)
    (videos / "notes.txt").write_text("not a video")
    for folder in (deep, videos):
        folder.chmod(0o555)
    try:
        report = run_json("index", videos, "--index", tmp_path / "index", "--quiet")
    finally:
        for folder in (deep, videos):
            folder.chmod(0o755)
    assert (report["added"], report["failed"], report["partial"]) == (len(names) + 1, [], [])
    hits = run_json("search", "a big red star", "--index", tmp_path / "index", "-k", "20")["hits"]
    found = {Path(hit["path"]).name for hit in hits}
    assert found >= set(names)
    assert all(Path(hit["path"]).exists() for hit in hits)


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "videos").is_dir(), reason="the shared sample videos are not here")
def test_real_and_broken_files_are_indexed_or_listed_and_a_second_run_does_no_work(tmp_path: Path) -> None:
    first = run_json("index", SHARED / "videos", "--index", tmp_path / "i", code=1)
    failed = {Path(problem["path"]).name for problem in first["failed"]}
    partial = {Path(problem["path"]).name: problem["reason"] for problem in first["partial"]}
    assert failed == {"nasa_13013.mp4.audio.mp3", "audio_only.mp4", "bad_stsz.mp4", "garbage.mp4", "zero.mp4"}
    assert set(partial) == {"corrupted.mp4", "bitflip.mp4", "trunc_faststart.mp4"}
    assert all("kept" in reason for reason in partial.values())
    assert first["added"] == 17
    again = run_json("index", SHARED / "videos", "--index", tmp_path / "i", code=1)
    assert (again["added"], again["updated"], again["unchanged"]) == (0, 0, 17)
    assert again["seconds"] < 1
    assert (again["failed"], again["partial"]) == (first["failed"], first["partial"])


def test_output_that_nobody_reads_to_the_end_is_no_crash(index: Path) -> None:
    command = f"{PROGRAM} search 'a red star' --index {index} | head -0"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr


def test_a_reader_that_stops_reading_is_no_failure(index: Path) -> None:
    command = f"set -o pipefail; {PROGRAM} search 'a red star' --index {index} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


def test_a_full_disk_behind_stdout_is_said(index: Path) -> None:
    command = f"{PROGRAM} search 'a red star' --index {index} > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_says_how_to_go_on(library: Path, tmp_path: Path) -> None:
    command = [str(PROGRAM), "index", str(library), "--index", str(tmp_path / "i"), "--workers", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first sign of progress
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "the same command goes on" in errors
    assert run_json("index", library, "--index", tmp_path / "i", "--quiet")["clips"] == 12


def test_names_that_the_terminal_cannot_show_are_escaped(library: Path, tmp_path: Path) -> None:
    shutil.copy(library / "story-00000.mp4", tmp_path / "视频.mp4")
    run("index", tmp_path / "视频.mp4", "--index", tmp_path / "i", "--quiet")
    shown = subprocess.run(
        [str(PROGRAM), "search", "a star", "--index", str(tmp_path / "i")],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        timeout=60,
        check=True,
    )
    assert b"\\u89c6\\u9891.mp4" in shown.stdout


def test_the_names_that_models_lists_are_names_that_load(tmp_path: Path) -> None:
    table = run_json("models")["models"]
    (default,) = [row["name"] for row in table if row["default"]]
    assert default == DEFAULT_MODEL


def test_the_demonstration_reports_its_own_quality(tmp_path: Path) -> None:
    report = run_json("demo", "--dir", tmp_path, "--videos", "20", "--queries", "10", "--quiet")
    assert report["retrieval"]["queries"] == 10
    assert report["retrieval"]["r1"] >= 60
    assert report["videos"] == 20
    assert len(report["answers"]) == 10


def test_storyboard_writes_a_library_with_captions(tmp_path: Path) -> None:
    answer = run_json("storyboard", "--out", tmp_path, "--videos", "2", "--seed", "7", "--quiet")
    assert answer["videos"] == 2
    assert len(list(tmp_path.glob("*.mp4"))) == 2
    line = json.loads((tmp_path / "captions.jsonl").read_text().splitlines()[0])
    assert set(line) == {"video", "text", "start", "end", "kind"}


def test_training_from_the_command_line_gives_a_model_that_indexes(tmp_path: Path, library: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: r\nmodel: {vision: {width: 32, layers: 1, heads: 2}, text: {width: 32, layers: 1, heads: 2}}\n"
        "stages:\n  - {name: f, data: frames, steps: 3, batch: 8, lr: 0.001}\n"
        "validation_videos: 5\n"
    )
    answer = run_json("train", recipe, "seed=4", "--out", tmp_path / "run", "--quiet")
    model = answer["model"]
    report = run_json("index", library / "story-00000.mp4", "--index", tmp_path / "i", "--model", model)
    assert report["added"] == 1
    assert run_json("search", "a car", "--index", tmp_path / "i")["hits"]
    refused = run("index", library, "--index", tmp_path / "i", "--model", "clip-tiny", code=3)
    assert "built with model" in refused.stderr
