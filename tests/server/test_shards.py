"""The service over shards on Ray Serve: the same answers; a shard that dies is said to be missing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from vidsift.errors import ServiceError
from vidsift.index import Index
from vidsift.index.config import ModelSpec, read_config
from vidsift.index.rerank import RerankWeights
from vidsift.index.searcher import create_files
from vidsift.index.shards import split_rows
from vidsift.index.store import Store
from vidsift.index.types import ClipRecord, FileRecord, quantise
from vidsift.models import load_model
from vidsift.server import cluster
from vidsift.server.cluster import RayShards
from vidsift.video import SegmentConfig

pytest.importorskip("ray.serve")

pytestmark = [pytest.mark.system, pytest.mark.long]

CLIPS, DEADLINE = 400, 4.0
SENTENCES = ["a red ball", "a blue square moves to the left", "two green stars", "a yellow triangle grows"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_model("vidsift-tiny")


def fill(folder: Path, model: Any, clips: int, first: int) -> None:
    """Commit files of one clip with made-up vectors; the arrays that search reads are left to be built."""
    spec = read_config(str(folder)).model
    rng, files = np.random.default_rng(first), []
    for number in range(first, first + clips):
        frames = unit(rng.normal(size=(spec.frames_per_clip, spec.width)))
        mask = np.ones(len(frames), bool)
        stored = quantise(unit(frames.mean(0)), frames, mask, np.arange(len(frames)) / 4)
        record = ClipRecord(f"{number:032x}", 0.0, 4.0, stored, b"", {})
        path = f"/lib/{number}.mp4"
        files.append((FileRecord(path, path, 1, 1, 4.0, "ok", "", 1), [record]))
    Store.open(str(folder), spec.fingerprint).replace_files(files, known=False)


@pytest.fixture
def folder(tmp_path: Path, model: Any) -> Path:
    made = tmp_path / "index"
    spec = ModelSpec(
        model.name, model.fingerprint(), model.width, model.frames_per_clip, ("coarse", "frames")
    )
    create_files(str(made), spec, SegmentConfig(), RerankWeights())
    fill(made, model, CLIPS, 0)
    return made


def shard_process(folder: Path, number: int) -> int:
    """The process of a shard of this index."""
    name = f"ServeReplica:vidsift-{read_config(str(folder)).index_id[:12]}:shard-{number}"
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and name in (process / "cmdline").read_text():
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"{name} does not run")


class Load:
    """People who go on asking. answers: when, how long it took, status, body."""

    def __init__(self, url: str, people: int) -> None:
        self.answers: list[tuple[float, float, int, dict[str, Any]]] = []
        self._url, self._ended = url, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(people)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            while not self._ended.wait(0.02):
                began = time.monotonic()
                body = {"query": SENTENCES[number % len(SENTENCES)], "k": 5}
                answer = client.post("/api/v1/search", json=body)
                self.answers.append((began, time.monotonic() - began, answer.status_code, answer.json()))

    def until(self, reached: Callable[[dict[str, Any]], bool], seconds: float = 60) -> None:
        """Wait until an answer that is asked for from now on is like this."""
        now = time.monotonic()
        while time.monotonic() < now + seconds:
            if any(began > now and code == 200 and reached(body) for began, _, code, body in [*self.answers]):
                return
            time.sleep(0.05)
        raise AssertionError(f"not within {seconds:g} s; last: {self.answers[-1:]}")


def whole(body: dict[str, Any]) -> bool:
    return body["partial"] is None


def found(body: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["clip"], hit["score"]) for hit in body["hits"]]


def test_a_killed_shard_is_missed_said_and_comes_back_and_commits_become_visible(
    folder: Path, model: Any, start: Any
) -> None:
    service = start(0, "--shards", "2", "--deadline", str(DEADLINE), "--rate", "10000")
    index = Index.open(folder)
    expected = {
        text: [(hit.clip_id, hit.score) for hit in index.search(text, model, k=5).hits] for text in SENTENCES
    }
    first, last = split_rows(CLIPS, 2)[0]
    kept = {index.arrays.clip_ids[row].decode() for row in range(first, last)}
    with Load(service.url, 3) as load:
        load.until(whole)
        os.kill(shard_process(folder, 1), signal.SIGKILL)
        load.until(lambda body: not whole(body))
        load.until(whole)
    for _, took, code, body in load.answers:
        assert code == 200, body
        assert took < DEADLINE + 1
        if whole(body):
            assert (found(body), body["clips"]) == (expected[body["query"]], CLIPS)
        else:
            assert body["partial"] == {"missing": [1], "shards": 2, "searched": last, "clips": CLIPS}
            assert body["clips"] == last
            assert {clip for clip, _ in found(body)} <= kept
            assert len(body["hits"]) == 5
    assert service.ask.get("/metrics").text.count("vidsift_partial_answers_total")
    fill(folder, model, 100, CLIPS)
    with Load(service.url, 2) as load:
        load.until(lambda body: body["clips"] == CLIPS + 100)
    assert all(code == 200 and whole(body) for _, _, code, body in load.answers)
    clip = load.answers[-1][3]["hits"][0]["clip"]
    assert service.post("/search", {"like": clip, "k": 3})["partial"] is None
    video = load.answers[-1][3]["hits"][0]["video"]
    assert service.get(f"/videos/{video}/relevance", params={"q": "a red ball"})["times"]
    assert service.get("/stats")["clips"] == CLIPS + 100
    service.stop()


def test_what_shards_need_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServiceError, match="at least one shard"):
        RayShards(folder, 0, 1.0, None)
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(ServiceError, match=r"pip install 'vidsift\[ray\]'"):
        RayShards(folder, 2, 1.0, None)
