"""A model on a split: ranks, figures with intervals in both directions, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet
from vidsift.evaluation.cost import Cost, measure_cost
from vidsift.evaluation.intervals import intervals
from vidsift.evaluation.metrics import Ranks, RetrievalMetrics, Scores, rank_all, retrieval_metrics
from vidsift.evaluation.protocol import Protocol, describe_protocol
from vidsift.evaluation.rescoring import dual_softmax_clips, dual_softmax_texts, qb_norm_texts
from vidsift.evaluation.scoring import SCORES, model_scores
from vidsift.experts.store import open_sources, open_stores
from vidsift.features.extract import extract_clips, extract_texts, store_name, tower_fingerprint
from vidsift.features.inputs import Inputs
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures

DEFAULT_SCORES = ("coarse", "similarity", "two-stage")
RESCORINGS = ("dsl", "qb-norm")
T2V, V2T_CAPTIONS, V2T_GROUPS = "t2v", "v2t among captions", "v2t among groups"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Row:
    """One line of figures.  direction: who ranks whom.  rescoring: transductive, not comparable with others.

    intervals: 95% bootstrap, by the names of the metrics.
    """

    score: str
    direction: str
    rescoring: str | None
    metrics: RetrievalMetrics
    intervals: dict[str, tuple[float, float]]

    @property
    def name(self) -> str:
        """How the row is called in files."""
        return " ".join(part for part in (self.score, self.rescoring, self.direction) if part)


@dataclass(frozen=True)
class Evaluation:
    """ranks: by the names of rows, [T] for texts that rank clips, [C] for the clips that have captions.

    asked: [C] numbers of those clips.  nan: scores that were not a number, by score.
    """

    protocol: Protocol
    rows: tuple[Row, ...]
    ranks: dict[str, Ranks]
    asked: NDArray[np.int64]
    nan: dict[str, int]
    cost: Cost
    seconds: float


@dataclass(frozen=True)
class Material:
    """A set as a model sees it: features of all clips in memory, those of texts read when asked for."""

    model: RetrievalModel
    pairs: PairSet
    inputs: Inputs
    clips: ClipFeatures

    def texts(self, numbers: NDArray[np.int64]) -> TextFeatures:
        """Features of these texts."""
        with torch.inference_mode():
            return self.inputs.read_texts(numbers).encode(self.model)

    def scores(self, name: str, candidates: int | None = None) -> Scores:
        """One of the model's scores for all pairs."""
        count = len(self.pairs.captions)
        return model_scores(self.model, name, self.texts, count, self.clips, candidates)


@dataclass(frozen=True)
class Options:
    """scores: of `vidsift.evaluation.scoring`.  rescoring: of RESCORINGS, on the method's similarity.

    v2t: also let clips rank texts.  resamples: of the bootstrap.  block: texts scored at once.
    """

    scores: Sequence[str] = DEFAULT_SCORES
    rescoring: Sequence[str] = ()
    v2t: bool = True
    resamples: int = 2000
    seed: int = 0
    block: int = 256

    def __post_init__(self) -> None:
        """Raise ValueError for an unknown score or rescoring."""
        for name, known in (*((s, SCORES) for s in self.scores), *((r, RESCORINGS) for r in self.rescoring)):
            if name not in known:
                kind = "score" if known is SCORES else "rescoring"
                raise ValueError(f"no {kind} {name!r}; there are {', '.join(known)}")
        if not self.scores:
            raise ValueError("no score to rank by")


def open_material(
    model: RetrievalModel,
    pairs: PairSet,
    folder: Path,
    on_bad: str = "stop",
    progress: Progress | None = None,
) -> Material:
    """Run the towers over a set, or read what they said the last time.

    folder: of the feature stores, which are named by model, data and sampling.
    Raises DataError for clips that cannot be decoded, unless `on_bad` is `skip`.
    """

    def report(title: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(title, done, total)

    model.eval()
    text = store_name(folder, pairs, model.name, model, "text")
    # Whatever changed, the old store is another one: a measurement is never refused for a stale cache.
    text = text.with_name(f"{text.name}_{tower_fingerprint(model, 'text')[:8]}_{pairs.identity()[:8]}")
    clips, experts = None, {}
    if model.sees_frames:
        vision = store_name(folder, pairs, model.name, model, "vision")
        digest = f"{tower_fingerprint(model, 'vision')[:8]}_{pairs.clips.identity()[:8]}"
        vision = vision.with_name(f"{vision.name}_{digest}")
        clips = extract_clips(model, pairs, vision, on_bad, report("clips"))
    else:
        sources = open_sources(model)
        experts = open_stores(sources, pairs, folder / pairs.clips.identity()[:8], on_bad, progress)
    texts = extract_texts(model, pairs, text, report("captions"))
    inputs = Inputs(model, pairs, clips, texts, on_bad, experts).without_empty()
    return Material(model, inputs.pairs, inputs, inputs.encode_clips(model))


def evaluate(
    material: Material,
    dataset: str,
    split: str,
    options: Options | None = None,
    paragraphs: bool = False,
    bank: Material | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Rank everything, in blocks, and summarise.

    bank: training captions for QB-Norm, scored against the test's clips.
    Raises ValueError for QB-Norm without a bank.
    """
    import time

    options = options or Options()
    if "qb-norm" in options.rescoring and bank is None:
        raise ValueError("QB-Norm needs a bank of training captions")
    began = time.perf_counter()
    pairs = material.pairs
    gathered = _Gathered(pairs, options, progress)
    for name in options.scores:
        # Two stages answer texts; no clip ever searches that way.
        both = options.v2t and name != "two-stage"
        gathered.rank(name, None, material.scores(name), v2t=both)
    similarity = material.scores("similarity")
    if "dsl" in options.rescoring:
        gathered.rank("similarity", "dsl", dual_softmax_texts(similarity), v2t=False)
        if options.v2t:
            gathered.rank("similarity", "dsl", dual_softmax_clips(similarity), t2v=False)
    if "qb-norm" in options.rescoring:
        assert bank is not None
        temperature = 1 / 20
        count = len(bank.pairs.captions)
        scale = _logit_scale(material.model)
        against = model_scores(bank.model, "similarity", bank.texts, count, material.clips)
        normed = qb_norm_texts(_divided(similarity, scale), _divided(against, scale), temperature)
        gathered.rank("similarity", "qb-norm", normed, v2t=False)
    seconds = time.perf_counter() - began
    cost = measure_cost(material.model, pairs, material.clips)
    return Evaluation(
        describe_protocol(material.model, pairs, dataset, split, paragraphs),
        tuple(gathered.rows),
        gathered.ranks,
        np.unique(pairs.clip_of),
        gathered.nan,
        cost,
        seconds,
    )


def _logit_scale(model: RetrievalModel) -> float:
    """What turns logits into cosines: QB-Norm's temperature is meant for those."""
    if not model.scaled:
        return 1.0
    with torch.inference_mode():
        return float(model.backbone.logits(torch.ones(1, 1, device=model.device)))


def _divided(scores: Scores, scale: float) -> Scores:
    return Scores(scores.texts, scores.clips, lambda numbers: scores.rows(numbers) / scale)


@dataclass
class _Gathered:
    """Rows as they come."""

    pairs: PairSet
    options: Options
    progress: Progress | None
    rows: list[Row] = field(default_factory=list)
    ranks: dict[str, Ranks] = field(default_factory=dict)
    nan: dict[str, int] = field(default_factory=dict)

    def rank(
        self, name: str, rescoring: str | None, scores: Scores, t2v: bool = True, v2t: bool = True
    ) -> None:
        title = " ".join(part for part in ("ranking by", name, rescoring) if part)
        report = None
        if self.progress is not None:
            told = self.progress
            report = lambda done, total: told(title, done, total)  # noqa: E731
        clip_of = self.pairs.clip_of
        found = rank_all(scores, clip_of, text=t2v, clips=v2t, block=self.options.block, progress=report)
        if t2v:
            self.nan[f"{name} {rescoring}" if rescoring else name] = found.nan
        if found.text is not None:
            self._add(name, T2V, rescoring, found.text, clip_of, scores.clips)
        if found.among_captions is not None and found.among_groups is not None:
            self._add(name, V2T_CAPTIONS, rescoring, found.among_captions, found.clips, scores.texts)
            # With one caption per clip the two conventions are one.
            if len(found.clips) < scores.texts:
                groups = len(found.clips)
                self._add(name, V2T_GROUPS, rescoring, found.among_groups, found.clips, groups)

    def _add(
        self,
        name: str,
        direction: str,
        rescoring: str | None,
        found: Ranks,
        clusters: NDArray[np.int64],
        gallery: int,
    ) -> None:
        sure = intervals(found, clusters, self.options.seed, self.options.resamples)
        row = Row(name, direction, rescoring, retrieval_metrics(found, gallery), sure)
        self.rows.append(row)
        self.ranks[row.name] = found
