"""Makes small videos with known contents, and decodes them the plain way to compare with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av import VideoFrame

from vidsift.video.picture import PictureMaker, orientation
from vidsift.video.types import Geometry


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture that differs from every other number's: a moving texture with noise, uint8 [H, W, 3]."""
    rng = np.random.default_rng(7)
    texture = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).repeat(8, 0).repeat(8, 1)
    y, x = (number * 2) % 8, (number * 3) % 8
    noise = np.random.default_rng(number).integers(-20, 21, (height, width, 1))
    shade = 30 * np.sin(number / 3)
    return np.clip(texture[y : y + height, x : x + width] * 0.6 + 40 + shade + noise, 0, 255).astype(np.uint8)


def make_video(
    path: Path,
    *,
    frames: int | Iterable[np.ndarray] = 60,
    codec: str = "libx264",
    fps: int = 25,
    gop: int = 12,
    options: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
    stamps: Iterable[int] | None = None,
    start: int = 0,
    container_options: dict[str, str] | None = None,
    size: tuple[int, int] = (96, 64),
    prepare: Callable[[Any], None] | None = None,
) -> Path:
    """Encode numbered pictures, or given ones; `stamps` are timestamps in 1/1000 s for a variable rate."""
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"no encoder {codec}")
    images = (picture(i, *size) for i in range(frames)) if isinstance(frames, int) else iter(frames)
    first = next(images)
    base = Fraction(1, 1000) if stamps is not None else Fraction(1, fps)
    times = iter(stamps) if stamps is not None else iter(range(start, 1 << 30))
    with av.open(path, "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt, stream.gop_size = pix_fmt, gop
        stream.codec_context.time_base = base
        quick = {"preset": "ultrafast"} if codec in ("libx264", "libx265") else {}
        stream.options = {**quick, "g": str(gop), **(options or {})}
        if prepare:
            prepare(stream)
        for image in (first, *images) if isinstance(frames, int) else _chain(first, images):
            if image.ndim == 3 and image.shape[2] == 4:
                frame = VideoFrame.from_ndarray(image, format="rgba")
            else:
                frame = VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = next(times), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _chain(first: np.ndarray, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield first
    yield from rest


class Reference:
    """Everything decoded in one plain pass: times (first frame at 0) and model pictures."""

    def __init__(self, path: Path, geometry: Geometry, counted_at: float | None = None) -> None:
        maker = PictureMaker()
        self.times: list[float] = []
        self.pictures: list[np.ndarray] = []
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            first: int | None = None
            for number, frame in enumerate(container.decode(stream)):
                if counted_at is not None:
                    self.times.append(number / counted_at)
                else:
                    first = frame.pts if first is None else first
                    base = stream.time_base
                    self.times.append((frame.pts - first) * base.numerator / base.denominator)
                turn = orientation(frame, stream.sample_aspect_ratio)
                self.pictures.append(maker.model(frame, turn, geometry))

    def at(self, time: float) -> tuple[float, np.ndarray]:
        """The last frame whose time is not later than `time`, or the first."""
        chosen = 0
        for number, stamp in enumerate(self.times):
            if stamp <= time:
                chosen = number
        return self.times[chosen], self.pictures[chosen]


def assert_exact(path: Path, times: list[float], reference: Reference, geometry: Geometry) -> None:
    """read_frames gives the reference's frames, bit for bit, with their times."""
    from vidsift.video import read_frames

    frames = read_frames(path, times, geometry)
    assert frames.problem is None
    assert frames.mask.all()
    for slot, time in enumerate(times):
        stamp, pixels = reference.at(time)
        assert frames.times[slot] == stamp
        assert np.array_equal(frames.pixels[slot], pixels), f"another frame at {time}"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's shared sample files, or a skip."""
    root = Path(os.environ.get("VIDSIFT_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    if not (root / "videos").is_dir():
        pytest.skip("the shared sample files are absent")
    return root / "videos"


@pytest.fixture(scope="session")
def tools() -> Any:
    """The helpers of this file, since test modules cannot import it."""
    import types

    return types.SimpleNamespace(
        picture=picture, make_video=make_video, Reference=Reference, assert_exact=assert_exact
    )
