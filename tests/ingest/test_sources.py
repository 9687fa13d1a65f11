"""Videos at addresses are indexed as those in folders are.

s3:// is moto's server on loopback, which stands in for S3 (`tests/conftest.py`).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vidsift.errors import SourceError
from vidsift.index import Filter, Index
from vidsift.index.store import Store
from vidsift.ingest import IngestReport, index_paths, remove_paths
from vidsift.ingest.plan import fingerprint
from vidsift.ingest.reading import Failed, Opened, ReadSettings, read_file
from vidsift.ingest.sources import BLOCK, list_below
from vidsift.video import Geometry, SegmentConfig


@pytest.fixture
def bucket(storage: Any) -> SimpleNamespace:
    """An empty bucket: `at`, its address, `put(name, content)` and `delete(name)`."""
    import boto3

    at = storage.new_bucket()
    client = boto3.client("s3", endpoint_url=storage.endpoint, region_name="us-east-1")
    name = at.removeprefix("s3://")
    return SimpleNamespace(
        at=at,
        put=lambda key, content: client.put_object(Bucket=name, Key=key, Body=content),
        delete=lambda key: client.delete_object(Bucket=name, Key=key),
        storage=storage,
    )


@pytest.fixture
def videos(tmp_path: Path, video: Any) -> dict[str, bytes]:
    """Three small mp4 files."""
    made = {}
    for seed, name in enumerate(("a", "b", "c")):
        video(tmp_path / f"{name}.mp4", seed)
        made[name] = (tmp_path / f"{name}.mp4").read_bytes()
    return made


def counts(report: IngestReport) -> dict[str, int]:
    named = {key: value for key, value in report.to_dict().items() if type(value) is int and value}
    return {key: value for key, value in named.items() if key != "clips"}


def rows(index: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of the table without what is different for a file that lies elsewhere."""
    opened = Index.open(index)
    found = Store.open(opened.folder, opened.model.fingerprint).rows(list(opened.files()))
    for row in found.sort_by("fingerprint").to_pylist():
        yield {k: v for k, v in row.items() if k not in ("path", "file_id", "mtime_ns")}


def test_a_bucket_is_indexed_and_kept_up_with_like_a_folder(bucket, videos, model, tmp_path):
    lib, index = f"{bucket.at}/some/videos", tmp_path / "index"
    for name, content in videos.items():
        bucket.put(f"some/videos/deep er/{name}.MP4", content)
    bucket.put("some/videos/notes.txt", b"no video")
    bucket.put("some/videos/.hidden/d.mp4", videos["a"])
    bucket.put("some/videos/script.ts", b"let it: string;")
    bucket.put("some/videos/broken.mp4", b"no video")
    bucket.put("some/videos-of-others/d.mp4", videos["a"])
    report = index_paths(lib + "/", index, model, workers=1)
    assert counts(report) == {"added": 3}
    assert [(p.path, p.reason[:26]) for p in report.failed] == [
        (f"{lib}/broken.mp4", "cannot be opened as a vide")
    ]
    (tmp_path / "here" / "broken.mp4").parent.mkdir()
    (tmp_path / "here" / "broken.mp4").write_bytes(b"no video")
    for name in "abc":
        shutil.copy(tmp_path / f"{name}.mp4", tmp_path / "here")
    index_paths(tmp_path / "here", tmp_path / "of-here", model, workers=0)
    assert list(rows(index)) == list(rows(tmp_path / "of-here")), "bit for bit"

    bucket.storage.answers.clear()
    assert counts(index_paths(lib, index, model, workers=1)) == {"unchanged": 3}
    gets = [path for method, path, _ in bucket.storage.answers if method == "GET" and path.endswith(".MP4")]
    assert not gets, "a second run opens nothing"

    bucket.put("some/videos/moved.mp4", videos["a"])
    bucket.delete("some/videos/deep er/a.MP4")
    bucket.delete("some/videos/deep er/b.MP4")
    bucket.put("some/videos/deep er/c.MP4", videos["b"] + b"\x00" * 100)
    report = index_paths(lib, index, model, workers=0)
    assert counts(report) == {"renamed": 1, "removed": 1, "updated": 1}
    assert sorted(Index.open(index).files()) == [
        f"{lib}/{name}" for name in ("broken.mp4", "deep er/c.MP4", "moved.mp4")
    ]
    opened = Index.open(index)
    assert opened.config.roots == (lib,)
    only = opened.search(opened.vector(f"{lib}/moved.mp4"), where=Filter((f"{lib}/deep er",)))
    assert [hit.path for hit in only.hits] == [f"{lib}/deep er/c.MP4"]
    assert remove_paths(f"{lib}/deep er/", index).removed == 1


def test_an_empty_or_missing_place_changes_nothing(bucket, videos, model, tmp_path, monkeypatch):
    lib, index = f"{bucket.at}/videos", tmp_path / "index"
    bucket.put("videos/a.mp4", videos["a"])
    index_paths(lib, index, model, workers=0)
    bucket.delete("videos/a.mp4")
    for place, told in (
        (lib, "no such file or folder"),
        ("s3://nobody/videos", "no such file or folder"),
        ("s3x://bucket/videos", "Protocol not known"),
        ("s3://name:secret@bucket/videos", "^s3://bucket/videos: was given with a password"),
    ):
        with pytest.raises(SourceError, match=told):
            index_paths(place, index, model, workers=0)
    bucket.storage.hook = lambda method, path: 403
    with pytest.raises(SourceError, match=f"^{lib}: cannot be read .*Nothing was changed"):
        index_paths(lib, index, model, workers=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match=f"^{lib}: cannot be read .*127.0.0.1:9"):
        index_paths(lib, index, model, workers=0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://storage.example.org")
    with pytest.raises(SourceError, match=r"cannot be read \(http://storage\.example\.org: .*unencrypted"):
        index_paths(lib, index, model, workers=0)
    assert len(Index.open(index)) == 1


def test_a_network_that_fails_is_no_damaged_file(bucket, videos, model, tmp_path):
    index = tmp_path / "index"
    for name, content in videos.items():
        bucket.put(f"videos/{name}.mp4", content)

    def fail(method: str, path: str) -> int | None:
        nonlocal gets
        if method != "GET" or not path.endswith("b.mp4"):
            return None
        gets += 1
        return 403 if gets > 1 else None  # the first one is for the fingerprint

    gets = 0
    bucket.storage.hook = fail
    report = index_paths(f"{bucket.at}/videos", index, model, workers=0)
    assert counts(report) == {"added": 2}
    assert [p.path for p in report.failed] == [f"{bucket.at}/videos/b.mp4"]
    assert report.failed[0].reason.startswith("cannot be fetched: ")
    bucket.storage.hook = None
    report = index_paths(f"{bucket.at}/videos", index, model, workers=0)
    assert counts(report) == {"unchanged": 2, "updated": 1}
    assert not report.failed


def test_content_has_one_fingerprint_wherever_it_lies(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for size in (0, 100_000, (16 << 20) + 1):
        content = bytes(range(256)) * (size // 256 + 1)
        (tmp_path / "a.mp4").write_bytes(content[:size])
        memory.pipe_file("/prints/a.mp4", content[:size])
        assert fingerprint("memory://prints/a.mp4", size) == fingerprint(str(tmp_path / "a.mp4"), size)
    assert [(file.address, file.size) for file in list_below("memory://prints")] == [
        ("memory://prints/a.mp4", size)
    ]


def test_a_long_fetch_gives_signs_of_life(monkeypatch):
    import fsspec

    monkeypatch.setattr("vidsift.ingest.sources.BLOCK", 1000)
    assert BLOCK > 1000
    fsspec.filesystem("memory").pipe_file("/long/a.mp4", b"x" * 3500)
    settings = ReadSettings(2, Geometry(8, "crop"), SegmentConfig())
    *waiting, last = read_file("memory://long/a.mp4", settings)
    assert waiting == [Opened(0.0)] * 4
    assert isinstance(last, Failed)
    assert not last.again
    (gone,) = read_file("memory://long/b.mp4", settings)
    assert gone == Failed("cannot be fetched: No such file or directory", again=True) or gone.again


def test_without_its_client_an_address_says_what_to_install(monkeypatch, model, tmp_path):
    import fsspec  # noqa: F401

    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SourceError, match=r"s3:// cannot be read: .*pip install 'vidsift\[remote\]'"):
        index_paths("s3://bucket/videos", tmp_path / "index", model)
