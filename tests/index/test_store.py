"""The store of record: what a commit promises."""

from __future__ import annotations

import os

import pytest

from vidsift.errors import IndexNotFoundError, IndexStateError
from vidsift.index import Index
from vidsift.index.config import read_config, write_config
from vidsift.index.founding import create_files
from vidsift.index.lock import WriterLock
from vidsift.index.store import Store
from vidsift.index.versions import table_version

ODD_NAMES = [
    "/lib/two words.mp4",
    '/lib/it\'s "quoted"; DROP TABLE clips.mp4',
    "/lib/新しい 🎬.mkv",
    "/lib/line\nbreak.mp4",
    "/lib/" + "x" * 200 + ".mp4",
    "/lib/" + os.fsdecode(b"not-utf8-\xff\xfe.mp4"),
    "/lib/literal-\\xff\\xfe.mp4",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_file_name_comes_back_as_it_was(new_store, kit, name):
    folder, store = new_store()
    store.replace_files([(kit.file(name), [kit.clip(1)]), (kit.file("/lib/b.mp4"), [kit.clip(2)])], False)
    assert store.files()[name] == kit.file(name)
    assert name in {hit.path for hit in Index.open(folder).search([1.0] * kit.width).hits}
    store.remove_files([name])
    assert list(store.files()) == ["/lib/b.mp4"]


def test_replacing_a_file_is_one_version_and_leaves_the_others(library, kit):
    _, store, _ = library
    before = store.version
    store.replace_files([(kit.file("/lib/film.mp4", 2), [kit.clip(900), kit.clip(901, 4.0)])], known=True)
    assert store.version == before + 1
    assert store.count_clips() == 32
    rows = store.rows(["/lib/film.mp4"]).to_pylist()
    assert sorted(row["clip_id"] for row in rows) == [f"{900:032x}", f"{901:032x}"]


def test_good_and_failed_files_can_replace_others_in_one_step(library, kit):
    _, store, _ = library
    failed = kit.file("/lib/01.mp4", 0, "failed", "cut off")
    store.replace_files([(failed, []), (kit.file("/lib/02.mp4"), [kit.clip(77)])], known=True)
    assert store.files()["/lib/01.mp4"] == failed
    assert store.rows(["/lib/01.mp4"]).column("coarse").to_pylist() == [None]
    assert store.rows(["/lib/02.mp4"]).column("clip_id").to_pylist() == [f"{77:032x}"]
    assert store.count_clips() == 79


def test_a_vector_that_is_not_finite_is_refused(library, kit):
    _, store, _ = library
    clip = kit.clip(1)
    clip.vectors.coarse[3] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        store.replace_files([(kit.file("/lib/x.mp4"), [clip])], known=False)


def test_a_move_keeps_every_vector_and_leaves_no_row_behind(library, kit):
    _, store, _ = library
    before = store.rows(["/lib/film.mp4"]).sort_by("clip").to_pylist()
    store.move_files(
        store.pinned(), [("/lib/film.mp4", kit.file("/lib/neu/film.mp4", 50))], ["/lib/film.mp4"]
    )
    after = store.rows(["/lib/neu/film.mp4"]).sort_by("clip").to_pylist()
    address = {"path", "path_bytes", "file_id", "size", "mtime_ns"}
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in address} == {
            k: v for k, v in new.items() if k not in address
        }
    assert store.rows(["/lib/film.mp4"]).num_rows == 0
    assert store.count_clips() == 80


def test_many_moves_commit_in_parts_of_bounded_size(library, kit, monkeypatch):
    _, store, _ = library
    monkeypatch.setattr("vidsift.index.store.CHUNK", 7)
    monkeypatch.setattr("vidsift.index.store.CHUNK_CLIPS", 20)
    old = sorted(path for path, record in store.files().items() if record.clips)
    before = store.version
    moves = [(path, kit.file(f"/neu{path}", 50 if "film" in path else 1)) for path in old]
    store.move_files(store.pinned(), moves, old)
    assert store.version == before + 6, "thirty files by sevens, and the film by itself"
    assert sorted(path for path, record in store.files().items() if record.clips) == [f"/neu{p}" for p in old]
    assert store.count_clips() == 80


def test_two_files_can_swap_names_in_one_step(library, kit):
    _, store, _ = library
    source = store.pinned()
    a, b = "/lib/01.mp4", "/lib/02.mp4"
    store.move_files(source, [(a, kit.file(b)), (b, kit.file(a))], [])
    assert store.rows([a]).column("clip_id").to_pylist() == [f"{2:032x}"]
    assert store.rows([b]).column("clip_id").to_pylist() == [f"{1:032x}"]
    assert store.count_clips() == 80


def test_the_version_read_from_the_folder_is_the_tables_own(library):
    folder, store, _ = library
    assert table_version(folder) == store.version
    store.remove_files(["/lib/03.mp4"])
    assert table_version(folder) == store.version


def test_tidying_changes_nothing_that_can_be_read(new_store, kit):
    folder, store = new_store()
    for i in range(40):
        store.replace_files([(kit.file(f"/lib/{i}.mp4"), [kit.clip(i)])], known=False)
    before = store.rows([f"/lib/{i}.mp4" for i in range(40)]).sort_by("path")
    store.tidy()
    after = store.rows([f"/lib/{i}.mp4" for i in range(40)]).sort_by("path")
    assert before.equals(after)
    assert store._table.stats()["fragment_stats"]["num_small_fragments"] < 40
    assert len(Index.open(folder)) == 40


def test_a_second_writer_is_told_who_the_first_one_is(tmp_path):
    folder = str(tmp_path)
    with WriterLock(folder), pytest.raises(IndexStateError, match=f"process {os.getpid()} on "):
        WriterLock(folder).__enter__()
    with WriterLock(folder):
        pass


def test_opening_what_is_no_index_says_how_to_make_one(tmp_path):
    with pytest.raises(IndexNotFoundError, match="vidsift index"):
        Index.open(tmp_path / "nothing")


def test_an_index_is_never_made_over_other_files(tmp_path, library):
    config = library[2].config
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    for folder in (str(tmp_path / "full"), library[0]):
        with pytest.raises(IndexStateError, match="not empty"):
            create_files(folder, config.model, config.segmentation, config.search)


def test_a_creation_that_was_killed_can_be_repeated(tmp_path, library):
    config = library[2].config
    folder = str(tmp_path / "half")
    create_files(folder, config.model, config.segmentation, config.search)
    os.remove(os.path.join(folder, "index.json"))
    create_files(folder, config.model, config.segmentation, config.search)
    assert len(Index.open(folder)) == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}', b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_or_foreign_configuration_is_named(library, content):
    folder = library[0]
    with open(os.path.join(folder, "index.json"), "wb") as out:
        out.write(content)
    with pytest.raises(IndexStateError, match=r"index\.json"):
        Index.open(folder)


def test_the_configuration_round_trips_with_any_root(library):
    folder = library[0]
    config = read_config(folder).with_root("/lib/a b").with_root(os.fsdecode(b"/lib/\xff"))
    write_config(folder, config)
    assert read_config(folder) == config


def test_roots_swallow_what_lies_inside_them(library):
    config = read_config(library[0])
    assert config.with_root("/a/b").with_root("/a/c").with_root("/a").roots == ("/a",)
    assert config.with_root("/a").with_root("/a/b").roots == ("/a",)
    assert config.with_root("/a").with_root("/ab").roots == ("/a", "/ab")
    assert config.with_root("/a/b").with_root("/c").without_root("/a").roots == ("/c",)


@pytest.mark.parametrize("damage", ["no table", "no versions", "garbled manifest", "no data"])
def test_a_damaged_table_is_an_error_that_names_the_folder(library, damage):
    folder = library[0]
    table = os.path.join(folder, "clips.lance")
    versions = os.path.join(table, "_versions")
    if damage == "no table":
        os.rename(table, table + ".gone")
    elif damage == "no versions":
        for name in os.listdir(versions):
            os.remove(os.path.join(versions, name))
    elif damage == "garbled manifest":
        with open(os.path.join(versions, min(n for n in os.listdir(versions) if n[0] == "1")), "wb") as out:
            out.write(b"garbage")
    else:
        for name in os.listdir(os.path.join(table, "data")):
            os.remove(os.path.join(table, "data", name))
    for path in os.listdir(os.path.join(folder, "derived")):
        os.rename(os.path.join(folder, "derived", path), os.path.join(folder, path + ".tmp"))
    with pytest.raises(IndexStateError, match=folder):
        Index.open(folder)


def test_a_store_of_half_a_file_cannot_be_written(new_store, kit):
    _, store = new_store()
    with pytest.raises(ValueError, match="announced"):
        store.replace_files([(kit.file("/lib/film.mp4", 3), [kit.clip(1)])], known=False)


def test_a_pinned_store_does_not_see_later_writes(library):
    folder, store, _ = library
    pinned = store.pinned()
    store.remove_files(["/lib/00.mp4"])
    assert pinned.rows(["/lib/00.mp4"]).num_rows == 1
    assert Store.open(folder, "").rows(["/lib/00.mp4"]).num_rows == 0


def test_no_files_have_no_rows(new_store):
    _, store = new_store()
    assert store.rows([]).num_rows == 0
