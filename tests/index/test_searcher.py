"""Searching: the right order, grouping, snapshots, and arrays that follow the table."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vidsift.errors import ModelMismatchError, QueryError
from vidsift.index import Index
from vidsift.index.building import clean_derived
from vidsift.index.derived import FOLDER
from vidsift.index.rerank import rerank

FP16 = 5e-4
"""How far the scan's half precision may move a score at this width."""


class FakeModel:
    name = "fake"

    def __init__(self, fingerprint: str, width: int) -> None:
        self._fingerprint, self._width = fingerprint, width
        self.asked = 0

    def fingerprint(self) -> str:
        self.asked += 1
        return self._fingerprint

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        rng = np.random.default_rng(len(texts[0]))
        vector = rng.normal(size=(1, self._width)).astype(np.float32)
        return vector / np.linalg.norm(vector)


def exhaustive(index: Index, sentence: np.ndarray) -> list[tuple[float, str, str]]:
    """Every clip scored by the definition, from the table itself."""
    scored = []
    rows = index._store()._table.search().where("status != 'failed'").to_arrow().to_pylist()
    for row in rows:
        shape = (1, len(row["scales"]), len(sentence))
        frames = np.array(row["frames"], np.int8).reshape(shape)
        fine, _ = rerank(sentence, frames, np.array([row["scales"]], "f4"), np.array([row["count"]]), 0.1)
        coarse = float(np.dot(np.array(row["coarse"], np.float32), sentence))
        scored.append((0.5 * coarse + 0.5 * float(fine[0]), row["path"], row["clip_id"]))
    return sorted(scored, reverse=True)


def test_a_search_over_all_candidates_is_the_exhaustive_ranking(library, kit):
    index = library[2]
    for seed in range(5):
        sentence = kit.unit(np.random.default_rng(1000 + seed).normal(size=kit.width))
        expected = exhaustive(index, sentence)
        hits = index.search(sentence, k=80, candidates=80, group_by="clip").hits
        own = {clip: score for score, _, clip in expected}
        assert {hit.clip_id for hit in hits} == set(own)
        assert [hit.score for hit in hits] == pytest.approx([own[hit.clip_id] for hit in hits], abs=FP16)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_one_hit_per_video_its_best_clip(library, kit):
    index = library[2]
    sentence = kit.unit(np.random.default_rng(7).normal(size=kit.width))
    best: dict[str, float] = {}
    for score, path, _ in exhaustive(index, sentence):
        best.setdefault(path, score)
    hits = index.search(sentence, k=40, candidates=80).hits
    assert len(hits) == len(best) == 31
    assert {hit.path: hit.score for hit in hits} == pytest.approx(best, abs=FP16)


def test_long_videos_never_crowd_out_the_other_answers(library, kit):
    index = library[2]
    film = index.search(kit.clip(120).vectors.coarse, k=80, candidates=3)
    assert len(film.hits) == 31
    assert len({hit.path for hit in film.hits}) == 31


def test_k_beyond_the_index_gives_all_there_is(library):
    index = library[2]
    assert len(index.search([1.0] * 16, k=10_000).hits) == 31
    assert len(index.search([1.0] * 16, k=10_000, group_by="clip").hits) == 80


def test_an_empty_index_answers_with_no_hits(new_store, kit):
    index = Index.open(new_store()[0])
    assert len(index) == 0
    assert index.search([1.0] * kit.width).hits == []


def test_failed_files_are_known_and_never_found(library):
    index = library[2]
    assert index.files()["/lib/bad.mp4"].error == "no video stream"
    assert "/lib/bad.mp4" not in {hit.path for hit in index.search([1.0] * 16, k=99).hits}
    info = index.info()
    assert info["failed"] == [{"path": "/lib/bad.mp4", "reason": "no video stream"}]
    assert (info["clips"], info["files"]) == (80, 31)


def test_equal_scores_are_ordered_by_path(new_store, kit):
    folder, store = new_store()
    for name in "dbac":
        store.replace_files([(kit.file(f"/lib/{name}.mp4"), [kit.clip(1)])], known=False)
    hits = Index.open(folder).search([1.0] * kit.width, k=2, collapse=False).hits
    assert [hit.path for hit in hits] == ["/lib/a.mp4", "/lib/b.mp4"]


@pytest.mark.parametrize("query", ["", "  \n", [0.0] * 16, [float("nan")] * 16, [1.0] * 15, [[1.0] * 16]])
def test_a_query_without_meaning_is_refused(library, kit, query):
    with pytest.raises(QueryError):
        library[2].search(query, FakeModel(kit.fingerprint, kit.width))


@pytest.mark.parametrize("setting", [{"k": 0}, {"candidates": 0}, {"group_by": "folder"}])
def test_a_setting_without_meaning_is_refused(library, setting):
    with pytest.raises(QueryError):
        library[2].search([1.0] * 16, **setting)


def test_a_sentence_is_encoded_by_the_indexs_model_and_by_no_other(library, kit):
    index = library[2]
    model = FakeModel(kit.fingerprint, kit.width)
    for _ in range(3):
        result = index.search("a red ball", model)
    assert result.query == "a red ball"
    assert set(result.took_ms) == {"encode", "recall", "rerank"}
    assert model.asked == 1, "fingerprints cost a pass over the weights"
    wrong = FakeModel("ffff", kit.width)
    wrong.name = "other"
    with pytest.raises(ModelMismatchError, match=r"fake.*other.*another folder") as caught:
        index.search("a red ball", wrong)
    assert kit.fingerprint in str(caught.value)
    assert "ffff" in str(caught.value)


def test_json_shapes_are_those_of_the_manual(library):
    document = library[2].search([1.0] * 16, k=1).to_dict()
    assert list(document) == ["query", "took_ms", "relevant", "hits"]
    hit = document["hits"][0]
    names = ["path", "score", "start", "end", "moment", "channels", "cue", "metadata"]
    assert list(hit) == [*names, "confidence", "level", "alike"]
    assert list(hit["moment"]) == ["start", "end", "best"]
    assert all(type(hit[key]) is float for key in ("score", "start", "end"))


def test_a_hit_shows_its_own_thumbnail(library):
    hit = library[2].search([1.0] * 16, k=1).hits[0]
    assert hit.thumbnail == b"jpeg %d" % hit.metadata["seed"]


def test_an_open_index_is_a_snapshot_until_it_is_refreshed(library, kit):
    folder, store, index = library
    sentence = kit.clip(3).vectors.coarse
    before = index.search(sentence).to_dict()["hits"]
    store.remove_files(["/lib/03.mp4"])
    Index.open(folder)
    clean_derived(folder, store.version)
    assert index.search(sentence).to_dict()["hits"] == before
    assert index.refresh()
    assert "/lib/03.mp4" not in {hit.path for hit in index.search(sentence, k=99).hits}
    assert not index.refresh()


def arrays_of(folder: str) -> str:
    (name,) = os.listdir(os.path.join(folder, FOLDER))
    return os.path.join(folder, FOLDER, name)


PARTS = ["manifest.json", "scan.faiss", "frames.i8", "scales.npy", "paths.npy", "metadata_ends.npy"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_missing_or_damaged_arrays_are_rebuilt(library, part, damage):
    folder, _, index = library
    expected = index.search([1.0] * 16, k=99).to_dict()["hits"]
    path = os.path.join(arrays_of(folder), part)
    if damage == "missing":
        os.remove(path)
    else:
        os.truncate(path, 0 if damage == "empty" else os.path.getsize(path) - 1)
    assert Index.open(folder).search([1.0] * 16, k=99).to_dict()["hits"] == expected
    assert os.path.getsize(path) > 1, "and put in place for the next reader"


def test_arrays_of_another_index_are_not_taken(library, kit, tmp_path):
    folder, store, _ = library
    other = str(tmp_path / "copy")
    shutil.copytree(folder, other)
    store.remove_files(["/lib/03.mp4"])
    Index.open(folder)
    stale = arrays_of(other)
    manifest = Path(stale, "manifest.json")
    manifest.write_text(manifest.read_text().replace('"index": "', '"index": "not '))
    assert len(Index.open(other)) == 80


def test_an_index_that_cannot_be_written_can_be_searched(library):
    folder, store, _ = library
    store.remove_files(["/lib/03.mp4"])
    shutil.rmtree(os.path.join(folder, FOLDER))
    Path(folder, FOLDER).write_text("no folder can be made here")
    assert len(Index.open(folder).search([1.0] * 16, k=99).hits) == 30


def test_a_warm_search_process_never_imports_the_store(library):
    folder = library[0]
    code = (
        "import sys; from vidsift.index import Index\n"
        f"assert Index.open({folder!r}).search([1.0] * 16).hits\n"
        "assert not {'lancedb', 'pyarrow', 'torch'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_a_warm_search_over_ten_thousand_clips_takes_under_five_milliseconds(tmp_path, kit):
    from vidsift.index.config import ModelSpec
    from vidsift.index.store import Store

    folder = str(tmp_path / "index")
    Index.create(folder, ModelSpec("fake", kit.fingerprint, 512, 12))
    store = Store.open(folder, kit.fingerprint)
    for begin in range(0, 10_000, 1000):
        files = [
            (kit.file(f"/lib/{i}.mp4"), [kit.clip(i, frames=12, width=512)])
            for i in range(begin, begin + 1000)
        ]
        store.replace_files(files, known=False)
    index = Index.open(folder)
    queries = kit.unit(np.random.default_rng(0).normal(size=(200, 512)))
    index.search(queries[0])
    took = []
    for query in queries:
        began = time.perf_counter()
        result = index.search(query)
        took.append(time.perf_counter() - began)
        assert sum(result.took_ms.values()) <= took[-1] * 1000 + 0.01
    # The quicker quarter: what else the machine does takes turns with this.
    assert np.percentile(took, 25) < 0.005
