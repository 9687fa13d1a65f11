"""What a storyboard video sounds like, what is spoken in it and what stands written in it: off by default.

They tell what pixels tell badly at low resolution. Sound: every kind of thing has a pitch and a timbre, every
motion a rate at which it swells; in four of five videos. Speech: how things move, in two of three. Written:
the kinds of things, in a strip too small to be read at the size that models see, in two of three.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.storyboard.vocabulary import KINDS, MOTIONS
from vidsift.datasets.storyboard.world import SECONDS, Scene, Sprite, StoryVideo

RATE: Final = 16_000
NOISE: Final = 0.05
HAS_SOUND, HAS_SPEECH, HAS_WRITING = 0.8, 2 / 3, 2 / 3
_KINDS, _MOTIONS = list(KINDS), list(MOTIONS)

Waveform = NDArray[np.float32]


def _lot(video: StoryVideo, salt: int) -> np.random.Generator:
    return np.random.default_rng((video.scenes[0].seed, salt))


def sound(video: StoryVideo) -> Waveform | None:
    """The sound of a video, mono float32 at RATE, or None for a silent one."""
    rng = _lot(video, 1)
    if rng.random() >= HAS_SOUND:
        return None
    wave = NOISE * rng.standard_normal(round(SECONDS * RATE))
    for scene in video.scenes:
        first, last = round(scene.start_seconds * RATE), round(scene.end_seconds * RATE)
        time = np.arange(last - first) / RATE
        for thing in scene.sprites:
            wave[first:last] += 0.3 * _tone(thing, time, rng) / len(scene.sprites)
    return np.asarray(np.clip(wave, -1, 1), np.float32)


def _tone(thing: Sprite, time: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    kind, motion = _KINDS.index(thing.kind), _MOTIONS.index(thing.motion)
    pitch = 220.0 * 2 ** (kind / 6)
    # Odd or all harmonics: neighbours in pitch differ in timbre.
    harmonics = (1, 3, 5) if kind % 2 else (1, 2, 3)
    wave = sum(np.sin(2 * math.pi * h * pitch * time + rng.uniform(0, 6.28)) / h for h in harmonics)
    swell = 0.5 + 0.5 * np.cos(2 * math.pi * 1.5 * motion * time)
    return np.asarray(wave * swell)


def speech(video: StoryVideo) -> list[tuple[float, float, str]]:
    """What is spoken: start and end in seconds and the words of each scene; nothing in a third of videos."""
    rng = _lot(video, 2)
    if rng.random() >= HAS_SPEECH:
        return []
    return [
        (scene.start_seconds, scene.end_seconds, _said(scene, rng))
        for scene in video.scenes
        if not scene.filler
    ]


def _said(scene: Scene, rng: np.random.Generator) -> str:
    parts = []
    for thing in scene.sprites:
        ways = MOTIONS[thing.motion]
        parts.append(f"something {ways[int(rng.integers(len(ways)))][0]}")
    return " and ".join(parts)


def written(video: StoryVideo) -> tuple[str, ...] | None:
    """What stands written in each scene ("" for a filler), or None for a video without writing."""
    rng = _lot(video, 3)
    if rng.random() >= HAS_WRITING:
        return None
    return tuple(" ".join(_written(thing, rng) for thing in scene.sprites) for scene in video.scenes)


def _written(thing: Sprite, rng: np.random.Generator) -> str:
    names = KINDS[thing.kind]
    return names[int(rng.integers(len(names)))]
