"""What frozen teachers say of a training set, written down once and read back batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError
from vidsift.features.rowstore import Array, Rows, RowStore
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.models.pooling import masked_softmax

Progress = Callable[[int, int], None]
Texts = Callable[[NDArray[np.int64]], TextFeatures]
"""Numbers of captions -> their features."""
# Scores are kept as 16-bit steps between a row's least and greatest: 1/65535 of its range at most.
_STEPS = 65535
_BLOCK = 64


@dataclass(frozen=True)
class TeacherSignals:
    """What K teachers say of a batch of B pairs.

    scores: [K, B, B] logits, rows = texts.  weights: [K, B, F], each text's weights over its own clip's
    frames.  scale, bias: [K] logits = scale cosine + bias; None means that the scores are cosines.
    recalls: [K] how good the teachers are on the validation set, where that is known.
    """

    scores: Tensor
    weights: Tensor
    scale: Tensor | None = None
    bias: Tensor | None = None
    recalls: Tensor | None = None

    @property
    def cosines(self) -> Tensor:
        """[K, B, B] the scores without the teachers' logit scales."""
        if self.scale is None or self.bias is None:
            return self.scores
        return (self.scores - self.bias.view(-1, 1, 1)) / self.scale.view(-1, 1, 1)

    def to(self, device: torch.device) -> TeacherSignals:
        """The same signals on a device."""
        found = (None if x is None else x.to(device) for x in (self.scale, self.bias, self.recalls))
        return TeacherSignals(self.scores.to(device), self.weights.to(device), *found)

    def where(self, kept: Tensor) -> TeacherSignals:
        """The signals of the pairs at which a mask [B] is True."""
        return replace(self, scores=self.scores[:, kept][:, :, kept], weights=self.weights[:, kept])


def store_name(
    folder: Path, pairs: PairSet, teacher: RetrievalModel, plan: NDArray[np.int64] | None = None
) -> Path:
    """Where the cache of one teacher lies: named by what it is called and, if it is made for one, a plan."""
    path = Path(teacher.name)
    # A trained run's model lies in RUN/model.
    called = path.parent.name if path.name == "model" and path.parent.name else path.name
    made_for = "all" if plan is None else f"plan-{_digest(plan)[:8]}"
    return folder / f"{pairs.name}_{called}_{made_for}"


def distill(
    teacher: RetrievalModel,
    pairs: PairSet,
    features: Callable[[], tuple[Texts, ClipFeatures]],
    folder: Path,
    plan: NDArray[np.int64] | None = None,
    progress: Progress | None = None,
) -> RowStore:
    """Write down a teacher's logits, and its weights over the frames of every caption's own clip.

    features: gives this teacher's features of captions, by their numbers, and of all clips [V]; only asked
    when rows are missing. The features of all captions are never held at once.
    plan: the captions of every step of a run, [steps, B]; then only the pairs of these batches are scored,
    one row a step. None scores every caption against every clip, one row a caption, for any run.
    An interrupted run goes on; a cache of another teacher or other data is refused (DataError).
    Arrays, with L = (T) or (steps, B) and N = V or B: `scores` uint16 [L, N] with `low` and `step` float32
    [L], `weights` float32 [L, F].
    """
    row = () if plan is None else (plan.shape[1],)
    others = len(pairs.clips) if plan is None else plan.shape[1]
    arrays = {
        "scores": Array((*row, others), "u2"),
        "low": Array(row, "f4"),
        "step": Array(row, "f4"),
        "weights": Array((*row, teacher.frames_per_clip), "f4"),
    }
    identity = {
        "teacher": teacher.fingerprint(),
        "data": pairs.identity(),
        "plan": None if plan is None else _digest(plan),
        "frames per clip": teacher.frames_per_clip,
    }
    store = RowStore(folder, len(pairs.captions) if plan is None else len(plan), arrays, identity)
    if not len(store.missing()):
        return store
    text, clips = features()

    @torch.inference_mode()
    def make(numbers: NDArray[np.int64]) -> Rows:
        if plan is None:
            own = clips.select(torch.from_numpy(pairs.clip_of[numbers]))
            return _signals(teacher, text(numbers), clips, own)
        steps = []
        for captions in plan[numbers]:
            own = clips.select(torch.from_numpy(pairs.clip_of[captions]))
            steps.append(_signals(teacher, text(captions), own, own))
        return {name: np.stack([step[name] for step in steps]) for name in arrays}

    store.fill(make, _BLOCK, progress)
    return store


def _signals(teacher: RetrievalModel, text: TextFeatures, clips: ClipFeatures, own: ClipFeatures) -> Rows:
    """Rows of a store.  text: [T].  clips: of the columns, [N].  own: the clips of the texts, [T]."""
    found = teacher.similarity(text, clips).float().cpu()
    if not torch.isfinite(found).all():
        raise DataError(f"{teacher.name}: this teacher's scores are not finite; it cannot teach")
    low, high = found.amin(1), found.amax(1)
    step = (high - low).clamp_min(torch.finfo(torch.float32).tiny) / _STEPS
    scaled = ((found - low[:, None]) / step[:, None]).round().clamp(0, _STEPS)
    if teacher.sees_frames:
        weights = paired(teacher.teaching_weights(text, own))
    else:
        weights = found.new_zeros(len(text), teacher.frames_per_clip)
    return {
        "scores": scaled.to(torch.int32).numpy().astype(np.uint16),
        "low": low.numpy(),
        "step": step.numpy(),
        "weights": weights.float().cpu().numpy(),
    }


def _digest(plan: NDArray[np.int64]) -> str:
    return hashlib.sha256(repr(plan.shape).encode() + np.ascontiguousarray(plan, "<i8").tobytes()).hexdigest()


def paired(relevance: Tensor) -> Tensor:
    """[B, B, F] -> [B, F]: text i on clip i."""
    return relevance.diagonal(dim1=0, dim2=1).T


def sharpened(weights: Tensor, temperature: float) -> Tensor:
    """Weights that a softmax gave, as it would give them at another temperature: w ** (1 / t), summing to 1.

    weights: [..., F], rows sum to 1 or are all 0.  What is 0 stays 0.
    """
    logits = weights.clamp_min(torch.finfo(weights.dtype).tiny).log() / temperature
    return masked_softmax(logits, weights > 0)


@dataclass(frozen=True)
class Teacher:
    """One teacher's store.  scale, bias: logits = scale cosine + bias.  recall: R@1 on validation."""

    store: RowStore
    scale: float = 1.0
    bias: float = 0.0
    recall: float = 1.0


class TeacherCache:
    """The signals of several teachers, read from their stores.

    planned: the stores hold the batches of a run, not every caption.  temperature: of the weights over
    frames; None for an objective that asks for none, whose teachers may see clips in different frames.
    """

    def __init__(
        self, teachers: Sequence[Teacher], pairs: PairSet, planned: bool, temperature: float | None = 1.0
    ) -> None:
        stores = [teacher.store for teacher in teachers]
        self.scale = torch.tensor([t.scale for t in teachers])
        self.bias = torch.tensor([t.bias for t in teachers])
        self.recalls = torch.tensor([t.recall for t in teachers])
        for store in stores:
            if len(missing := store.missing()):
                raise DataError(f"{store.folder}: {len(missing)} rows are not there yet")
        self.clip_of, self.planned, self.temperature = pairs.clip_of, planned, temperature
        self.folders = [store.folder for store in stores]
        self.stores = [{name: store.open(name) for name in store.arrays} for store in stores]

    def read(self, step: int, captions: NDArray[np.int64]) -> TeacherSignals:
        """Signals of the batch of a step.  captions: [B] its numbers, which stand for their clips as well."""
        rows = step if self.planned else captions
        scores, weights = [], []
        for store in self.stores:
            steps = store["scores"][rows]
            if not self.planned:
                steps = steps[:, self.clip_of[captions]]
            scores.append(
                store["low"][rows][:, None] + steps.astype(np.float32) * store["step"][rows][:, None]
            )
            if self.temperature is not None:
                weights.append(store["weights"][rows])
        sharp = torch.zeros(len(self.stores), len(captions), 0)
        if self.temperature is not None:
            sharp = sharpened(torch.from_numpy(np.stack(weights)), self.temperature)
        return TeacherSignals(torch.from_numpy(np.stack(scores)), sharp, self.scale, self.bias, self.recalls)
