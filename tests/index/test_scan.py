"""The scan by codes finds what the exact one finds, and stands aside for filters and small indexes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from typer.testing import CliRunner

from vidsift.cli.app import app
from vidsift.errors import IndexStateError, QueryError
from vidsift.index import Filter, Index, compact_index
from vidsift.index import codes as coding
from vidsift.index import scan as scanning
from vidsift.index.codes import build_codes, kind_for, lists_for, nearest_lists
from vidsift.index.lock import WriterLock
from vidsift.index.plot import plot_scan
from vidsift.index.scan import Exact, Scan, precision_for

WIDTH, CLIPS = 64, 20_000


def clustered(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    """Vectors around 200 centres, as those of videos are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((200, width))
    found = centres[rng.integers(200, size=count)] + 0.6 * rng.standard_normal((count, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def scan() -> Scan:
    exact = Exact(WIDTH)
    exact.add(clustered(CLIPS, 1))
    return exact.scan(build_codes(exact.index, "compressed"))


def test_nearly_all_of_the_exact_best_are_found_with_their_scores(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "RESCORED", 1000)
    plain = Scan(scan.exact)
    assert (scan.kind, plain.kind) == ("compressed", "exact")
    shares = []
    for query in clustered(50, 2):
        scores, rows = scan.best(query, 20)
        true_scores, true_rows = plain.best(query, 20)
        shares.append(len(np.intersect1d(rows, true_rows)) / 20)
        known = dict(zip(true_rows.tolist(), true_scores.tolist(), strict=True))
        both = [(s, known[r]) for s, r in zip(scores.tolist(), rows.tolist(), strict=True) if r in known]
        np.testing.assert_allclose(*zip(*both, strict=True), atol=1e-3)
        assert (np.diff(scores) <= 1e-6).all()
    assert np.mean(shares) > 0.97


def test_a_search_that_asks_for_much_or_for_some_is_exact(scan: Scan) -> None:
    query = clustered(1, 3)[0]
    plain = Scan(scan.exact)
    for count in (2000, CLIPS):  # as many as the codes would pick, or all
        np.testing.assert_array_equal(scan.best(query, count)[1], plain.best(query, count)[1])
    allowed = np.arange(5, CLIPS, 997)
    scores, rows = scan.best(query, 10, allowed)
    assert set(rows.tolist()) <= set(allowed.tolist())
    np.testing.assert_array_equal(rows, allowed[np.argsort(-scan.vectors(allowed) @ query)[:10]])
    np.testing.assert_allclose(scores, np.sort(scan.vectors(allowed) @ query)[::-1][:10], atol=1e-3)


@pytest.mark.parametrize("count", [1, 100, 3000])
def test_some_rows_are_scored_as_among_all_however_many_they_are(scan: Scan, count: int) -> None:
    query, some = clustered(1, 4)[0], np.arange(3, CLIPS, 4)
    scores, rows = scan.scored(query, some, count)
    true_scores, true_rows = scan.best(query, count, some)
    np.testing.assert_array_equal(rows, true_rows)
    np.testing.assert_array_equal(scores, true_scores)
    assert [len(part) for part in scan.scored(query, some[:0], count)] == [0, 0]


def test_int8_keeps_half_and_finds_nearly_the_same(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "INT8_FROM", CLIPS)
    exact = Exact(WIDTH, CLIPS)
    for part in np.split(clustered(CLIPS, 1), 4):
        exact.add(part)
    small = exact.scan(build_codes(exact.index, "compressed"))
    assert (small.precision, scan.precision) == ("int8", "fp16")
    assert 2 * small.exact.code_size == scan.exact.code_size
    assert small.reason(100).endswith(
        "scored in int8 (lists of codes pay from 2,000,000 on; int8 from 20,000 on)"
    )
    assert np.abs(small.vectors(np.arange(CLIPS)) - clustered(CLIPS, 1)).max() < 0.01
    for picked in (None, 2000):  # every vector, and what the codes pick
        shares = []
        for query in clustered(30, 2):
            scores, rows = small.best(query, 100, picked=picked or CLIPS)
            best = Scan(scan.exact).best(query, 100)
            shares.append(len(np.intersect1d(rows, best[1])) / 100)
            np.testing.assert_allclose(scores[0], best[0][0], atol=0.02)
        assert np.mean(shares) > 0.95
    # What is taken over into a new scan keeps its codes to the bit.
    again = Exact(WIDTH, CLIPS, small)
    again.add(small.vectors(np.arange(CLIPS)))
    np.testing.assert_array_equal(again.index.reconstruct_n(0, CLIPS), exact.index.reconstruct_n(0, CLIPS))
    assert again.scale == small.scale


def test_small_indexes_and_odd_widths_have_no_codes() -> None:
    assert [kind_for(n, WIDTH) for n in (100, 60_000, 3_000_000)] == ["exact", "compressed", "ivf"]
    assert [kind_for(n, WIDTH + 1, "ivf") for n in (100, 3_000_000)] == ["exact", "exact"]
    assert [kind_for(n, WIDTH, "ivf") for n in (3, 100)] == ["exact", "ivf"]
    assert kind_for(3_000_000, WIDTH, "exact") == "exact"
    exact = Exact(WIDTH)
    exact.add(clustered(100, 1))
    assert build_codes(exact.index, "exact") is None
    assert [lists_for(n) for n in (100, 20_000, 4_000_000, 10_000_000)] == [1, 256, 4096, 8192]


def test_the_same_rows_give_the_same_codes(scan: Scan) -> None:
    again = Scan(scan.exact, build_codes(scan.exact, "compressed"))
    for query in clustered(5, 4):
        np.testing.assert_array_equal(scan.best(query, 20)[1], again.best(query, 20)[1])


def test_an_index_is_built_with_codes_when_they_pay(new_store, kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coding, "COMPRESS_FROM", 300)
    monkeypatch.setattr(scanning, "RESCORED", 40)
    monkeypatch.setattr(scanning, "TIMES", 2)
    folder, store = new_store()
    store.replace_files([(kit.file(f"/lib/{n:03}.mp4"), [kit.clip(n)]) for n in range(400)], known=False)
    index = Index.open(folder)
    assert index.info()["scan"] == "compressed"
    for number in (0, 123, 399):
        hits = index.search(kit.clip(number).vectors.coarse, k=5, candidates=20).hits
        assert hits[0].path == f"/lib/{number:03}.mp4"
    only = index.search(kit.clip(7).vectors.coarse, where=Filter(paths=("/lib/350.mp4",))).hits
    assert [hit.path for hit in only] == ["/lib/350.mp4"]
    # Opened again, from the files.
    assert Index.open(folder).info()["scan"] == "compressed"


def test_tuning_chooses_the_fewest_that_reach_the_target_and_remembers_them(
    new_store, kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(coding, "COMPRESS_FROM", 300)
    folder, store = new_store()
    store.replace_files([(kit.file(f"/lib/{n:04}.mp4"), [kit.clip(n)]) for n in range(2500)], known=False)
    index = Index.open(folder)
    points = index.tune(target=0.5, queries=20)
    assert [p.picked for p in points] == [500, 1000]
    assert points[0].recall <= points[1].recall <= 1
    assert index.config.picked == 500
    assert Index.open(folder).info()["picked"] == 500
    assert Index.open(folder).tune(target=1.0, queries=20)[-1].picked == index_picked(folder)
    plot_scan(points, 0.5, tmp_path / "scan.png")
    assert (tmp_path / "scan.png").stat().st_size > 1000
    done = CliRunner().invoke(app, ["tune", "--index", folder, "--target", "0.9", "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert [p["picked"] for p in json.loads(done.output)["points"]] == [500, 1000]
    with WriterLock(folder), pytest.raises(IndexStateError, match="another process is writing"):
        index.tune(queries=5)


def index_picked(folder: str) -> int | None:
    return Index.open(folder).config.picked


def test_an_index_that_is_scanned_exactly_has_nothing_to_tune(library) -> None:
    folder, _, index = library
    assert index.tune() == []
    assert index.info()["picked"] is None
    done = CliRunner().invoke(app, ["tune", "--index", folder])
    assert "there is nothing to tune" in done.output
    with pytest.raises(QueryError, match="target in"):
        index.tune(target=1.5)


def test_more_answers_have_more_clips_picked(scan: Scan) -> None:
    query, plain = clustered(1, 6)[0], Scan(scan.exact)
    shares = [
        len(np.intersect1d(scan.best(query, count, picked=1500)[1], plain.best(query, count)[1])) / count
        for count in (100, 400)
    ]
    assert min(shares) > 0.9


@pytest.fixture(scope="module")
def listed(scan: Scan) -> Scan:
    return Scan.over(scan.exact, build_codes(scan.exact, "ivf"))


def test_the_nearest_lists_hold_nearly_all_of_the_best(
    scan: Scan, listed: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scanning, "RESCORED", 500)
    monkeypatch.setattr(scanning, "SEEN", 8)
    assert listed.kind == "ivf"
    assert listed.reason().startswith(
        "20,000 clips: 4-bit codes pick 2,000 of the 16,000 in the nearest lists"
    )
    assert listed.reason(setting="ivf").endswith("(as the index is set to ivf)")
    assert "from its next version on" in listed.reason(setting="exact")
    shares = []
    for query in clustered(50, 2):
        scores, rows = listed.best(query, 20)
        true_rows = scan.best(query, 20)[1]
        assert (np.diff(scores) <= 1e-6).all()
        shares.append(len(np.intersect1d(rows, true_rows)) / 20)
    assert np.mean(shares) > 0.97


def test_of_lists_only_the_nearest_are_looked_through(listed: Scan) -> None:
    sizes, centres = listed.lists, listed.codes.quantizer
    assert sizes is not None
    assert sizes.sum() == CLIPS
    query = clustered(1, 5)[0]
    near, nearness = nearest_lists(listed.codes, sizes, query, 1000)
    assert sizes[near].sum() >= 1000 > sizes[near[:-1]].sum()
    known = centres.reconstruct_n(0, len(sizes))
    np.testing.assert_array_equal(near, np.argsort(-known @ query)[: len(near)])
    assert (np.diff(nearness) <= 0).all()
    # All lists, where that is what it takes; every clip is then found, once.
    for clips in (CLIPS, 10 * CLIPS):
        assert len(nearest_lists(listed.codes, sizes, query, clips)[0]) == len(sizes)
    rows, _ = listed.pick(query, CLIPS)
    np.testing.assert_array_equal(rows, np.arange(CLIPS))


def test_lists_give_every_row_the_promise_that_codes_in_a_row_give(listed: Scan) -> None:
    flat: Any = faiss.IndexPQFastScan(WIDTH, WIDTH // 4, 4, faiss.METRIC_INNER_PRODUCT)
    flat.pq, flat.is_trained = listed.codes.pq, True
    flat.add(listed.exact.reconstruct_n(0, CLIPS))
    query = clustered(1, 7)[0]
    plain, many = Scan(listed.exact, flat).pick(query, 300), listed.pick(query, 300, whole=CLIPS)
    np.testing.assert_array_equal(plain[0], many[0])
    np.testing.assert_allclose(plain[1], many[1], rtol=1e-5)


def test_fp16_that_would_fill_the_memory_is_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision_for(1000, WIDTH) == "fp16"
    monkeypatch.setattr(scanning, "_memory", lambda: 4 * 1000 * 2 * WIDTH - 1)
    assert (precision_for(999, WIDTH), precision_for(1000, WIDTH)) == ("fp16", "int8")
    small = Exact(WIDTH, 1000)
    small.add(clustered(1000, 1))
    assert "fp16 would fill more than a quarter of the memory" in small.scan().reason()


def test_an_index_is_scanned_as_it_is_set(new_store, kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "RESCORED", 40)
    monkeypatch.setattr(scanning, "TIMES", 2)
    folder, store = new_store()
    store.replace_files([(kit.file(f"/lib/{n:03}.mp4"), [kit.clip(n)]) for n in range(400)], known=False)
    assert Index.open(folder).info()["scan"] == "exact"
    for setting in ("ivf", "compressed", "exact", "auto"):
        done = CliRunner().invoke(app, ["compact", "--index", folder, "--scan", setting])
        assert done.exit_code == 0, done.output
        index = Index.open(folder)
        assert index.info()["scan"] == ("exact" if setting == "auto" else setting)
        assert ("is set to" in index.info()["scan_reason"]) == (setting != "auto")
        for number in (0, 123, 399):
            hits = index.search(kit.clip(number).vectors.coarse, k=5, candidates=20).hits
            assert hits[0].path == f"/lib/{number:03}.mp4"
    assert CliRunner().invoke(app, ["compact", "--index", folder, "--scan", "fast"]).exit_code == 2
    # A later compaction, and what grows, keep to it.
    compact_index(folder, "ivf")
    store.replace_files([(kit.file("/lib/new.mp4"), [kit.clip(900)])], known=False)
    assert compact_index(folder).clips == 401
    assert Index.open(folder).info()["scan"] == "ivf"
    settings = json.loads((Path(folder) / "index.json").read_text()) | {"scan": "fast"}
    (Path(folder) / "index.json").write_text(json.dumps(settings))
    with pytest.raises(IndexStateError, match="'fast', not one of auto, exact, compressed, ivf"):
        Index.open(folder)


def test_a_small_index_that_is_set_to_have_codes_says_what_it_does(new_store, kit, capfd) -> None:
    folder, store = new_store()
    store.replace_files([(kit.file(f"/lib/{n:03}.mp4"), [kit.clip(n)]) for n in range(200)], known=False)
    for setting in ("compressed", "ivf"):
        compact_index(folder, setting)
        index = Index.open(folder)
        assert index.info()["scan"] == setting
        assert index.info()["scan_reason"].startswith(
            "200 clips: all are scored in fp16 (as the index is set"
        )
        assert index.tune() == []
        assert index.config.picked is None
        done = CliRunner().invoke(app, ["tune", "--index", folder])
        assert (done.exit_code, "there is nothing to tune" in done.output) == (0, True)
    assert "centroids" not in "".join(capfd.readouterr())


def test_what_was_tuned_is_forgotten_with_another_scan(new_store, kit) -> None:
    folder, store = new_store()
    store.replace_files([(kit.file(f"/lib/{n:04}.mp4"), [kit.clip(n)]) for n in range(2500)], known=False)
    compact_index(folder, "ivf")
    points = Index.open(folder).tune(target=0.5, queries=20)
    assert [p.picked for p in points] == [500, 1000]
    assert index_picked(folder) == 500
    compact_index(folder)
    assert index_picked(folder) == 500
    compact_index(folder, "compressed")
    assert index_picked(folder) is None
