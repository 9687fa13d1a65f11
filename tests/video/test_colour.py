"""Pictures come out upright, in the right shape, with the colours the file means."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vidsift.video import Geometry, SegmentConfig, probe, read_clips, read_frames

PATCHES = np.array([[220, 30, 40], [30, 200, 60], [40, 60, 210], [128, 128, 128]], np.uint8)
# Lossless, so that only the conversion is judged.
_EXACT = {"qp": "0"}


def patches(width: int = 96, height: int = 64) -> np.ndarray:
    """Four quadrants: red, green / blue, grey."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = PATCHES[:2]
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = PATCHES[2:]
    return image


def quadrants(pixels: np.ndarray) -> np.ndarray:
    """The colours at the centres of the four quadrants of [3, S, S]."""
    quarter, rest = pixels.shape[1] // 4, pixels.shape[1] * 3 // 4
    return np.array([pixels[:, y, x] for y in (quarter, rest) for x in (quarter, rest)])


def yuv(rgb: np.ndarray, matrix: str, full: bool, bits: int = 8) -> np.ndarray:
    """Convert [..., 3] 8-bit RGB to Y, Cb, Cr codes by the definition (ITU-T H.273, 8.3)."""
    kr, kb = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}[matrix]
    r, g, b = (rgb[..., i] / 255.0 for i in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    top, scale = (1 << bits) - 1, 1 << (bits - 8)
    if full:
        return np.stack([y * top, cb * top + 128 * scale, cr * top + 128 * scale], -1).round()
    return (np.stack([219 * y + 16, 224 * cb + 128, 224 * cr + 128], -1) * scale).round()


def write_yuv(path: Path, codes: np.ndarray, pix_fmt: str, matrix: int | None, full: bool | None) -> Path:
    """Encode ten equal frames of Y, Cb, Cr codes [H, W, 3] without loss, tagged as given."""
    import av

    height, width = codes.shape[:2]
    wide = "10" in pix_fmt
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.options = {"qp": "0", "preset": "ultrafast"}
        context = stream.codec_context
        if matrix is not None:
            context.colorspace = matrix
        if full is not None:
            context.color_range = 2 if full else 1
        for number in range(10):
            frame = av.VideoFrame(width, height, pix_fmt)
            step = 1 if "444" in pix_fmt else 2
            planes = [codes[..., 0], codes[::step, ::step, 1], codes[::step, ::step, 2]]
            for plane, values in zip(frame.planes, planes, strict=True):
                kind = np.uint16 if wide else np.uint8
                rows = np.zeros((plane.height, plane.line_size // kind().itemsize), kind)
                rows[: values.shape[0], : values.shape[1]] = values
                plane.update(rows.tobytes())
            frame.pts = number
            if matrix is not None:
                frame.colorspace = matrix
            if full is not None:
                frame.color_range = 2 if full else 1
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("matrix", "tag"), [("601", 6), ("601", 5), ("709", 1), ("2020", 9)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_the_files_own_matrix_and_range_are_used(
    matrix: str, tag: int, full: bool, pix_fmt: str, tmp_path: Path
) -> None:
    codes = yuv(patches(), matrix, full, 10 if "10" in pix_fmt else 8)
    path = write_yuv(tmp_path / "c.mp4", codes, pix_fmt, tag, full)
    pixels = read_frames(path, [0.5], Geometry(64, "squash")).pixels[0]
    assert np.abs(quadrants(pixels).astype(int) - PATCHES).max() <= 3


@pytest.mark.parametrize(("size", "matrix"), [((96, 64), "601"), ((1280, 720), "709")])
def test_an_untagged_file_is_bt601_when_small_and_bt709_when_large(
    size: tuple[int, int], matrix: str, tmp_path: Path
) -> None:
    path = write_yuv(tmp_path / "c.mp4", yuv(patches(*size), matrix, False), "yuv420p", None, None)
    pixels = read_frames(path, [0.5], Geometry(64, "squash")).pixels[0]
    assert np.abs(quadrants(pixels).astype(int) - PATCHES).max() <= 3


@pytest.mark.parametrize("size", [(97, 65), (33, 127), (2, 2), (1, 1)])
def test_odd_and_tiny_sizes_are_read(size: tuple[int, int], tools: Any, tmp_path: Path) -> None:
    images = [patches(*size)] * 5
    path = tools.make_video(tmp_path / "o.mkv", frames=images, codec="ffv1", pix_fmt="yuv444p")
    frames = read_frames(path, [0.1], Geometry(32))
    assert frames.pixels.shape == (1, 3, 32, 32)
    info = probe(path)
    assert (info.width, info.height) == size


def test_alpha_is_laid_over_black(tools: Any, tmp_path: Path) -> None:
    image = np.dstack([np.full((64, 96, 3), 200, np.uint8), np.full((64, 96), 255, np.uint8)])
    image[:, 48:, 3] = 0
    image[32:, :48, 3] = 128
    path = tools.make_video(tmp_path / "a.mov", frames=[image] * 3, codec="png", pix_fmt="rgba")
    colours = quadrants(read_frames(path, [0.0], Geometry(64, "squash")).pixels[0])
    assert colours[:, 0].tolist() == pytest.approx([200, 0, 100, 0], abs=1)


# The matrix (a b / c d) takes a picture's (x, y) to (a x + c y, b x + d y), y down (ISO/IEC 14496-12, 6.2.2).
TURNS: dict[str, tuple[tuple[int, int, int, int], Callable[[np.ndarray], np.ndarray]]] = {
    "none": ((1, 0, 0, 1), lambda image: image),
    "right": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "half": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "left": ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
    "mirror": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "flip": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transpose": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "antitranspose": ((0, -1, -1, 0), lambda image: np.rot90(image, 2).transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_rotation_and_mirroring_are_applied(turn: str, tools: Any, tmp_path: Path) -> None:
    (a, b, c, d), expected = TURNS[turn]
    one = 1 << 16
    matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
    path = tools.make_video(
        tmp_path / "r.mp4",
        frames=[patches()] * 5,
        options=_EXACT,
        prepare=lambda stream: stream.set_display_matrix(matrix),
    )
    seen = expected(patches())
    info = probe(path)
    assert (info.width, info.height) == seen.shape[1::-1]
    centres = seen[
        [[seen.shape[0] // 4], [seen.shape[0] * 3 // 4]], [seen.shape[1] // 4, seen.shape[1] * 3 // 4]
    ]
    pixels = read_frames(path, [0.0], Geometry(64, "squash")).pixels[0]
    assert np.abs(quadrants(pixels) - centres.reshape(4, 3).astype(int)).max() <= 12


def test_the_crop_is_the_centre_of_the_picture(tools: Any, tmp_path: Path) -> None:
    image = np.zeros((60, 180, 3), np.uint8)
    image[:, 60:120] = 255
    path = tools.make_video(tmp_path / "c.mkv", frames=[image] * 3, codec="ffv1", pix_fmt="bgr0")
    cut = read_frames(path, [0.0], Geometry(60)).pixels[0]
    assert cut[:, :, 2:-2].min() >= 250
    squashed = read_frames(path, [0.0], Geometry(60, "squash")).pixels[0]
    assert squashed[0, 30, 5] == 0
    assert squashed[0, 30, 30] == 255


def test_wide_pixels_widen_the_picture_and_the_thumbnail_keeps_it_whole(tools: Any, tmp_path: Path) -> None:
    from fractions import Fraction

    def anamorphic(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    path = tools.make_video(tmp_path / "s.mp4", frames=[patches()] * 5, prepare=anamorphic)
    assert probe(path).sample_aspect == 2.0
    clips = list(
        read_clips(
            path, frames_per_clip=3, geometry=Geometry(32), segmentation=SegmentConfig(), thumbnail_side=120
        )
    )
    with Image.open(io.BytesIO(clips[0].thumbnail)) as thumbnail:
        assert thumbnail.format == "JPEG"
        assert thumbnail.size == (120, 40)
        colours = np.asarray(thumbnail)[[10, 10, 30, 30], [30, 90, 30, 90]].astype(int)
    assert np.abs(colours - PATCHES).max() < 25
