"""What happens in a storyboard video: scenes with sprites that move, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vidsift.datasets.storyboard.vocabulary import BACKGROUNDS, COLOURS, KINDS, MOTIONS, RGB, SIZES

FRAME: Final = 64
UNITS: Final = 12
UNIT_SECONDS: Final = 0.5
FPS: Final = 10
SECONDS: Final = UNITS * UNIT_SECONDS
MIN_SCENE_UNITS: Final = 2


@dataclass(frozen=True)
class Sprite:
    """One thing in a scene. `x`, `y`: resting centre as fractions of the frame; `rgb`: jittered colour."""

    kind: str
    colour: str
    size: str
    motion: str
    x: float
    y: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """A background with 0-2 sprites for some time units. A filler has only clutter and is never described."""

    start: int
    units: int
    background: str
    sprites: tuple[Sprite, ...]
    seed: int

    @property
    def filler(self) -> bool:
        return not self.sprites

    @property
    def start_seconds(self) -> float:
        return self.start * UNIT_SECONDS

    @property
    def end_seconds(self) -> float:
        return (self.start + self.units) * UNIT_SECONDS


@dataclass(frozen=True)
class StoryVideo:
    """A video of `UNITS` half-second units, cut hard into scenes."""

    scenes: tuple[Scene, ...]

    @property
    def content(self) -> tuple[int, ...]:
        """Indices of the scenes that captions may speak of."""
        return tuple(i for i, scene in enumerate(self.scenes) if not scene.filler)


@dataclass(frozen=True)
class WorldConfig:
    """How videos are drawn; the defaults are the standard world on which results are reported."""

    scenes: tuple[float, ...] = (0.10, 0.25, 0.35, 0.30)
    filler: float = 0.5
    two_sprites: float = 0.5
    kinds: tuple[str, ...] = tuple(KINDS)
    colours: tuple[str, ...] = tuple(COLOURS)
    sizes: tuple[str, ...] = tuple(SIZES)
    motions: tuple[str, ...] = tuple(MOTIONS)
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)
    jitter: int = 14


STANDARD: Final = WorldConfig()


def draw_seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def draw_rgb(colour: str, jitter: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """The colour's RGB with every channel moved by at most `jitter`."""
    red, green, blue = np.clip(
        np.asarray(RGB[colour]) + rng.integers(-jitter, jitter + 1, 3), 0, 255
    ).tolist()
    return red, green, blue


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def draw_sprites(config: WorldConfig, rng: np.random.Generator) -> tuple[Sprite, ...]:
    """One sprite near the middle, or two of different kind and colour side by side."""
    count = 2 if rng.random() < config.two_sprites else 1
    kinds = rng.permutation(len(config.kinds))[:count]
    colours = rng.permutation(len(config.colours))[:count]
    sprites = []
    for k in range(count):
        x = 0.5 + rng.uniform(-0.06, 0.06) if count == 1 else (0.27, 0.73)[k]
        colour = config.colours[colours[k]]
        sprites.append(
            Sprite(
                kind=config.kinds[kinds[k]],
                colour=colour,
                size=_pick(config.sizes, rng),
                motion=_pick(config.motions, rng),
                x=float(x),
                y=float(0.5 + rng.uniform(-0.16, 0.16)),
                rgb=draw_rgb(colour, config.jitter, rng),
            )
        )
    return tuple(sprites)


def draw_video(rng: np.random.Generator, config: WorldConfig = STANDARD) -> StoryVideo:
    """Draw one video; the same generator state gives the same video on every machine."""
    count = 1 + int(rng.choice(len(config.scenes), p=config.scenes))
    units = np.full(count, MIN_SCENE_UNITS)
    np.add.at(units, rng.integers(count, size=UNITS - MIN_SCENE_UNITS * count), 1)
    is_filler = rng.random(count) < config.filler if count > 1 else np.zeros(1, bool)
    if is_filler.all():
        is_filler[int(rng.integers(count))] = False
    scenes, start = [], 0
    for k in range(count):
        scenes.append(
            Scene(
                start=start,
                units=int(units[k]),
                background=_pick(config.backgrounds, rng),
                sprites=() if is_filler[k] else draw_sprites(config, rng),
                seed=draw_seed(rng),
            )
        )
        start += int(units[k])
    return StoryVideo(tuple(scenes))
