"""`vidsift eval` and `vidsift compare` on files: from videos, through an index, beside each other."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.datasets.catalogue import find_dataset
from vidsift.datasets.corpus import Role
from vidsift.datasets.dataset import Example
from vidsift.datasets.example import render_examples
from vidsift.errors import DataError
from vidsift.evaluation.compare import compare, read_run
from vidsift.evaluation.metrics import retrieval_metrics
from vidsift.evaluation.published import published_for, published_rows
from vidsift.ingest import index_paths


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[Role, list[Example]]:
    return render_examples(tmp_path_factory.mktemp("examples"), (6, 2, 14))


@pytest.fixture(scope="module")
def root(examples: dict[Role, list[Example]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen test videos with five captions each, in VATEX's layout."""
    folder = tmp_path_factory.mktemp("vatex")
    find_dataset("vatex").write_example(folder, examples)
    return folder


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def run(*words: object, code: int = 0) -> Any:
    """The program's JSON document, or what it raised when another code is expected."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    if code:
        assert done.exit_code != 0
        return done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return json.loads(done.output)


def evaluate(features: Path, out: Path, root: Path, *words: object, model: str = "vidsift-tiny") -> Any:
    common = ["-d", "vatex", "--root", root, "--features", features, "--out", out, "-q"]
    return run("eval", model, *common, *words)


def test_the_saved_ranks_give_the_printed_figures(root: Path, features: Path, tmp_path: Path) -> None:
    report = evaluate(features, tmp_path, root, "--rescore", "dsl,qb-norm", "--bank", "train")
    with (tmp_path / "queries.csv").open(newline="") as stream:
        queries = list(csv.DictReader(stream))
    with (tmp_path / "clips.csv").open(newline="") as stream:
        clips = list(csv.DictReader(stream))
    assert (len(queries), len(clips)) == (70, 14)
    assert len(report["rows"]) == 11
    for row in report["rows"]:
        found = np.array([float(q[row["name"]]) for q in (queries if row["direction"] == "t2v" else clips)])
        again = retrieval_metrics(found)
        for name in ("r1", "r5", "r10", "mdr", "mnr", "geometric"):
            assert row["metrics"][name] == pytest.approx(getattr(again, name))
        assert (
            row["metrics"]["gallery"]
            == {"t2v": 14, "v2t among captions": 70, "v2t among groups": 14}[row["direction"]]
        )
    plain = {row["score"]: row["metrics"] for row in report["rows"] if row["rescoring"] is None}
    assert plain["similarity"]["r1"] > 60  # the model knows this world
    # Rescored rows stand after all plain ones.
    kinds = [row["rescoring"] is None for row in report["rows"]]
    assert kinds == sorted(kinds, reverse=True)
    protocol = report["protocol"]
    assert (protocol["captions"], protocol["gallery"], protocol["frames"], protocol["words"]) == (
        70,
        14,
        12,
        48,
    )
    assert protocol["fingerprint"] in protocol["line"]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure") == 4 * 16  # eight of the worst and eight of the best, four clips each
    assert "data:image/jpeg;base64," in page
    for plot in ("recall.png", "ranks.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
    assert report["cost"]["query"] > 0
    assert report["cost"]["bytes_per_clip"] == 2 * 128 + 12 * (128 + 4)


def test_a_second_run_reads_the_cache_and_gives_the_same(root: Path, features: Path, tmp_path: Path) -> None:
    first = evaluate(features, tmp_path / "a", root)
    before = {path: path.stat().st_mtime_ns for path in features.rglob("frames.bin")}
    second = evaluate(features, tmp_path / "b", root)
    assert before == {path: path.stat().st_mtime_ns for path in features.rglob("frames.bin")}
    assert first["rows"] == second["rows"]
    assert (tmp_path / "a" / "queries.csv").read_bytes() == (tmp_path / "b" / "queries.csv").read_bytes()


def test_through_the_index_everything_is_counted(root: Path, features: Path, tmp_path: Path) -> None:
    """Videos that the index lacks miss; videos that only it has are in the gallery."""
    videos = sorted((root / "videos").glob("test*.mp4"))
    strangers = sorted((root / "videos").glob("train*.mp4"))[:3]
    index_paths([*videos[1:], *strangers], tmp_path / "index", "vidsift-tiny", workers=0)
    report = evaluate(features, tmp_path / "report", root, "--index", tmp_path / "index")
    row = next(row for row in report["rows"] if row["score"] == "index")
    assert report["index"]["strangers"] == 3
    assert report["index"]["absent"] == 1
    assert row["metrics"]["gallery"] == 16
    with (tmp_path / "report" / "queries.csv").open(newline="") as stream:
        queries = list(csv.DictReader(stream))
    missed = [q for q in queries if q["clip"] == str(videos[0])]
    assert len(missed) == 5
    assert all(float(q["index t2v"]) > 16 for q in missed)
    found = [q for q in queries if q["clip"] != str(videos[0])]
    # The quantised index ranks nearly as the exact scores do.
    near = [abs(float(q["index t2v"]) - float(q["similarity t2v"])) <= 3 for q in found]
    assert np.mean(near) > 0.9


def test_an_index_of_another_model_is_refused(root: Path, features: Path, tmp_path: Path) -> None:
    index_paths([root / "videos"], tmp_path / "index", "clip-tiny", workers=0)
    words = ["-d", "vatex", "--root", root, "--features", features, "--index", tmp_path / "index", "-q"]
    error = run("eval", "vidsift-tiny", *words, code=3)
    assert "built with model 'clip-tiny'" in str(error)


def test_missing_videos_stop_or_shrink_the_gallery_which_is_said(
    examples: dict[Role, list[Example]], features: Path, tmp_path: Path
) -> None:
    find_dataset("vatex").write_example(tmp_path / "d", examples)
    gone = sorted((tmp_path / "d" / "videos").glob("test*.mp4"))[0]
    gone.unlink()
    words = ["-d", "vatex", "--root", tmp_path / "d", "--features", features, "--out", tmp_path / "r", "-q"]
    error = run("eval", "clip-tiny", *words, code=3)
    assert gone.name in str(error)
    assert "--skip-bad" in str(error)
    report = run("eval", "clip-tiny", *words, "--skip-bad")
    assert (report["protocol"]["gallery"], report["protocol"]["captions"]) == (13, 65)
    assert "1 unreadable videos left out" in report["protocol"]["line"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scores", "fine"], "no score 'fine'"),
        (["--rescore", "softmax"], "no rescoring 'softmax'"),
        (["--rescore", "qb-norm"], "needs --bank"),
        (["--split", "dev"], "no split 'dev'; it has train"),
    ],
)
def test_settings_without_meaning_are_refused(
    words: list[str], message: str, root: Path, features: Path, tmp_path: Path
) -> None:
    common = ["-d", "vatex", "--root", root, "--features", features, "--out", tmp_path, "-q"]
    error = run("eval", "clip-tiny", *common, *words, code=3)
    assert isinstance(error, DataError)
    assert message in str(error)
    assert not (tmp_path / "report.json").exists()


def test_two_runs_are_paired_caption_by_caption(root: Path, features: Path, tmp_path: Path) -> None:
    evaluate(features, tmp_path / "a", root)
    evaluate(features, tmp_path / "b", root, model="clip-tiny")
    evaluate(features, tmp_path / "few", root, "--videos", "9")
    found = run("compare", tmp_path / "a", tmp_path / "b", tmp_path / "few", "--out", tmp_path / "c")
    first, second, third = found["runs"]
    assert first["difference"] is None
    difference = second["difference"]["r1"]
    assert difference["value"] == pytest.approx(
        second["row"]["metrics"]["r1"] - first["row"]["metrics"]["r1"]
    )
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert third["difference"] == "other captions or gallery than a"
    assert (tmp_path / "c" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "| a | vatex/test | two-stage |" in (tmp_path / "c" / "comparison.md").read_text()


def test_a_run_compared_with_itself_does_not_differ(root: Path, features: Path, tmp_path: Path) -> None:
    evaluate(features, tmp_path / "a", root)
    run_ = read_run(tmp_path / "a", "coarse")
    (_, same) = compare([run_, run_]).differences
    assert isinstance(same, dict)
    assert same["r1"].value == 0.0
    assert same["r1"].p == 1.0


def test_a_folder_without_a_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no report"):
        read_run(tmp_path)


def test_published_rows_are_whole_and_rescored_ones_come_last() -> None:
    rows = published_rows()
    assert len(rows) > 70
    for row in rows:
        dataset = find_dataset(row.dataset)
        assert row.split in dataset.splits, row
        assert dataset.splits[row.split] == "test", row
        assert row.source
        assert row.trust in ("repository", "paper")
        assert row.r1 is None or 0 < row.r1 < 100
    found = published_for("msrvtt", "test-1ka")
    kinds = [row.rescoring is not None for row in found]
    assert kinds == sorted(kinds)
    assert any(kinds)
    with pytest.raises(DataError, match="there are activitynet/val_1"):
        published_for("msrvtt", "train-9k")


def test_the_storyboard_needs_no_files(features: Path, tmp_path: Path) -> None:
    words = ["-d", "storyboard", "--videos", "6", "--features", features, "--out", tmp_path, "-q"]
    report = run("eval", "clip-tiny", *words, "--scores", "coarse")
    assert report["protocol"]["gallery"] == 6
    assert {row["score"] for row in report["rows"]} == {"coarse"}
