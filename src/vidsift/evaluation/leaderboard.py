"""Our models as models of mteb, whose leaderboard ranks video embeddings; needs the extra `vidsift[mteb]`.

Retrieval ranks by the method's own score or by two stages, as `vidsift eval` does, not by cosines of one
vector. Videos are read from their bytes or files by our own reader: no other decoder has to be installed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType
from numpy.typing import NDArray
from torch import Tensor

from datasets import Video as VideoFeature
from vidsift.datasets.corpus import Video
from vidsift.datasets.pairs import FileClips
from vidsift.errors import DataError
from vidsift.evaluation.scoring import SCORES, Matrix, model_scores
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures, load_model
from vidsift.video import VideoError

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

    from datasets import Dataset

_CLIPS, _TEXTS = 16, 256
_WAY_OUT = "mend the data set, or make the model with on_bad='skip' to rank such videos last"


class MtebModel:
    """A model for `mteb.evaluate`: a search model for retrieval, an encoder of one vector for other tasks.

    score: one of `vidsift.evaluation.scoring.SCORES`; clips rank texts by `similarity` where it is
    `two-stage`, which only texts search by.  on_bad: whether a video that cannot be decoded stops the run or
    counts as an empty clip.  Raises ValueError for an unknown score or choice.
    """

    def __init__(self, model: RetrievalModel, *, score: str = "two-stage", on_bad: str = "stop") -> None:
        if score not in SCORES:
            raise ValueError(f"no score {score!r}; there are {', '.join(SCORES)}")
        if on_bad not in ("stop", "skip"):
            raise ValueError(f"on_bad is 'stop' or 'skip', not {on_bad!r}")
        self.model, self.score, self.on_bad = model.eval(), score, on_bad
        self._ids: list[str] = []
        self._corpus: ClipFeatures | TextFeatures | None = None
        self.mteb_model_meta = describe(model, score)

    # -- retrieval: mteb's SearchProtocol ------------------------------------------------------------------

    def index(self, corpus: Dataset, *, task_metadata: TaskMetadata, **_: Any) -> None:
        """Encode a corpus of videos or of texts; the last one given is the one that is searched."""
        kind = _modality(corpus, task_metadata, PromptType.document)
        self._ids = [str(i) for i in corpus["id"]]
        self._corpus = self._clips(corpus) if kind == "video" else self._texts(corpus)

    def search(
        self,
        queries: Dataset,
        *,
        task_metadata: TaskMetadata,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **_: Any,
    ) -> dict[str, dict[str, float]]:
        """The best `top_k` documents of each query with their scores.

        top_ranked: rank only these documents of a query.
        Raises DataError for queries of a kind that the corpus cannot be asked with, RuntimeError before
        `index`.
        """
        if self._corpus is None:
            raise RuntimeError("index a corpus first")
        kind = _modality(queries, task_metadata, PromptType.query)
        names = [str(i) for i in queries["id"]]
        if kind == "text" and isinstance(self._corpus, ClipFeatures):
            blocks = self._ask_clips(list(queries["text"]), self._corpus)
        elif kind == "video" and isinstance(self._corpus, TextFeatures):
            blocks = self._ask_texts(self._clips(queries), self._corpus)
        else:
            raise DataError(f"{task_metadata.name}: {kind} cannot search {kind}; only texts and videos meet")
        place = {name: number for number, name in enumerate(self._ids)}
        found: dict[str, dict[str, float]] = {}
        for start, scores in blocks:
            # A clip without a readable frame has no score: it is worse than all that have one.
            scores = np.nan_to_num(scores, nan=-np.inf)
            for name, row in zip(names[start : start + len(scores)], scores, strict=True):
                allowed = np.arange(len(row))
                if top_ranked is not None:
                    allowed = np.array([place[i] for i in top_ranked[name]], np.int64)
                best = allowed[np.argsort(-row[allowed], kind="stable")[:top_k]]
                found[name] = {self._ids[n]: float(row[n]) for n in best if np.isfinite(row[n])}
        return found

    def _ask_clips(self, texts: list[str], clips: ClipFeatures) -> Iterator[tuple[int, Matrix]]:
        """Scores [B, V] of texts by blocks."""

        def encoded(rows: NDArray[np.int64]) -> TextFeatures:
            return self.model.encode_text(*self.model.tokenize([texts[n] for n in rows.tolist()]))

        scores = model_scores(self.model, self.score, encoded, len(texts), clips)
        for rows in _blocks(len(texts), _TEXTS):
            yield int(rows[0]), scores.rows(rows)

    def _ask_texts(self, clips: ClipFeatures, text: TextFeatures) -> Iterator[tuple[int, Matrix]]:
        """Scores [B, T] of clips by blocks."""
        name = "similarity" if self.score == "two-stage" else self.score

        def held(rows: NDArray[np.int64]) -> TextFeatures:
            return text.select(torch.from_numpy(rows))

        for some in _blocks(len(clips), _CLIPS):
            scores = model_scores(self.model, name, held, len(text), clips.select(torch.from_numpy(some)))
            found = [scores.rows(rows) for rows in _blocks(len(text), _TEXTS)]
            yield int(some[0]), np.concatenate(found).T

    # -- everything else: mteb's EncoderProtocol -----------------------------------------------------------

    def encode(
        self, inputs: Any, *, task_metadata: TaskMetadata, prompt_type: PromptType | None = None, **_: Any
    ) -> Any:
        """One vector per text or video, float32 [N, D] of unit norm: what recall compares."""
        data = inputs.dataset
        if _modality(data, task_metadata, prompt_type) == "video":
            return self._clips(data).coarse.cpu().numpy()
        with torch.inference_mode():
            return self.model.query_vectors(self._texts(data)).cpu().numpy()

    @staticmethod
    def similarity(embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines [N, M]."""
        first, second = _unit(embeddings1), _unit(embeddings2)
        return first @ second.T

    @staticmethod
    def similarity_pairwise(embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosines [N]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(-1)

    # -- reading -------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _texts(self, data: Dataset) -> TextFeatures:
        ids, mask = self.model.tokenize(list(data["text"]))
        blocks = [torch.from_numpy(rows) for rows in _blocks(len(ids), _TEXTS)]
        return TextFeatures.cat([self.model.encode_text(ids[rows], mask[rows]) for rows in blocks])

    @torch.inference_mode()
    def _clips(self, data: Dataset) -> ClipFeatures:
        data = data.cast_column("video", VideoFeature(decode=False))
        parts = []
        for rows in _blocks(len(data), _CLIPS):
            read = [self._read(data[n]["video"], n) for n in rows.tolist()]
            pixels, mask = (torch.from_numpy(np.stack(part)) for part in zip(*read, strict=True))
            parts.append(self.model.encode_video(pixels, mask))
        return ClipFeatures.cat(parts)

    def _read(self, video: Mapping[str, Any], number: int) -> tuple[Any, Any]:
        """Frames and mask of one video, as evaluation from files reads it."""
        count, spec = self.model.frames_per_clip, self.model.preprocess
        where = video.get("path") or f"video {number}"
        try:
            if video.get("bytes") is None:
                return self._open(Path(video["path"]))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / Path(where).name
                path.write_bytes(video["bytes"])
                return self._open(path)
        except VideoError as error:
            if self.on_bad == "stop":
                raise DataError(f"{where}: {error}; {_WAY_OUT}") from error
            return np.zeros((count, 3, spec.size, spec.size), np.uint8), np.zeros(count, bool)

    def _open(self, path: Path) -> tuple[Any, Any]:
        clips = FileClips((Video(path),), self.model.frames_per_clip, self.model.preprocess.geometry)
        return clips.read(0)


def mteb_model(
    name: str, *, score: str = "two-stage", device: str | torch.device = "cpu", on_bad: str = "stop"
) -> MtebModel:
    """A model by its name, folder, preset or hub id, ready for `mteb.evaluate`."""
    return MtebModel(load_model(name, device), score=score, on_bad=on_bad)


def describe(model: RetrievalModel, score: str) -> ModelMeta:
    """What mteb writes beside results; the revision is the model's fingerprint."""
    count = sum(p.numel() for p in model.parameters())
    called = Path(model.name)
    # A trained run's model lies in RUN/model.
    short = called.parent.name if called.name == "model" and called.parent.name else called.name
    return ModelMeta(
        loader=None,
        name=f"vidsift/{short}",
        revision=model.fingerprint(),
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=count,
        memory_usage_mb=round(count * 4 / 2**20, 1),
        max_tokens=model.max_words,
        embed_dim=model.width,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=None,
        modalities=["text", "video"],
        experiment_kwargs={"method": model.method, "score": score, "frames": model.frames_per_clip},
    )


def _blocks(count: int, size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def _modality(data: Dataset, task: TaskMetadata, side: PromptType | None) -> str:
    """`video` or `text`, whichever these rows have.  Raises DataError for both, and for neither."""
    has = [name for name in ("text", "video", "image", "audio") if name in data.features]
    if side is not None and len(has) > 1:
        wanted = set(task.get_modalities(side))
        has = [name for name in has if name in wanted]
    if has not in (["text"], ["video"]):
        asked = " and ".join(has) or "nothing it knows"
        raise DataError(f"{task.name}: asks for {asked} in one; vidsift's models take a text or a video")
    return has[0]


def _unit(vectors: Any) -> Tensor:
    found = torch.as_tensor(vectors).float()
    return torch.nn.functional.normalize(found.reshape(-1, found.shape[-1]), dim=-1)
