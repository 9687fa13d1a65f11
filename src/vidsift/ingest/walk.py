"""From the paths a user names to the files that may be videos."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from vidsift.errors import SourceError
from vidsift.index.types import file_key, is_under
from vidsift.ingest.sources import Remote, list_below, look_at, read_ranges
from vidsift.video.address import absolute, is_address

_VIDEO = (
    "3g2 3gp asf av1 avi divx dv f4v flv h264 h265 hevc ivf m1v m2ts m2v m4v mkv mov mp4 mpe mpeg mpg mts "
    "mxf nut obu ogm ogv ogx rm rmvb ts vob webm wmv wtv y4m"
)
_SOUND = "aac ac3 aif aiff amr ape flac m4a m4b mka mp2 mp3 oga ogg opus wav wma"
EXTENSIONS = frozenset(f".{name}" for name in f"{_VIDEO} {_SOUND}".split())
"""Sound files are taken up too: that a media file cannot be searched is said, not passed over."""

AMBIGUOUS = frozenset({".ts", ".mts"})
"""Also TypeScript: only files that look like an MPEG transport stream are taken up."""


@dataclass(frozen=True)
class Candidate:
    """A file that may be a video. `problem`: why it will not even be opened; `identity`: device, inode."""

    path: str
    size: int
    mtime_ns: int
    identity: tuple[int, int]
    linked: bool
    problem: str | None = None


@dataclass
class Found:
    """What lies below the roots.

    unreadable: folders that could not be listed, with the reason.  dangling: links that lead nowhere; what
    the index holds there must stay, as below the unreadable.  linked: folders reached by a link.
    empty: folders with nothing at all in them, as mount points are while their disk is away.
    """

    candidates: list[Candidate] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    dangling: list[str] = field(default_factory=list)
    linked: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def normalise(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Absolute paths (symbolic links kept) and addresses, without those that lie inside another; SourceError
    if missing."""
    try:
        given = sorted({absolute(path) for path in paths})
    except ValueError as error:
        raise SourceError(f"{error}. Nothing was changed") from error
    if not given:
        raise SourceError("nothing to index: name at least one folder or file")
    for path in given:
        try:
            look_at(path) if is_address(path) else os.stat(path)
        except FileNotFoundError as error:
            raise SourceError(
                f"{path}: no such file or folder (mistyped? is its disk mounted?). Nothing was "
                f"changed; what an index holds of it can be forgotten by vidsift remove {path!r}"
            ) from error
        except (OSError, ValueError) as error:
            raise SourceError(f"{path}: cannot be read ({error}). Nothing was changed") from error
    return [path for path in given if not any(is_under(path, o) for o in given if o != path)]


def walk(roots: Iterable[str], avoid: str) -> Found:
    """Find the candidates below `roots` (folders or single files), a physical folder never twice.

    Folders are searched for files with a media extension, whatever its case; names that begin with a dot
    are passed over. Links to files and folders are followed, real folders first. A root that is a file is
    a candidate whatever it is called. Addresses are listed likewise. `avoid`: the index's own folder. Raises
    SourceError when a root cannot be listed.
    """
    found = Found()
    seen = {_identity(os.stat(avoid))} if os.path.isdir(avoid) else set()
    for root in roots:
        if is_address(root):
            _list_address(root, found)
        elif os.path.isdir(root):
            _walk_folder(root, seen, found)
            if root in found.unreadable:
                raise SourceError(f"{root}: cannot be listed ({found.unreadable[root]}). Nothing was changed")
        else:
            _take(root, os.path.islink(root), found)
    found.candidates.sort(key=lambda candidate: os.fsencode(candidate.path))
    return found


def _list_address(root: str, found: Found) -> None:
    try:
        single = look_at(root)
        files = list_below(root) if single is None else [single]
        for file in files:
            if single is not None or is_media_name(file.address):
                _take_remote(file, found)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceError(f"{root}: cannot be listed ({reason}). Nothing was changed") from error


def _take_remote(file: Remote, found: Found) -> None:
    ambiguous = os.path.splitext(file.address)[1].lower() in AMBIGUOUS
    if ambiguous and not _looks_like_transport(read_ranges(file.address, [(0, min(file.size, 400))])[0]):
        return
    # No two addresses are known to be one file.
    identity = -1, int(file_key(file.address)[:15], 16)
    found.candidates.append(Candidate(file.address, file.size, file.stamp, identity, linked=False))


def _walk_folder(root: str, seen: set[tuple[int, int]], found: Found) -> None:
    folders, links = deque([root]), deque[str]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            identity = _identity(os.stat(folder))
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
        except OSError as error:
            found.unreadable[folder] = error.strerror or str(error)
            continue
        if not entries:
            found.empty.append(folder)
        for entry in entries:
            if entry.name.startswith("."):
                continue
            linked = entry.is_symlink()
            if _is_folder(entry):
                (links if linked else folders).append(entry.path)
                if linked:
                    found.linked.append(entry.path)
            elif linked and not os.path.exists(entry.path):
                found.dangling.append(entry.path)
            elif is_media_name(entry.name):
                _take(entry.path, linked, found)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, say: the stat below tells the reason
        return False


def is_media_name(name: str) -> bool:
    """Whether a file of this name is looked at."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _take(path: str, linked: bool, found: Found) -> None:
    try:
        status = os.stat(path)
    except OSError as error:
        found.unreadable[path] = error.strerror or str(error)
        return
    regular = stat.S_ISREG(status.st_mode)
    if regular and os.path.splitext(path)[1].lower() in AMBIGUOUS and not _is_transport_stream(path):
        return
    problem = None if regular else "is not a regular file"
    found.candidates.append(
        Candidate(path, status.st_size, status.st_mtime_ns, _identity(status), linked, problem)
    )


def _is_transport_stream(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(400)
    except OSError:
        return True  # the reader will say what is wrong with it
    return _looks_like_transport(head)


def _looks_like_transport(head: bytes) -> bool:
    # Packets of 188 bytes, or of 192 with a time code before each (Blu-ray, AVCHD).
    starts = ((0, 188), (4, 196))
    return any(head[first : first + 1] == head[second : second + 1] == b"G" for first, second in starts)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
