"""One video file as a user sees it: what it holds, its frames by time, and where it breaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from av import VideoFrame

from vidsift.video.container import StrPath
from vidsift.video.errors import VideoError
from vidsift.video.packets import PacketTable
from vidsift.video.picture import Orientation, orientation
from vidsift.video.reader import BrokenPacketError, Source, pick
from vidsift.video.subtitles import Subtitles, subtitles_of
from vidsift.video.types import VideoInfo

# So many packets that look broken are put to the decoder; if it takes them all, they are the maker's habit.
MAX_CHECKS = 16


class VideoFile:
    """An open video. Damage is met in three degrees.

    Packets that are missing or that the decoder refuses: the file ends there (`problem`). Data that the
    decoder can paint over: all is kept, and said (`problem`). Flipped bits inside the picture data of frames
    that no wanted frame depends on: not seen, since that costs decoding everything; the frames returned are
    right. Raises VideoError when no picture can be decoded.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = Path(path)
        self._source = Source(path)
        self._words = self._source.words
        try:
            self._concealed: tuple[float, str] | None = None
            self._reason = self.table.problem
            if not len(self.table.ticks):
                raise VideoError(path, self._nothing(self._reason or "it holds no picture data"))
            self._audio = len(self._source.container.streams.audio)
            self._subtitles = len(self._source.container.streams.subtitles)
            self._container = self._source.container.format.name
            self._check_suspects()
            self._read_first()
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._source.close()

    @property
    def table(self) -> PacketTable:
        """The packets that can be used, as far as is known by now."""
        return self._source.table

    @property
    def problem(self) -> str | None:
        """Why the file can only be read in part, and what was kept; as far as is known by now."""
        if self._reason:
            claimed = self.table.claimed
            of = f" of {claimed:.2f} s" if claimed and claimed > self.table.end else ""
            also = ""
            if self._concealed is not None and self._concealed[0] < self.table.end:
                also = f", with damage concealed from {self._concealed[0]:.2f} s on"
            return f"{self._reason}; kept the first {self.table.end:.2f} s{of}{also}"
        if self._concealed is not None:
            time, reason = self._concealed
            return f"{reason} at {time:.2f} s, concealed by the decoder; kept all {self.table.end:.2f} s"
        return None

    @property
    def info(self) -> VideoInfo:
        """What the file holds, as far as is known by now."""
        table, turn = self.table, self.turn
        width, height = self._size[::-1] if turn.rotation % 180 else self._size
        duration = table.end
        return VideoInfo(
            path=self.path,
            duration=duration,
            start_time=0.0 if table.counted else table.start,
            fps=table.fps,
            frames=len(table.ticks),
            width=width,
            height=height,
            codec=self._codec,
            pix_fmt=self._pix_fmt,
            container=self._container,
            rotation=turn.rotation,
            mirrored=turn.mirrored,
            sample_aspect=turn.sample_aspect,
            audio_streams=self._audio,
            subtitle_streams=self._subtitles,
            claimed_duration=table.claimed,
            problem=self.problem,
        )

    @property
    def subtitles(self) -> Subtitles:
        """The cues beside the file or in it; costs no further pass over the file."""
        return subtitles_of(self.path, self._words, self.info.start_time)

    def frames(self, rows: Sequence[int]) -> Iterator[tuple[int, float, VideoFrame]]:
        """Yield (row, time in seconds, frame) once for every wanted row of the table.

        Raises BrokenPacketError when the file turns out to break before all are had; `table` and `problem`
        are then up to date, and the caller chooses anew among what is left.
        """
        left = dict.fromkeys(rows)
        first = int(self.table.ticks[0])
        while left:
            try:
                for row, stamp, frame in pick(self._source, list(left)):
                    del left[row]
                    yield row, float((stamp - first) * self.table.time_base), frame
                return
            except BrokenPacketError as error:
                self._met(error)
                if not self._source.table.problem:
                    continue
                raise

    def _met(self, error: BrokenPacketError) -> None:
        """Take note of a break: forgive what can be concealed, else end the file there."""
        table = self.table
        if self._source.strict:
            self._source.close()
            self._source = Source(self.path, table, strict=False)
            if not error.doubtful:
                self._conceal(error.row, error.reason)
            return
        self._reason = f"{error.reason} at {self._time_of(error.row):.2f} s"
        self._source.table = table.cut(error.row, self._reason)
        if not len(self._source.table.ticks):
            raise VideoError(self.path, self._nothing(error.reason)) from error

    def _conceal(self, row: int, reason: str) -> None:
        time = self._time_of(row)
        if self._concealed is None or time < self._concealed[0]:
            self._concealed = time, reason

    def _time_of(self, row: int) -> float:
        table = self.table
        row = min(row, len(table.pts) - 1)
        return max(0.0, float((int(table.pts[row]) - int(table.ticks[0])) * table.time_base))

    @staticmethod
    def _nothing(reason: str) -> str:
        return f"no picture can be decoded: {reason}"

    def _check_suspects(self) -> None:
        """Put packets that look broken to the decoder, so that sampling cannot jump over a break."""
        for row, reason, certain in self.table.suspects[:MAX_CHECKS]:
            if certain:
                self._conceal(row, reason)
            while row < self.table.usable:
                try:
                    for _frame in self._source.decode([(self.table.entry_of(row), row)]):
                        pass
                    break
                except BrokenPacketError as error:
                    strict = self._source.strict
                    self._met(error)
                    if not strict:
                        return

    def _read_first(self) -> None:
        """Decode the first picture: it proves that there is one and tells size, format and orientation."""
        rows = [int(self.table.order[0])]
        while True:
            try:
                _, _, frame = next(iter(self.frames(rows)))
                break
            except BrokenPacketError:
                rows = [int(self.table.order[0])]
        stream = self._source.stream
        self.turn: Orientation = orientation(frame, stream.sample_aspect_ratio)
        self._size = frame.width, frame.height
        self._pix_fmt = frame.format.name
        self._codec = stream.codec_context.codec.canonical_name
