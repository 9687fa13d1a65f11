"""Which scored clips become answers: near-duplicates told once, moments that go on joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidsift.errors import QueryError
from vidsift.index import Index
from vidsift.index.types import ClipRecord, quantise


def made(kit, seed: int, frames: np.ndarray, start: float, real: int | None = None) -> ClipRecord:
    """A clip of the given unit frames, one a second, of which only so many are real."""
    times, mask = start + np.arange(len(frames)) + 0.5, np.arange(len(frames)) < (real or len(frames))
    vectors = quantise(kit.unit(frames[mask].mean(0)), frames, mask, times)
    return replace(kit.clip(seed), start=start, end=start + len(frames), vectors=vectors)


@pytest.fixture
def opened(new_store, kit) -> Callable[[dict[str, Sequence[ClipRecord]]], Index]:
    """An index of files and their clips."""

    def make(files: dict[str, Sequence[ClipRecord]]) -> Index:
        folder, store = new_store()
        rows = [(kit.file(path, len(clips)), list(clips)) for path, clips in files.items()]
        store.replace_files(rows, known=False)
        return Index.open(folder)

    return make


def random_frames(kit, seed: int) -> np.ndarray:
    return kit.unit(np.random.default_rng(seed).normal(size=(kit.frames, kit.width)))


def test_near_duplicates_are_told_with_the_better_one(opened, kit):
    original = random_frames(kit, 0)
    noise = np.random.default_rng(1).normal(size=original.shape) * 0.01
    shuffled = original[::-1]
    index = opened(
        {
            "/lib/a.mp4": [made(kit, 1, original, 0.0)],
            "/lib/b.mp4": [made(kit, 2, kit.unit(original + noise), 0.0)],
            "/lib/c.mp4": [made(kit, 3, shuffled, 0.0)],
            "/lib/d.mp4": [made(kit, 4, random_frames(kit, 5), 0.0)],
        }
    )
    hits = index.search(original.mean(0), k=10).hits
    by_path = {hit.path: [place.path for place in hit.alike] for hit in hits}
    kept = hits[0].path if hits[0].path != "/lib/c.mp4" else hits[1].path
    other = "/lib/b.mp4" if kept == "/lib/a.mp4" else "/lib/a.mp4"
    assert by_path == {kept: [other], "/lib/c.mp4": [], "/lib/d.mp4": []}, "backwards is another video"
    assert len(index.search(original.mean(0), k=10, collapse=False).hits) == 4
    assert len(index.search(original.mean(0), k=10, group_by="clip").hits) == 4
    assert len(index.search(original.mean(0), k=10, group_by="clip", collapse=True).hits) == 3


@pytest.mark.parametrize("copies", [30, 1200], ids=["few", "more than are compared at once"])
def test_places_of_duplicates_are_filled_from_further_down(opened, kit, copies: int):
    wanted = random_frames(kit, 0)
    files = {f"/lib/copy{n:04}.mp4": [made(kit, n, wanted, 0.0)] for n in range(copies)}
    files |= {f"/lib/other{n}.mp4": [made(kit, 2000 + n, random_frames(kit, 50 + n), 0.0)] for n in range(6)}
    hits = opened(files).search(wanted.mean(0), k=5, candidates=5).hits
    assert hits[0].path == "/lib/copy0000.mp4"
    assert len(hits) == 5
    assert len(hits[0].alike) == copies - 1


def test_a_clip_that_begins_like_another_is_no_duplicate(opened, kit):
    frames = random_frames(kit, 0)
    frames[2:] = frames[1]  # so that the coarse vectors are much alike
    index = opened(
        {
            "/lib/a.mp4": [made(kit, 1, frames, 0.0, kit.frames - 1)],
            "/lib/b.mp4": [made(kit, 2, frames, 0.0)],
            "/lib/c.mp4": [made(kit, 3, frames, 0.0, kit.frames - 1)],
        }
    )
    hits = index.search(frames[:-1].mean(0), k=10).hits
    found = {frozenset((hit.path, *(place.path for place in hit.alike))) for hit in hits}
    assert found == {frozenset({"/lib/a.mp4", "/lib/c.mp4"}), frozenset({"/lib/b.mp4"})}


def test_a_moment_goes_on_in_the_next_clip_while_it_stays_as_relevant(opened, kit):
    yes, no = np.eye(kit.width, dtype=np.float32)[:2]
    pattern = "nnyy yyyy ynnn nnnn ynnn"
    clips = []
    for n, part in enumerate(pattern.split()):
        frames = np.stack([yes if letter == "y" else no for letter in part])
        # A little of something else, so that clips of the same pattern are no duplicates.
        extra = np.eye(kit.width, dtype=np.float32)[3 + n]
        clips.append(made(kit, n, kit.unit(frames + 0.3 * extra), 4.0 * n))
    index = opened({"/lib/film.mp4": clips, "/lib/other.mp4": [made(kit, 9, random_frames(kit, 9), 0.0)]})
    hits = [hit for hit in index.search(yes, k=10, group_by="moment").hits if "film" in hit.path]
    moments = sorted((hit.moment.start, hit.moment.end) for hit in hits)
    assert moments[0] == pytest.approx((2.0, 9.0)), "three clips, one moment"
    assert (16.0, 17.0) in [pytest.approx(moment) for moment in moments], "another one, later"
    assert len(moments) == 3, "and the clip in between, which has nothing of it"
    assert len([h for h in index.search(yes, k=10, group_by="clip").hits if "film" in h.path]) == 5


def test_grouping_is_one_of_three(library):
    with pytest.raises(QueryError, match="'video', 'moment' or 'clip'"):
        library[2].search([1.0] * 16, group_by="file")


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 90))
def test_every_grouping_keeps_order_and_number(library_once, seed, k):
    index, kit = library_once
    sentence = kit.unit(np.random.default_rng(seed).normal(size=kit.width))
    every = index.search(sentence, k=99, candidates=99, group_by="clip").hits
    for group_by in ("video", "moment", "clip"):
        hits = index.search(sentence, k=k, candidates=99, group_by=group_by).hits
        scores = [hit.score for hit in hits]
        assert scores == sorted(scores, reverse=True)
        assert len(hits) <= k
        assert {hit.clip_id for hit in hits} <= {hit.clip_id for hit in every}
        assert hits[0].clip_id == every[0].clip_id
        for hit in hits:
            assert hit.moment.start <= hit.moment.best <= hit.moment.end
            assert hit.start <= hit.moment.best <= hit.end
    moments = index.search(sentence, k=99, candidates=99, group_by="moment").hits
    spans = sorted((hit.path, hit.moment.start, hit.moment.end) for hit in moments)
    for (path, _, end), (other, start, _) in pairwise(spans):
        assert path != other or end <= start + 1e-9, "moments of one video do not overlap"
