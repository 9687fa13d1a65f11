"""The index as its users see it: open, search, look at what is inside."""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, get_args

import numpy as np
import numpy.typing as npt

from vidsift.errors import QueryError
from vidsift.index.asked import Asked, add_up, as_vector, check_words, mix
from vidsift.index.building import build_derived, clean_derived
from vidsift.index.confidence import Background, confidence, level
from vidsift.index.config import IndexConfig, ModelSpec, read_config, write_config
from vidsift.index.derived import Derived, open_derived, open_newest
from vidsift.index.filters import Filter
from vidsift.index.founding import create_files
from vidsift.index.fusion import CHANNELS, check_channels, fuse
from vidsift.index.lock import WriterLock, being_written
from vidsift.index.queries import Term, as_terms, describe
from vidsift.index.ranking import Answer, GroupBy, ShortList, choose
from vidsift.index.recall import joined, recall
from vidsift.index.remote import at_hand, locate
from vidsift.index.rerank import RerankWeights
from vidsift.index.scan import TUNED_FOR, ScanPoint, measure_scan
from vidsift.index.types import Channel, FileRecord, Floats, Hit, Place, SearchResult
from vidsift.index.upkeep import index_bytes
from vidsift.index.versions import table_version
from vidsift.index.words import Said, WordSearch, words_of
from vidsift.video import SegmentConfig
from vidsift.video.address import absolute, is_address

if TYPE_CHECKING:
    from vidsift.index.store import Store
    from vidsift.models import RetrievalModel
    from vidsift.models.features import TextFeatures


LONGEST = 10_000
"""Clips that are looked through for answers that are neither near-duplicates nor parts of others."""


class QueryEncoder(Protocol):
    """What a search needs of a model (`vidsift.models.RetrievalModel` is one)."""

    name: str

    def fingerprint(self) -> str: ...

    def encode_queries(self, texts: list[str]) -> npt.NDArray[np.float32]: ...


class Index:
    """A searchable index, seen as it was when it was opened or last refreshed.

    It lies in a folder, or in object storage at s3://BUCKET/PREFIX; what searches read of the latter is built
    from its table in this machine's cache (`vidsift.index.remote.at_hand`).
    Writers (`vidsift.ingest`) never disturb an open index; `refresh` moves on to what they committed.
    """

    def __init__(self, folder: str, config: IndexConfig, arrays: Derived) -> None:
        self.folder = folder
        self.config = config
        self._arrays = arrays
        self._words = WordSearch(arrays, partial(_open_store, folder, config))
        self._checked: weakref.WeakKeyDictionary[QueryEncoder, bool] = weakref.WeakKeyDictionary()
        self._checked_rerankers: weakref.WeakKeyDictionary[RetrievalModel, bool] = weakref.WeakKeyDictionary()

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        model: ModelSpec,
        segmentation: SegmentConfig | None = None,
        search: RerankWeights | None = None,
    ) -> Index:
        """Make an empty index; IndexStateError when `folder` holds an index or anything else already."""
        path = locate(folder)
        create_files(path, model, segmentation or SegmentConfig(), search or RerankWeights())
        return cls.open(path)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Index:
        """Open an index for searching.

        IndexNotFoundError when there is none, IndexStateError when it is damaged or of another format.
        """
        path = locate(folder)
        config = read_config(path)
        return cls(path, config, _open_arrays(path, config))

    def refresh(self) -> bool:
        """See what was committed since; True when that is anything. Not while other threads search: they
        take `latest`."""
        later = self.latest()
        moved = later.arrays is not self._arrays
        self._arrays, self._words, self.config = later._arrays, later._words, later.config
        self._checked, self._checked_rerankers = later._checked, later._checked_rerankers
        return moved

    def latest(self) -> Index:
        """This index as it is now, for those who search it from several threads: itself when there is nothing
        new, else another object, so that searches which run go on with what they began with."""
        config, arrays = read_config(self.folder), self._arrays
        same = config.index_id == self.config.index_id
        if not same or self.is_outdated():
            found = _open_arrays(self.folder, config)
            if not same or found.version != arrays.version:
                arrays = found
        if config == self.config and arrays is self._arrays:
            return self
        later = Index(self.folder, config, arrays)
        if config.model == self.config.model:
            # Checking a model costs a pass over its weights.
            later._checked, later._checked_rerankers = self._checked, self._checked_rerankers
        return later

    def __len__(self) -> int:
        """Clips that can be found."""
        return len(self._arrays)

    @property
    def arrays(self) -> Derived:
        """What is searched: a snapshot that nothing changes."""
        return self._arrays

    def is_outdated(self) -> bool:
        """Whether something was committed since this index was opened (a look at a folder, no more)."""
        return table_version(self.folder) != self._arrays.version

    @property
    def has_words(self) -> bool:
        """Whether subtitles came with any of the videos."""
        return len(self._arrays.word_rows) > 0

    @property
    def version(self) -> int:
        """The table's version that this index shows."""
        return self._arrays.version

    @property
    def model(self) -> ModelSpec:
        """The model that the index was built with; `load_model(index.model.name)` gives it back."""
        return self.config.model

    def files(self) -> dict[str, FileRecord]:
        """Every file that the index knows, failed ones too, by path."""
        return self._store().files()

    def info(self) -> dict[str, Any]:
        """What `vidsift info` says: counts, model, settings, failed and partial files, bytes on disk."""
        files = self.files().values()
        return {
            "index": self.folder,
            "clips": sum(file.clips for file in files),
            "files": sum(file.status != "failed" for file in files),
            "seconds": sum(file.duration for file in files if file.status != "failed"),
            "failed": _problems(files, failed=True),
            "partial": _problems(files, failed=False),
            "words": self.has_words,
            "roots": list(self.config.roots),
            "model": asdict(self.config.model),
            "segmentation": asdict(self.config.segmentation),
            "created": self.config.created,
            "version": self.version,
            "scan": self._arrays.scan.kind,
            "scan_reason": self._arrays.scan.reason(self.config.picked, self.config.scan),
            "picked": self._picked(),
            "bytes": index_bytes(self.folder),
        }

    def thumbnail(self, clip_id: str) -> bytes:
        """The JPEG of a clip's middle frame; KeyError for a clip that the index does not (any more) hold."""
        return self._store().thumbnail(clip_id)

    def tune(self, target: float = 0.97, queries: int = 200) -> list[ScanPoint]:
        """Measure the scan by codes against the exact one on this index's own vectors, and remember the
        fewest clips to pick that reach `target` recall of the best hundred (or the most that was tried).

        queries: so many frame vectors of the index stand in for sentences.
        Returns what was measured; empty, and nothing is changed, for an index that is scanned exactly.
        Raises QueryError for numbers without meaning, IndexStateError while another process writes.
        """
        if not 0 < target <= 1 or queries < 1:
            raise QueryError(f"tune: target in (0, 1] and at least one query; got {target}, {queries}")
        arrays = self._arrays
        if arrays.scan.codes is None:
            return []
        rng = np.random.default_rng(0)
        rows = np.sort(rng.permutation(len(arrays))[:queries])
        frame = rng.integers(0, np.maximum(arrays.counts[rows], 1))
        vectors = arrays.frames[arrays.slots[rows], frame].astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        points = measure_scan(arrays.scan, (vectors / norms)[norms[:, 0] > 0])
        if not points:  # so few clips that all are scored, codes or not
            return []
        enough = [point.picked for point in points if point.recall >= target]
        chosen = enough[0] if enough else points[-1].picked
        with WriterLock(self.folder):
            # Read again: a writer may have added roots since this index was opened.
            self.config = replace(read_config(self.folder), picked=chosen)
            write_config(self.folder, self.config)
        return points

    def measure_background(self, model: RetrievalModel) -> Background | None:
        """What the model's background sentences score here at best; None where they tell nothing."""
        from vidsift.index.reranking import read_texts
        from vidsift.models.background import background_of

        arrays, weights = self._arrays, self.config.search
        if len(arrays) == 0:
            return None
        texts = background_of(model)
        features, vectors = read_texts(model, list(texts))
        one, best = np.ones(1, np.float32), []
        for i, text in enumerate(texts):
            vector, own = vectors[i], [features.select(slice(i, i + 1))]
            reranker = model if weights.own_score else None
            asked = Asked((Term(text),), [vector], one, vector, 1.0, reranker, own)
            rows, coarse = recall(arrays, vector, 1, weights.candidates, False, None, self.config.picked)
            short = self._score(asked, rows, coarse)
            first = int(np.argmax(short.scores))
            best.append((short.scores[first], short.coarse_scores[first]))
        return Background.of(np.array(best), len(arrays))

    def check_model(self, model: QueryEncoder) -> None:
        """Raise ModelMismatchError unless this is the model that the index was built with."""
        if model not in self._checked:
            same = getattr(model, "same_clips_as", ())
            self.config.model.check(model.name, model.fingerprint(), self.folder, same)
            self._checked[model] = True

    def search(
        self,
        query: str | Sequence[Term] | npt.ArrayLike,
        model: QueryEncoder | None = None,
        k: int = 10,
        candidates: int | None = None,
        group_by: GroupBy = "video",
        reranker: RetrievalModel | None = None,
        where: Filter | None = None,
        collapse: bool | None = None,
        channels: Collection[Channel] = CHANNELS,
    ) -> SearchResult:
        """Find the k best answers: recall by coarse vector, rerank by frames, one hit per video; where the
        index holds words (subtitles), fused by reciprocal rank with the clips that say the query's.

        query: a sentence, which `model` encodes; terms (`parse_query`), each of which is scored by itself,
        the scores being added up by their weights; or a sentence vector [D] of the index's model.
        reranker: the index's model again, whose own similarity then ranks the short list in place of the
        text-gated frame score, and whose frame relevance gives the moments; any method can be one. A model
        that was tuned to its own score is its own reranker.
        candidates: clips to rerank (never fewer than k); None takes what the model was tuned to. When they
        hold fewer than k videos, the best clips of the next videos join them.
        group_by: "video" keeps the best clip of each file; "moment" gives several of a file, and joins clips
        over whose border a moment goes on; "clip" gives all clips.
        where: the answers are the best among the clips for which this holds, however few they are.
        collapse: tell near-duplicates of an answer with it (`Hit.alike`) instead of as answers; None does so
        unless all clips are asked for.
        channels: what to search, "pictures", "words" or both. Words are looked for only where the index has
        any and the query is made of words: of several terms those that count for a clip.
        Raises QueryError for an empty query, a wrong vector or k < 1; ModelMismatchError for a wrong model,
        or a reranker of whose clip features the index does not keep enough.
        """
        arrays = self._arrays
        candidates = self.config.search.candidates if candidates is None else candidates
        if k < 1 or candidates < 1:
            raise QueryError(f"k and candidates must be at least 1, got k={k}, candidates={candidates}")
        if group_by not in get_args(GroupBy):
            raise QueryError(f"group_by must be 'video', 'moment' or 'clip', got {group_by!r}")
        collapse = group_by != "clip" if collapse is None else collapse
        began = time.perf_counter()
        asked = self._understand(query, model, reranker)
        encoded = time.perf_counter()
        allowed = None if where is None else where.rows(arrays)
        used = check_channels(channels, has_words=asked.terms is not None)
        by_video, count = group_by == "video", max(candidates, k)
        said: list[Said] = []
        if "words" in used and self.has_words:
            said = self._words.best(words_of(asked.terms or ()), k, count, by_video, allowed)
            there = arrays.reachable(np.array([one.row for one in said], np.int64))
            said = [one for one, reachable in zip(said, there, strict=True) if reachable]
        heard = time.perf_counter()
        total = len(arrays) if allowed is None else len(allowed)
        picked, recalling, wanted = self.config.picked, 0.0, k
        while True:
            before = time.perf_counter()
            rows, coarse = np.zeros(0, np.int64), np.zeros(0, np.float32)
            if "pictures" in used:
                rows, coarse = recall(arrays, asked.sentence, wanted, candidates, by_video, allowed, picked)
            rows, coarse = joined(arrays, asked.sentence, rows, coarse, said)
            recalling += time.perf_counter() - before
            short = self._score(asked, rows, coarse)
            best = choose(short, len(rows) if said else k, group_by, collapse)
            if len(best) >= k or len(rows) == total or wanted >= LONGEST or "pictures" not in used:
                break
            # Joined and collapsed clips leave room: look further down.
            wanted = min(4 * max(wanted, candidates), LONGEST)
        if said:
            best = fuse(short, best, said, k, pictures="pictures" in used)
        background = self.config.background if self._is_comparable(asked) else None
        hits = [self._hit(short, answer, background) for answer in best]
        done = time.perf_counter()
        took = {"encode": encoded - began, "recall": recalling, "rerank": done - heard - recalling}
        if "words" in used and self.has_words:
            took["words"] = heard - encoded
        text = query if isinstance(query, str) else describe(asked.terms or ())
        return SearchResult(text, hits, {stage: seconds * 1000 for stage, seconds in took.items()})

    def vector(self, path: str | os.PathLike[str], at: float | None = None) -> Floats:
        """The coarse vector [D] of the clip of a file that is on `at` some second (None: its first): what
        `search` finds more like it by.

        Raises QueryError for a file that the index does not hold, or a time at which it has no clip.
        """
        arrays, wanted = self._arrays, os.fsencode(absolute(path))
        number = next((n for n in range(len(arrays.paths)) if arrays.paths[n] == wanted), None)
        if number is None:
            raise QueryError(f"{os.fspath(path)}: this index holds no clip of it")
        rows = np.flatnonzero(arrays.file_of == number)
        rows = rows[np.argsort(arrays.spans[rows, 0], kind="stable")]
        if at is not None:
            on = (arrays.spans[rows, 0] <= at) & (at <= arrays.spans[rows, 1])
            if not on.any():
                last = float(arrays.spans[rows, 1].max())
                raise QueryError(f"{os.fspath(path)}: has no clip at {at:g} s; its last ends at {last:g} s")
            rows = rows[on]
        found: Floats = arrays.scan.vectors(rows[:1])[0]
        return found / np.linalg.norm(found)

    def _understand(self, query: Any, model: QueryEncoder | None, reranker: RetrievalModel | None) -> Asked:
        """A query, taken apart and encoded; QueryError, ModelMismatchError."""
        terms = as_terms(query)
        if reranker is None and self.config.search.own_score and terms is not None:
            reranker = _as_reranker(model)
        if reranker is not None:
            if terms is None:
                raise QueryError("a reranker reads the words of the query: give a sentence, not a vector")
            self._check_reranker(reranker)
        read = [self._read(term.text, model, reranker) for term in terms or ()]
        vectors = [vector for vector, _ in read] if terms else [as_vector(query, self.config.model.width)]
        shares = np.array([term.weight for term in terms or [Term("")]], np.float32)
        shares /= np.abs(shares).sum()
        sentence, size = mix(vectors, shares)
        return Asked(terms, vectors, shares, sentence, size, reranker, [text for _, text in read])

    def _score(self, asked: Asked, rows: npt.NDArray[np.int64], coarse: Floats) -> ShortList:
        """The second stage: clips, with their coarse scores, by their frames."""
        arrays, weights = self._arrays, self.config.search
        if asked.reranker is None:
            found = arrays.rerank(asked.vectors, rows, weights.temperature)
            fine, relevance = add_up(found, asked.shares)
            scores = weights.coarse_weight * (coarse * asked.size) + weights.fine_weight * fine
        else:
            frames = arrays.frames_of(rows)
            found = [self._rescore(asked.reranker, text, rows, frames) for text in asked.texts]
            scores, relevance = add_up(found, asked.shares)
        return ShortList(arrays, rows, asked.sentence, coarse, scores, relevance)

    def _check_reranker(self, reranker: RetrievalModel) -> None:
        from vidsift.index.reranking import check_reranker

        if reranker not in self._checked_rerankers:
            check_reranker(reranker, self.config.model, self.folder)
            self._checked_rerankers[reranker] = True

    def _rescore(
        self,
        reranker: RetrievalModel,
        text: TextFeatures,
        rows: npt.NDArray[np.int64],
        frames: npt.NDArray[np.int8],
    ) -> tuple[Floats, Floats]:
        from vidsift.index.reranking import COLUMNS, rescore

        arrays = self._arrays
        if len(rows) == 0:
            return np.zeros(0, np.float32), np.zeros((0, arrays.frames.shape[1]), np.float32)
        parts = [b""] * len(rows)
        if set(self.config.model.parts) - COLUMNS:
            ids = [arrays.clip_ids[row].decode() for row in rows.tolist()]
            parts = self._store().parts(ids)
        coarse = arrays.scan.vectors(rows)
        return rescore(reranker, text, coarse, frames, arrays.scales[rows], arrays.counts[rows], parts)

    def _is_comparable(self, asked: Asked) -> bool:
        """Whether it is one sentence, scored as the background sentences were."""
        alone = asked.terms is not None and len(asked.terms) == 1 and asked.terms[0].weight > 0
        return alone and (asked.reranker is not None) == self.config.search.own_score

    def _read(
        self, query: str, model: QueryEncoder | None, reranker: RetrievalModel | None
    ) -> tuple[Floats, Any]:
        """A sentence's vector, and its features where a reranker needs them."""
        check_words(query)
        if model is None and reranker is None:
            raise QueryError("a sentence needs the index's model to encode it: search(query, model)")
        text = None
        if reranker is not None:
            from vidsift.index.reranking import read_texts

            text, vectors = read_texts(reranker, [query])
        if model is not None and model is not reranker:
            self.check_model(model)
            vectors = model.encode_queries([query])
        return np.asarray(vectors[0], dtype=np.float32), text

    def _hit(self, short: ShortList, answer: Answer, background: Background | None) -> Hit:
        arrays, row = self._arrays, int(short.rows[answer.at])
        start, end = short.span(answer.at)
        curve = self.config.search
        score, coarse = float(short.scores[answer.at]), float(short.coarse_scores[answer.at])
        sure = None if background is None else confidence(score, coarse, background, curve)
        return Hit(
            path=os.fsdecode(arrays.paths[short.file(answer.at)]),
            score=score,
            start=start,
            end=end,
            moment=answer.moment,
            metadata=json.loads(arrays.metadata[row]),
            clip_id=arrays.clip_ids[row].decode(),
            confidence=sure,
            level=None if sure is None else level(sure, curve),
            alike=tuple(
                Place(os.fsdecode(arrays.paths[short.file(i)]), *short.span(i)) for i in answer.alike
            ),
            load_thumbnail=partial(_thumbnail, self.folder, self.config.model.fingerprint),
            channels=answer.channels,
            cue=answer.cue,
        )

    def _picked(self) -> int | None:
        """How many clips are picked for 100 answers; None where all are scored."""
        scan = self._arrays.scan
        return None if scan.codes is None else self.config.picked or scan.usual(TUNED_FOR)

    def _store(self) -> Store:
        return _open_store(self.folder, self.config)


def _as_reranker(model: QueryEncoder | None) -> RetrievalModel | None:
    """The model itself, if it is more than an encoder of queries."""
    if model is None:
        return None
    from vidsift.models import RetrievalModel

    return model if isinstance(model, RetrievalModel) else None


def _problems(files: Iterable[FileRecord], failed: bool) -> list[dict[str, str]]:
    found = (f for f in files if f.problem and (f.status == "failed") == failed)
    return [{"path": f.path, "reason": f.problem} for f in sorted(found, key=lambda f: os.fsencode(f.path))]


def refresh_arrays(folder: str, config: IndexConfig, store: Store) -> None:
    """Bring the index of words up to date, build the arrays of the table as it is now, unless they are there,
    and remove older ones (a writer's last act). The arrays of an index in object storage are left to whoever
    opens it to search."""
    store.index_words()
    if not is_address(folder):
        build_derived(folder, config.index_id, store, setting=config.scan)
        clean_derived(folder, store.version)


def _open_arrays(folder: str, config: IndexConfig) -> Derived:
    here = at_hand(folder, config.index_id)
    arrays = open_derived(here, config.index_id, table_version(folder))
    if arrays is None and being_written(folder):
        # The writer makes the next arrays itself, every now and then: readers need not wait for them.
        arrays = open_newest(here, config.index_id)
    if arrays is None:  # not by its truth: arrays of no clips are arrays
        store = _open_store(folder, config)
        arrays = build_derived(here, config.index_id, store, setting=config.scan)
        if is_address(folder):
            clean_derived(here, store.version)
    return arrays


def _open_store(folder: str, config: IndexConfig) -> Store:
    from vidsift.index.store import Store  # imports LanceDB, which a search does not need

    return Store.open(folder, config.model.fingerprint)


def _thumbnail(folder: str, fingerprint: str, clip_id: str) -> bytes:
    from vidsift.index.store import Store

    return Store.open(folder, fingerprint).thumbnail(clip_id)
