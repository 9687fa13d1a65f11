"""Decoded picture -> small upright RGB array, with the colours the file means.

Colour: the stream's own matrix and range; where it names no matrix, BT.709 for pictures at least 1280 wide
or above 576 lines and BT.601 below, as players do (swscale alone would take BT.601 for all). Output is
full-range RGB. BT.2020 uses its own matrix; HDR transfer curves are not tone-mapped. Alpha that the
decoder delivers is composited over black; the separate alpha layer of VP8 and VP9 is not decoded (FFmpeg's
own decoders do not), so there the colour layer is shown as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import numpy as np
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from vidsift.video.types import Geometry, UInt8Array

# Full chroma: otherwise RGB output carries colour at half the width. Bit-exact: the same on every machine.
_SCALER = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.BITEXACT
)
# ITU-T H.273 matrix coefficients -> swscale's tables.
_MATRIX = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}


@dataclass(frozen=True)
class Orientation:
    """How to turn decoded pixels for display: mirror left-right, then `rotation` degrees clockwise."""

    rotation: int
    mirrored: bool
    sample_aspect: float

    def displayed(self, width: int, height: int) -> tuple[int, int]:
        """Display (width, height) in square pixels of a stored picture."""
        if self.sample_aspect >= 1:
            width = max(1, round(width * self.sample_aspect))
        else:
            height = max(1, round(height / self.sample_aspect))
        return (height, width) if self.rotation % 180 else (width, height)

    def upright(self, pixels: UInt8Array) -> UInt8Array:
        """Turn [H, W, 3] pixels for display."""
        if self.mirrored:
            pixels = pixels[:, ::-1]
        return np.rot90(pixels, -(self.rotation // 90) % 4)


def orientation(frame: VideoFrame, sample_aspect: Fraction | None) -> Orientation:
    """Read the display matrix of a frame (ISO 14496-12, 6.2.2), to the nearest quarter turn."""
    aspect = float(sample_aspect) if sample_aspect else 1.0
    # Absurd ratios are broken headers; tiny ones are what scaling to whole pixels leaves behind.
    if not 0.1 <= aspect <= 10 or abs(aspect - 1) < 0.01:
        aspect = 1.0
    try:
        raw = bytes(cast(Any, frame.side_data)["DISPLAYMATRIX"])
    except KeyError:
        return Orientation(0, False, aspect)
    a, b, _, c, d = np.frombuffer(raw[:20], np.int32).astype(float)
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b
    rotation = round(float(np.degrees(np.arctan2(b, a))) / 90) * 90 % 360
    return Orientation(int(rotation), bool(mirrored), aspect)


class PictureMaker:
    """Turns frames into arrays; keeps one swscale context per kind of output."""

    def __init__(self) -> None:
        self._scalers: dict[str, VideoReformatter] = {}

    def model(self, frame: VideoFrame, turn: Orientation, geometry: Geometry) -> UInt8Array:
        """Return uint8 [3, S, S]: resized by swscale straight from the decoded picture, turned, and cut."""
        side = geometry.size
        width, height = turn.displayed(frame.width, frame.height)
        if geometry.mode == "squash":
            target = side, side
        else:
            # torchvision's rule, which the models were trained with: the longer side is rounded down.
            short = min(width, height)
            target = max(side, side * width // short), max(side, side * height // short)
        pixels = self._sized(frame, turn, target, "model")
        top, left = (round((length - side) / 2) for length in pixels.shape[:2])
        return np.ascontiguousarray(pixels[top : top + side, left : left + side].transpose(2, 0, 1))

    def whole(self, frame: VideoFrame, turn: Orientation, longest: int) -> UInt8Array:
        """Return uint8 [H, W, 3], the whole picture with its longest side at most `longest`."""
        width, height = turn.displayed(frame.width, frame.height)
        scale = min(1.0, longest / max(width, height))
        target = max(1, round(width * scale)), max(1, round(height * scale))
        return self._sized(frame, turn, target, "whole")

    def _sized(self, frame: VideoFrame, turn: Orientation, target: tuple[int, int], kind: str) -> UInt8Array:
        """Scale to `target` (displayed width, height) and turn: [H, W, 3]."""
        width, height = target[::-1] if turn.rotation % 180 else target
        alpha = any(part.is_alpha for part in frame.format.components) or frame.format.name == "pal8"
        rgb = frame.format.is_rgb
        matrix = _MATRIX.get(int(frame.colorspace))
        if matrix is None:
            large = frame.width >= 1280 or frame.height > 576
            matrix = Colorspace.ITU709 if large else Colorspace.ITU601
        full = rgb or frame.format.name.startswith("yuvj") or frame.color_range == ColorRange.JPEG
        small = self._scalers.setdefault(kind, VideoReformatter()).reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if alpha else "rgb24",
            src_colorspace=None if rgb else matrix,
            interpolation=_SCALER,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        pixels = cast(UInt8Array, small.to_ndarray())
        if alpha:
            opacity = pixels[..., 3:].astype(np.uint16)
            pixels = ((pixels[..., :3] * opacity + 127) // 255).astype(np.uint8)
        return turn.upright(pixels)
