"""Shards give the answer of the whole index, to the last bit; what is lost of them is said."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidsift.errors import IndexStateError, QueryError, ShardsError
from vidsift.index import Filter, Index, Term, building
from vidsift.index import codes as coding
from vidsift.index import scan as scanning
from vidsift.index.codes import BLOCK, build_codes
from vidsift.index.config import ModelSpec
from vidsift.index.founding import create_files
from vidsift.index.rerank import RerankWeights
from vidsift.index.scan import Exact
from vidsift.index.sharded import ShardedIndex, snapshot_of, version_of
from vidsift.index.shards import Found, Shard, cut_short, found_in, merge_picked, picks_of, split_rows
from vidsift.index.store import Store
from vidsift.index.types import ClipRecord, FileRecord, Partial, quantise
from vidsift.video import SegmentConfig
from vidsift.video.types import Cue

WIDTH, FRAMES, CLIPS = 32, 5, 3000


class Encoder:
    """Sentences are numbers of vectors."""

    name, prints = "fake", "0123456789abcdef"

    def fingerprint(self) -> str:
        return self.prints

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        return np.stack([vector(int(text)) for text in texts])


class Local:
    """Shards in this process. lost: numbers that do not answer; `lose` is told of every question."""

    deadline = 5.0

    def __init__(self, folder: str, count: int) -> None:
        self.folder, self.count, self.lost, self.asked = folder, count, set[int](), list[str]()
        self.lose: Any = lambda method: None
        self.move()

    def move(self) -> None:
        arrays = Index.open(self.folder).arrays
        self.snapshot = snapshot_of(arrays)
        parts = split_rows(len(arrays), self.count)
        self.shards = [Shard(arrays, first, last) if last > first else None for first, last in parts]

    def ask(self, snapshot: str, questions: Mapping[int, Any], seconds: float) -> dict[int, Any]:
        assert 0 < seconds <= self.deadline / 2
        answers = {}
        for number, (method, arguments) in questions.items():
            self.lose(method)
            self.asked.append(method)
            if number not in self.lost and snapshot == self.snapshot:
                answers[number] = getattr(self.shards[number], method)(*arguments)
        return answers


@cache
def vector(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = np.random.default_rng(seed % 40).normal(size=WIDTH) + 0.5 * rng.normal(size=WIDTH)
    return (found / np.linalg.norm(found)).astype(np.float32)


def record(seed: int, start: float, number: int) -> ClipRecord:
    frames = np.stack([vector(seed), *(vector(seed + 40 * n) for n in range(1, FRAMES))])
    mask = np.arange(FRAMES) < 1 + seed % FRAMES
    coarse = frames[mask].mean(0) / np.linalg.norm(frames[mask].mean(0))
    stored = quantise(coarse, frames, mask, start + np.arange(FRAMES) / FRAMES)
    return ClipRecord(f"{number:032x}", start, start + 1 + seed % 3, stored, b"", {"camera": str(seed % 7)})


def fill(folder: str, clips: int, first: int = 0) -> None:
    """Files of 1 to 60 clips; every clip in five is a copy of another one."""
    rng = np.random.default_rng(first)
    store, files, number = Store.open(folder, Encoder.prints), [], 0
    while number < clips:
        length = min(int(rng.integers(1, 60) if rng.random() < 0.3 else rng.integers(1, 4)), clips - number)
        records = []
        for at in range(length):
            seed = int(rng.integers(40)) if rng.random() < 0.2 else first + number
            records.append(record(seed, 2.0 * at, first + number))
            number += 1
        path = f"/lib/{rng.integers(10)}/{first + number:06}.mp4"
        files.append((FileRecord(path, path, 1, 1, 2.0 * length, "ok", "", length), records))
    store.replace_files(files, known=False)


def make(folder: Path) -> str:
    spec = ModelSpec("fake", Encoder.prints, WIDTH, FRAMES)
    create_files(str(folder), spec, SegmentConfig(), RerankWeights(candidates=50))
    return str(folder)


@pytest.fixture(scope="module", params=["exact", "compressed", "compressed, int8", "ivf, int8"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An index of each kind."""
    patch = pytest.MonkeyPatch()
    patch.setattr(scanning, "RESCORED", 150)
    patch.setattr(scanning, "TIMES", 2)
    if request.param != "exact":
        patch.setattr(coding, "COMPRESS_FROM", CLIPS)
    if request.param.startswith("ivf"):
        patch.setattr(coding, "IVF_FROM", CLIPS)
        patch.setattr(coding, "SEEN", 2)
    if request.param.endswith("int8"):
        patch.setattr(scanning, "INT8_FROM", CLIPS)
    folder = make(tmp_path_factory.mktemp("whole") / "index")
    fill(folder, CLIPS)
    index = Index.open(folder)
    assert index.arrays.scan.kind == request.param.partition(",")[0]
    yield index
    patch.undo()


def same(sharded: ShardedIndex, whole: Index, query: Any, **options: Any) -> None:
    one, other = (index.search(query, Encoder(), **options) for index in (sharded, whole))
    assert one.hits == other.hits  # scores and moments, too, to the last bit
    assert (one.query, one.partial) == (other.query, None)


@pytest.mark.parametrize("count", [2, 3])
def test_shards_answer_as_the_whole_index(whole: Index, count: int) -> None:
    rng = np.random.default_rng(count)
    sharded = ShardedIndex.over(Local(whole.folder, count), whole.folder)
    assert (len(sharded), sharded.arrays.frames.size) == (CLIPS, 0)
    assert sharded.arrays.scan.reason() == whole.arrays.scan.reason()
    for _ in range(40):
        query: Any = vector(int(rng.integers(400)))
        if rng.random() < 0.4:
            query = [Term(str(rng.integers(400)), w) for w in (1.0, float(rng.choice([-0.5, 1, 2])))]
        where = rng.choice(
            np.array(
                [
                    None,
                    None,
                    Filter(("/lib/3", "/lib/5")),
                    Filter(metadata={"camera": "2"}),
                    Filter(after=20.0, longest=2.0),
                    Filter(("*/nothing",)),
                ]
            )
        )
        options = {"k": int(rng.choice([1, 7, 90])), "candidates": int(rng.choice([1, 20, 300]))}
        grouped = str(rng.choice(["video", "moment", "clip"]))
        same(sharded, whole, query, group_by=grouped, where=where, **options)
    rows = rng.permutation(CLIPS)[:100]
    np.testing.assert_array_equal(sharded.arrays.frames_of(rows), whole.arrays.frames_of(rows))
    np.testing.assert_array_equal(sharded.arrays.scan.vectors(rows), whole.arrays.scan.vectors(rows))


def test_only_shards_with_the_short_list_read_frames(whole: Index) -> None:
    shards = Local(whole.folder, 3)
    sharded = ShardedIndex.over(shards, whole.folder)
    sharded.search(whole.arrays.scan.vectors(np.array([5]))[0], k=1, candidates=1)
    assert shards.asked.count("rerank") == 1
    assert shards.asked.count("best") >= 3


def test_what_a_lost_shard_holds_is_left_out_and_said(whole: Index) -> None:
    shards = Local(whole.folder, 3)
    sharded = ShardedIndex.over(shards, whole.folder)
    first, last = split_rows(CLIPS, 3)[1]
    query = whole.arrays.scan.vectors(np.array([first + 7]))[0]

    def lose(method: str) -> None:
        if method == "rerank":  # between the rounds
            shards.lost = {1}

    shards.lose = lose
    found = sharded.search(query, k=300, candidates=300, group_by="clip")
    assert found.partial == Partial((1,), 3, CLIPS - (last - first), CLIPS)
    assert found.to_dict()["partial"]["missing"] == [1]
    inside = {whole.arrays.clip_ids[row].decode() for row in range(first, last)}
    assert len(found.hits) == 300
    assert not inside & {hit.clip_id for hit in found.hits}
    if whole.arrays.scan.kind == "exact":  # those of the others, in their order
        everything = whole.search(query, k=CLIPS, candidates=CLIPS, group_by="clip").hits
        others = [hit for hit in everything if hit.clip_id not in inside]
        assert {hit.clip_id: hit for hit in others}.items() >= {
            hit.clip_id: hit for hit in found.hits
        }.items()
    shards.lose, shards.lost = (lambda method: None), set()
    same(sharded, whole, query)


class Speaking(Encoder):
    """Sentences are words."""

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        return np.stack([vector(len(text)) for text in texts])


def test_words_that_a_lost_shard_says_are_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "index")
    files: list[tuple[FileRecord, list[ClipRecord]]] = []
    for n in range(200):
        said = (Cue(0.0, 0.5, "the cat has nine lives"),) if n % 20 == 0 else ()
        file = FileRecord(f"/{n:03}", str(n), 1, 1, 2.0, "ok", "", 1, subtitles="inside")
        files.append((file, [replace(record(n, 0.0, n), cues=said)]))
    store = Store.open(folder, Encoder.prints)
    store.replace_files(files, known=False)
    store.index_words()
    whole, shards = Index.open(folder), Local(folder, 2)
    assert whole.has_words
    hits = whole.search("lives", Speaking(), k=30, candidates=5).hits
    sharded = ShardedIndex.over(shards, folder)
    assert sharded.search("lives", Speaking(), k=30, candidates=5).hits == hits
    by_words = [hit for hit in hits if "words" in hit.channels]
    assert len(by_words) == 10
    shards.lost = {1}
    found = sharded.search("lives", Speaking(), k=30, candidates=5)
    assert found.partial is not None
    first = [hit for hit in found.hits if "words" in hit.channels]
    here = split_rows(200, 2)[0][1]
    assert {hit.path for hit in first} == {f"/{n:03}" for n in range(0, here, 20)}
    assert 0 < len(first) < 10


def test_shards_are_not_for_indexes_in_object_storage(tmp_path: Path) -> None:
    with pytest.raises(IndexStateError, match="without --shards"):
        ShardedIndex.over(Local(make(tmp_path / "index"), 1), "s3://bucket/index")


def test_without_an_answer_there_is_an_error(whole: Index) -> None:
    shards = Local(whole.folder, 2)
    sharded = ShardedIndex.over(shards, whole.folder)
    shards.lost = {0, 1}
    with pytest.raises(ShardsError, match=r"none of the 2 shards .* within 5 s"):
        sharded.search(vector(1))
    shards.lost = {1}
    with pytest.raises(ShardsError, match="shard 2 of 2"):
        sharded.arrays.frames_of(np.array([1, CLIPS - 1]))
    with pytest.raises(QueryError):
        sharded.search(vector(1), k=0)
    with pytest.raises(IndexStateError, match="tuned where"):
        sharded.tune()


def test_every_round_leaves_time_for_the_next(whole: Index) -> None:
    class Slow(Local):
        deadline = 0.4
        waited = 0.0

        def ask(self, snapshot: str, questions: Mapping[int, Any], seconds: float) -> dict[int, Any]:
            answers = super().ask(snapshot, questions, seconds)
            if questions.keys() - answers.keys():  # those that are lost are waited for
                time.sleep(seconds)
                self.waited += seconds
            return answers

    shards = Slow(whole.folder, 3)
    sharded = ShardedIndex.over(shards, whole.folder)
    shards.lost = {0, 2}
    found = sharded.search(vector(3))
    assert found.partial is not None
    assert found.partial.missing == (0, 2)
    assert shards.waited <= 0.21


def test_a_commit_becomes_visible_when_the_shards_move_on(tmp_path: Path) -> None:
    folder = make(tmp_path / "index")
    fill(folder, 100)
    shards = Local(folder, 2)
    sharded = ShardedIndex.over(shards, folder)
    fill(folder, 200, first=1000)
    assert not sharded.is_outdated()
    assert sharded.latest() is sharded
    before = shards.snapshot
    shards.move()
    assert sharded.is_outdated()
    assert version_of(shards.snapshot) > version_of(before)
    assert len(sharded.latest()) == 300
    same(sharded, Index.open(folder), vector(3))


def test_an_empty_or_tiny_index_is_searched(tmp_path: Path) -> None:
    folder = make(tmp_path / "index")
    shards = Local(folder, 3)
    assert ShardedIndex.over(shards, folder).search(vector(1)).hits == []
    fill(folder, 5)
    shards.move()
    same(ShardedIndex.over(shards, folder), Index.open(folder), vector(1), k=3)


def test_arrays_that_were_made_anew_are_others(tmp_path: Path) -> None:
    folder = make(tmp_path / "index")
    fill(folder, 10)
    shards = Local(folder, 2)
    index = Index.open(folder)
    store = Store.open(folder, Encoder.prints)
    building.build_derived(folder, index.config.index_id, store, whole=True)
    with pytest.raises(IndexStateError, match="other search arrays"):
        ShardedIndex.over(shards, folder)


def test_rows_are_split_in_nearly_equal_runs_of_blocks() -> None:
    assert split_rows(0, 2) == [(0, 0), (0, 0)]
    assert split_rows(10, 2) == [(0, 0), (0, 10)]
    parts = split_rows(1_000_003, 3)
    assert (parts[0][0], parts[-1][1]) == (0, 1_000_003)
    assert all(end == start for (_, end), (start, _) in pairwise(parts))
    assert all(first % BLOCK == 0 for first, _ in parts)
    assert max(last - first for first, last in parts) - min(last - first for first, last in parts) < 2 * BLOCK


@pytest.mark.parametrize("kind", ["compressed", "ivf"])
def test_parts_of_a_scan_have_its_codes(kind: Any) -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.normal(size=(300, WIDTH)).astype(np.float32), 3, axis=0)
    exact = Exact(WIDTH)
    exact.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    scan = exact.scan(build_codes(exact.index, kind))
    rows, promises = scan.pick(vectors[0], len(scan))
    assert len(rows) == len(scan)
    part = scan.part(320, 641)
    inside, promised = part.pick(vectors[0], len(part), len(scan))
    np.testing.assert_array_equal(inside + 320, rows[320:641])
    np.testing.assert_array_equal(promised, promises[320:641])
    if kind == "ivf":  # in the lists that are looked through, a part has its share
        rows, promises = scan.pick(vectors[0], 5)
        inside, promised = part.pick(vectors[0], len(part), 5)
        assert 0 < len(inside) < len(part)
        known = dict(zip(rows.tolist(), promises.tolist(), strict=True))
        there = {row + 320: p for row, p in zip(inside.tolist(), promised.tolist(), strict=True)}
        assert {row: p for row, p in known.items() if 320 <= row < 641}.items() <= there.items()


@pytest.mark.parametrize("kind", ["compressed", "ivf"])
def test_of_equal_scores_the_first_rows_are_taken(kind: Any) -> None:
    vectors = np.tile(vector(1), (700, 1))
    exact = Exact(WIDTH)
    exact.add(vectors)
    scan = exact.scan(build_codes(exact.index, kind))
    assert scan.best(vector(2), 40)[1].tolist() == list(range(40))
    assert scan.best(vector(2), 40, picked=50)[1].tolist() == list(range(40))
    assert scan.best(vector(2), 3, np.array([9, 30, 40, 600]))[1].tolist() == [9, 30, 40]


def test_a_list_that_other_picks_fill_is_asked_for_again() -> None:
    def found(places: list[int], scores: list[float], rows: list[int], promises: list[float]) -> Found:
        return Found(
            np.array(scores, np.float32),
            np.array(rows),
            np.array(places),
            np.array(promises, np.float32),
            np.ones(len(promises), np.int64),
        )

    # Of the three best by codes, two are in the first shard; its list of two holds but one of them.
    one = found([2, 0], [0.9, 0.8], [2, 0], [9, 8, 1])
    other = found([0, 1], [0.7, 0.6], [10, 11], [7, 6, 5])
    assert merge_picked({0: one, 1: other}, 2, 3) == {0: 2}
    again = found([0, 1], [0.8, 0.75], [0, 1], [9, 8])
    _, rows = merge_picked({0: again, 1: other}, 2, 3)
    assert rows.tolist() == [0, 1]


def test_a_shard_with_more_than_its_share_of_picks_is_asked_for_all() -> None:
    def found(rows: list[int], promises: list[float], more: bool) -> Found:
        scores, places = np.array(promises, np.float32) / 10, np.arange(len(rows))
        counts = np.ones(len(rows), int)
        return Found(scores, np.array(rows), places, np.array(promises, np.float32), counts, more)

    one, other = found([0, 1], [9, 8], True), found([10, 11], [7, 6], True)
    assert cut_short({0: one, 1: other}, 3) == {0: 3}
    asked = {0: found([0, 1, 2], [9, 8, 6.5], True), 1: other}
    assert cut_short(asked, 3) == {}
    assert merge_picked(asked, 2, 3)[1].tolist() == [0, 1]
    assert cut_short({0: one, 1: other}, 4) == {0: 4, 1: 4}
    assert cut_short({0: found([0, 1], [9, 8], False), 1: other}, 3) == {}


@pytest.mark.parametrize("kind", ["compressed", "ivf"])
def test_codes_that_pick_in_one_shard_only_give_the_same(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "SEEN", 2)
    rng = np.random.default_rng(0)
    centre = vector(1)
    near = centre + 0.05 * rng.normal(size=(400, WIDTH))  # all in the first rows, many equal
    vectors = np.concatenate([np.repeat(near, 2, axis=0), rng.normal(size=(1200, WIDTH))]).astype(np.float32)
    exact = Exact(WIDTH)
    exact.add(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    scan = exact.scan(build_codes(exact.index, kind))
    parts = split_rows(2000, 3)
    for count, picks in ((20, 300), (100, 700), (300, 640)):
        wanted = scan.scored(centre, scan.pick(centre, picks)[0], count)

        def ask(number: int, own: int, count: int = count, picks: int = picks) -> Found:
            first, last = parts[number]
            part = scan.part(first, last)
            asked = min(own, len(part))
            rows, promises = part.pick(centre, asked, picks)
            more = len(rows) == asked < len(part)
            return found_in(part, first, rows, promises, centre, count, more)

        first = {n: ask(n, picks_of(picks, count, end - begin, 2000)) for n, (begin, end) in enumerate(parts)}
        more = cut_short(first, picks)
        assert more.keys() == {0}
        found = first | {n: ask(n, own) for n, own in more.items()}
        merged = merge_picked(found, count, picks)
        while isinstance(merged, dict):
            merged = merge_picked(
                found := found | {n: ask(n, own) for n, own in merged.items()}, count, picks
            )
        np.testing.assert_array_equal(merged[0], wanted[0])
        np.testing.assert_array_equal(merged[1], wanted[1])


def test_clips_score_the_same_beside_any_others(whole: Index) -> None:
    rng = np.random.default_rng(0)
    rows = rng.permutation(CLIPS)[:64]
    [(fine, relevance)] = whole.arrays.rerank([vector(1)], rows, 0.1)
    for size in (1, 2, 5, 33):
        at = rng.permutation(64)[:size]
        [(some, part)] = whole.arrays.rerank([vector(1)], rows[at], 0.1)
        np.testing.assert_array_equal(some, fine[at])
        np.testing.assert_array_equal(part, relevance[at])


def test_a_listing_opens_no_vectors(whole: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = Local(whole.folder, 2)

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("vectors are opened")

    monkeypatch.setattr("vidsift.index.derived._open_scan", refuse)
    monkeypatch.setattr("vidsift.index.derived._map_frames", refuse)
    assert len(ShardedIndex.over(shards, whole.folder)) == CLIPS
