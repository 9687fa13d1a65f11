"""The arrays grow with the table: appended to, never copied, and always what a build from nothing gives."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidsift.errors import IndexStateError
from vidsift.index import Index, building, codes, compact_index, scan
from vidsift.index.config import ModelSpec, read_config
from vidsift.index.derived import FOLDER, open_newest
from vidsift.index.lock import WriterLock, being_written
from vidsift.index.searcher import refresh_arrays
from vidsift.index.store import Store
from vidsift.ingest.pipeline import index_paths


def publish(folder: str, store: Store) -> None:
    refresh_arrays(folder, read_config(folder), store)


def frames_file(folder: str) -> Path:
    (version,) = os.listdir(os.path.join(folder, FOLDER))
    return Path(folder, FOLDER, version, "frames.i8")


def answers(index: Index, kit) -> list[dict]:
    found = []
    for seed in range(3):
        sentence = kit.unit(np.random.default_rng(seed).normal(size=kit.width))
        hits = index.search(sentence, k=999, candidates=999, group_by="clip").to_dict()["hits"]
        found.append([hit | {"moment": None} for hit in hits])
    return found


# What a step does: (file number, number of its clips or 0 to remove it, content it has).
STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, lists_from=st.sampled_from([17, 25, 10**9]))
def test_growing_arrays_are_those_of_a_build_from_nothing(kit, steps, lists_from, monkeypatch):
    monkeypatch.setattr(codes, "COMPRESS_FROM", 17)
    monkeypatch.setattr(codes, "IVF_FROM", lists_from)
    monkeypatch.setattr(codes, "_PER_LIST", 8)
    with tempfile.TemporaryDirectory() as name:
        folder = os.path.join(name, "index")
        Index.create(folder, ModelSpec("fake", kit.fingerprint, kit.width, kit.frames))
        store, held = Store.open(folder, kit.fingerprint), set()
        for step in steps:
            for number, clips, content in step:
                path = f"/lib/{number}.mp4"
                if clips:
                    records = [kit.clip(10 * content + i, 4.0 * i) for i in range(clips)]
                    store.replace_files([(kit.file(path, clips), records)], known=path in held)
                    held.add(path)
                elif path in held:
                    store.remove_files([path])
                    held.discard(path)
            publish(folder, store)
        grown = Index.open(folder)
        scanned = grown._arrays.scan
        size = len(grown)
        assert scanned.kind == ("exact" if size < 17 else "compressed" if size < lists_from else "ivf")
        rows = np.arange(size)
        if scanned.kind == "ivf":
            assert scanned.lists.sum() == size
            for vector in scanned.vectors(rows):
                assert scanned.pick(vector, size)[0].tolist() == rows.tolist()
        elif scanned.kind == "compressed":
            near = np.stack([scanned.codes.reconstruct(int(row)) for row in rows])
            told = kit.unit(near) @ scanned.vectors(rows).T
            assert (told.diagonal() >= told.max(1) - 0.35).all(), "a row's code is that of its vector"
        found = answers(grown, kit)
        shutil.rmtree(os.path.join(folder, FOLDER))
        assert answers(Index.open(folder), kit) == found


def test_a_scan_in_int8_grows_and_changes_its_precision_with_the_size(library, kit, monkeypatch):
    monkeypatch.setattr(scan, "INT8_FROM", 100)
    folder, store, _ = library
    publish(folder, store)
    seen = []
    for first in (1000, 1100):
        files = [(kit.file(f"/lib/x{i}.mp4"), [kit.clip(i)]) for i in range(first, first + 40)]
        store.replace_files(files, known=False)
        publish(folder, store)
        seen.append(Index.open(folder))
    assert [(len(index), index._arrays.scan.precision) for index in seen] == [(120, "int8"), (160, "int8")]
    grown = {(hit["path"], hit["start"]): hit["score"] for hit in answers(seen[1], kit)[0]}
    monkeypatch.setattr(scan, "INT8_FROM", 10**9)
    store.remove_files(["/lib/00.mp4"])
    publish(folder, store)
    back = Index.open(folder)
    assert back._arrays.scan.precision == "fp16", "made again from the table, not from int8"
    exact = {(hit["path"], hit["start"]): hit["score"] for hit in answers(back, kit)[0]}
    assert set(exact) == set(grown) - {("/lib/00.mp4", 0.0)}
    assert max(abs(exact[key] - grown[key]) for key in exact) < 0.01


def test_new_clips_are_appended_and_open_indexes_keep_theirs(library, kit):
    folder, store, index = library
    publish(folder, store)
    before = frames_file(folder)
    inode, size, seen = before.stat().st_ino, before.stat().st_size, answers(index, kit)
    store.replace_files([(kit.file("/lib/new.mp4", 2), [kit.clip(500), kit.clip(501, 4.0)])], known=False)
    store.remove_files(["/lib/03.mp4"])
    publish(folder, store)
    after = frames_file(folder)
    assert after.stat().st_ino == inode, "the same file under another name"
    assert after.stat().st_size == size + 2 * kit.frames * kit.width
    assert answers(index, kit) == seen
    assert index.refresh()
    assert len(index) == 81


def test_what_a_killed_writer_appended_is_passed_over(library, kit):
    folder, store, _ = library
    publish(folder, store)
    with frames_file(folder).open("ab") as out:
        out.write(b"\x7f" * (3 * kit.frames * kit.width + 5))
    store.replace_files([(kit.file("/lib/new.mp4"), [kit.clip(500)])], known=False)
    publish(folder, store)
    grown = answers(Index.open(folder), kit)
    assert frames_file(folder).stat().st_size % (kit.frames * kit.width) == 0
    shutil.rmtree(os.path.join(folder, FOLDER))
    assert answers(Index.open(folder), kit) == grown


def test_a_table_that_is_read_in_another_order_gives_the_same(library, kit, monkeypatch):
    folder, _, index = library
    seen = answers(index, kit)
    usual, turns = Store.clip_batches, []

    def shuffled(self, columns):
        found = next(iter(usual(self, columns)))
        turns.append(len(turns))
        yield found.take(np.random.default_rng(turns[-1]).permutation(len(found)))

    monkeypatch.setattr(Store, "clip_batches", shuffled)
    shutil.rmtree(os.path.join(folder, FOLDER))
    assert answers(Index.open(folder), kit) == seen
    assert len(turns) == 2


def test_the_latest_index_is_another_object_only_when_there_is_something_new(library, kit):
    _, store, index = library
    assert index.latest() is index
    store.remove_files(["/lib/03.mp4"])
    later = index.latest()
    assert (len(index), len(later)) == (80, 79)
    assert later.latest() is later


def test_a_file_system_without_second_names_gets_a_copy(library, kit, monkeypatch):
    folder, store, _ = library
    publish(folder, store)

    def refused(source: str, target: str) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(building.os, "link", refused)
    store.replace_files([(kit.file("/lib/new.mp4"), [kit.clip(500)])], known=False)
    publish(folder, store)
    assert len(answers(Index.open(folder), kit)[0]) == 81


def test_compaction_drops_what_was_removed_and_answers_the_same(library, kit):
    folder, store, _ = library
    for i in range(20):
        store.replace_files([(kit.file(f"/lib/more{i}.mp4"), [kit.clip(600 + i)])], known=False)
    store.remove_files(["/lib/film.mp4"])
    publish(folder, store)
    seen = answers(Index.open(folder), kit)
    done = compact_index(folder)
    assert done.clips == 50
    assert done.fragments[0] > 20 > done.fragments[1]
    assert frames_file(folder).stat().st_size == 50 * kit.frames * kit.width
    assert answers(Index.open(folder), kit) == seen


def test_much_that_was_removed_is_dropped_without_being_asked(library, kit):
    folder, store, _ = library
    publish(folder, store)
    store.remove_files(["/lib/film.mp4"])
    publish(folder, store)
    store.replace_files([(kit.file("/lib/new.mp4"), [kit.clip(500)])], known=False)
    publish(folder, store)
    assert frames_file(folder).stat().st_size == 31 * kit.frames * kit.width


def test_codes_are_learnt_anew_once_the_index_has_doubled(library, kit, monkeypatch):
    monkeypatch.setattr(codes, "COMPRESS_FROM", 40)
    folder, store, _ = library
    shutil.rmtree(os.path.join(folder, FOLDER))
    learnt = []
    for first in (1000, 1100, 1200):
        publish(folder, store)
        learnt.append(open_newest(folder, read_config(folder).index_id).trained)
        files = [(kit.file(f"/lib/x{i}.mp4"), [kit.clip(i)]) for i in range(first, first + 60)]
        store.replace_files(files, known=False)
    assert learnt == [80, 80, 200]


def test_while_a_writer_is_at_work_readers_take_the_arrays_that_are_there(library, kit):
    folder, store, index = library
    publish(folder, store)
    with WriterLock(folder):
        assert being_written(folder)
        store.remove_files(["/lib/03.mp4"])
        assert len(Index.open(folder)) == 80
        assert not index.refresh()
    assert not being_written(folder)
    assert len(Index.open(folder)) == 79, "nobody writes: the reader builds what is missing"


def test_readers_that_look_never_make_a_writer_think_that_another_one_writes(library):
    folder = library[0]
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            being_written(folder)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(100):
            with WriterLock(folder):
                pass
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_a_second_writer_is_refused_by_name(library, tmp_path):
    folder = library[0]
    (tmp_path / "a.mp4").write_bytes(b"x")
    with WriterLock(folder), pytest.raises(IndexStateError, match=r"another process is writing.*process \d+"):
        compact_index(folder)
    with WriterLock(folder), pytest.raises(IndexStateError, match="another process is writing"):
        index_paths(tmp_path, folder)


@pytest.mark.system
def test_the_program_compacts(library):
    folder = library[0]
    program = Path(sys.executable).with_name("vidsift")
    done = subprocess.run([program, "compact", "--index", folder, "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout)["clips"] == 80
