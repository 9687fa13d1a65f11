"""Filters: the answers are the best among the allowed clips, whatever share of the index that is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vidsift.errors import QueryError
from vidsift.index import Filter, Index


def plain(index: Index, sentence: np.ndarray) -> list[Any]:
    """All clips, best first."""
    return index.search(sentence, k=80, candidates=80, group_by="clip").hits


@pytest.mark.parametrize(
    ("where", "fits"),
    [
        (Filter(), lambda hit: True),
        (Filter(paths=("/lib/film.mp4",)), lambda hit: hit.path == "/lib/film.mp4"),
        (Filter(paths=("/lib",)), lambda hit: True),
        (Filter(paths=("/li",)), lambda hit: False),
        (Filter(paths=("0*.mp4", "*/film.mp4")), lambda hit: Path(hit.path).name[0] in "0f"),
        (Filter(after=100), lambda hit: hit.end > 100),
        (Filter(after=10, before=30), lambda hit: hit.end > 10 and hit.start < 30),
        (Filter(shortest=4.5), lambda hit: False),
        (Filter(longest=4.0), lambda hit: True),
        (Filter(metadata={"seed": "120"}), lambda hit: hit.metadata["seed"] == 120),
        (Filter(metadata={"nothing": "x"}), lambda hit: False),
        (Filter(paths=("/lib/film.mp4",), metadata={"seed": "3"}), lambda hit: False),
    ],
)
def test_a_filter_keeps_what_fits_in_the_same_order(library, kit, where: Filter, fits: Any) -> None:
    index = library[2]
    sentence = kit.unit(np.random.default_rng(3).normal(size=kit.width))
    expected = [(hit.clip_id, hit.score) for hit in plain(index, sentence) if fits(hit)]
    found = index.search(sentence, k=80, candidates=80, group_by="clip", where=where).hits
    assert [hit.clip_id for hit in found] == [clip for clip, _ in expected]
    assert [hit.score for hit in found] == pytest.approx([score for _, score in expected], abs=1e-6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 210), st.floats(0, 210), st.integers(1, 90))
def test_the_best_k_are_those_of_the_allowed(
    library, kit, seed: int, one: float, other: float, k: int
) -> None:
    index = library[2]
    where = Filter(after=min(one, other), before=max(one, other))
    sentence = kit.unit(np.random.default_rng(seed).normal(size=kit.width))
    allowed = [h for h in plain(index, sentence) if h.end > min(one, other) and h.start < max(one, other)]
    found = index.search(sentence, k=k, candidates=80, group_by="clip", where=where).hits
    assert [h.clip_id for h in found] == [h.clip_id for h in allowed[:k]]
    # One per video, and no video that has an allowed clip is missing.
    videos = index.search(sentence, k=k, candidates=1, where=where).hits
    assert len(videos) == min(k, len({h.path for h in allowed}))
    assert all(h.end > min(one, other) and h.start < max(one, other) for h in videos)


def test_one_clip_of_a_thousand_is_found(new_store, kit) -> None:
    folder, store = new_store()
    files = [(kit.file(f"/lib/{n // 100}/{n:04}.mp4"), [kit.clip(n)]) for n in range(1000)]
    store.replace_files(files, known=False)
    index = Index.open(folder)
    for number in (0, 7, 8, 63, 64, 999):
        path = f"/lib/{number // 100}/{number:04}.mp4"
        hits = index.search(kit.clip(500).vectors.coarse, k=10, where=Filter(paths=(path,))).hits
        assert [hit.path for hit in hits] == [path]
    below = index.search(kit.clip(5).vectors.coarse, k=200, where=Filter(paths=("/lib/3", "/lib/4/"))).hits
    assert {hit.path.split("/")[2] for hit in below} == {"3", "4"}
    assert len(below) == 200


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"after": -1.0}, "after is seconds"),
        ({"longest": math.nan}, "longest is seconds"),
        ({"after": 5.0, "before": 2.0}, "lies behind before"),
        ({"shortest": 5.0, "longest": 2.0}, "lies behind longest"),
    ],
)
def test_a_filter_without_meaning_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(QueryError, match=message):
        Filter(**settings)
