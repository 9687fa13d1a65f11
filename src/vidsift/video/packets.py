"""The table of a file's packets, made by demultiplexing without decoding: exact times, key packets, damage.

Demultiplexing 60 s of 720p costs a few milliseconds; in return the reader knows which packet holds the frame
that is on screen at a time, where decoding may start, and what the container promised and does not deliver.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from vidsift.video.bitstream import Bitstream
from vidsift.video.container import StrPath, say
from vidsift.video.structure import check
from vidsift.video.subtitles import TextTrack
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


CUT_SHORT = "a packet that the container marks as damaged"


class Suspect(NamedTuple):
    """A row that looks broken, and why; certain, or for the decoder to confirm."""

    row: int
    reason: str
    certain: bool


@dataclass(frozen=True)
class PacketTable:
    """One row per video packet in decoding order. pts and dts in ticks of `time_base`; -1 << 62 = missing.

    shown: bool, False where the container says the frame is not to be displayed (edit lists) or where it
    precedes the first picture that can be decoded. entry: bool, decoding may start here. open_entry: bool,
    packets after this entry may name pictures before it, needlessly or for frames shown before it. counted:
    the container has no (or no consistent) presentation times, so pts is the running number of the frame at a
    constant rate. suspects: rows that look broken. usable: rows [0, usable) may be decoded. problem: why
    there are no more.
    """

    time_base: Fraction
    pts: Int64Array
    dts: Int64Array
    size: Int64Array
    duration: Int64Array
    shown: npt.NDArray[np.bool_]
    entry: npt.NDArray[np.bool_]
    open_entry: npt.NDArray[np.bool_]
    skippable: bool
    counted: bool
    fps: float
    claimed: float | None
    suspects: tuple[Suspect, ...] = ()
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


def scan(path: StrPath, container: InputContainer, stream: VideoStream, words: TextTrack) -> PacketTable:
    """Read every packet of the file once. What is wrong with the file lands in the table, never raises.

    words: takes the packets of its track.
    """
    codec = stream.codec_context.name
    canonical = stream.codec_context.codec.canonical_name
    bits = Bitstream(canonical, stream.codec_context.extradata)
    # Flat arrays: an hour of film has some hundred thousand packets.
    columns = [array("q") for _ in range(7)]
    suspects: list[Suspect] = []
    places = array("q")
    at = -1
    count = 0
    layered = False
    ends: dict[int, tuple[int, Fraction]] = {}
    problem: str | None = None
    base = stream.time_base or Fraction(1, 1000)
    try:
        for packet in container.demux():
            if packet.size == 0:
                continue
            stamp = packet.pts if packet.pts is not None else packet.dts
            index = packet.stream_index
            if stamp is not None:
                tick = stamp + (packet.duration or 0)
                if index not in ends or tick > ends[index][0]:
                    ends[index] = tick, packet.time_base
            if index == words.index:
                words.take(packet)
            if index != stream.index:
                continue
            data = bytes(packet)
            if packet.is_corrupt:
                suspects.append(Suspect(count, CUT_SHORT, True))
            elif doubt := bits.suspicion(data):
                suspects.append(Suspect(count, *doubt))
            at = max(packet.pos if packet.pos is not None else -1, at)
            places.append(at)
            key = bool(packet.is_keyframe)
            if bits.codec == "hevc" and not layered:
                layered = bits.temporal_layer(data)
            row = (
                MISSING if packet.pts is None else packet.pts,
                MISSING if packet.dts is None else packet.dts,
                packet.size,
                packet.duration or 0,
                not packet.is_discard,
                key and (canonical in RESETTING) and bits.random_access(data),
                key and not bits.closed(data),
            )
            for column, value in zip(columns, row, strict=True):
                column.append(value)
            count += 1
    except (av.FFmpegError, OSError) as error:
        problem = f"reading stopped: {say(error)}"
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
    if container.format.name == "avi" and getattr(stream.codec_context, "has_b_frames", False):
        # AVI keeps no presentation times; those made up from the decoding order are wrong for B-frames.
        counted = counted or bool((np.diff(stamps) > 0).all())
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
        open_entry=np.array(columns[6], bool) | np.append(pts[1:] < pts[:-1], False)[: len(pts)],
        skippable=codec in SKIPPABLE and not layered,
        counted=counted,
        fps=fps,
        claimed=_claimed(container, stream),
        usable=count,
    )
    reached = max((float(tick * tick_base) for tick, tick_base in ends.values()), default=0.0)
    size = os.path.getsize(path)
    # Positions rise with the rows but for B-frames stored out of order: the running maximum can be searched.
    positions = np.array(places, np.int64)
    structure = check(path, set(container.format.name.split(",")), size)
    problem = problem or structure.problem or _missing_end(container, stream, table, size, reached)
    for byte, reason in structure.scratched if count else ():
        first = int(np.searchsorted(positions, byte))
        suspects.append(Suspect(min(first, count - 1), reason, True))
    if problem:
        # The last packet of a cut file is cut as well, where the container could tell.
        whole = count
        if structure.broken_at is not None:
            whole = int(np.searchsorted(positions, structure.broken_at))
        while whole and any(s.row == whole - 1 and s.reason == CUT_SHORT for s in suspects):
            whole -= 1
        table = table.cut(whole, problem)
    return replace(table, suspects=tuple(sorted(s for s in suspects if s.row < table.usable)))


def _claimed(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration else None


def _missing_end(
    container: InputContainer, stream: VideoStream, table: PacketTable, size: int, end: float
) -> str | None:
    """Say how the packets fall short of what the container promises, or None."""
    names = set(container.format.name.split(","))
    if "mp4" in names:
        index = stream.index_entries
        reach = max((entry.pos + entry.size for entry in index), default=0)
        if reach > size:
            return f"the file is cut short: {size} bytes of at least {reach}"
        if len(index) > len(table.pts):
            return f"{len(table.pts)} of {len(index)} frames are there"
        if stream.frames:
            # The index names every frame, and all are there; claimed durations are often wrong.
            return None
    start = (container.start_time or 0) / 1e6
    if container.duration:
        claimed = start + container.duration / 1e6
        slack = max(SLACK[0], SLACK[1] * claimed)
        if claimed - end > slack:
            return f"data ends at {end:.2f} s of {claimed:.2f} s"
        if "matroska" in names and end - claimed > slack:
            return f"timestamps run to {end:.2f} s in a file of {claimed:.2f} s"
    return None
