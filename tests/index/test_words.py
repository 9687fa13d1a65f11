"""Words beside pictures: what is said is found and played from there, and spoils nothing else."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from vidsift.errors import QueryError
from vidsift.index import Filter, Index, compact_index
from vidsift.index.fusion import fuse_ranks
from vidsift.index.queries import Term
from vidsift.index.searcher import refresh_arrays
from vidsift.index.store import Store
from vidsift.index.words import folded
from vidsift.video.subtitles import Subtitles
from vidsift.video.types import Cue

LINES = {
    1: "Captain Moreau sails for Lisbon at dawn",
    2: "Nobody in Lisbon was happy",
    3: "The flies were dancing over the café",
    4: "你好世界",
    5: "a red car",
}


class Asks:
    """Encodes any sentence as the vector of clip 0."""

    name = "fake"

    def __init__(self, kit: SimpleNamespace) -> None:
        self._vector, self._print = kit.clip(0).vectors.coarse, kit.fingerprint

    def fingerprint(self) -> str:
        return self._print

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        return np.stack([self._vector] * len(texts))


def said(kit, number: int, *lines: str, path: str | None = None, seed: int | None = None):
    """A file of one clip of four seconds in which some lines are said, one a second."""
    file = replace(kit.file(path or f"/lib/{number:02}.mp4"), subtitles=".srt 1 1" if lines else "")
    cues = tuple(Cue(float(n), n + 0.75, line) for n, line in enumerate(lines))
    return file, [replace(kit.clip(number if seed is None else seed), cues=cues)]


@pytest.fixture
def talk(new_store, kit):
    """Thirty files of one clip, in some of which something is said; a model."""
    folder, store = new_store()
    files = [said(kit, i, *(["Well then", LINES[i]] if i in LINES else [])) for i in range(30)]
    store.replace_files(files, known=False)
    index = opened(folder, store)
    return SimpleNamespace(folder=folder, store=store, index=index, model=Asks(kit))


def opened(folder: str, store: Store) -> Index:
    refresh_arrays(folder, Index.open(folder).config, store)
    return Index.open(folder)


def names(hits) -> list[int]:
    return [int(hit.path[-6:-4]) for hit in hits]


def test_reciprocal_ranks_are_added_up():
    assert fuse_ranks([["a", "b", "c"], ["c", "d"]]) == ["c", "a", "b", "d"]
    assert fuse_ranks([["a"], ["b"]]) == ["a", "b"]


@pytest.mark.parametrize(
    ("query", "file", "line"),
    [
        ("moreau in lisbon", 1, LINES[1]),
        ("happiness", 2, LINES[2]),
        ("a fly dances", 3, LINES[3]),
        ("CAFE", 3, LINES[3]),
        ("世界", 4, LINES[4]),
    ],
)
def test_what_is_said_is_found_and_played_from_there(talk, query, file, line):
    hit = talk.index.search(query, talk.model, k=3).hits[0]
    assert names([hit]) == [file]
    assert hit.cue == Cue(1.0, 1.75, line)
    assert "words" in hit.channels
    assert (hit.moment.start, hit.moment.end, hit.moment.best) == (1.0, 1.75, 1.0)
    scores = {h.path: h.score for h in talk.index.search(query, talk.model, k=30, channels=["pictures"]).hits}
    assert hit.score == pytest.approx(scores[hit.path], abs=1e-5), "the score is that of the pictures"


@pytest.mark.parametrize("query", ["zebras", "the of and", "!?", "a red bus on the green grass"])
def test_a_query_that_nobody_says_is_ranked_by_pictures_alone(talk, query):
    both = talk.index.search(query, talk.model, k=30)
    alone = talk.index.search(query, talk.model, k=30, channels=("pictures",))
    assert [hit.to_dict() for hit in both.hits] == [hit.to_dict() for hit in alone.hits]
    assert {hit.channels for hit in both.hits} == {("pictures",)}
    assert set(both.took_ms) - set(alone.took_ms) == {"words"}
    assert talk.index.search(query, talk.model, channels=("words",)).hits == []


def test_one_word_of_many_is_no_find(talk):
    assert names(talk.index.search("red", talk.model, channels=["words"]).hits) == [5]
    assert names(talk.index.search("the car is red", talk.model, channels=["words"]).hits) == [5]
    assert not talk.index.search("a red bus", talk.model, channels=["words"]).hits


def test_terms_that_count_for_a_clip_are_looked_for(talk):
    found = talk.index.search([Term("Lisbon"), Term("happy", -0.5)], talk.model, channels=["words"]).hits
    assert sorted(names(found)) == [1, 2]
    with pytest.raises(QueryError, match="found by a sentence"):
        talk.index.search([1.0] * 16, channels=["words"])
    assert talk.index.search([1.0] * 16).hits[0].channels == ("pictures",)


@pytest.mark.parametrize("wrong", [(), ("sounds",), "words"])
def test_channels_without_meaning_are_refused(talk, wrong):
    with pytest.raises(QueryError, match="channels are pictures and words"):
        talk.index.search("lisbon", talk.model, channels=wrong)


def test_the_best_among_the_allowed_are_found_however_many_others_say_it(new_store, kit):
    folder, store = new_store()
    # The more often it is said among other words, the better.
    files = [said(kit, i, "alpha " * (1 + i % 40) + "beta " * (i // 2)) for i in range(80)]
    store.replace_files(files, known=False)
    index, model = opened(folder, store), Asks(kit)
    every = names(index.search("alpha", model, k=80, channels=["words"]).hits)
    assert len(every) == 80
    for pattern in ("*[13579].mp4", "/lib/0*", "/lib/77.mp4"):
        where = Filter(paths=(pattern,))
        wanted = {i for i in range(80) if where._files(index.arrays)[index.arrays.file_of[row_of(index, i)]]}
        found = index.search("alpha", model, k=5, candidates=5, channels=["words"], where=where).hits
        assert names(found) == [i for i in every if i in wanted][:5]
        both = index.search("alpha", model, k=5, candidates=5, where=where).hits
        assert set(names(both)) <= wanted


def row_of(index: Index, number: int) -> int:
    paths = index.arrays.paths
    file = next(n for n in range(len(paths)) if paths[n] == b"/lib/%02d.mp4" % number)
    return int(np.flatnonzero(index.arrays.file_of == file)[0])


def test_a_long_video_is_one_answer_at_its_best_line_or_one_for_each_clip(new_store, kit):
    folder, store = new_store()
    cues = [(Cue(4.0 * i + 3.5, 4.0 * i + 4.9, "alpha"),) if i % 3 == 0 else () for i in range(12)]
    clips = [replace(kit.clip(100 + i, 4.0 * i), cues=cues[i]) for i in range(12)]
    store.replace_files([(replace(kit.file("/lib/00.mp4", 12), subtitles="inside"), clips)], known=False)
    store.replace_files([said(kit, 7, "alpha and alpha")], known=False)
    index, model = opened(folder, store), Asks(kit)
    videos = index.search("alpha", model, channels=["words"]).hits
    assert sorted(names(videos)) == [0, 7]
    found = index.search("alpha", model, channels=["words"], group_by="clip").hits
    assert len(found) == 5
    film = next(hit for hit in found if hit.start == 12.0)
    assert film.cue == Cue(15.5, 16.9, "alpha")
    assert (film.moment.start, film.moment.end) == (15.5, 16.0), "inside the clip"


def test_copies_of_a_video_have_their_own_words(new_store, kit):
    folder, store = new_store()
    store.replace_files([said(kit, 1, "alpha", seed=9), said(kit, 2, "omega", seed=9)], known=False)
    index = opened(folder, store)
    assert names(index.search("alpha", Asks(kit), channels=["words"]).hits) == [1]
    assert names(index.search("omega", Asks(kit), channels=["words"]).hits) == [2]


def test_both_channels_are_fused_and_each_is_named(talk):
    """Words: the most said first; pictures: file 0 first, since it is what the query is encoded as."""
    pictures = names(talk.index.search("lisbon", talk.model, k=30, channels=["pictures"]).hits)
    words = names(talk.index.search("lisbon", talk.model, channels=["words"]).hits)
    assert sorted(words) == [1, 2]
    score = {n: 1 / (61 + pictures.index(n)) for n in pictures}
    for rank, n in enumerate(words):
        score[n] += 1 / (61 + rank)
    k = sorted(pictures.index(n) for n in words)[1]  # one of both is among the first k by its pictures
    found = talk.index.search("lisbon", talk.model, k=k).hits
    assert names(found) == sorted(score, key=lambda n: -score[n])[:k]
    for hit in found:
        (number,) = names([hit])
        by = ("pictures",) * (number in pictures[:k]) + ("words",) * (number in words)
        assert (hit.channels, hit.cue is not None) == (by, number in words)
    assert {hit.channels for hit in found} == {("pictures",), ("words",), ("pictures", "words")}


def test_near_duplicates_are_one_answer_that_shows_the_words_of_any(new_store, kit):
    folder, store = new_store()
    files = [said(kit, 1, seed=9), said(kit, 2, "alpha", seed=9), said(kit, 3, "alpha beta", seed=9)]
    store.replace_files([*files, said(kit, 4), said(kit, 5, "alpha")], known=False)
    index, model = opened(folder, store), Asks(kit)
    for channels in (["pictures", "words"], ["words"]):
        found = index.search("alpha", model, channels=channels).hits
        twin = next(hit for hit in found if hit.alike)
        assert (names([twin]), twin.cue) == ([2], Cue(0.0, 0.75, "alpha"))
        others = {int(place.path[-6:-4]) for place in twin.alike}
        assert others == ({1, 3} if "pictures" in channels else {3})
        assert len(names(found)) == len(set(names(found))) == (3 if "pictures" in channels else 2)
    every = index.search("alpha", model, channels=["words"], collapse=False).hits
    assert sorted(names(every)) == [2, 3, 5]


def test_a_line_belongs_to_the_moment_in_which_it_is_said(new_store, kit):
    folder, store = new_store()
    cues = {2: "alpha", 9: "alpha"}
    clips = [
        replace(kit.clip(100 + i, 4.0 * i), cues=(Cue(4.0 * i + 1, 4.0 * i + 2, cues.get(i, "beta")),))
        for i in range(12)
    ]
    store.replace_files([(replace(kit.file("/lib/00.mp4", 12), subtitles="inside"), clips)], known=False)
    index = opened(folder, store)
    found = index.search("alpha", Asks(kit), k=20, group_by="moment").hits
    assert sorted(hit.moment.start for hit in found if hit.cue) == [9.0, 37.0]
    assert len({(hit.start, hit.end) for hit in found}) == len(found)


def test_what_is_added_is_found_at_once_and_what_is_removed_no_more(talk, kit, monkeypatch):
    made = talk.store.version
    for number in (40, 41):
        talk.store.replace_files([said(kit, number, "alpha")], known=False)
    talk.store.remove_files(["/lib/02.mp4"])
    index = opened(talk.folder, talk.store)
    assert talk.store.version == made + 3, "few rows wait, so the words are not indexed anew"
    assert names(index.search("alpha", talk.model, channels=["words"]).hits) == [40, 41]
    assert names(index.search("lisbon", talk.model, channels=["words"]).hits) == [1]
    assert names(talk.index.search("moreau", talk.model, channels=["words"]).hits) == [1], "a snapshot"
    compact_index(talk.folder)
    waiting = talk.store._table
    waiting.checkout_latest()
    assert waiting.index_stats("words_idx").num_unindexed_rows == 0
    index = Index.open(talk.folder)
    assert names(index.search("alpha", talk.model, channels=["words"]).hits) == [40, 41]
    monkeypatch.setattr("vidsift.index.fulltext._WAITING", 1)
    store = Store.open(talk.folder, kit.fingerprint)
    store.replace_files([said(kit, 42, "alpha"), said(kit, 43, "alpha")], known=False)
    opened(talk.folder, store)
    assert store._table.index_stats("words_idx").num_unindexed_rows == 0


def test_a_snapshot_whose_version_was_tidied_away_still_finds_words(talk, kit, monkeypatch):
    assert names(talk.index.search("moreau", talk.model, channels=["words"]).hits) == [1]
    monkeypatch.setattr("vidsift.index.store.OLD_VERSIONS", timedelta(milliseconds=1))
    for number in range(40, 60):
        talk.store.replace_files([said(kit, number, "alpha")], known=False)
    compact_index(talk.folder)
    cold = Index(talk.folder, talk.index.config, talk.index.arrays)
    for index in (talk.index, cold):
        assert names(index.search("happy lisbon", talk.model, channels=["words"]).hits) == [2]
        assert not index.search("alpha", talk.model, channels=["words"]).hits, "not in the snapshot"


def test_many_may_ask_at_once(talk):
    def ask(query: str) -> list[int]:
        return names(talk.index.search(query, talk.model, channels=["words"]).hits)

    asked = ["moreau", "happiness", "dancing flies", "red car"] * 10
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, asked)) == [[1], [2], [3], [5]] * 10


def test_words_are_renewed_without_touching_the_rest(talk, kit):
    before = talk.store.rows(["/lib/01.mp4"]).drop_columns(["words", "cue_times", "subtitles"])
    file = talk.store.files()["/lib/01.mp4"]
    talk.store.renew_words(
        [(file, Subtitles((Cue(0.0, 1.0, "omega"), Cue(50, 51, "later")), ".srt 2 2", "torn"))]
    )
    after = talk.store.files()["/lib/01.mp4"]
    assert after == replace(file, subtitles=".srt 2 2", subtitles_error="torn")
    assert after.problem == "torn"
    rows = talk.store.rows(["/lib/01.mp4"]).drop_columns(["words", "cue_times", "subtitles"])
    assert rows.drop_columns(["subtitles_error"]) == before.drop_columns(["subtitles_error"])
    index = opened(talk.folder, talk.store)
    assert not index.search("moreau", talk.model, channels=["words"]).hits
    assert index.search("omega", talk.model).hits[0].cue == Cue(0.0, 1.0, "omega")
    assert index.info()["partial"] == [{"path": "/lib/01.mp4", "reason": "torn"}]


def test_a_table_that_is_older_than_words_is_searched_and_written_to(library, kit):
    folder, store, _ = library
    store._table.drop_columns(["words", "cue_times", "subtitles", "subtitles_error"])
    older = Store.open(folder, kit.fingerprint)
    index, model = opened(folder, older), Asks(kit)
    assert not index.has_words
    assert (
        index.search("alpha", model, k=3).hits
        == index.search("alpha", model, k=3, channels=["pictures"]).hits
    )
    assert index.search("alpha", model, channels=["words"]).hits == []
    assert older.files()["/lib/01.mp4"] == kit.file("/lib/01.mp4")
    older.move_files(older.pinned(), [("/lib/01.mp4", kit.file("/neu/01.mp4"))], ["/lib/01.mp4"])
    older.replace_files([said(kit, 50, "alpha")], known=False)
    index = opened(folder, older)
    assert index.search("alpha", model).hits[0].cue == Cue(0.0, 0.75, "alpha")
    assert older.files()["/neu/01.mp4"].subtitles is None


def test_letters_are_compared_without_case_and_accents():
    assert folded("Déjà VU") == "deja vu"
