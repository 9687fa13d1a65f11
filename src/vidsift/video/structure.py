"""Is the container whole: do its boxes, elements and packets add up to the file that is there?

ISO base media (ISO/IEC 14496-12, 4.2), Matroska/WebM (RFC 9559, with the CRC-32 elements that muxers add),
AVI (RIFF) and MPEG transport streams (ISO/IEC 13818-1, 2.4.3). Other formats say nothing to check.
"""

from __future__ import annotations

import mmap
import re
import zlib
from dataclasses import dataclass

from vidsift.video.container import StrPath

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_TOP = frozenset(
    {0x114D9B74, 0x1549A966, 0x1654AE6B, _CLUSTER, 0x1C53BB6B, 0x1043A770, 0x1254C367, 0x1941A469, 0xEC, 0xBF}
)
_CRC = 0xBF
_IN_CLUSTER = frozenset({0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854, 0xEC, _CRC})
_UNKNOWN = -1
_BOX_NAME = re.compile(rb"[\x20-\x7e\xa9]{4}")


@dataclass(frozen=True)
class Structure:
    """problem: why the file is not whole. broken_at: the byte from which nothing is certain, if known.

    scratched: (byte, reason) of places whose contents are wrong while the structure around them holds.
    """

    problem: str | None = None
    broken_at: int | None = None
    scratched: tuple[tuple[int, str], ...] = ()


def check(path: StrPath, names: set[str], size: int) -> Structure:
    """Walk the outer structure of a file of `size` > 0 bytes; `names` are the demuxer's short names."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if "mp4" in names:
            return _boxes(data, size)
        if "matroska" in names:
            return _elements(data, size)
        if "avi" in names and data[:4] == b"RIFF":
            return _cut(size, 8 + int.from_bytes(data[4:8], "little"))
        if "mpegts" in names and data[0] == 0x47 and size > 376 and data[188] == 0x47 and size % 188:
            return Structure(f"the file is cut short: it ends after {size % 188} bytes of a packet of 188")
    return Structure()


def _cut(size: int, promised: int) -> Structure:
    if promised > size:
        return Structure(f"the file is cut short: {size} bytes of at least {promised}")
    return Structure()


def _boxes(data: mmap.mmap, size: int) -> Structure:
    at, fragmented = 0, False
    while at + 8 <= size:
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length == 0:
            return Structure()
        if length < 8 or not _BOX_NAME.fullmatch(name):
            # Bytes after the last box are common and harmless; between fragments they cost the rest.
            if fragmented:
                return Structure(f"no box can be read from byte {at} of {size} on", at)
            return Structure()
        fragmented |= name == b"moof"
        at += length
    return _cut(size, at)


def _number(data: mmap.mmap, at: int, keep_marker: bool) -> tuple[int, int]:
    """Read an EBML variable-length number: (value, width in bytes); width 0 where there is none."""
    first = data[at] if at < len(data) else 0
    width = 9 - first.bit_length()
    if first == 0 or at + width > len(data):
        return 0, 0
    value = int.from_bytes(data[at : at + width], "big")
    if keep_marker:
        return value, width
    mask = (1 << 7 * width) - 1
    return (_UNKNOWN if value & mask == mask else value & mask), width


def _element(data: mmap.mmap, at: int) -> tuple[int, int, int] | None:
    """Read an element's head: (id, where its contents begin, their length or _UNKNOWN)."""
    name, width = _number(data, at, True)
    if not width:
        return None
    length, more = _number(data, at + width, False)
    return (name, at + width + more, length) if more else None


def _elements(data: mmap.mmap, size: int) -> Structure:
    head = _element(data, 0)
    segment = _element(data, head[1] + head[2]) if head and head[2] >= 0 else None
    if segment is None or segment[0] != _SEGMENT:
        return Structure()
    at, length = segment[1], segment[2]
    end = size if length == _UNKNOWN else at + length
    scratched: list[tuple[int, str]] = []
    problem = _cut(size, end).problem
    end = min(end, size)
    while at < end:
        element = _element(data, at)
        if element is None or element[0] not in _TOP:
            return _broken(at, size, problem, scratched)
        name, inside, length = element
        stop = end if length == _UNKNOWN else inside + length
        if name == _CLUSTER:
            wrong, reached = _cluster(data, inside, min(stop, end), length == _UNKNOWN)
            if wrong:
                return _broken(reached, size, problem, scratched)
            crc = _element(data, inside)
            if length != _UNKNOWN and stop <= end and crc and crc[0] == _CRC and crc[2] == 4:
                with memoryview(data) as view:
                    right = zlib.crc32(view[crc[1] + 4 : stop]) == int.from_bytes(
                        view[crc[1] : crc[1] + 4], "little"
                    )
                if not right:
                    scratched.append((at, "a checksum does not match"))
            stop = reached if length == _UNKNOWN else stop
        at = stop
    return Structure(problem, None, tuple(scratched))


def _broken(at: int, size: int, problem: str | None, scratched: list[tuple[int, str]]) -> Structure:
    if problem is None:
        problem = f"no element can be read from byte {at} of {size} on"
    return Structure(problem, at, tuple(scratched))


def _cluster(data: mmap.mmap, at: int, end: int, open_ended: bool) -> tuple[bool, int]:
    """Walk a cluster's children: (is it broken, where the walk ended)."""
    while at < end:
        element = _element(data, at)
        if element is None:
            return True, at
        name, inside, length = element
        if name not in _IN_CLUSTER:
            return (False, at) if open_ended and name in _TOP else (True, at)
        if length == _UNKNOWN or inside + length > end:
            return True, at
        at = inside + length
    return False, at
