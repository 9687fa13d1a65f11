"""The table of a file's packets, made by demultiplexing without decoding: exact times, key packets, damage.

Demultiplexing 60 s of 720p costs a few milliseconds; in return the reader knows which packet holds the frame
that is on screen at a time, where decoding may start, and what the container promised and does not deliver.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from vidsift.video.bitstream import Bitstream
from vidsift.video.container import StrPath, say
from vidsift.video.types import Float64Array

Int64Array = npt.NDArray[np.int64]

MISSING = -(1 << 62)
# Codecs whose key packets are known to reset all state; others are decoded from the first packet.
_MPEG = ("mpeg1video", "mpeg2video", "mpeg4", "h264", "hevc")
RESETTING = frozenset((*_MPEG, "vp8", "vp9", "av1", "mjpeg", "prores", "dnxhd", "ffv1", "png", "rawvideo"))
# Codecs whose decoder, told to skip frames that nothing refers to, drops those and nothing else.
SKIPPABLE = frozenset(_MPEG)
# A claimed end this much later than the last packet of any stream is a cut file (seconds, share of claim).
SLACK = (1.0, 0.03)


@dataclass(frozen=True)
class PacketTable:
    """One row per video packet in decoding order. pts and dts in ticks of `time_base`; -1 << 62 = missing.

    shown: bool, False where the container says the frame is not to be displayed (edit lists) or where it
    precedes the first picture that can be decoded. entry: bool, decoding may start here. counted: the
    container has no (or no consistent) presentation times, so pts is the running number of the frame at a
    constant rate. suspects: rows that look broken, with the reason. usable: rows [0, usable) may be decoded.
    problem: why there are no more.
    """

    time_base: Fraction
    pts: Int64Array
    dts: Int64Array
    size: Int64Array
    duration: Int64Array
    shown: npt.NDArray[np.bool_]
    entry: npt.NDArray[np.bool_]
    skippable: bool
    counted: bool
    fps: float
    claimed: float | None
    suspects: tuple[tuple[int, str], ...] = ()
    usable: int = 0
    problem: str | None = None
    order: Int64Array = field(init=False)
    ticks: Int64Array = field(init=False)
    times: Float64Array = field(init=False)
    entries: Int64Array = field(init=False)

    def __post_init__(self) -> None:
        rows = np.flatnonzero(self.shown[: self.usable])
        order = rows[np.argsort(self.pts[rows], kind="stable")]
        ticks = self.pts[order]
        first = int(ticks[0]) if len(ticks) else 0
        base = self.time_base
        object.__setattr__(self, "order", order)
        object.__setattr__(self, "ticks", ticks)
        object.__setattr__(self, "entries", np.flatnonzero(self.entry))
        # One rounding per time (division last), so that 15/30 s is the same float everywhere.
        object.__setattr__(self, "times", (ticks - first) * base.numerator / base.denominator)

    @property
    def start(self) -> float:
        """Seconds: the container's timestamp of the first shown frame."""
        return float(int(self.ticks[0]) * self.time_base) if len(self.ticks) else 0.0

    @property
    def end(self) -> float:
        """Seconds on our clock at which the last usable frame leaves the screen.

        Where rows were lost, that is no later than the first lost frame: what decodes after it is not whole.
        """
        if not len(self.ticks):
            return 0.0
        last = self.order[-1]
        ticks = int(self.duration[last])
        if ticks <= 0:
            gaps = np.diff(self.ticks)
            ticks = int(np.median(gaps)) if len(gaps) else round(1 / (self.fps * self.time_base))
        end = float(self.times[-1]) + float(ticks * self.time_base)
        lost = self.pts[self.usable :][self.shown[self.usable :]]
        lost = lost[lost > MISSING]
        if len(lost):
            cut = float((int(lost.min()) - int(self.ticks[0])) * self.time_base)
            if cut > 0:
                end = min(end, cut)
        return end

    def cut(self, row: int, reason: str) -> PacketTable:
        """The same table, usable only up to `row`."""
        return replace(self, usable=min(row, self.usable), problem=reason)

    def entry_of(self, row: int) -> int:
        """The row where decoding must start for this row's frame to be exact."""
        at = int(np.searchsorted(self.entries, row, side="right")) - 1
        # A frame shown before the key frame that precedes it in the file refers to what came before that key.
        while at >= 0 and self.pts[self.entries[at]] > self.pts[row]:
            at -= 1
        return int(self.entries[at]) if at >= 0 else 0

    def rows_at(self, times: Float64Array) -> Int64Array:
        """The rows of the frames on screen at `times` (seconds); the first one's where a time precedes it."""
        return self.order[np.maximum(np.searchsorted(self.times, times, side="right") - 1, 0)]


def scan(path: StrPath, container: InputContainer, stream: VideoStream) -> PacketTable:
    """Read every packet of the file once. What is wrong with the file lands in the table, never raises."""
    codec = stream.codec_context.name
    canonical = stream.codec_context.codec.canonical_name
    bits = Bitstream(canonical, stream.codec_context.extradata)
    rows: list[tuple[int, int, int, int, bool, bool]] = []
    suspects: list[tuple[int, str]] = []
    layered = False
    end = 0.0
    problem: str | None = None
    base = stream.time_base or Fraction(1, 1000)
    try:
        for packet in container.demux():
            if packet.size == 0:
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.time_base:
                end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            data = bytes(packet)
            doubt = "cut short" if packet.is_corrupt else bits.suspicion(data)
            if doubt:
                suspects.append((len(rows), doubt))
            key = bool(packet.is_keyframe)
            if bits.codec == "hevc" and bits.has_units and not layered:
                layered = bits.temporal_layer(data)
            rows.append(
                (
                    MISSING if packet.pts is None else packet.pts,
                    MISSING if packet.dts is None else packet.dts,
                    packet.size,
                    packet.duration or 0,
                    not packet.is_discard,
                    key and (canonical in RESETTING) and bits.random_access(data),
                )
            )
    except (av.FFmpegError, OSError) as error:
        problem = f"reading stopped: {say(error)}"
    columns = list(zip(*rows, strict=True)) if rows else [()] * 6
    pts = np.array(columns[0], np.int64)
    shown = np.array(columns[4], bool)
    entry = np.array(columns[5], bool)
    if len(entry) and not entry[0] and canonical in RESETTING and entry.any():
        # The file begins in the middle of a group of pictures: nothing before the first entry can be shown.
        first = int(np.flatnonzero(entry)[0])
        shown[:first] = False
        shown &= (pts >= pts[first]) | (np.arange(len(pts)) < first)
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    fps = float(rate) if rate else 25.0
    stamps = pts[shown]
    counted = bool((stamps == MISSING).any()) or len(np.unique(stamps)) < len(stamps)
    duration = np.array(columns[3], np.int64)
    if counted:
        base = 1 / Fraction(rate or 25)
        pts, duration = np.arange(len(pts)), np.ones(len(pts), np.int64)
    table = PacketTable(
        time_base=base,
        pts=pts,
        dts=np.array(columns[1], np.int64),
        size=np.array(columns[2], np.int64),
        duration=duration,
        shown=shown,
        entry=entry,
        skippable=codec in SKIPPABLE and not layered,
        counted=counted,
        fps=fps,
        claimed=_claimed(container, stream),
        suspects=tuple(suspects),
        usable=len(rows),
    )
    problem = problem or _missing_end(path, container, stream, table, end)
    if problem:
        # The last packet of a cut file is cut as well, where the container could tell.
        whole = len(rows)
        while whole and suspects and suspects[-1] == (whole - 1, "cut short"):
            suspects.pop()
            whole -= 1
        table = replace(table, suspects=tuple(suspects)).cut(whole, problem)
    return table


def _claimed(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _missing_end(
    path: StrPath, container: InputContainer, stream: VideoStream, table: PacketTable, end: float
) -> str | None:
    """Say how the file falls short of what its container promises, or None."""
    size = os.path.getsize(path)
    names = set(container.format.name.split(","))
    if "mp4" in names:
        index = stream.index_entries
        reach = max((entry.pos + entry.size for entry in index), default=0)
        if reach > size:
            return f"the file is cut short: {size} bytes of at least {reach}"
        if len(index) > len(table.pts):
            return f"{len(table.pts)} of {len(index)} frames are there"
    promised = _promised_size(path, names, size)
    if promised > size:
        return f"the file is cut short: {size} bytes of {promised}"
    start = (container.start_time or 0) / 1e6
    if container.duration:
        claimed = start + container.duration / 1e6
        if claimed - end > max(SLACK[0], SLACK[1] * claimed):
            return f"data ends at {end:.2f} s of {claimed:.2f} s"
    return None


def _promised_size(path: StrPath, names: set[str], size: int) -> int:
    """The file size in bytes that the outermost boxes add up to; 0 where the format does not say."""
    with open(path, "rb") as file:
        if "mp4" in names:
            at = 0
            while at + 8 <= size:
                file.seek(at)
                head = file.read(16)
                length = int.from_bytes(head[:4], "big")
                if length == 1 and len(head) == 16:
                    length = int.from_bytes(head[8:16], "big")
                if length == 0:
                    return size
                if length < 8 or not re.fullmatch(rb"[\x20-\x7e\xa9]{4}", head[4:8]):
                    return 0
                at += length
            return at if at > size else 0
        if "matroska" in names:
            head = file.read(4096)
            at = head.find(b"\x18\x53\x80\x67")
            if at < 0 or at + 5 > len(head):
                return 0
            width = 9 - head[at + 4].bit_length()
            raw = int.from_bytes(head[at + 4 : at + 4 + width], "big") & ((1 << 7 * width) - 1)
            unknown = raw == (1 << 7 * width) - 1
            return 0 if unknown else at + 4 + width + raw
        if "avi" in names:
            head = file.read(12)
            if head[:4] == b"RIFF":
                return 8 + int.from_bytes(head[4:8], "little")
    return 0
