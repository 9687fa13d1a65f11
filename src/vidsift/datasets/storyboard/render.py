"""Storyboard videos as pixels: any frame of any video, deterministically from its seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.storyboard.sprites import sprite
from vidsift.datasets.storyboard.world import FPS, FRAME, UNIT_SECONDS, UNITS, Scene, Sprite, StoryVideo

SIZE_PIXELS = {"small": 18, "medium": 24, "large": 30}
TRAVEL_ALONE, TRAVEL_SHARED, TRAVEL_VERTICAL = 0.22, 0.11, 0.22
NOISE_SIGMA = 5.0
BLINKS = 8
_BANK = 256

FloatImage = NDArray[np.float32]
Pixels = NDArray[np.uint8]


@lru_cache(maxsize=1)
def _noise_bank() -> FloatImage:
    """One big noise image; every frame takes a window of it, which is far cheaper than fresh noise."""
    return np.random.default_rng(7).normal(0, NOISE_SIGMA, (_BANK, _BANK)).astype(np.float32)


def _window(rng: np.random.Generator) -> FloatImage:
    y, x = rng.integers(_BANK - FRAME, size=2)
    return _noise_bank()[y : y + FRAME, x : x + FRAME]


def _flat(red: float, green: float, blue: float) -> FloatImage:
    return np.full((FRAME, FRAME, 3), (red, green, blue), np.float32)


def _background(name: str, rng: np.random.Generator) -> FloatImage:
    """The still picture behind a scene: float RGB [64,64,3]; phase and brightness come from `rng`."""
    rows, columns = np.mgrid[0:FRAME, 0:FRAME].astype(np.float32)
    phase_x, phase_y = rng.integers(0, 64, 2)
    if name == "black":
        image = _flat(14, 14, 16)
    elif name == "gray":
        image = _flat(125, 125, 125)
    elif name == "sky":
        image = _flat(130, 185, 235) + (rows / FRAME * 40)[..., None]
    elif name == "grass":
        image = _flat(52, 110, 40) + 5.0 * _window(rng)[..., None] * np.asarray([0.7, 1, 0.5], np.float32)
    elif name == "sand":
        image = _flat(222, 196, 140) + 1.5 * _window(rng)[..., None]
    elif name == "night":
        image = _flat(12, 14, 48)
        image[rng.integers(FRAME, size=45), rng.integers(FRAME, size=45)] = 235
    elif name == "checkered":
        dark = ((rows + phase_y) // 8 + (columns + phase_x) // 8) % 2
        image = _flat(205, 205, 205) - 150 * dark[..., None]
    elif name == "striped":
        dark = ((rows + columns + phase_x) // 6) % 2
        image = _flat(158, 138, 160) - 62 * dark[..., None]
    elif name == "brick":
        course = (rows + phase_y) // 8
        joint = ((rows + phase_y) % 8 < 1) | ((columns + phase_x + 8 * (course % 2)) % 16 < 1)
        image = np.where(joint[..., None], _flat(176, 168, 160), _flat(118, 46, 42))
    elif name == "water":
        wave = np.sin((rows + 4 * np.sin((columns + phase_x) / 6.0) + phase_y) / 3.5)
        image = _flat(36, 100, 172) + 26 * wave[..., None]
    else:
        raise ValueError(f"unknown background {name!r}")
    return np.asarray(image * rng.uniform(0.88, 1.1), np.float32)


def _clutter(image: FloatImage, rng: np.random.Generator) -> None:
    """Grey squares of a filler scene, painted in place."""
    for _ in range(int(rng.integers(4))):
        side = int(rng.integers(5, 10))
        y, x = rng.integers(FRAME - side, size=2)
        image[y : y + side, x : x + side] = rng.integers(60, 180)


def blink_time(t: float) -> float:
    """The nearest earlier scene time at which a blinking sprite is shown."""
    return t - 1 / BLINKS if int(BLINKS * t) % 2 else t


def _pose(thing: Sprite, t: float, shared: bool) -> tuple[float, float, int, int] | None:
    """Centre x, y (fractions), size (pixels), angle (degrees) at scene time t in [0,1]; None: invisible."""
    x, y, size, angle, u = thing.x, thing.y, float(SIZE_PIXELS[thing.size]), 0, 2 * t - 1
    travel = TRAVEL_SHARED if shared else TRAVEL_ALONE
    match thing.motion:
        case "left":
            x -= travel * u
        case "right":
            x += travel * u
        case "up":
            y -= TRAVEL_VERTICAL * u
        case "down":
            y += TRAVEL_VERTICAL * u
        case "grow":
            size *= 0.65 + 0.75 * t
        case "shrink":
            size *= 1.4 - 0.75 * t
        case "spin":
            angle = int(360 * t) // 30 * 30 + 30
        case "blink":
            if int(BLINKS * t) % 2:
                return None
        case "bounce":
            y += 0.2 - 0.4 * abs(math.sin(2 * math.pi * t))
        case "still":
            pass
        case other:
            raise ValueError(f"unknown motion {other!r}")
    return x, y, round(size), angle


def _paste(image: FloatImage, thing: Sprite, pose: tuple[float, float, int, int]) -> None:
    x, y, size, angle = pose
    alpha, shade = sprite(thing.kind, size, angle)
    side = alpha.shape[0]
    top, left = round(y * FRAME - side / 2), round(x * FRAME - side / 2)
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + side, FRAME), min(left + side, FRAME)
    if y0 >= y1 or x0 >= x1:
        return
    part = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    target = image[y0:y1, x0:x1]
    target += alpha[part][..., None] * (np.asarray(thing.rgb, np.float32) * shade[part][..., None] - target)


@lru_cache(maxsize=256)
def _still(scene: Scene) -> FloatImage:
    rng = np.random.default_rng(scene.seed)
    image = _background(scene.background, rng)
    if scene.filler:
        _clutter(image, rng)
    image.setflags(write=False)
    return image


def render_scene(scene: Scene, t: float, noise_seed: int = 0, colour: float = 1.0) -> Pixels:
    """The picture of a scene at scene time t in [0,1]: uint8 RGB [64,64,3].

    colour: share of the world's colours; at 0 the same shapes appear white on black.
    """
    image: FloatImage = _still(scene) * np.float32(colour)
    for thing in scene.sprites:
        if colour < 1:
            red, green, blue = (round(255 + colour * (channel - 255)) for channel in thing.rgb)
            thing = replace(thing, rgb=(red, green, blue))
        pose = _pose(thing, t, shared=len(scene.sprites) > 1)
        if pose is not None:
            _paste(image, thing, pose)
    image += _window(np.random.default_rng((scene.seed, noise_seed)))[..., None]
    return np.clip(image, 0, 255).astype(np.uint8)


def scene_at(video: StoryVideo, seconds: float) -> int:
    """The number of the scene that is on at a time."""
    unit = min(int(seconds / UNIT_SECONDS), UNITS - 1)
    return next(n for n, s in enumerate(video.scenes) if s.start <= unit < s.start + s.units)


def render_at(video: StoryVideo, frame: int) -> Pixels:
    """Frame number `frame` of the video at `FPS` frames a second: uint8 RGB [64,64,3]."""
    seconds = frame / FPS
    scene = video.scenes[scene_at(video, seconds)]
    return render_scene(scene, (seconds - scene.start_seconds) / (scene.units * UNIT_SECONDS), frame)


def sampled_frames(count: int = UNITS) -> list[int]:
    """The frame numbers on screen at the midpoints of `count` equal intervals of a video."""
    total = round(UNITS * UNIT_SECONDS * FPS)
    return [int((2 * k + 1) * total / (2 * count)) for k in range(count)]


def render_frames(video: StoryVideo, count: int = UNITS) -> Pixels:
    """The uniformly sampled frames of a video as a model sees them: uint8 [F,3,64,64]."""
    frames = np.stack([render_at(video, frame) for frame in sampled_frames(count)])
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2))
