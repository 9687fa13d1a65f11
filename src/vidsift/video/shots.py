"""Hard cuts between shots, found on tiny pictures of a few frames per second.

The idea is PySceneDetect's adaptive detector (https://www.scenedetect.com): a cut is a change that is large
and large against its neighbours. The change measured is that of a 32 x 18 picture and of its coarse colour
histogram; a pan moves the first and hardly the second. Precision in time is one sampling step.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from vidsift.video.reader import BrokenPacketError, Source
from vidsift.video.types import Float64Array, UInt8Array

# Pictures looked at per second; PySceneDetect looks at all.
RATE = 4.0
# Below this many frames per second no frame is skipped.
LOW_RATE = 8.0
WIDTH, HEIGHT = 32, 18
# A cut changes at least this much (of 2.0) and this many times more than the median of its neighbours.
MIN_CHANGE = 0.30
MIN_RATIO = 2.5
NEIGHBOURS = 4


def find_cuts(source: Source) -> list[float]:
    """Return the times (seconds) at which a new shot begins, ascending, without 0.

    Decodes the whole file once, without the frames that nothing refers to. Where the file breaks the list
    ends.
    """
    table = source.table
    times: list[float] = []
    pictures = _Tiny()
    changes: list[float] = []
    due = 0.0
    # Nothing is wanted by name: whatever refers to nothing is skipped, unless frames are few anyway.
    wanted: frozenset[int] | None = frozenset() if table.fps >= LOW_RATE else None
    first = int(table.ticks[0])
    number = -1
    try:
        for frame in source.decode([(0, table.usable - 1)], wanted):
            number += 1
            stamp = number if table.counted else frame.pts
            if stamp is None:
                continue
            time = float((stamp - first) * table.time_base)
            if time < due:
                continue
            due = (np.floor(time * RATE + 1e-9) + 1) / RATE
            times.append(time)
            changes.append(pictures.change(frame))
    except BrokenPacketError:
        # What can be read ends here; the reader that follows meets the same break and reports it.
        pass
    return [times[i] for i in cuts_in(np.array(changes, np.float64))]


def cuts_in(changes: Float64Array) -> list[int]:
    """Return the positions of `changes` [N] (each against the picture before it) that are cuts."""
    found: list[int] = []
    for i in range(1, len(changes)):
        low, high = max(1, i - NEIGHBOURS), i + NEIGHBOURS + 1
        around = np.concatenate([changes[low:i], changes[i + 1 : high]])
        usual = float(np.median(around)) if len(around) else 0.0
        if changes[i] >= MIN_CHANGE and changes[i] >= MIN_RATIO * usual:
            found.append(i)
    return found


class _Tiny:
    """Remembers the previous tiny picture and says how much the next one differs from it."""

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._before: tuple[UInt8Array, Float64Array] | None = None

    def change(self, frame: VideoFrame) -> float:
        """Return the change since the last call, 0 to 2; 0 at the first."""
        scaled = self._scaler.reformat(
            frame, width=WIDTH, height=HEIGHT, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        small = cast(UInt8Array, scaled.to_ndarray())
        bins = (small >> 6).astype(np.int64) @ np.array([16, 4, 1])
        histogram = np.bincount(bins.ravel(), minlength=64) / bins.size
        before, self._before = self._before, (small, histogram)
        if before is None:
            return 0.0
        moved = float(np.abs(small.astype(np.int16) - before[0]).mean()) / 255
        recoloured = float(np.abs(histogram - before[1]).sum()) / 2
        # Pictures of unlike shots differ by about 0.25 of full scale: brought to the histogram's scale.
        return min(1.0, 2 * moved) + recoloured
