"""Folders to a searchable index: walk, plan, decode beside encode, commit; and taking things out again."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import FrameType
from typing import TYPE_CHECKING

from vidsift.errors import (
    IndexNotFoundError,
    IndexStateError,
    ModelNotFoundError,
    SourceError,
)
from vidsift.index.config import IndexConfig, read_config, write_config
from vidsift.index.founding import create_files
from vidsift.index.lock import WriterLock
from vidsift.index.remote import locate
from vidsift.index.searcher import Index, refresh_arrays
from vidsift.index.store import Store
from vidsift.index.types import ClipRecord, FileRecord, FileStatus, is_under
from vidsift.ingest.chosen import ChosenModel
from vidsift.ingest.decode import default_workers
from vidsift.ingest.engines import Engine, EngineName, choose_engine
from vidsift.ingest.plan import Plan, Work, check_not_emptied, make_plan
from vidsift.ingest.reading import Done, Failed, Opened, ReadSettings
from vidsift.ingest.report import FileProblem, IngestReport, Progress, Stage, StageWork
from vidsift.ingest.results import Encoded, Lost
from vidsift.ingest.walk import Candidate, Found, normalise, walk
from vidsift.ingest.words import find_stale, read_words
from vidsift.video import SegmentConfig
from vidsift.video.address import absolute, is_address

if TYPE_CHECKING:
    from vidsift.models import RetrievalModel

log = logging.getLogger(__name__)

COMMIT_SECONDS = 2.0
"""Finished files wait at most about this long for their commit (longer, by half a percent of the run's
time, in long runs: every commit adds a version to the table)."""

COMMIT_CLIPS = 512
"""... and at most so many clips."""

PUBLISH_SHARE = 0.1
"""Searches see commits once the arrays that they read are built: again and again, in about this part of the
run's time, and at its end."""

StrPath = str | os.PathLike[str]


def index_paths(
    paths: StrPath | Iterable[StrPath],
    index_dir: StrPath,
    model: RetrievalModel | str | None = None,
    *,
    workers: int | None = None,
    segmentation: SegmentConfig | None = None,
    device: str | None = None,
    engine: EngineName = "local",
    address: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring the index up to date with what lies at `paths` (folders, searched through, or single files).

    New files are added, changed ones replaced, files that are gone from below `paths` removed, renamed ones
    recognised; the rest of the index stays as it is. The index is made when there is none. Every file
    commits as a whole, so the run can be ended at any moment and repeated.

    model: a model, its name, or None for the index's own (for a new index: the default model).
    workers: decoding processes; 0 decodes in this process (not with Ray); None chooses.
    segmentation: how long files are cut; fixed when the index is made.
    device: where a model that is given by name encodes, as torch names it; None takes a GPU that is there,
    else the CPU.
    engine: "local" works on this machine, "ray" on all machines of the Ray cluster at `address` (without one:
    a Ray that is started here for this run); files and model have to lie at the same paths on all of them.
    progress: called often, from this thread.
    Raises SourceError (nothing was changed), ModelMismatchError, IndexStateError (locked, damaged),
    EngineError (Ray is missing, cannot be reached, or its machines lack something).
    """
    began = time.perf_counter()
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be 0 or more, got {workers}")
    read = choose_engine(engine, address, model, workers, device)
    roots = normalise([paths] if isinstance(paths, str | os.PathLike) else paths)
    folder = locate(index_dir)
    # With Ray, others encode: here the model only says what it is.
    chosen = ChosenModel(model, folder, "cpu" if engine == "ray" else device)
    if _existing(folder, chosen, segmentation) is None:
        chosen.load()  # a model that cannot be had leaves no empty index behind
        _make_folder(folder)
    with WriterLock(folder):
        config = _existing(folder, chosen, segmentation)
        if config is None:
            cutting = segmentation or SegmentConfig()
            config = create_files(folder, chosen.spec(), cutting, chosen.weights())
            _check(folder, config, chosen, segmentation)
        return _Run(folder, config, chosen, read, workers, progress).sync(roots, began)


def remove_paths(paths: StrPath | Iterable[StrPath], index_dir: StrPath) -> IngestReport:
    """Forget the files at or below `paths`, whether they still exist or not.

    Raises SourceError when the index knows nothing there, IndexNotFoundError, IndexStateError.
    """
    began = time.perf_counter()
    folder = locate(index_dir)
    named = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    places = [absolute(path) for path in named]
    read_config(folder)
    with WriterLock(folder):
        config = read_config(folder)
        store = Store.open(folder, config.model.fingerprint)
        known = store.files()
        for place in places:
            if place not in config.roots and not any(is_under(path, place) for path in known):
                raise SourceError(f"{place}: the index {folder} knows no file there")
        going = [path for path in known if any(is_under(path, place) for place in places)]
        for place in places:
            config = config.without_root(place)
        # Roots first: rows that a kill leaves behind can be removed by the same command again.
        write_config(folder, config)
        store.remove_files(going)
        store.tidy()
        refresh_arrays(folder, config, store)
        removed = sum(known[path].clips > 0 for path in going)
        seconds = time.perf_counter() - began
        return IngestReport(removed=removed, clips=store.count_clips(), seconds=seconds)


@dataclass
class _Reading:
    """A file between its first clip and its commit; `share`: bytes of it that are done, about."""

    duration: float = 0.0
    subtitles: str | None = None
    subtitles_error: str = ""
    share: int = 0
    clips: list[ClipRecord] = field(default_factory=list)


class _Run:
    """One writer's run over an index that it has locked."""

    def __init__(
        self,
        folder: str,
        config: IndexConfig,
        chosen: ChosenModel,
        read: Engine,
        workers: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.folder, self.config, self.chosen = folder, config, chosen
        self._read, self.workers = read, default_workers() if workers is None else workers
        self.store = Store.open(folder, config.model.fingerprint)
        self._progress = progress
        self._now: Stage = "scan"
        self._stage_began = self._committed_at = time.monotonic()
        self._finished: list[tuple[FileRecord, list[ClipRecord], bool]] = []
        self._files = self._bytes = self._total_files = self._total_bytes = 0
        self._clips = self._committed = 0
        self._spent = {"decode": 0.0, "encode": 0.0, "commit": 0.0}
        self._published_at, self._publishing = self._committed_at, 0.0

    def sync(self, roots: list[str], began: float) -> IngestReport:
        """Do the whole run; `began` is when it was asked for."""
        self._stage("scan", [])
        found = walk(roots, avoid=self.folder)
        known = self.store.files()
        check_not_emptied(roots, found, known)
        self._remember(roots)
        self._stage("compare", found.candidates)
        plan = make_plan(roots, found, known, self._compared)
        if not plan.changes_nothing():
            self._apply(plan)
            known = self.store.files()
        renewed = self._renew_words(plan, found, known)
        if renewed or not plan.changes_nothing():
            self.store.tidy()
        self._stage("finish", [])
        self._remember(roots)
        refresh_arrays(self.folder, self.config, self.store)
        self._measure_background()
        return IngestReport(
            added=plan.added,
            updated=plan.updated,
            removed=plan.removed,
            unchanged=plan.unchanged,
            renamed=plan.renamed,
            failed=sorted(plan.failed, key=lambda problem: os.fsencode(problem.path)),
            partial=sorted(plan.partial, key=lambda problem: os.fsencode(problem.path)),
            clips=self.store.count_clips(),
            seconds=time.perf_counter() - began,
            stages={name: StageWork(spent, self._clips) for name, spent in self._spent.items() if plan.reads},
        )

    def _remember(self, roots: list[str]) -> None:
        # Read again: where there is no lock, others add their roots as well.
        config = known = read_config(self.folder)
        for root in roots:
            config = config.with_root(root)
        if config != known:
            write_config(self.folder, config)
        self.config = config

    def _apply(self, plan: Plan) -> None:
        if plan.moves:
            # Read from the version before the first write: files may have swapped names.
            self.store.move_files(self.store.pinned(), plan.moves, plan.leaving)
        if plan.removals:
            self.store.remove_files(plan.removals)
        if plan.failures:
            self.store.replace_files([(record, []) for record in plan.failures], known=True)
        self._committed += len(plan.moves)
        if plan.reads:
            self._read_all(plan)

    def _renew_words(self, plan: Plan, found: Found, known: dict[str, FileRecord]) -> int:
        """Read the words of files anew beside which subtitles came, went or changed; nothing is encoded."""
        stale = find_stale(found.candidates, known, self.store)
        if stale:
            self._stage("read", [work.file for work in stale])
        for batch in read_words(stale, self.workers):
            with _uninterrupted():
                self.store.renew_words([(known[work.file.path], words) for work, words in batch])
            for work, words in batch:
                new = replace(known[work.file.path], subtitles=words.mark, subtitles_error=words.problem)
                plan.renewed(new)
                self._compared(work.file)
        return len(stale)

    def _read_all(self, plan: Plan) -> None:
        works = plan.reads
        # Before the stage begins: its rate tells how long it will take.
        model = self.chosen.load()
        self._stage("read", [work.file for work in works])
        settings = ReadSettings(
            self.config.model.frames_per_clip, model.preprocess.geometry, self.config.segmentation
        )
        results = self._read(works, settings, model, self.config.model.fingerprint)
        readings: dict[str, _Reading] = {}
        try:
            for work, result in results:
                path = work.file.path
                if isinstance(result, Opened):
                    begun = readings.pop(path, None)
                    self._clips -= len(begun.clips) if begun else 0
                    readings[path] = _Reading(
                        result.duration,
                        subtitles=result.subtitles,
                        subtitles_error=result.subtitles_problem,
                    )
                elif isinstance(result, Encoded):
                    self._keep(work, readings[path], result)
                elif isinstance(result, Lost):
                    self._lose(plan, work, readings.pop(path, _Reading()), result)
                else:
                    self._close(plan, work, readings.pop(path, _Reading()), result)
                self._commit_if_due()
                self._tell(path, sum(reading.share for reading in readings.values()))
        finally:
            # Also when the user interrupts: files that are finished are kept.
            results.close()
            self._commit()
        self._tell()

    def _keep(self, work: Work, reading: _Reading, clip: Encoded) -> None:
        reading.clips.append(clip.record)
        if reading.duration > 0:
            reading.share = int(work.file.size * min(clip.record.end / reading.duration, 1))
        self._spent["encode"] += clip.seconds
        self._clips += 1

    def _lose(self, plan: Plan, work: Work, reading: _Reading, lost: Lost) -> None:
        """Report a file that nothing is known about; the index keeps what it has, another run tries again."""
        for file in (work.file, *(file for file, _ in work.copies)):
            plan.failed.append(FileProblem(file.path, lost.reason))
        self._clips -= len(reading.clips)
        self._files += 1
        self._bytes += work.file.size

    def _close(self, plan: Plan, work: Work, reading: _Reading, end: Done | Failed) -> None:
        """Turn a file that has been read into records for its path and the copies of it."""
        if isinstance(end, Done):
            duration, problem, facts = end.duration, end.problem, end.metadata
        else:
            kept = f"; kept the first {reading.clips[-1].end:.1f} s" if reading.clips else ""
            duration, problem, facts = reading.duration, end.reason + kept, {}
        clips = [replace(clip, metadata=facts) for clip in reading.clips]
        if not clips:
            problem = problem or "no picture could be decoded"
        status: FileStatus = "failed" if not clips else "partial" if problem else "ok"
        # A file without a fingerprint is tried again at the next run.
        fingerprint = "" if isinstance(end, Failed) and end.again else work.fingerprint
        for file, known in [(work.file, work.known), *work.copies]:
            record = FileRecord(
                path=file.path,
                fingerprint=fingerprint,
                size=file.size,
                mtime_ns=file.mtime_ns,
                duration=duration,
                status=status,
                error=problem or "",
                clips=len(clips),
                subtitles=reading.subtitles if clips else None,
                subtitles_error=reading.subtitles_error if clips else "",
            )
            self._finished.append((record, clips, known))
            if record.problem:
                problems = plan.failed if status == "failed" else plan.partial
                problems.append(FileProblem(file.path, record.problem))
            plan.updated += bool(clips) and known
            plan.added += bool(clips) and not known
        self._spent["decode"] += end.seconds
        self._files += 1
        self._bytes += work.file.size

    def _commit_if_due(self) -> None:
        waited = time.monotonic() - self._committed_at
        patience = max(COMMIT_SECONDS, (time.monotonic() - self._stage_began) / 200)
        if waited >= patience or sum(len(clips) for _, clips, _ in self._finished) >= COMMIT_CLIPS:
            if self._finished:
                self._commit()
                self._publish_if_due()
            self._committed_at = time.monotonic()

    def _publish_if_due(self) -> None:
        """Let searches see what is committed, unless building the arrays took too much of the run already."""
        now = time.monotonic()
        if now - self._published_at >= self._publishing / PUBLISH_SHARE:
            refresh_arrays(self.folder, self.config, self.store)
            self._published_at = time.monotonic()
            self._publishing = self._published_at - now

    def _commit(self) -> None:
        began = time.monotonic()
        # An interrupted commit may have happened or not; done again, it would be there twice.
        with _uninterrupted():
            for known in (False, True):
                files = [(record, clips) for record, clips, was_known in self._finished if was_known == known]
                if files:
                    self.store.replace_files(files, known)
                    self._committed += len(files)
            self._finished.clear()
        self._committed_at = time.monotonic()
        self._spent["commit"] += self._committed_at - began

    def _measure_background(self) -> None:
        """Let searches know how sure a hit is, where what they know is of a library of another size; a run
        that needed no model does not wait for it to say that better, only to say it at all."""
        clips, known = self.store.count_clips(), self.config.background
        if clips and (known is None or (self.chosen.is_loaded and not known.serves(clips))):
            try:
                model = self.chosen.load()
            except ModelNotFoundError as error:
                log.warning("%s: hits will not say how sure they are: %s", self.folder, error)
                return
            found = Index.open(self.folder).measure_background(model)
            if found is not None:
                self.config = replace(read_config(self.folder), background=found)
                write_config(self.folder, self.config)

    def _stage(self, stage: Stage, files: Sequence[Candidate]) -> None:
        self._now, self._stage_began = stage, time.monotonic()
        self._moving: tuple[float, int] | None = None
        self._files = self._bytes = 0
        self._total_files, self._total_bytes = len(files), sum(file.size for file in files)
        self._tell()

    def _tell(self, path: str = "", begun_bytes: int = 0) -> None:
        if self._progress is not None:
            now, done = time.monotonic(), self._bytes + begun_bytes
            if self._moving is None and done:
                self._moving = now, done
            self._progress(
                Progress(
                    stage=self._now,
                    done=self._files,
                    total=self._total_files,
                    bytes_done=done,
                    bytes_total=self._total_bytes,
                    clips=self._clips,
                    committed=self._committed,
                    seconds=now - self._stage_began,
                    path=path,
                    seconds_left=self._left(now, done),
                )
            )

    def _left(self, now: float, done: int) -> float | None:
        left = self._total_bytes - done
        if self._total_bytes and not left:
            return 0.0
        if self._moving is None or now <= self._moving[0] or done <= self._moving[1]:
            return None
        return left * (now - self._moving[0]) / (done - self._moving[1])

    def _compared(self, file: Candidate) -> None:
        self._tell(file.path)
        self._files += 1
        self._bytes += file.size


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C until the block is done."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if pressed and callable(usual):
        usual(*pressed[-1])


def _existing(folder: str, chosen: ChosenModel, segmentation: SegmentConfig | None) -> IndexConfig | None:
    """The index in `folder`, if there is one and it fits what was asked for."""
    try:
        config = read_config(folder)
    except IndexNotFoundError:
        return None
    _check(folder, config, chosen, segmentation)
    return config


def _check(folder: str, config: IndexConfig, chosen: ChosenModel, segmentation: SegmentConfig | None) -> None:
    """Raise unless the index fits what was asked for."""
    if segmentation is not None and segmentation != config.segmentation:
        raise IndexStateError(
            f"{folder}: its files are cut by {_cutting(config.segmentation)}, "
            f"not by {_cutting(segmentation)}. Leave the setting out, or index into another folder to cut "
            "them anew"
        )
    chosen.meet(config.model)


def _cutting(config: SegmentConfig) -> str:
    return f"{config.mode} of {config.min_seconds:g} to {config.max_seconds:g} s"


def _make_folder(folder: str) -> None:
    if is_address(folder):
        return
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise IndexStateError(f"{folder}: cannot be made an index folder ({error.strerror})") from error
