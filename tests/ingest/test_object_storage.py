"""An index in object storage is that of a folder, clip for clip, whoever writes it and whenever they die.

The storage is moto's server on loopback, which stands in for S3 (`tests/conftest.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.datasets.storyboard.library import write_library
from vidsift.datasets.storyboard.splits import draw_set
from vidsift.errors import IndexNotFoundError, IndexStateError, ModelMismatchError
from vidsift.index import Index, compact_index
from vidsift.index.config import read_config
from vidsift.index.remote import list_objects, locate, storage_options
from vidsift.index.store import Store
from vidsift.index.versions import table_version
from vidsift.ingest import index_paths, remove_paths
from vidsift.models import load_model
from vidsift.video import SegmentConfig

STORY = draw_set(31, 4)
MODEL = "clip-tiny"

WRITER = """
import sys
from vidsift.ingest import pipeline
pipeline.COMMIT_SECONDS = 0.0
pipeline.index_paths(sys.argv[1], sys.argv[2], "clip-tiny", workers=0)
"""


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model(MODEL)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library")
    write_library(STORY, folder)
    return folder


@pytest.fixture(scope="module")
def local(library: Path, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the library in a folder."""
    folder = tmp_path_factory.mktemp("local") / "index"
    assert index_paths(library, folder, model, workers=0).added == 4
    return folder


def rows(index: str | Path) -> list[dict[str, Any]]:
    """All rows of the table, vectors and pictures too, in one order."""
    opened = Index.open(index)
    found = Store.open(opened.folder, opened.model.fingerprint).rows(list(opened.files()))
    return found.sort_by([("path", "ascending"), ("clip", "ascending")]).to_pylist()


def hits(index: str | Path, model: Any) -> list[Any]:
    opened = Index.open(index)
    return [opened.search(caption.text, model, k=4).to_dict()["hits"] for caption in STORY.captions[:5]]


def manifests(answers: list[tuple[str, str, int]]) -> list[int]:
    """How the attempts at a commit ended."""
    return [
        status for method, path, status in answers if method == "PUT" and "clips.lance/_versions/" in path
    ]


def test_it_is_made_searched_grown_and_shrunk_like_a_folders(storage, library, local, model, tmp_path):
    index = f"{storage.new_bucket()}/some/prefix/"
    lib = tmp_path / "lib"
    shutil.copytree(library, lib)
    last = lib / "story-00003.mp4"
    os.rename(last, tmp_path / last.name)
    report = index_paths(lib, index, model, workers=0)
    assert (report.added, report.clips) == (3, 3)
    opened = Index.open(index)
    assert len(opened) == 3

    os.rename(tmp_path / last.name, last)
    assert index_paths(lib, index, model, workers=0).added == 1
    assert opened.refresh()
    assert len(opened) == 4
    assert index_paths(lib, index, model, workers=0).unchanged == 4
    assert not opened.refresh()
    here, there = rows(index), rows(local)
    for mine, its in zip(here, there, strict=True):
        names = "path", "file_id", "mtime_ns"
        assert os.path.basename(mine["path"]) == os.path.basename(its["path"])
        assert {k: v for k, v in mine.items() if k not in names} == {
            k: v for k, v in its.items() if k not in names
        }

    assert remove_paths(last, index).removed == 1
    assert len(Index.open(index)) == 3
    done = compact_index(index)
    assert (done.clips, done.fragments[1]) == (3, 1)
    info = Index.open(index).info()
    assert (info["index"], info["files"], info["roots"]) == (index.rstrip("/"), 3, [str(lib)])
    assert info["bytes"] > 10_000


def test_a_second_machine_builds_its_own_cache_and_finds_the_same(
    storage, library, local, model, tmp_path, monkeypatch
):
    index = f"{storage.new_bucket()}/index"
    index_paths(library, index, model, workers=0)
    first = os.environ["VIDSIFT_CACHE"]
    assert hits(index, model) == hits(local, model)
    monkeypatch.setenv("VIDSIFT_CACHE", str(tmp_path / "other"))
    shutil.rmtree(first)
    assert hits(index, model) == hits(local, model)
    assert not os.path.exists(first)
    cached = tmp_path / "other" / "indexes" / read_config(index).index_id / "derived"
    assert os.listdir(cached) == [str(table_version(index))]
    assert rows(index) == rows(local)

    storage.answers.clear()
    hits(index, model)
    assert not [path for _, path, _ in storage.answers if path.endswith(".lance")], "vectors are at hand"


def test_the_commands_take_an_address(storage, library):
    index = f"{storage.new_bucket()}/index"

    def run(*words: str | Path) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*map(str, words), "--index", index, "--json"])
        assert done.exit_code == 0, done.output
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    files = sorted(library.glob("*.mp4"))[:2]
    assert run("index", *files, "--model", MODEL, "--workers", "0", "--quiet")["added"] == 2
    caption = next(c.text for n, c in zip(STORY.video_of, STORY.captions, strict=True) if n == 1)
    assert run("search", caption, "-k", "1")["hits"][0]["path"] in map(str, files)
    assert run("search", "--like", files[0])["hits"][0]["path"] == str(files[1])
    assert run("remove", files[0])["removed"] == 1
    assert run("compact")["clips"] == run("info")["clips"] == 1


def test_a_writer_killed_between_data_and_commit_leaves_a_whole_index(
    storage, library, local, model, tmp_path
):
    index = f"{storage.new_bucket()}/index"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    commits = 0
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(library), index], env=environment)

    def kill(method: str, path: str) -> int | None:
        nonlocal commits
        if method != "PUT" or "clips.lance/_versions/" not in path:
            return None
        commits += 1
        if commits < 4:  # the empty table, and two files
            return None
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        return 503

    storage.hook = kill
    assert writer.wait(120) == -signal.SIGKILL
    storage.hook = None
    assert commits == 4
    there = rows(local)
    assert rows(index) == there[:2]
    data = [name for name in list_objects(index, "clips.lance/data") if name.endswith(".lance")]
    assert len(data) == 3, "the third file's data had arrived"

    report = index_paths(library, index, model, workers=0)
    assert (report.unchanged, report.added) == (2, 2)
    assert rows(index) == there


@pytest.mark.parametrize("instant", ["creation", "commit"])
def test_two_writers_at_once_do_double_work_at_worst(storage, library, local, model, instant):
    """At the worst instant for the first writer, just before its put, the second one does all of its work."""
    index = f"{storage.new_bucket()}/index"
    files = sorted(library.glob("*.mp4"))
    # They found the index for other files, or commit the very same.
    ours = [library] if instant == "creation" else files[:2]
    puts = {"creation": 1, "commit": 2}[instant]
    others: list[Any] = []

    def meanwhile(method: str, path: str) -> None:
        nonlocal puts
        if method == "PUT" and "clips.lance/_versions/" in path:
            puts -= 1
            if puts == 0:
                storage.hook = None
                storage.answers.clear()
                others.append(index_paths(files[:2], index, model, workers=0))

    storage.hook = meanwhile
    report = index_paths(ours, index, model, workers=0)
    (other,) = others
    assert other.added == 2
    assert 412 in manifests(storage.answers), "the first writer's put came too late, and was refused"
    there = rows(local)[: len(ours) if instant == "commit" else 4]
    assert report.clips == len(there)
    assert rows(index) == there
    assert read_config(index).roots == tuple(map(str, ours))


def test_of_two_who_found_an_index_with_other_settings_one_is_refused(storage, library, model):
    index = f"{storage.new_bucket()}/index"
    windows = SegmentConfig("windows", 1.0, 2.0)

    def meanwhile(method: str, path: str) -> None:
        if method == "PUT" and "clips.lance/_versions/" in path:
            storage.hook = None
            index_paths(library, index, model, workers=0)

    storage.hook = meanwhile
    with pytest.raises(IndexStateError, match="are cut by shots"):
        index_paths(library, index, model, workers=0, segmentation=windows)
    assert len(Index.open(index)) == 4


def test_a_creation_that_broke_off_is_gone_on_with(storage, library, model):
    index = f"{storage.new_bucket()}/index"
    storage.hook = lambda method, path: 403 if method == "POST" and path.endswith("index.json") else None
    with pytest.raises(
        IndexStateError, match=f"^{index}: no permission at {storage.endpoint}: .*AWS_PROFILE"
    ):
        index_paths(library, index, model, workers=0)
    storage.hook = None
    assert list_objects(index), "the table is there"
    with pytest.raises(IndexNotFoundError, match="no index here"):
        Index.open(index)
    assert index_paths(library, index, model, workers=0).added == 4
    assert len(Index.open(index)) == 4


def test_what_keeps_it_from_being_reached_is_said_in_a_line_and_soon(storage, monkeypatch, tmp_path):
    bucket = storage.new_bucket()
    with pytest.raises(IndexStateError, match=r"^s3://nobody/x: there is no bucket 'nobody' at http://127"):
        Index.open("s3://nobody/x")
    with pytest.raises(
        IndexNotFoundError, match=f"^{bucket}/x: no index here; build one with: vidsift index"
    ):
        Index.open(f"{bucket}/x")
    for place in ("gs://bucket/x", "s3://bucket", "s3:///x", "s3://bucket/a/../b", "s3://bucket/x?y=z"):
        with pytest.raises(IndexStateError, match=r"an index lies in a folder, or at s3://BUCKET/PREFIX"):
            Index.open(place)
    with pytest.raises(IndexStateError, match="give an address as text"):
        Index.open(Path(f"{bucket}/x"))

    storage.hook = lambda method, path: 403
    with pytest.raises(IndexStateError, match="no permission"):
        Index.open(f"{bucket}/x")
    storage.hook = None

    began = time.monotonic()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(IndexStateError, match=r"at http://127\.0\.0\.1:9 does not answer; is AWS_ENDPOINT"):
        Index.open(f"{bucket}/x")
    assert time.monotonic() - began < 20
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example.org")
    with pytest.raises(IndexStateError, match="unencrypted; take an https endpoint, or set AWS_ALLOW_HTTP"):
        Index.open(f"{bucket}/x")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    assert storage_options("s3://b/x")["allow_http"] == "true"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://storage.example.org")
    assert storage_options("s3://b/x")["allow_http"] == "false"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "storage.example.org")
    with pytest.raises(IndexStateError, match="it looks like https://HOST:PORT"):
        storage_options("s3://b/x")
    assert storage_options(str(tmp_path)) is None
    assert locate(tmp_path / "a" / ".." / "b") == str(tmp_path / "b")


def test_another_model_and_a_strange_prefix_are_refused(storage, library, model):
    bucket = storage.new_bucket()
    index_paths(library / "story-00000.mp4", f"{bucket}/index", model, workers=0)
    with pytest.raises(ModelMismatchError):
        index_paths(library, f"{bucket}/index", "vidsift-tiny", workers=0)
    with pytest.raises(IndexStateError, match="is not empty"):
        index_paths(library, bucket + "/index/clips.lance", model, workers=0)
    assert len(Index.open(f"{bucket}/index")) == 1


def test_the_service_answers_from_its_cache_while_the_storage_is_away(
    storage, library, local, model, monkeypatch, caplog
):
    from fastapi.testclient import TestClient

    from vidsift.server.app import create_app
    from vidsift.server.settings import ServerSettings

    index = f"{storage.new_bucket()}/index"
    index_paths(library, index, model, workers=0)
    monkeypatch.setattr("vidsift.server.library.LOOK_FAR_EVERY", 0.0)
    with TestClient(create_app(ServerSettings(index)), base_url="http://127.0.0.1:8765") as client:
        assert client.get("/readyz").status_code == 200
        storage.hook = lambda method, path: 403
        answer = client.post("/api/v1/search", json={"query": STORY.captions[0].text, "k": 4})
        storage.hook = None
        assert [hit["path"] for hit in answer.json()["hits"]] == [
            f"{library.name}/{os.path.basename(hit['path'])}" for hit in hits(local, model)[0]
        ]
        assert "searches go on with what is known" in caplog.text
        remove_paths(library / "story-00000.mp4", index)
        assert len(client.get("/api/v1/videos").json()["videos"]) == 3
