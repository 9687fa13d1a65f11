"""What a run has to do: the files that are there against the files that the index knows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from vidsift.errors import SourceError
from vidsift.index.types import FileRecord, is_under
from vidsift.ingest.report import FileProblem
from vidsift.ingest.sources import read_ranges
from vidsift.ingest.walk import Candidate, Found, is_media_name
from vidsift.video.address import is_address

WHOLE_BYTES = 16 << 20
"""Files up to this size are fingerprinted whole."""

BLOCK_BYTES, BLOCKS = 128 << 10, 64
"""Larger ones by this many evenly spaced blocks, the first and the last byte among them."""


@dataclass
class Work:
    """A file to decode and encode, and the other paths with the very same content that get its clips."""

    file: Candidate
    fingerprint: str
    known: bool
    copies: list[tuple[Candidate, bool]] = field(default_factory=list)


@dataclass
class Plan:
    """A run's work.

    moves: (path whose rows are taken, the file that gets them).  leaving: sources of moves that are no more.
    reads: files to decode and encode.  failures: rows for files that cannot be opened.  The rest is what
    the report can say already; same: the unchanged files.
    """

    moves: list[tuple[str, FileRecord]] = field(default_factory=list)
    leaving: list[str] = field(default_factory=list)
    removals: list[str] = field(default_factory=list)
    failures: list[FileRecord] = field(default_factory=list)
    reads: list[Work] = field(default_factory=list)
    failed: list[FileProblem] = field(default_factory=list)
    partial: list[FileProblem] = field(default_factory=list)
    added: int = 0
    updated: int = 0
    removed: int = 0
    unchanged: int = 0
    renamed: int = 0
    same: set[str] = field(default_factory=set)

    def changes_nothing(self) -> bool:
        return not (self.moves or self.removals or self.failures or self.reads)

    def renewed(self, record: FileRecord) -> None:
        """A file's words were read anew: say so, and what is wrong with it now."""
        if record.path in self.same:
            self.same.discard(record.path)
            self.unchanged -= 1
            self.updated += 1
        self.partial = [problem for problem in self.partial if problem.path != record.path]
        _note_partial(self, record)


def fingerprint(path: str, size: int) -> str:
    """Hash of a file's content: of all of it, or of its size and 64 blocks spread over it. Raises OSError."""
    digest = hashlib.blake2b(str(size).encode() + b":", digest_size=16)
    places = [(size - BLOCK_BYTES) * i // (BLOCKS - 1) for i in range(BLOCKS)]
    if is_address(path):
        spread = [(place, place + BLOCK_BYTES) for place in places]
        for block in read_ranges(path, [(0, size)] if size <= WHOLE_BYTES else spread):
            digest.update(block)
        return digest.hexdigest()
    with open(path, "rb") as file:
        if size <= WHOLE_BYTES:
            while block := file.read(1 << 20):
                digest.update(block)
        else:
            for place in places:
                file.seek(place)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


def check_not_emptied(roots: Sequence[str], found: Found, known: dict[str, FileRecord]) -> None:
    """SourceError for a root that has no media file (any more) while the index holds clips from it."""
    for root in roots:
        lost = sum(record.clips > 0 and is_under(path, root) for path, record in known.items())
        if lost and not any(is_under(candidate.path, root) for candidate in found.candidates):
            raise SourceError(
                f"{root}: no video is left here, but the index holds {lost} from it (is its disk mounted?). "
                f"Nothing was changed; to forget them: vidsift remove {root!r}"
            )


def make_plan(
    roots: Sequence[str],
    found: Found,
    known: dict[str, FileRecord],
    on_hash: Callable[[Candidate], None] = lambda _: None,
) -> Plan:
    """Compare what was found below `roots` with the records of the whole index.

    Size and modification time decide whether a known file is looked at again; its fingerprint decides
    whether its content changed. Known content is never encoded again: a new path with the content of a
    file that is gone is that file renamed, with the content of any other file a copy (both are found).
    Files of the index outside the roots are never changed, nor those below a folder that is
    now empty. `on_hash` is told before a file is read.
    """
    plan = Plan()
    in_scope = {path for path in known if any(is_under(path, root) for root in roots)}
    candidates = _once_each(found.candidates, known)
    present = {candidate.path for candidate in candidates}
    kept = _kept(in_scope - present, found, plan)
    gone = in_scope - present - kept

    changed: list[tuple[Candidate, str]] = []
    for candidate in candidates:
        record = known.get(candidate.path)
        if candidate.problem is not None:
            _cannot_read(plan, candidate, candidate.problem, record)
        elif record is not None and _looks_same(record, candidate):
            _settled(plan, record)
        else:
            on_hash(candidate)
            try:
                changed.append((candidate, fingerprint(candidate.path, candidate.size)))
            except OSError as error:
                _cannot_read(plan, candidate, error.strerror or str(error), record)

    _assign(plan, changed, known, gone)
    # After renames are recognised: moving everything out of a folder is no loss.
    gone -= _emptied(gone, found, plan)
    plan.removals = sorted(gone, key=os.fsencode)
    plan.removed = sum(known[path].clips > 0 for path in gone)
    return plan


def _assign(
    plan: Plan, changed: list[tuple[Candidate, str]], known: dict[str, FileRecord], gone: set[str]
) -> None:
    """Decide for each new or changed file where its clips come from; takes renamed files out of `gone`."""
    holders: dict[str, list[str]] = {}
    for path, holder in known.items():
        if holder.clips:
            holders.setdefault(holder.fingerprint, []).append(path)
    reads: dict[str, Work] = {}
    for candidate, content in changed:
        record = known.get(candidate.path)
        if record is not None and record.fingerprint == content:
            # Only the time stamp is new; it is noted, so that the next run need not look again.
            plan.moves.append((candidate.path, _readdressed(record, candidate)))
            _settled(plan, record)
            continue
        sources = holders.get(content, [])
        if not sources:
            if content in reads:
                reads[content].copies.append((candidate, record is not None))
            else:
                reads[content] = Work(candidate, content, record is not None)
            continue
        name = os.path.basename(candidate.path)
        left = [path for path in sources if path in gone] if record is None else []
        source = min(left or sources, key=lambda path: (os.path.basename(path) != name, os.fsencode(path)))
        moved = _readdressed(known[source], candidate)
        plan.moves.append((source, moved))
        if left:
            plan.renamed += 1
            plan.leaving.append(source)
            gone.discard(source)
        elif record is None:
            plan.added += 1
        else:
            plan.updated += 1
        _note_partial(plan, moved)
    plan.reads = list(reads.values())


def _once_each(candidates: Iterable[Candidate], known: dict[str, FileRecord]) -> list[Candidate]:
    """Drop the second path to one physical file, unless the index knows it; known and real paths first."""
    chosen: set[tuple[int, int]] = set()
    kept = []
    for candidate in sorted(candidates, key=lambda c: (c.path not in known, c.linked, os.fsencode(c.path))):
        if candidate.identity not in chosen or candidate.path in known:
            chosen.add(candidate.identity)
            kept.append(candidate)
    return sorted(kept, key=lambda candidate: os.fsencode(candidate.path))


def _kept(missing: set[str], found: Found, plan: Plan) -> set[str]:
    """Files that were not seen but must stay, because the place where they lie could not be looked into."""
    kept: set[str] = set()
    for place, reason in [*found.unreadable.items(), *((link, "leads nowhere") for link in found.dangling)]:
        below = {path for path in missing if is_under(path, place)}
        kept |= below
        if below or place in found.unreadable or is_media_name(place):
            held = f"; the index keeps {len(below)} known from there" if below else ""
            plan.failed.append(FileProblem(place, reason + held))
    for place in found.linked:
        below = {path for path in missing - kept if is_under(path, place)}
        if below and not any(is_under(candidate.path, place) for candidate in found.candidates):
            kept |= below
            reason = f"a link to a folder without videos; the index keeps {len(below)} known from there"
            plan.failed.append(FileProblem(place, reason))
    return kept


def _emptied(gone: set[str], found: Found, plan: Plan) -> set[str]:
    """Files below folders that are left with nothing in them: a disk that is not mounted looks like that."""
    kept: set[str] = set()
    for place in found.empty:
        below = {path for path in gone if is_under(path, place)}
        if below:
            kept |= below
            reason = f"an empty folder (is its disk mounted?); the index keeps {len(below)} known from there"
            plan.failed.append(FileProblem(place, f"{reason}; to forget them: vidsift remove {place!r}"))
    return kept


def _looks_same(record: FileRecord, candidate: Candidate) -> bool:
    # A file without a fingerprint could not be opened: permissions change without a trace, so try again.
    return bool(record.fingerprint) and (record.size, record.mtime_ns) == (candidate.size, candidate.mtime_ns)


def _settled(plan: Plan, record: FileRecord) -> None:
    if record.status == "failed":
        plan.failed.append(FileProblem(record.path, record.error))
        return
    plan.unchanged += 1
    plan.same.add(record.path)
    _note_partial(plan, record)


def _note_partial(plan: Plan, record: FileRecord) -> None:
    if record.problem:
        plan.partial.append(FileProblem(record.path, record.problem))


def _cannot_read(plan: Plan, candidate: Candidate, reason: str, record: FileRecord | None) -> None:
    plan.failed.append(FileProblem(candidate.path, reason))
    new = FileRecord(candidate.path, "", candidate.size, candidate.mtime_ns, 0.0, "failed", reason, 0)
    if record != new:
        plan.failures.append(new)


def _readdressed(record: FileRecord, candidate: Candidate) -> FileRecord:
    return replace(record, path=candidate.path, size=candidate.size, mtime_ns=candidate.mtime_ns)
