"""What a model costs, measured on this machine: time per query, bytes per clip, time per clip to index."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch

from vidsift.datasets.pairs import PairSet
from vidsift.evaluation.scoring import search_scores
from vidsift.experts.store import open_sources
from vidsift.index.reranking import pack_parts
from vidsift.models import ClipFeatures, RetrievalModel
from vidsift.models.experts import ExpertMethod

_QUERIES, _CLIPS = 30, 16


@dataclass(frozen=True)
class Cost:
    """Milliseconds, one query or clip at a time, medians.

    encode, recall, rerank: of a query: its text, the coarse scan over `gallery` clips (a plain product; an
    index scans faster), ranking the short list of `candidates`.
    bytes_per_clip: what an index reads of a clip when it searches.
    read, embed: of a clip: decoding (or rendering) its frames, and the towers and the method over them; for a
    model that sees experts, running all of them, and the method over what they say.
    """

    encode: float
    recall: float
    rerank: float
    gallery: int
    candidates: int
    bytes_per_clip: int
    read: float
    embed: float
    machine: str

    @property
    def query(self) -> float:
        """Milliseconds from a sentence to its ranked short list."""
        return self.encode + self.recall + self.rerank

    @property
    def clip(self) -> float:
        """Milliseconds to index a clip."""
        return self.read + self.embed


@torch.inference_mode()
def measure_cost(model: RetrievalModel, pairs: PairSet, clips: ClipFeatures) -> Cost:
    """Measure on the first captions and clips of a set.  clips: features of all its clips [V]."""
    candidates = min(model.search.candidates, len(clips))
    texts = list(pairs.captions[:_QUERIES])
    encode = _timed([lambda t=text: model.encode_text(*model.tokenize([t])) for text in texts])  # type: ignore[misc]
    queries = [model.encode_text(*model.tokenize([text])) for text in texts]
    recall = _timed(
        [lambda q=q: (model.query_vectors(q) @ clips.coarse.T).topk(candidates) for q in queries]  # type: ignore[misc]
    )
    short = clips.select(slice(0, candidates))
    rerank = _timed([lambda q=q: search_scores(model, q, short) for q in queries])  # type: ignore[misc]
    read, embed = [], []
    sources = open_sources(model)
    for number in range(min(_CLIPS, len(pairs.clips))):
        began = time.perf_counter()
        if sources:
            found = {e.name: source.extract(pairs.clips, number) for e, source in sources}
            features = {
                name: torch.from_numpy(x[None]).to(model.device) for name, x in found.items() if x is not None
            }
            decoded = time.perf_counter()
            if features and isinstance(model, ExpertMethod):
                model.encode_experts(features)
        else:
            pixels, mask = pairs.clips.read(number)
            decoded = time.perf_counter()
            if not mask.any():
                continue
            model.encode_video(torch.from_numpy(pixels[None]), torch.from_numpy(mask[None]))
        read.append(1000 * (decoded - began))
        embed.append(1000 * (time.perf_counter() - decoded))
    return Cost(
        encode=encode,
        recall=recall,
        rerank=rerank,
        gallery=len(clips),
        candidates=candidates,
        bytes_per_clip=bytes_per_clip(model, clips),
        read=median(read) if read else 0.0,
        embed=median(embed) if embed else 0.0,
        machine=f"{_processor()}, {_cores()} cores, {model.device.type}",
    )


def bytes_per_clip(model: RetrievalModel, clips: ClipFeatures) -> int:
    """fp16 coarse vector, int8 frame vectors with a scale each, and the method's further parts."""
    frames, width = clips.frames.shape[1:]
    further = pack_parts(clips.select(slice(0, 1)), model.index_parts)
    return 2 * width + frames * (width + 4) + len(further)


def _timed(calls: list[Callable[[], object]]) -> float:
    """Median milliseconds of a call; the first two warm up."""
    for call in calls[:2]:
        call()
    spent = []
    for call in calls:
        began = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(1000 * (time.perf_counter() - began))
    return float(np.median(spent)) if spent else 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            for line in stream:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.processor() or platform.machine()
