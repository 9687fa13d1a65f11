"""Which files are looked at, whatever they are called and however they are reached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vidsift.errors import SourceError
from vidsift.ingest.walk import normalise, walk


def names(root: Path, **settings: str) -> list[str]:
    found = walk([str(root)], avoid=settings.get("avoid", "/nonexistent"))
    return [os.path.relpath(candidate.path, root) for candidate in found.candidates]


@pytest.fixture
def lib(tmp_path: Path) -> Path:
    folder = tmp_path / "lib"
    folder.mkdir()
    return folder


def test_media_extensions_count_in_any_case_and_nothing_else_does(lib):
    for name in ("a.mp4", "b.MKV", "c.WebM", "d.mp3", "README.md", "e.mp4.txt", "mp4", "f.srt"):
        (lib / name).write_bytes(b"x")
    assert names(lib) == ["a.mp4", "b.MKV", "c.WebM", "d.mp3"]


def test_a_file_named_by_the_user_is_always_a_candidate(lib):
    (lib / "film").write_bytes(b"x")
    (candidate,) = walk([str(lib / "film")], "/nonexistent").candidates
    assert candidate.path == str(lib / "film")


def test_hidden_files_and_folders_are_passed_over(lib):
    (lib / ".trash").mkdir()
    for name in (".trash/a.mp4", "._b.mp4", ".c.mp4", "d.mp4"):
        (lib / name).write_bytes(b"x")
    assert names(lib) == ["d.mp4"]


@pytest.mark.parametrize("name", ["a.ts", "a.MTS"])
def test_typescript_is_not_a_transport_stream(lib, name):
    (lib / name).write_text("export const G = 'G';\n" * 40)
    assert names(lib) == []
    for packet in (b"G" + bytes(187), bytes(4) + b"G" + bytes(187)):
        (lib / name).write_bytes(packet * 3)
        assert names(lib) == [name]


ODD = [
    b"two words.mp4",
    "新しい 🎬.mp4".encode(),
    b"line\nbreak.mp4",
    b"x" * 251 + b".mp4",
    b"\xff\xfe.mp4",
    b"-rf.mp4",
]


def test_odd_names_and_nested_folders_are_found(lib):
    deep = lib / "a" / "b c" / "d"
    deep.mkdir(parents=True)
    for name in ODD:
        with open(os.path.join(os.fsencode(deep), name), "wb") as out:
            out.write(b"x")
    found = walk([str(lib)], "/nonexistent").candidates
    assert [os.fsencode(os.path.basename(c.path)) for c in found] == sorted(ODD)


def test_links_are_followed_but_a_physical_folder_is_walked_once(lib, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.mp4").write_bytes(b"x")
    (lib / "linked").symlink_to(elsewhere)
    (lib / "again").symlink_to(elsewhere)
    (lib / "loop").symlink_to(lib)
    (elsewhere / "back").symlink_to(lib)
    (lib / "b.mp4").symlink_to(elsewhere / "a.mp4")
    assert names(lib) == ["again/a.mp4", "b.mp4"]


def test_the_real_folder_comes_before_a_link_to_it(lib):
    (lib / "z").mkdir()
    (lib / "z" / "a.mp4").write_bytes(b"x")
    (lib / "a").symlink_to(lib / "z")
    assert names(lib) == ["z/a.mp4"]


def test_what_is_not_a_regular_file_is_never_opened(lib):
    os.mkfifo(lib / "a.mp4")
    os.mkfifo(lib / "b.ts")
    (lib / "c.mp4").mkdir()
    (lib / "c.mp4" / "d.mp4").write_bytes(b"x")
    found = walk([str(lib)], "/nonexistent").candidates
    assert [(os.path.relpath(c.path, lib), c.problem) for c in found] == [
        ("a.mp4", "is not a regular file"),
        ("b.ts", "is not a regular file"),
        ("c.mp4/d.mp4", None),
    ]


def test_links_that_lead_nowhere_are_noted(lib):
    (lib / "a.mp4").symlink_to(lib / "gone.mp4")
    (lib / "disk").symlink_to("/nonexistent/disk")
    (lib / "self.mp4").symlink_to(lib / "self.mp4")
    found = walk([str(lib)], "/nonexistent")
    assert found.candidates == []
    assert sorted(map(os.path.basename, found.dangling)) == ["a.mp4", "disk", "self.mp4"]


def test_the_index_folder_inside_a_root_is_not_walked(lib):
    (lib / "index").mkdir()
    (lib / "index" / "x.mp4").write_bytes(b"x")
    assert names(lib, avoid=str(lib / "index")) == []


def test_a_folder_that_cannot_be_listed_is_noted_and_a_root_is_an_error(lib, monkeypatch):
    (lib / "closed").mkdir()
    (lib / "a.mp4").write_bytes(b"x")
    real = os.scandir

    def scandir(path):
        if str(path) == str(lib / "closed"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    found = walk([str(lib)], "/nonexistent")
    assert found.unreadable == {str(lib / "closed"): "Permission denied"}
    assert len(found.candidates) == 1
    with pytest.raises(SourceError, match="Permission denied"):
        walk([str(lib / "closed")], "/nonexistent")


def test_paths_inside_others_are_dropped_and_missing_ones_named(lib, monkeypatch):
    (lib / "sub").mkdir()
    (lib / "subway").mkdir()
    monkeypatch.chdir(lib)
    assert normalise(["sub", lib / "sub" / "..", "subway/"]) == [str(lib)]
    assert normalise(["subway", "sub"]) == [str(lib / "sub"), str(lib / "subway")]
    with pytest.raises(SourceError, match=r"gone.*vidsift remove"):
        normalise([lib, lib / "gone"])
    with pytest.raises(SourceError, match="at least one"):
        normalise([])
