"""The exact and fast way through a file: decode only what the wanted frames depend on.

One pass in decoding order. Packets between the last wanted frame and the key packet that the next one depends
on are not decoded at all; frames that nothing refers to are skipped unless they are wanted; every stretch is
drained at its end. When a wanted frame does not come out, everything is decoded and it is picked from that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Literal, Self

import av
import numpy as np
from av import VideoFrame
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from vidsift.video.container import StrPath, only, open_video, say
from vidsift.video.packets import MISSING, PacketTable, scan
from vidsift.video.subtitles import TextTrack

# Leaping over fewer bytes than this by reading them is as cheap as asking the container to seek.
SEEK_BYTES = 8 << 20


class BrokenPacketError(Exception):
    """The decoder refuses the packet in `row`.

    doubtful: it may only miss pictures before the open group of pictures that decoding started with; a
    decoder that is not strict goes on.
    """

    def __init__(self, row: int, reason: str, doubtful: bool = False) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason
        self.doubtful = doubtful


class Source:
    """An open file, its packet table, and a position among the packets. Use as a context manager.

    strict: let the decoder refuse damaged data that it would otherwise paint over. options: for the decoder.
    words: the file's track of text, if there is one, where its packets were read for the table.
    """

    words: TextTrack | None = None

    def __init__(
        self,
        path: StrPath,
        table: PacketTable | None = None,
        strict: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.strict = strict
        self._options = dict(options or {}) | ({"err_detect": "explode"} if strict else {})
        self._stack = ExitStack()
        self._row = 0
        self._open()
        try:
            if table is None:
                self.words = TextTrack(self.container)
                table = scan(path, self.container, self.stream, self.words)
                self._row = len(table.pts)
            self.table = table
            only(self.container, self.stream)
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        self._stack.close()
        self.container: InputContainer
        self.stream: VideoStream
        self.container, self.stream = self._stack.enter_context(open_video(self.path))
        context = self.stream.codec_context
        # One thread: files are read in parallel, and a decoder that works ahead cannot be told what to skip.
        context.thread_count = 1
        context.options = dict(self._options)
        self._row = 0

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _packets(self, row: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """Yield (row, packet) from at most `row` on: from the position, by seeking, or by reopening."""
        ahead = int(self.table.size[self._row : row].sum()) if row >= self._row else SEEK_BYTES
        stream = self.container.demux(self.stream)
        if ahead >= SEEK_BYTES and (found := self._seek(row)) is not None:
            self._row, packet, stream = found
            self._row += 1
            yield self._row - 1, packet
        elif row < self._row:
            self._open()
            only(self.container, self.stream)
            stream = self.container.demux(self.stream)
        try:
            for packet in stream:
                if packet.size:
                    self._row += 1
                    yield self._row - 1, packet
        except (av.FFmpegError, OSError) as error:
            raise BrokenPacketError(self._row, f"reading stopped: {say(error)}") from error

    def _seek(self, row: int) -> tuple[int, Packet[VideoStream], Iterator[Packet[VideoStream]]] | None:
        """Seek to `row` or before; None when the container does not land where the table can confirm it."""
        table = self.table
        stamp = int(table.dts[row]) if table.dts[row] > MISSING else int(table.pts[row])
        if table.counted or stamp <= MISSING:
            return None
        try:
            self.container.seek(stamp, stream=self.stream)
            stream = self.container.demux(self.stream)
            packet = next((p for p in stream if p.size), None)
        except (av.FFmpegError, OSError):
            packet = None
        if packet is not None and packet.pts is not None and packet.dts is not None:
            same = (table.pts == packet.pts) & (table.dts == packet.dts) & (table.size == packet.size)
            rows = np.flatnonzero(same)
            if len(rows) == 1 and rows[0] <= row:
                return int(rows[0]), packet, stream
        # Somewhere unknown: only reopening gives a certain position again.
        self._row = len(table.pts) + 1
        return None

    def decode(
        self, stretches: Sequence[tuple[int, int]], wanted: frozenset[int] | None = None
    ) -> Iterator[VideoFrame]:
        """Decode stretches of rows (first, last), ascending, each from an entry; yield frames as they come.

        wanted: rows whose frames must come out; others may be skipped. None: all must come out.
        Raises BrokenPacketError after what decoded before it has been yielded.
        """
        context = self.stream.codec_context
        skipping = wanted is not None and self.table.skippable
        limit = self.table.usable
        for first, last in stretches:
            broken: BrokenPacketError | None = None
            if context.is_open:
                context.flush_buffers()
            state: Literal["", "NONREF", "DEFAULT"] = ""
            level: Literal["NONREF", "DEFAULT"]
            try:
                for row, packet in self._packets(first):
                    if row < first:
                        continue
                    if row >= limit:
                        break
                    spare = skipping and wanted is not None and row not in wanted
                    level = "NONREF" if spare else "DEFAULT"
                    if level != state:
                        context.skip_frame = state = level
                    try:
                        yield from context.decode(packet)
                    except (av.FFmpegError, OSError) as error:
                        # A frame shown before the one that decoding started with is never wanted.
                        if self.strict or self.table.pts[row] >= self.table.pts[first]:
                            doubtful = self.strict and bool(self.table.open_entry[first])
                            raise BrokenPacketError(row, f"damaged data: {say(error)}", doubtful) from error
                    if row >= last:
                        break
            except BrokenPacketError as error:
                broken = error
            try:
                yield from context.decode(None)
            except av.FFmpegError as error:
                broken = broken or BrokenPacketError(min(last, limit - 1), f"damaged data: {say(error)}")
            if broken is not None:
                raise broken


def stretches_for(table: PacketTable, rows: Sequence[int]) -> list[tuple[int, int]]:
    """The stretches of packets that the wanted rows depend on, ascending and disjoint."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted((table.entry_of(row), row) for row in rows):
        if merged and first <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def pick(source: Source, rows: Sequence[int]) -> Iterator[tuple[int, int, VideoFrame]]:
    """Yield (row, pts, frame) once for every wanted row, about in order of presentation.

    pts is that of the frame shown, which is the row's own wherever that packet yields a frame of its own, and
    else that of the last frame before it. Raises BrokenPacketError when the rest cannot be had.
    """
    table = source.table
    pending = {int(table.pts[row]): row for row in rows}
    if not table.counted and pending:
        for frame in source.decode(stretches_for(table, rows), frozenset(rows)):
            row = pending.pop(frame.pts, None) if frame.pts is not None else None
            if row is not None:
                yield row, int(frame.pts or 0), frame
    if pending:
        yield from _pick_straight(source, pending)


def _pick_straight(source: Source, pending: dict[int, int]) -> Iterator[tuple[int, int, VideoFrame]]:
    """Decode everything from the start; for each tick the last frame at or before it, or the first frame."""
    ticks = sorted(pending)
    held: tuple[int, VideoFrame] | None = None
    stamp = -1
    broken: BrokenPacketError | None = None
    try:
        for frame in source.decode([(0, source.table.usable - 1)]):
            stamp = frame.pts if frame.pts is not None and not source.table.counted else stamp + 1
            while held is not None and ticks and ticks[0] < stamp:
                yield pending[ticks.pop(0)], *held
            held = stamp, frame
            if not ticks:
                return
    except BrokenPacketError as error:
        broken = error
    if held is None:
        raise broken or BrokenPacketError(0, "no picture can be decoded")
    # After a break only ticks up to the last frame that came out are certain.
    while ticks and (broken is None or ticks[0] <= held[0]):
        yield pending[ticks.pop(0)], *held
    if broken is not None and ticks:
        raise broken
