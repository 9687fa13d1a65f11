"""What frozen teachers say of a training set, written down once and read back batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsift.errors import DataError
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.training.data import PairSet
from vidsift.training.rowstore import Array, Rows, RowStore

Progress = Callable[[int, int], None]
# Scores are kept as 16-bit steps between a row's least and greatest: 1/65535 of its range at most.
_STEPS = 65535
_BLOCK = 64


@dataclass(frozen=True)
class TeacherSignals:
    """What K teachers say of a batch of B pairs.

    scores: [K, B, B] logits, rows = texts.  weights: [K, B, F], each text's weights over its own clip's
    frames.
    """

    scores: Tensor
    weights: Tensor


def store_name(folder: Path, pairs: PairSet, teacher: RetrievalModel, temperature: float) -> Path:
    """Where the cache of one teacher lies: named by what it is called, not by what is inside."""
    path = Path(teacher.name)
    # A trained run's model lies in RUN/model.
    called = path.parent.name if path.name == "model" and path.parent.name else path.name
    return folder / f"{pairs.name}_{called}_t{temperature:g}"


def distill(
    teacher: RetrievalModel,
    pairs: PairSet,
    features: Callable[[], tuple[TextFeatures, ClipFeatures]],
    folder: Path,
    temperature: float,
    progress: Progress | None = None,
) -> RowStore:
    """Write down a teacher's logits of every caption against every clip, and its weights over frames.

    features: gives this teacher's features of all captions [T] and all clips [V]; only asked when rows are
    missing.
    temperature: of the weights.  An interrupted run goes on; a cache of another teacher or other data is
    refused (DataError).
    Rows, one a caption: `scores` uint16 [V] with `low` and `step` float32, `weights` float16 [F].
    """
    frames = teacher.frames_per_clip
    arrays = {
        "scores": Array((len(pairs.clips),), "u2"),
        "low": Array((), "f4"),
        "step": Array((), "f4"),
        "weights": Array((frames,), "f2"),
    }
    identity = {
        "teacher": teacher.fingerprint(),
        "data": pairs.identity(),
        "temperature": temperature,
        "frames per clip": frames,
    }
    store = RowStore(folder, len(pairs.captions), arrays, identity)
    if not len(store.missing()):
        return store
    text, clips = features()

    @torch.inference_mode()
    def make(numbers: NDArray[np.int64]) -> Rows:
        some = text.select(torch.from_numpy(numbers))
        found = teacher.similarity(some, clips).float().cpu()
        if not torch.isfinite(found).all():
            raise DataError(f"{teacher.name}: this teacher's scores are not finite; it cannot teach")
        low, high = found.amin(1), found.amax(1)
        step = (high - low).clamp_min(torch.finfo(torch.float32).tiny) / _STEPS
        scaled = ((found - low[:, None]) / step[:, None]).round().clamp(0, _STEPS)
        own = clips.select(torch.from_numpy(pairs.clip_of[numbers]))
        weights = paired(teacher.teaching_weights(some, own, temperature))
        return {
            "scores": scaled.to(torch.int32).numpy().astype(np.uint16),
            "low": low.numpy(),
            "step": step.numpy(),
            "weights": weights.half().cpu().numpy(),
        }

    store.fill(make, _BLOCK, progress)
    return store


def paired(relevance: Tensor) -> Tensor:
    """[B, B, F] -> [B, F]: text i on clip i."""
    return relevance.diagonal(dim1=0, dim2=1).T


class TeacherCache:
    """The signals of several teachers, read from their stores."""

    def __init__(self, stores: Sequence[RowStore], pairs: PairSet) -> None:
        for store in stores:
            if len(missing := store.missing()):
                raise DataError(f"{store.folder}: {len(missing)} captions are not there yet")
        self.clip_of = pairs.clip_of
        self.folders = [store.folder for store in stores]
        names = ("scores", "low", "step", "weights")
        self.stores = [{name: store.open(name) for name in names} for store in stores]

    def read(self, captions: NDArray[np.int64]) -> TeacherSignals:
        """Signals of a batch.  captions: [B] numbers of captions, which stand for their clips as well."""
        clips = self.clip_of[captions]
        scores, weights = [], []
        for store in self.stores:
            found = store["scores"][captions[:, None], clips[None, :]].astype(np.float32)
            scores.append(store["low"][captions, None] + found * store["step"][captions, None])
            weights.append(store["weights"][captions].astype(np.float32))
        return TeacherSignals(torch.from_numpy(np.stack(scores)), torch.from_numpy(np.stack(weights)))
