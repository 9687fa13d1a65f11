"""Our models in the installed mteb, on a small task of video files that lies here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.types import PromptType

from datasets import Dataset, Video
from vidsift.datasets.corpus import Caption, Corpus, Role
from vidsift.datasets.corpus import Video as CorpusVideo
from vidsift.datasets.dataset import Example
from vidsift.datasets.example import render_examples
from vidsift.datasets.pairs import file_pairs
from vidsift.errors import DataError
from vidsift.evaluation.evaluate import Material, open_material
from vidsift.evaluation.leaderboard import MtebModel, mteb_model
from vidsift.evaluation.metrics import rank_all
from vidsift.models import load_model

COMMON: dict[str, Any] = {
    "dataset": {"path": "nowhere", "revision": "none"},
    "description": "Storyboard videos.",
    "type": "Any2AnyRetrieval",
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
    "main_score": "ndcg_at_10",
    "modalities": ["text", "video"],
}


class LocalTask(AbsTaskRetrieval):
    """A retrieval task whose data was put in by the test."""

    metadata = TaskMetadata(name="LocalT2V", category="t2v", **COMMON)

    def __init__(self, queries: Dataset, corpus: Dataset, relevant: dict[str, dict[str, int]]) -> None:
        super().__init__()
        parts = {"queries": queries, "corpus": corpus, "relevant_docs": relevant, "top_ranked": None}
        self.dataset = {"default": {"test": parts}}
        self.data_loaded = True

    def load_data(self, *_: Any, **__: Any) -> None:
        """It is there."""


class LocalBackTask(LocalTask):
    """The other way."""

    metadata = TaskMetadata(name="LocalV2T", category="v2t", **COMMON)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    found: dict[Role, list[Example]] = render_examples(tmp_path_factory.mktemp("videos"), (2, 2, 12))
    return found["test"]


@pytest.fixture(scope="module")
def model() -> MtebModel:
    return mteb_model("vidsift-tiny")


def clips(videos: list[Example], as_bytes: bool = False) -> Dataset:
    files: list[Any] = [str(v.file) for v in videos]
    if as_bytes:
        files = [{"bytes": v.file.read_bytes(), "path": v.file.name} for v in videos]
    rows = {"id": [f"v{n}" for n in range(len(videos))], "video": files}
    return Dataset.from_dict(rows).cast_column("video", Video())


def captions(videos: list[Example]) -> Dataset:
    rows = [(f"t{n}-{k}", text) for n, video in enumerate(videos) for k, text in enumerate(video.captions)]
    return Dataset.from_dict({"id": [r[0] for r in rows], "text": [r[1] for r in rows]})


def clip_of(caption: str) -> str:
    return f"v{caption[1:].split('-')[0]}"


def scores_of(model: MtebModel, task: AbsTaskRetrieval) -> dict[str, float]:
    """The figures of one task; it says more than numbers, too."""
    found: dict[str, float] = mteb.evaluate(model, task, cache=None).task_results[0].scores["test"][0]
    return found


@pytest.fixture(scope="module")
def material(videos: list[Example], model: MtebModel, tmp_path_factory: pytest.TempPathFactory) -> Material:
    """The same pairs as `vidsift eval` sees them."""
    here = Path("captions.csv")
    said = [Caption(n, text, 1, here) for n, video in enumerate(videos) for text in video.captions]
    corpus = Corpus(tuple(CorpusVideo(v.file) for v in videos), tuple(said))
    own = model.model
    pairs = file_pairs("local", corpus, own.frames_per_clip, own.preprocess.geometry, "stop")
    return open_material(own, pairs, tmp_path_factory.mktemp("features"))


def test_texts_find_videos_as_often_as_in_our_own_evaluation(
    videos: list[Example], model: MtebModel, material: Material
) -> None:
    texts = captions(videos)
    task = LocalTask(texts, clips(videos), {i: {clip_of(i): 1} for i in texts["id"]})
    scores = scores_of(model, task)
    found = rank_all(material.scores("two-stage"), material.pairs.clip_of).text
    assert found is not None
    for k in (1, 5, 10):
        assert scores[f"recall_at_{k}"] == pytest.approx(np.mean(found <= k), abs=1e-4)
    assert scores["recall_at_1"] > 0.6  # the model knows this world


def test_videos_find_texts_as_often_as_in_our_own_evaluation(
    videos: list[Example], model: MtebModel, material: Material
) -> None:
    texts = captions(videos)
    names = [f"v{n}" for n in range(len(videos))]
    truth = {v: {i: 1 for i in texts["id"] if clip_of(i) == v} for v in names}
    scores = scores_of(model, LocalBackTask(clips(videos), texts, truth))
    found = rank_all(material.scores("similarity"), material.pairs.clip_of).among_captions
    assert found is not None
    for k in (1, 5):
        assert scores[f"hit_rate_at_{k}"] == pytest.approx(np.mean(found <= k), abs=1e-4)


def test_bytes_and_files_give_the_same_vectors(videos: list[Example], model: MtebModel) -> None:
    task = LocalTask(captions(videos), clips(videos), {})
    loader = type("Loader", (), {})
    found = []
    for as_bytes in (False, True):
        inputs = loader()
        inputs.dataset = clips(videos[:3], as_bytes)
        found.append(model.encode(inputs, task_metadata=task.metadata, prompt_type=PromptType.document))
    assert found[0].shape == (3, model.model.width)
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(np.diag(model.similarity(*found)), 1, atol=1e-5)
    np.testing.assert_allclose(model.similarity_pairwise(*found), 1, atol=1e-5)


def test_only_the_documents_that_are_asked_about_are_ranked(videos: list[Example], model: MtebModel) -> None:
    metadata = LocalTask.metadata
    texts = captions(videos)
    model.index(clips(videos), task_metadata=metadata)
    few = {i: ["v1", "v3", "v5"] for i in texts["id"]}
    found = model.search(texts, task_metadata=metadata, top_k=2, top_ranked=few)
    assert all(len(row) == 2 and set(row) <= {"v1", "v3", "v5"} for row in found.values())
    whole = model.search(texts, task_metadata=metadata, top_k=12)
    for name, row in found.items():
        assert all(row[document] == pytest.approx(whole[name][document]) for document in row)


def test_a_broken_video_stops_or_ranks_last(videos: list[Example], model: MtebModel, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    data = Dataset.from_dict({"id": ["v0", "bad"], "video": [str(videos[0].file), str(broken)]})
    data = data.cast_column("video", Video())
    with pytest.raises(DataError, match=r"broken\.mp4.*on_bad='skip'"):
        model.index(data, task_metadata=LocalTask.metadata)
    lenient = MtebModel(model.model, on_bad="skip")
    lenient.index(data, task_metadata=LocalTask.metadata)
    found = lenient.search(captions(videos[:1]), task_metadata=LocalTask.metadata, top_k=2)
    assert all(next(iter(row)) == "v0" for row in found.values())


def test_what_cannot_be_asked_is_refused(videos: list[Example], model: MtebModel) -> None:
    texts = captions(videos[:2])
    model.index(texts, task_metadata=LocalBackTask.metadata)
    with pytest.raises(DataError, match="text cannot search text"):
        model.search(texts, task_metadata=LocalTask.metadata, top_k=2)
    with pytest.raises(RuntimeError, match="index a corpus first"):
        MtebModel(model.model).search(texts, task_metadata=LocalTask.metadata, top_k=2)
    with pytest.raises(ValueError, match="no score 'best'"):
        MtebModel(model.model, score="best")
    sound = Dataset.from_dict({"id": ["a"], "audio": [b"x"]})
    with pytest.raises(DataError, match="asks for audio"):
        model.index(sound, task_metadata=LocalTask.metadata)


def test_what_is_written_beside_results_names_the_model(model: MtebModel) -> None:
    meta = model.mteb_model_meta
    own = load_model("vidsift-tiny")
    assert (meta.name, meta.revision) == ("vidsift/vidsift-tiny", own.fingerprint())
    assert (meta.embed_dim, meta.modalities) == (own.width, ["text", "video"])
