"""An index whose vectors are elsewhere: searches go to shards, which scan and rerank, within a deadline.

A search takes two rounds. In the first every shard gives its best clips by coarse vector, of which the best
in all are the short list; in the second those shards that hold some of it rerank them. One round, in which
every shard reranks a short list of its own, would save a message, but read as many short lists of frame
vectors as there are shards: they are by far the largest part, and not all in memory.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vidsift.errors import IndexStateError, ShardsError
from vidsift.index.config import IndexConfig, read_config
from vidsift.index.derived import DAMAGE, FOLDER, LAYOUT, MANIFEST, Derived, load_derived
from vidsift.index.remote import locate
from vidsift.index.scan import Scan, ScanPoint
from vidsift.index.searcher import Index
from vidsift.index.shards import (
    Found,
    cut_short,
    merge,
    merge_picked,
    merge_with_files,
    pack_allowed,
    picks_of,
    split_rows,
)
from vidsift.index.types import Floats, Partial, Rows, ScanKind, SearchResult
from vidsift.video.address import is_address

log = logging.getLogger(__name__)

Question = tuple[str, tuple[Any, ...]]
"""A method of `Shard` and its arguments."""


class Shards(Protocol):
    """Those who hold the vectors.  count: how many.  deadline: seconds that a search may take."""

    count: int
    deadline: float

    @property
    def snapshot(self) -> str:
        """The version (and build) of the arrays that all of them hold: `snapshot_of`."""

    def ask(self, snapshot: str, questions: Mapping[int, Question], seconds: float) -> dict[int, Any]:
        """Ask some, by number, all at once. Who does not answer in time is not in what comes back."""


class LostError(ShardsError):
    """A shard is lost that holds what has to be asked for."""


def shared_folder(folder: str | os.PathLike[str]) -> str:
    """The absolute path of an index that shards can map.  IndexStateError for one in object storage."""
    path = locate(folder)
    if is_address(path):
        raise IndexStateError(
            f"{path}: shards map an index's arrays from a folder that all their machines see; copy the index "
            "to such a folder, or serve it without --shards"
        )
    return path


def snapshot_of(arrays: Derived) -> str:
    """What arrays are told apart by."""
    return f"{arrays.version}-{arrays.build}"


def version_of(snapshot: str) -> int:
    """The version of the table that a snapshot shows."""
    return int(snapshot.partition("-")[0])


def snapshot_in(folder: str, index_id: str, version: int | None) -> str | None:
    """The arrays of a version of the table (None: unknown) that lie in an index's folder; None for none."""
    path = os.path.join(folder, FOLDER, str(version), MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            manifest = json.load(file)
        fits = manifest["layout"] == LAYOUT and manifest["index"] == index_id
        return f"{manifest['version']}-{manifest.get('build', '')}" if fits else None
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        log.warning("%s: is damaged (%s)", path, error)
        return None


def newest_snapshot(folder: str, index_id: str) -> str | None:
    """The newest arrays that lie in an index's folder; None when there are none."""
    parent = os.path.join(folder, FOLDER)
    names = os.listdir(parent) if os.path.isdir(parent) else []
    versions = sorted((int(name) for name in names if name.isdigit()), reverse=True)
    return next((found for v in versions if (found := snapshot_in(folder, index_id, v))), None)


class Fan:
    """The questions of one search: until when they may take, and which shards have been lost on the way.

    Every round gets half of the time that is left, so there is always some for going on without those that
    did not answer; they are not asked again.
    """

    def __init__(self, shards: Shards, snapshot: str, clips: int) -> None:
        self._shards, self._snapshot, self.clips = shards, snapshot, clips
        self.parts = split_rows(clips, shards.count)
        self._until = time.monotonic() + shards.deadline
        self.missing: set[int] = set()
        # Rows and coarse vectors of the short list that was reranked last: they are asked for next.
        self.reranked: tuple[Rows, Floats] | None = None

    def ask(self, questions: Mapping[int, Question]) -> dict[int, Any]:
        """Answers of those that are there.  Raises ShardsError when none is."""
        answers = self.some_of(questions)
        if questions and not answers:
            raise ShardsError(
                f"none of the {len(questions)} shards that hold what was asked for answered within "
                f"{self._shards.deadline:g} s; they are started again by themselves: try again soon"
            )
        return answers

    def ask_all_of(self, questions: Mapping[int, Question]) -> dict[int, Any]:
        """Answers of all that are asked.  Raises LostError when one of them is lost."""
        answers = self.some_of(questions)
        lost = sorted(questions.keys() - answers.keys())
        if lost:
            raise LostError(
                f"shard {lost[0] + 1} of {self._shards.count}, which holds what was asked for, does not "
                "answer; it is started again by itself: try again soon"
            )
        return answers

    def some_of(self, questions: Mapping[int, Question]) -> dict[int, Any]:
        """Answers of those that are there, which may be none."""
        asked = {number: one for number, one in questions.items() if number not in self.missing}
        left = self._until - time.monotonic()
        answers = self._shards.ask(self._snapshot, asked, left / 2) if asked and left > 0 else {}
        self.missing |= asked.keys() - answers.keys()
        return answers

    def by_rows(
        self, method: str, rows: npt.NDArray[np.integer[Any]], question: Any
    ) -> list[tuple[npt.NDArray[np.int64], Any]]:
        """What the shards of some rows say: places among `rows`, and the answer to `question(rows there)`."""
        places = {
            number: at
            for number, (first, last) in enumerate(self.parts)
            if len(at := np.flatnonzero((rows >= first) & (rows < last)))
        }
        answers = self.ask_all_of({n: (method, question(rows[at])) for n, at in places.items()})
        return [(at, answers[number]) for number, at in places.items()]

    def partial(self) -> Partial | None:
        """What the search went without; None when that is nothing."""
        if not self.missing:
            return None
        lost = sum(last - first for first, last in (self.parts[number] for number in self.missing))
        missing = tuple(sorted(self.missing))
        return Partial(missing, self._shards.count, self.clips - lost, self.clips)


@dataclass(frozen=True)
class Source:
    """Who is asked about a snapshot.  fan: of the search that asks; None makes one for every question."""

    shards: Shards
    snapshot: str
    clips: int
    width: int
    fan: Fan | None = None

    def asking(self) -> Fan:
        """The fan to ask through."""
        return self.fan or Fan(self.shards, self.snapshot, self.clips)


@dataclass(frozen=True)
class ShardedScan(Scan):
    """As `Scan`; `exact` and `codes` are None here, and where they are, searched by shards, as `scanned` says
    and in what is `kept` there."""

    source: Source = field(kw_only=True)
    scanned: ScanKind = field(kw_only=True)
    kept: str = field(kw_only=True)

    def __len__(self) -> int:
        return self.source.clips

    @property
    def compressed(self) -> bool:
        """Whether the shards have codes."""
        return self.scanned != "exact"

    @property
    def kind(self) -> ScanKind:
        """As `Scan.kind`."""
        return self.scanned

    @property
    def precision(self) -> str:
        """What the shards keep and score vectors in."""
        return self.kept

    def best(
        self, sentence: Floats, count: int, allowed: Rows | None = None, picked: int | None = None
    ) -> tuple[Floats, Rows]:
        """As `Scan.best`, of the shards that answer.  Raises ShardsError when none does."""
        fan = self.source.asking()
        picks = None if allowed is not None else self.picks(count, picked)
        questions = _of_all(fan, "best", allowed, lambda some: (sentence, count, some, None))
        if picks is None:
            return merge(list(fan.ask(questions).values()), count)
        for number in questions:
            first, last = fan.parts[number]
            own = picks_of(picks, count, last - first, len(self))
            questions[number] = ("best", (sentence, count, None, own, picks))
        found: dict[int, Found] = fan.ask(questions)

        def ask_again(wanted: dict[int, int]) -> None:
            answers = fan.some_of(
                {n: ("best", (sentence, count, None, own, picks)) for n, own in wanted.items()}
            )
            for number in wanted:
                found.pop(number)
            found.update(answers or ({} if found else fan.ask(questions)))

        more = cut_short(found, picks)
        if more:
            ask_again(more)
        while True:
            merged = merge_picked(dict(sorted(found.items())), count, picks)
            if isinstance(merged, tuple):
                return merged
            ask_again(merged)

    def vectors(self, rows: Rows) -> Floats:
        """As `Scan.vectors`.  Raises LostError where a shard of some row does not answer."""
        if len(rows) == 0:
            return np.zeros((0, self.source.width), np.float32)
        fan = self.source.asking()
        if fan.reranked is not None and np.array_equal(fan.reranked[0], rows):
            return fan.reranked[1]
        answers = fan.by_rows("vectors", rows, lambda some: (some,))
        found: Floats = _gathered(len(rows), answers)
        return found


@dataclass(frozen=True)
class ShardedArrays(Derived):
    """As `Derived`, without vectors: `frames` has no slots."""

    source: Source = field(kw_only=True)

    def through(self, fan: Fan) -> ShardedArrays:
        """These arrays for one search."""
        source = replace(self.source, fan=fan)
        assert isinstance(self.scan, ShardedScan)
        return replace(self, source=source, scan=replace(self.scan, source=source))

    def frames_of(self, rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int8]:
        """As `Derived.frames_of`.  Raises LostError where a shard of some row does not answer."""
        if len(rows) == 0:
            return np.zeros((0, *self.frames.shape[1:]), np.int8)
        answers = self.source.asking().by_rows("frames_of", rows, lambda some: (some,))
        found: npt.NDArray[np.int8] = _gathered(len(rows), answers)
        return found

    def reachable(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which clips are of shards that have not been lost in this search."""
        fan = self.source.asking()
        found = np.ones(len(rows), bool)
        for number in fan.missing:
            first, last = fan.parts[number]
            found &= (rows < first) | (rows >= last)
        return found

    def rerank(
        self, sentences: Sequence[Floats], rows: npt.NDArray[np.int64], temperature: float
    ) -> list[tuple[Floats, Floats]]:
        """As `Derived.rerank`, done where the frames are.  Raises LostError."""
        if len(rows) == 0:
            return super().rerank(sentences, rows, temperature)
        fan, asked = self.source.asking(), list(sentences)
        answers = fan.by_rows("rerank", rows, lambda some: (asked, some, temperature))
        fan.reranked = rows, _gathered(len(rows), [(at, vectors) for at, (_, vectors) in answers])
        return [
            (
                _gathered(len(rows), [(at, found[term][0]) for at, (found, _) in answers]),
                _gathered(len(rows), [(at, found[term][1]) for at, (found, _) in answers]),
            )
            for term in range(len(asked))
        ]

    def cosines(self, sentence: Floats, rows: npt.NDArray[np.int64]) -> Floats:
        """As `Derived.cosines`, done where the frames are.  Raises LostError."""
        if len(rows) == 0:
            return super().cosines(sentence, rows)
        answers = self.source.asking().by_rows("cosines", rows, lambda some: (sentence, some))
        found: Floats = _gathered(len(rows), answers)
        return found

    def best_with_files(
        self, sentence: Floats, count: int, files: int, allowed: Rows | None
    ) -> tuple[Floats, Rows]:
        """As `Derived.best_with_files`, of the shards that answer."""
        fan = self.source.asking()
        questions = _of_all(fan, "best_with_files", allowed, lambda some: (sentence, count, files, some))
        return merge_with_files(list(fan.ask(questions).values()), count, files, self.file_of)


def _of_all(fan: Fan, method: str, allowed: Rows | None, question: Any) -> dict[int, Question]:
    """A question to every shard that holds clips which may be answers."""
    questions: dict[int, Question] = {}
    for number, (first, last) in enumerate(fan.parts):
        some = pack_allowed(allowed, first, last)
        if last > first and (some is None or some.any()):
            questions[number] = (method, question(some))
    return questions


def _gathered(count: int, answers: Sequence[tuple[npt.NDArray[np.int64], Any]]) -> Any:
    whole = np.empty((count, *answers[0][1].shape[1:]), answers[0][1].dtype)
    for at, part in answers:
        whole[at] = part
    return whole


def open_listing(folder: str, index_id: str, shards: Shards, snapshot: str) -> ShardedArrays:
    """What is known of clips beside their vectors, mapped.  Raises IndexStateError when it is not (any more)
    there."""
    path = os.path.join(folder, FOLDER, str(version_of(snapshot)))

    def elsewhere(manifest: dict[str, Any]) -> Scan:
        source = Source(shards, snapshot, manifest["clips"], manifest["width"])
        kept = "fp16" if manifest["scale"] == 1 else "int8"  # which is scaled to fill its range
        return ShardedScan(None, None, manifest["scale"], source=source, scanned=manifest["scan"], kept=kept)

    try:
        found = load_derived(path, index_id, elsewhere)
    except DAMAGE as error:
        raise IndexStateError(f"{path}: the index's search arrays cannot be opened ({error})") from error
    if snapshot_of(found) != snapshot:
        raise IndexStateError(f"{path}: other search arrays than those that the shards hold")
    assert isinstance(found.scan, ShardedScan)
    parts = {one.name: getattr(found, one.name) for one in fields(found)}
    return ShardedArrays(**parts, source=found.scan.source)


class ShardedIndex(Index):
    """An index that is searched by shards: the same answers, and `SearchResult.partial` where some are
    missing. What is known of clips beside their vectors is mapped here; no vector is.

    A search raises ShardsError when it is not done within the deadline.
    """

    def __init__(self, folder: str, config: IndexConfig, arrays: ShardedArrays) -> None:
        super().__init__(folder, config, arrays)
        self._sharded = arrays

    @classmethod
    def over(cls, shards: Shards, folder: str | os.PathLike[str]) -> ShardedIndex:
        """The index in `folder` as shards hold it."""
        path = shared_folder(folder)
        config = read_config(path)
        return cls(path, config, open_listing(path, config.index_id, shards, shards.snapshot))

    def is_outdated(self) -> bool:
        """Whether the shards have moved on to another version."""
        source = self._sharded.source
        return source.shards.snapshot != source.snapshot

    def latest(self) -> ShardedIndex:
        """This index as the shards hold it now: itself, or another object."""
        config, arrays = read_config(self.folder), self._sharded
        if self.is_outdated():
            shards = arrays.source.shards
            try:
                arrays = open_listing(self.folder, config.index_id, shards, shards.snapshot)
            except IndexStateError as error:  # a writer was faster; the shards will follow
                log.info("%s: goes on with version %d (%s)", self.folder, arrays.version, error)
        if config == self.config and arrays is self._sharded:
            return self
        return self._like(config, arrays)

    def search(self, *asked: Any, **options: Any) -> SearchResult:
        """As `Index.search`, within the deadline: what is lost on the way is left out, and named in the
        answer's `partial`.  Raises ShardsError, too."""
        # The shards keep older versions for some seconds only.
        now = self.latest() if self.is_outdated() else self
        source = now._sharded.source
        fan = Fan(source.shards, source.snapshot, source.clips)
        one = now._like(now.config, now._sharded.through(fan))
        one._words = now._words  # with its opened table
        while True:
            try:
                result = super(ShardedIndex, one).search(*asked, **options)
            except LostError:
                continue  # from the beginning, without it
            return replace(result, partial=fan.partial())

    def tune(self, target: float = 0.97, queries: int = 200) -> list[ScanPoint]:
        """Not here: raises IndexStateError."""
        raise IndexStateError(f"{self.folder}: is tuned where its vectors are: vidsift tune --index DIR")

    def _like(self, config: IndexConfig, arrays: ShardedArrays) -> ShardedIndex:
        other = ShardedIndex(self.folder, config, arrays)
        if config.model == self.config.model:
            other._checked, other._checked_rerankers = self._checked, self._checked_rerankers
        return other
