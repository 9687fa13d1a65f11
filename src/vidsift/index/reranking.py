"""Rescoring a short list with a method's own similarity, from the clip features that the index keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save

from vidsift.errors import ModelMismatchError
from vidsift.index.config import ModelSpec
from vidsift.index.types import Floats
from vidsift.models.features import ClipFeatures, TextFeatures

if TYPE_CHECKING:
    from vidsift.models import RetrievalModel

COLUMNS = frozenset({"coarse", "frames"})
"""Parts with columns of their own, which every index keeps."""


def pack_parts(features: ClipFeatures, names: frozenset[str]) -> bytes:
    """One clip's further parts for the store; empty when its method has none.

    features: of a single clip.  names: the method's `index_parts`. Patch vectors, by far the largest, are
    kept as float16, other parts as float32: the inner products among them leave float16's range.
    """
    kept: dict[str, torch.Tensor] = {}
    for name in sorted(names - COLUMNS):
        part = features.patches if name == "patches" else features.extra[name]
        if part is None:
            raise ValueError(f"the model announces {name!r} for the index, but its features have none")
        kept[name] = part[0].detach().to("cpu", torch.float16 if name == "patches" else torch.float32)
    return save({name: part.contiguous() for name, part in kept.items()}) if kept else b""


def check_reranker(reranker: RetrievalModel, spec: ModelSpec, folder: str) -> None:
    """Raise ModelMismatchError unless the index keeps, of this very model, what its similarity needs."""
    missing = sorted(reranker.index_parts - set(spec.parts))
    if missing:
        raise ModelMismatchError(
            f"{folder}: reranking with {reranker.name!r} ({reranker.method}) needs {', '.join(missing)} "
            f"of every clip, but the index keeps only {', '.join(spec.parts)}. Index into a new folder with "
            "this model to keep them"
        )
    spec.check(reranker.name, reranker.fingerprint(), folder, reranker.same_clips_as)


@torch.inference_mode()
def read_texts(model: RetrievalModel, texts: list[str]) -> tuple[TextFeatures, Floats]:
    """Sentences as a method reads them, and their query vectors [T, D]."""
    text = model.encode_text(*model.tokenize(texts))
    return text, model.query_vectors(text).float().cpu().numpy()


@torch.inference_mode()
def rescore(
    reranker: RetrievalModel,
    text: TextFeatures,
    coarse: Floats,
    frames: npt.NDArray[np.int8],
    scales: Floats,
    counts: npt.NDArray[np.integer],
    parts: list[bytes],
) -> tuple[Floats, Floats]:
    """Score K clips by a method's own similarity.

    text: one sentence (`read_texts`).  coarse: [K, D].  frames: [K, F, D] int8.  scales: [K, F].  counts: [K]
    real frames, first.  parts: K packed parts.
    Returns (logits [K], relevance [K, F], the method's weights over the real frames).
    """
    unpacked: list[Mapping[str, Any]] = [load(packed) if packed else {} for packed in parts]
    names = unpacked[0].keys() if unpacked else ()
    extra = {name: torch.stack([part[name].float() for part in unpacked]) for name in names}
    clips = ClipFeatures(
        coarse=torch.from_numpy(coarse),
        frames=torch.from_numpy(frames.astype(np.float32) * scales[..., None]),
        mask=torch.from_numpy(np.arange(frames.shape[1]) < counts[:, None]),
        patches=extra.pop("patches", None),
        extra=extra,
    ).to(reranker.device)
    scores = reranker.similarity(text, clips)[0].float().cpu().numpy()
    relevance = reranker.frame_relevance(text, clips)[0].float().cpu().numpy()
    return scores, relevance
