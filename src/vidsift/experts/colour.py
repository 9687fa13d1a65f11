"""Colour: histograms of the frames as wholes and in quarters, what scene and light are known by."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import Clips
from vidsift.experts.base import Findings
from vidsift.video import Geometry

SIDE, BINS = 64, 4


class Colour:
    """Joint RGB histograms of 4 x 4 x 4 bins over a frame and its quarters, square-rooted (Hellinger); the
    mean over frames, and the greatest of any frame, for scenes that pass."""

    dim, tokens = 2 * 5 * BINS**3, 0
    frames: ClassVar[int] = 12

    def __init__(self, name: str = "colour") -> None:
        self.name = name

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"colour": 1, "side": SIDE, "bins": BINS, "frames": self.frames}

    def extract(self, clips: Clips, number: int) -> Findings | None:
        pixels, mask = clips.view(self.frames, Geometry(SIDE, "squash")).read(number)
        if not mask.any():
            return None
        rows = np.stack([_histograms(picture) for picture in pixels[mask]])
        return np.concatenate([rows.mean(0), rows.max(0)])


def _histograms(picture: NDArray[np.uint8]) -> Findings:
    """[5 * BINS^3] of one picture [3, SIDE, SIDE]."""
    step = 256 // BINS
    number = (picture.astype(np.int64) // step).reshape(3, SIDE, SIDE)
    codes = number[0] * BINS * BINS + number[1] * BINS + number[2]
    half = SIDE // 2
    parts = [codes, codes[:half, :half], codes[:half, half:], codes[half:, :half], codes[half:, half:]]
    counted = [np.bincount(part.ravel(), minlength=BINS**3) / part.size for part in parts]
    return np.asarray(np.sqrt(np.concatenate(counted)), np.float32)
