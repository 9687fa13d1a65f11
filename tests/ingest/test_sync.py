"""A run brings the index to what the folder holds: nothing lost, nothing encoded twice, nothing silent."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidsift.errors import IndexNotFoundError, IndexStateError, ModelMismatchError, SourceError
from vidsift.index import Index
from vidsift.index.config import read_config, write_config
from vidsift.index.lock import WriterLock
from vidsift.index.store import Store
from vidsift.ingest import IngestReport, index_paths, remove_paths
from vidsift.ingest.plan import BLOCK_BYTES, WHOLE_BYTES, fingerprint
from vidsift.video import SegmentConfig


def counts(report: IngestReport) -> dict[str, int]:
    named = {key: value for key, value in report.to_dict().items() if type(value) is int and value}
    return {key: value for key, value in named.items() if key != "clips"}


def content(place) -> dict[str, list[bytes]]:
    """Path below the library -> the thumbnails of its clips, straight from the table."""
    index = Index.open(place.index)
    found: dict[str, list[bytes]] = {}
    rows = index._store().rows(list(index.files())).sort_by("clip").to_pylist()
    for row in rows:
        path = os.fsdecode(row["path_bytes"] or row["path"].encode())
        clips = found.setdefault(os.path.relpath(path, place.lib), [])
        if row["clip_id"]:
            clips.append(row["thumbnail"])
    assert len(index) == sum(map(len, found.values()))
    return found


def jpegs(word: str, n: int) -> list[bytes]:
    return [f"jpeg {word} {i}".encode() for i in range(n)]


def test_a_run_adds_updates_removes_and_leaves_the_rest(place):
    for name in "abcd":
        place.put(f"{name}.mp4", f"{name} 2")
    assert counts(place.sync()) == {"added": 4}
    place.put("b.mp4", "new 3")
    os.remove(place.lib / "c.mp4")
    place.put("sub/e.mp4", "e 1")
    report = place.sync()
    assert counts(report) == {"added": 1, "updated": 1, "removed": 1, "unchanged": 2}
    assert report.clips == 8
    expected = {"a": ("a", 2), "b": ("new", 3), "d": ("d", 2), "sub/e": ("e", 1)}
    assert content(place) == {f"{name}.mp4": jpegs(*clips) for name, clips in expected.items()}


def test_a_second_run_does_no_work_and_tells_the_problems_again(place, monkeypatch):
    place.put("a.mp4", "a 2")
    place.put("b.mp4", "nonsense")
    place.put("c.mp4", "partial c 1")
    os.mkfifo(place.lib / "d.mp4")
    first = place.sync()
    problems = [("b.mp4", "is not a video"), ("d.mp4", "is not a regular file")]
    assert [(os.path.basename(p.path), p.reason) for p in first.failed] == problems
    assert [(os.path.basename(p.path), p.reason) for p in first.partial] == [
        ("c.mp4", "cut short; kept what came before")
    ]
    assert counts(first) == {"added": 2}
    version = Index.open(place.index).version

    def touched(*args):
        raise AssertionError("a run without changes must not open a file")

    monkeypatch.setattr("vidsift.ingest.decode.read_file", touched)
    monkeypatch.setattr("vidsift.ingest.plan.fingerprint", touched)
    second = place.sync()
    assert (second.failed, second.partial, second.clips) == (first.failed, first.partial, first.clips)
    assert counts(second) == {"unchanged": 2}
    assert Index.open(place.index).version == version


def test_a_renamed_file_is_not_encoded_again(place):
    place.put("a.mp4", "a 2")
    place.put("b.mp4", "b 1")
    place.sync()
    before = content(place)["a.mp4"]
    seen = place.model.clips
    os.makedirs(place.lib / "neu")
    os.rename(place.lib / "a.mp4", place.lib / "neu" / "ä.mp4")
    assert counts(place.sync()) == {"renamed": 1, "unchanged": 1}
    assert content(place) == {"neu/ä.mp4": before, "b.mp4": jpegs("b", 1)}
    assert place.model.clips == seen


def test_a_renamed_folder_keeps_every_file(place):
    for i in range(20):
        place.put(f"old/{i}.mp4", f"v{i} 1")
    place.sync()
    os.rename(place.lib / "old", place.lib / "new")
    assert counts(place.sync()) == {"renamed": 20}
    assert set(content(place)) == {f"new/{i}.mp4" for i in range(20)}
    assert place.model.clips == 20


def test_copies_are_all_found_and_encoded_once(place):
    place.put("a.mp4", "same 2")
    place.put("b.mp4", "same 2")
    assert counts(place.sync()) == {"added": 2}
    place.put("c.mp4", "same 2")
    assert counts(place.sync()) == {"added": 1, "unchanged": 2}
    assert place.model.clips == 2
    index = Index.open(place.index)
    hits = index.search([1.0] * 16, collapse=False).hits
    assert [os.path.basename(hit.path) for hit in hits] == ["a.mp4", "b.mp4", "c.mp4"]
    (hit,) = index.search([1.0] * 16).hits
    assert os.path.basename(hit.path) == "a.mp4"
    assert [os.path.basename(other.path) for other in hit.alike] == ["b.mp4", "c.mp4"]
    os.remove(place.lib / "a.mp4")
    assert counts(place.sync()) == {"removed": 1, "unchanged": 2}


def test_a_run_that_only_removes_needs_no_model(place, caplog):
    for i in range(4):
        place.put(f"{i}.mp4", f"v{i} 2")
    place.sync()
    config = read_config(str(place.index))
    assert config.background is not None
    assert (config.background.clips, config.background.sentences) == (8, 20)
    for i in range(3):
        os.remove(place.lib / f"{i}.mp4")
    # The index's own model, "fake", cannot be loaded by its name.
    assert counts(index_paths(place.lib, place.index)) == {"removed": 3, "unchanged": 1}
    assert not caplog.records
    # An index that an older version wrote says nothing about sureness, and why not.
    write_config(str(place.index), replace(read_config(str(place.index)), background=None))
    assert counts(index_paths(place.lib, place.index)) == {"unchanged": 1}
    assert "how sure" in caplog.text
    assert Index.open(place.index).search([1.0] * 16).hits[0].confidence is None


def test_files_that_swapped_names_are_updated_without_encoding(place):
    place.put("a.mp4", "a 2")
    place.put("b.mp4", "b 1")
    place.sync()
    place.put("a.mp4", "b 1")
    place.put("b.mp4", "a 2")
    assert counts(place.sync()) == {"updated": 2}
    assert content(place) == {"a.mp4": jpegs("b", 1), "b.mp4": jpegs("a", 2)}
    assert place.model.clips == 3


def test_a_touched_file_is_looked_into_once_and_unchanged(place):
    path = place.put("a.mp4", "a 2")
    place.sync()
    os.utime(path, ns=(5, 5))
    assert counts(place.sync()) == {"unchanged": 1}
    version = Index.open(place.index).version
    assert counts(place.sync()) == {"unchanged": 1}
    assert Index.open(place.index).version == version
    assert place.model.clips == 2


def test_a_mended_file_is_found_and_a_broken_one_is_not_found_any_more(place):
    place.put("a.mp4", "nonsense")
    place.put("b.mp4", "b 2")
    place.sync()
    place.put("a.mp4", "a 1")
    place.put("b.mp4", "nonsense")
    report = place.sync()
    assert counts(report) == {"updated": 1}
    assert [os.path.basename(problem.path) for problem in report.failed] == ["b.mp4"]
    assert content(place) == {"a.mp4": jpegs("a", 1), "b.mp4": []}


def test_a_file_that_could_not_be_opened_is_tried_again(place, monkeypatch):
    place.put("a.mp4", "a 1")
    with monkeypatch.context() as closed:

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        closed.setattr("vidsift.ingest.plan.fingerprint", refuse)
        assert [problem.reason for problem in place.sync().failed] == ["Permission denied"]
    assert counts(place.sync()) == {"updated": 1}


def test_a_missing_root_is_an_error_and_changes_nothing(place):
    place.put("a.mp4", "a 1")
    place.sync()
    os.rename(place.lib, f"{place.lib}.away")
    with pytest.raises(SourceError, match="disk mounted"):
        place.sync()
    assert len(Index.open(place.index)) == 1


def test_an_emptied_root_is_an_error_and_changes_nothing(place):
    place.put("a.mp4", "a 1")
    place.put("other/b.mp4", "b 1")
    place.sync()
    before = content(place)
    os.remove(place.lib / "a.mp4")
    os.remove(place.lib / "other" / "b.mp4")
    (place.lib / "README.txt").write_text("nothing here")
    for paths in ([], [place.lib / "other"]):
        with pytest.raises(SourceError, match=r"no video is left.*vidsift remove"):
            place.sync(*paths)
    assert content(place) == before
    assert counts(remove_paths(place.lib, place.index)) == {"removed": 2}
    assert counts(place.sync()) == {}


def test_a_folder_inside_a_root_that_is_left_empty_keeps_its_clips(place):
    place.put("a.mp4", "a 1")
    place.put("disk/deep/b.mp4", "b 2")
    place.sync()
    before = content(place)
    shutil.rmtree(place.lib / "disk")
    (place.lib / "disk").mkdir()  # as a mount point is while its disk is away
    report = place.sync()
    assert counts(report) == {"unchanged": 1}
    (problem,) = report.failed
    assert problem.path == str(place.lib / "disk")
    assert "the index keeps 1 known from there; to forget them: vidsift remove" in problem.reason
    assert content(place) == before
    assert counts(remove_paths(place.lib / "disk", place.index)) == {"removed": 1}


def test_moving_everything_out_of_a_folder_is_a_renaming(place):
    place.put("from/a.mp4", "a 1")
    place.put("b.mp4", "b 1")
    place.sync()
    os.rename(place.lib / "from" / "a.mp4", place.lib / "a.mp4")
    report = place.sync()
    assert (counts(report), report.failed) == ({"renamed": 1, "unchanged": 1}, [])
    assert set(content(place)) == {"a.mp4", "b.mp4"}


def test_an_empty_folder_makes_an_empty_index(place):
    assert counts(place.sync()) == {}
    assert Index.open(place.index).search([1.0] * 16).hits == []


def test_a_part_that_cannot_be_looked_into_keeps_its_clips(place, tmp_path):
    disk = tmp_path / "disk"
    (disk / "deep").mkdir(parents=True)
    place.put("a.mp4", "a 1")
    (disk / "deep" / "b.mp4").write_text("b 1")
    (place.lib / "disk").symlink_to(disk)
    place.sync()
    before = content(place)
    os.rename(disk, tmp_path / "unplugged")
    report = place.sync()
    assert [(p.path, "keeps 1 known" in p.reason) for p in report.failed] == [(f"{place.lib}/disk", True)]
    disk.mkdir()
    report = place.sync()
    assert [(p.path, "keeps 1 known" in p.reason) for p in report.failed] == [(f"{place.lib}/disk", True)]
    assert content(place) == before


def test_a_path_inside_a_root_syncs_that_part_only(place):
    place.put("x/a.mp4", "a 1")
    place.put("y/b.mp4", "b 1")
    place.sync()
    os.remove(place.lib / "y" / "b.mp4")
    place.put("y/c.mp4", "c 1")
    place.put("x/d.mp4", "d 1")
    assert counts(place.sync(place.lib / "x")) == {"added": 1, "unchanged": 1}
    assert set(content(place)) == {"x/a.mp4", "x/d.mp4", "y/b.mp4"}
    assert read_config(str(place.index)).roots == (str(place.lib),)
    assert counts(place.sync(place.lib / "x" / "a.mp4")) == {"unchanged": 1}
    assert counts(place.sync()) == {"added": 1, "removed": 1, "unchanged": 2}


def test_a_move_between_roots_is_a_rename_when_both_are_named(place, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    place.put("a.mp4", "a 1")
    place.put("b.mp4", "b 1")
    place.sync()
    os.rename(place.lib / "a.mp4", other / "a.mp4")
    assert counts(place.sync(place.lib, other)) == {"renamed": 1, "unchanged": 1}
    assert place.model.clips == 2


def test_a_file_reached_twice_is_indexed_once(place):
    path = place.put("b.mp4", "b 1")
    os.symlink(path, place.lib / "a.mp4")
    os.link(path, place.lib / "c.mp4")
    assert counts(place.sync()) == {"added": 1}
    assert set(content(place)) == {"b.mp4"}


@pytest.mark.parametrize(
    "name",
    [b"two words.mp4", "新しい 🎬.mp4".encode(), b"line\nbreak.mp4", b"x" * 200 + b".MP4", b"\xff'\".mp4"],
)
def test_odd_names_go_all_the_way(place, name):
    path = place.put(name, "a 1")
    place.sync()
    (hit,) = Index.open(place.index).search([1.0] * 16).hits
    assert hit.path == path
    assert os.path.exists(hit.path)
    assert hit.thumbnail == b"jpeg a 0"
    assert hit.metadata == {"word": "a"}
    os.rename(path, place.lib / "plain.mp4")
    assert counts(place.sync()) == {"renamed": 1}


def test_the_index_may_lie_inside_the_folder_it_indexes(place):
    place.put("a.mp4", "a 1")
    index = place.lib / "index"
    for expected in ({"added": 1}, {"unchanged": 1}):
        assert counts(index_paths(place.lib, index, place.model, workers=0)) == expected


def test_another_model_is_refused_and_nothing_changes(place, other_model):
    place.put("a.mp4", "a 1")
    place.sync()
    place.put("b.mp4", "b 1")
    with pytest.raises(ModelMismatchError, match=r"'fake'.*'other'.*another folder"):
        place.sync(model=other_model)
    assert set(content(place)) == {"a.mp4"}


def test_another_segmentation_is_refused(place):
    place.put("a.mp4", "a 1")
    place.sync(segmentation=SegmentConfig("windows", 3, 30))
    place.sync()
    place.sync(segmentation=SegmentConfig("windows", 3, 30))
    with pytest.raises(IndexStateError, match="another folder"):
        place.sync(segmentation=SegmentConfig())


def test_a_second_writer_is_refused_while_searching_goes_on(place):
    place.put("a.mp4", "a 1")
    place.sync()
    with WriterLock(str(place.index)):
        with pytest.raises(IndexStateError, match="another process is writing"):
            place.sync()
        with pytest.raises(IndexStateError, match="another process is writing"):
            remove_paths(place.lib, place.index)
        assert len(Index.open(place.index).search([1.0] * 16).hits) == 1


def test_removing_needs_no_files_and_names_what_is_unknown(place):
    for name in ("x/a.mp4", "x/b.mp4", "y.mp4"):
        place.put(name, f"{name[0]}{len(name)}{name[2]} 1")
    place.sync()
    shutil.rmtree(place.lib)
    with pytest.raises(SourceError, match="knows no file there"):
        remove_paths(place.lib / "z", place.index)
    report = remove_paths([place.lib / "x"], place.index)
    assert (counts(report), report.clips) == ({"removed": 2}, 1)
    assert read_config(str(place.index)).roots == (str(place.lib),)
    remove_paths(place.lib, place.index)
    assert read_config(str(place.index)).roots == ()
    with pytest.raises(IndexNotFoundError):
        remove_paths(place.lib, place.lib)


def test_an_interrupted_run_keeps_what_was_finished_and_goes_on(place):
    for i in range(6):
        place.put(f"{i}.mp4", f"v{i} 2")

    def interrupt(progress):
        if progress.stage == "read" and progress.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.sync(progress=interrupt)
    assert set(content(place)) == {f"{i}.mp4" for i in range(4)}
    assert counts(place.sync()) == {"added": 2, "unchanged": 4}
    assert place.model.clips == 12


def test_an_interruption_during_a_commit_waits_for_its_end(place, monkeypatch):
    for i in range(3):
        place.put(f"{i}.mp4", f"v{i} 2")
    real = Store.replace_files

    def interrupted(self, files, known):
        os.kill(os.getpid(), signal.SIGINT)
        real(self, files, known)

    monkeypatch.setattr("vidsift.ingest.pipeline.COMMIT_CLIPS", 2)
    monkeypatch.setattr(Store, "replace_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        place.sync()
    monkeypatch.setattr(Store, "replace_files", real)
    assert content(place) == {"0.mp4": jpegs("v0", 2)}
    assert counts(place.sync()) == {"added": 2, "unchanged": 1}


def test_progress_tells_the_truth(place, monkeypatch):
    monkeypatch.setattr("vidsift.ingest.pipeline.COMMIT_SECONDS", 0)
    for i in range(5):
        place.put(f"{i}.mp4", f"v{i} {i + 1}")
    told = []
    place.sync(progress=told.append)
    stages = [progress.stage for progress in told]
    assert [s for i, s in enumerate(stages) if i == 0 or stages[i - 1] != s] == [
        "scan",
        "compare",
        "read",
        "finish",
    ]
    reading = [progress for progress in told if progress.stage == "read"]
    for before, after in pairwise(reading):
        assert (before.bytes_done, before.clips, before.committed) <= (
            after.bytes_done,
            after.clips,
            after.committed,
        )
    last = reading[-1]
    assert (last.done, last.total, last.clips, last.committed) == (5, 5, 15, 5)
    assert last.bytes_done == last.bytes_total == sum(len(f"v{i} {i + 1}") for i in range(5))
    assert last.seconds_left == 0
    assert reading[0].seconds_left is None
    assert any(0 < p.bytes_done < p.bytes_total and p.seconds_left is not None for p in reading)


def test_json_shape_is_that_of_the_manual(place):
    place.put("a.mp4", "nonsense")
    document = place.sync().to_dict()
    assert list(document) == [
        *("added", "updated", "removed", "unchanged", "renamed", "failed", "partial", "clips", "seconds"),
        "stages",
    ]
    assert document["failed"] == [{"path": str(place.lib / "a.mp4"), "reason": "is not a video"}]


def test_fingerprints_see_a_flipped_bit_and_large_files_cost_little(tmp_path):
    path = tmp_path / "a.mp4"
    data = bytearray(os.urandom(100_000))
    path.write_bytes(data)
    first = fingerprint(str(path), len(data))
    data[54_321] ^= 1
    path.write_bytes(data)
    assert fingerprint(str(path), len(data)) != first
    size = WHOLE_BYTES * 40
    with open(path, "wb") as out:
        out.truncate(size)
        first = fingerprint(str(path), size)
        for place in (0, size - 1, size // 2 // BLOCK_BYTES * BLOCK_BYTES):
            out.seek(place)
            out.write(b"x")
            out.flush()
    assert fingerprint(str(path), size) != first
    assert fingerprint(str(path), size - 1) != fingerprint(str(path), size)


NAMES = st.sampled_from([f"{folder}{name}.mp4" for folder in ("", "s/", "s/t/") for name in "ab"])
STEPS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(["u 1", "v 2", "w 1", "partial p 1", "broken"])),
    st.tuples(st.just("move"), NAMES, NAMES),
    st.tuples(st.just("remove"), NAMES, st.none()),
    st.tuples(st.just("sync"), st.none(), st.none()),
)


def drop_empty(root, name):
    """Remove the folders that a file has left empty: one that stays is taken for an unmounted disk."""
    for parent in (root / name).parents:
        if parent == root or any(parent.iterdir()):
            return
        parent.rmdir()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=14))
def test_whatever_happened_to_the_folder_the_index_ends_up_as_it_is(place, steps):
    shutil.rmtree(place.lib)
    shutil.rmtree(place.index, ignore_errors=True)
    place.lib.mkdir()
    place.put("anchor.mp4", "anchor 1")
    truth = {"anchor.mp4": "anchor 1"}
    place.model.clips = 0
    for step, one, two in [*steps, ("sync", None, None)]:
        if step == "put":
            place.put(one, two)
            truth[one] = two
        elif step == "move" and one in truth:
            os.makedirs((place.lib / two).parent, exist_ok=True)
            os.replace(place.lib / one, place.lib / two)
            truth[two] = truth.pop(one)
            drop_empty(place.lib, one)
        elif step == "remove" and truth.pop(one, None):
            os.remove(place.lib / one)
            drop_empty(place.lib, one)
        elif step == "sync":
            report = place.sync()
            good = [text for text in truth.values() if text != "broken"]
            assert report.added + report.updated + report.renamed + report.unchanged == len(good)
            assert len(report.failed) == len(truth) - len(good)
            assert len(report.partial) == sum(text.startswith("partial") for text in good)
            known = {
                name: [] if text == "broken" else jpegs(text.split()[-2], int(text[-1]))
                for name, text in truth.items()
            }
            assert content(place) == known
    assert counts(place.sync()) == {"unchanged": len(good)}


def test_a_read_only_folder_is_only_read(place):
    path = Path(place.put("a.mp4", "a 1"))
    os.chmod(path, 0o444)
    os.chmod(place.lib, 0o555)
    before = sorted(os.listdir(place.lib)), path.stat().st_mtime_ns, place.lib.stat().st_mtime_ns
    try:
        assert counts(place.sync()) == {"added": 1}
        assert before == (
            sorted(os.listdir(place.lib)),
            path.stat().st_mtime_ns,
            place.lib.stat().st_mtime_ns,
        )
    finally:
        os.chmod(place.lib, 0o755)


def test_searching_while_indexing_sees_whole_files_and_never_fails(place, monkeypatch):
    monkeypatch.setattr("vidsift.ingest.pipeline.COMMIT_SECONDS", 0)
    monkeypatch.setattr("vidsift.ingest.pipeline.PUBLISH_SHARE", 1)
    place.put("first.mp4", "first 2")
    place.sync()
    for i in range(40):
        place.put(f"{i}.mp4", f"v{i} 3")
    writer = threading.Thread(target=place.sync)
    writer.start()
    index, sizes = Index.open(place.index), []
    while writer.is_alive():
        for seen in (Index.open(place.index), index):
            seen.refresh()
            hits = seen.search([1.0] * 16, k=200, candidates=200, group_by="clip").hits
            assert len(hits) == len(seen)
            files = {hit.path for hit in hits}
            assert len(hits) == 3 * len(files) - 1, "each file whole or not at all"
            sizes.append(len(seen))
    writer.join()
    index.refresh()
    assert len(index) == 122
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3, "the search did run beside the writer"


def test_what_a_killed_build_left_goes(place):
    from vidsift.index.derived import FOLDER

    place.put("a.mp4", "a 1")
    place.sync()
    left = place.index / FOLDER / "left.tmp"
    left.mkdir()
    place.put("b.mp4", "b 1")
    place.sync()
    assert not left.exists()
    assert len(os.listdir(place.index / FOLDER)) == 1
