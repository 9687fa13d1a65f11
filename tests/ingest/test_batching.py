"""Clips that are encoded many at once, as on a GPU, become the records that they become one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vidsift.ingest import batching, index_paths
from vidsift.ingest.batching import encode_batched
from vidsift.ingest.encode import encode_here
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Clip, Done, Event, Failed, Opened
from vidsift.ingest.results import Encoded
from vidsift.ingest.walk import Candidate
from vidsift.models import RetrievalModel, load_model
from vidsift.video import SegmentConfig
from vidsift.video.subtitles import Subtitles

CUT = SegmentConfig()


@pytest.fixture(scope="module")
def model() -> RetrievalModel:
    return load_model("vidsift-tiny")


def clip(model: RetrievalModel, seed: int, real: int | None = None) -> Clip:
    rng = np.random.default_rng(seed)
    frames, side = model.frames_per_clip, model.preprocess.geometry.size
    mask = np.ones(frames, bool)
    mask[rng.permutation(frames)[frames if real is None else real :]] = False
    times = np.arange(frames, dtype=float)
    pixels = rng.integers(0, 256, (frames, 3, side, side), np.uint8)
    return Clip(float(seed), seed + 1.0, pixels, times, mask, b"jpeg")


def work(name: str) -> Work:
    return Work(Candidate(f"/lib/{name}", 1, 1, (0, 0), False), f"print of {name}", False)


def events(model: RetrievalModel) -> Iterator[tuple[Work, Event]]:
    """Three files at once; one has no clips, one breaks, and some clips are short."""
    one, two, three = work("1.mp4"), work("2.mp4"), work("3.mp4")
    yield one, Opened(9.0)
    yield one, clip(model, 1)
    yield two, Opened(3.0)
    yield three, Opened(3.0)
    yield three, Done(0.0, None, {})
    yield two, clip(model, 2, real=5)
    yield one, Subtitles((), "")
    yield one, clip(model, 3)
    yield two, clip(model, 4)
    yield two, Failed("broken")
    yield one, clip(model, 5, real=1)
    yield one, Done(9.0, None, {})


def same(found: list[Any], wanted: list[Any]) -> None:
    assert [(w.file.path, type(event)) for w, event in found] == [
        (w.file.path, type(event)) for w, event in wanted
    ]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        if not isinstance(one, Encoded):
            assert one == other
            continue
        a, b = one.record, other.record
        assert (a.clip_id, a.start, a.end, a.thumbnail, len(a.parts)) == (
            b.clip_id, b.start, b.end, b.thumbnail, len(b.parts),
        )  # fmt: skip
        np.testing.assert_allclose(a.vectors.coarse, b.vectors.coarse, atol=1e-5)
        np.testing.assert_array_equal(a.vectors.times, b.vectors.times)
        difference = a.vectors.frames.astype(int) - b.vectors.frames.astype(int)
        assert np.abs(difference).max() <= 1
        assert one.seconds >= 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_batches_give_the_events_of_clips_one_by_one(model: RetrievalModel, size: int) -> None:
    same(list(encode_batched(events(model), model, CUT, size)), list(encode_here(events(model), model, CUT)))


def test_what_a_clip_becomes_does_not_depend_on_its_company(model: RetrievalModel) -> None:
    def of(seeds: list[int]) -> dict[float, bytes]:
        asked = ((work("a.mp4"), clip(model, seed)) for seed in seeds)
        found = encode_batched(asked, model, CUT, 4)
        return {e.record.start: e.record.vectors.coarse.tobytes() for _, e in found if isinstance(e, Encoded)}

    many = of(list(range(11)))
    for seeds in ([3], [7, 3], [10, 9, 8, 7, 6, 5]):
        assert of(seeds) == {float(seed): many[float(seed)] for seed in seeds}


def test_clips_that_wait_too_long_are_encoded_before_the_batch_is_full(
    model: RetrievalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "PATIENCE", -1.0)
    taken: list[int] = []

    def counted() -> Iterator[tuple[Work, Event]]:
        for number, pair in enumerate(events(model)):
            taken.append(number)
            yield pair

    running = encode_batched(counted(), model, CUT, 100)
    next(running)
    assert len(taken) == 2, "one is computed while the next is collected"
    same([*encode_batched(events(model), model, CUT, 100)], [*encode_here(events(model), model, CUT)])


def test_short_memory_halves_the_batches(
    model: RetrievalModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    encode = model.encode_video

    def small(pixels: torch.Tensor, mask: torch.Tensor) -> Any:
        seen.append(len(pixels))
        if len(pixels) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return encode(pixels, mask)

    wanted = list(encode_here(events(model), model, CUT))
    monkeypatch.setattr(model, "encode_video", small)
    with caplog.at_level(logging.WARNING):
        same(list(encode_batched(events(model), model, CUT, 8)), wanted)
    assert seen == [8, 4, 2, 2, 2, 2]
    assert "2 clips at once from now on" in caplog.text

    def none(pixels: torch.Tensor, mask: torch.Tensor) -> Any:
        raise torch.cuda.OutOfMemoryError("not even one")

    monkeypatch.setattr(model, "encode_video", none)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="not even one"):
        list(encode_batched(events(model), model, CUT, 2))


@pytest.mark.parametrize("works", [True, False])
def test_the_tower_is_compiled_once_it_pays(
    model: RetrievalModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, works: bool
) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(batching, "COMPILE_AFTER", 2)

    def compiler(function: Any) -> Any:
        if not works:
            raise RuntimeError("no compiler here\nand more")
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda layer: compiled.append(layer))
    with caplog.at_level(logging.WARNING):
        found = list(encode_batched(events(model), model, CUT, 2))
    assert len(found) == 11
    assert len(compiled) == (len(model.backbone.vision_layers) if works else 0)
    assert caplog.text.count("the tower is not compiled: no compiler here") == (0 if works else 1)


def test_a_run_that_ends_early_closes_what_reads(model: RetrievalModel) -> None:
    closed: list[bool] = []

    def watched() -> Iterator[tuple[Work, Event]]:
        try:
            yield from events(model)
        finally:
            closed.append(True)

    running = encode_batched(watched(), model, CUT, 1)
    next(running)
    running.close()
    assert closed == [True]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_indexes_as_the_cpu_does(tmp_path: Path, video: Any) -> None:
    from vidsift.index import Index

    (tmp_path / "videos").mkdir()
    for number in range(3):
        video(tmp_path / "videos" / f"{number}.mp4", number)
    for device in ("cpu", "cuda"):
        index_paths(tmp_path / "videos", tmp_path / device, model="vidsift-tiny", device=device)
    one, other = (Index.open(tmp_path / device).arrays for device in ("cpu", "cuda"))
    order, places = (np.argsort(arrays.clip_ids) for arrays in (one, other))
    np.testing.assert_array_equal(one.clip_ids[order], other.clip_ids[places])
    cosines = (one.scan.vectors(order) * other.scan.vectors(places)).sum(1)
    assert cosines.min() > 0.995
