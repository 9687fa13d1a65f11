"""Training batches of the storyboard world, pure functions of seed, stage and step: runs resume exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.storyboard.captions import (
    STILL_CAPTIONS,
    Caption,
    change_order,
    change_word,
    write_caption,
)
from vidsift.datasets.storyboard.render import Pixels, blink_time, render_frames, render_scene
from vidsift.datasets.storyboard.vocabulary import BACKGROUNDS, COLOURS, KINDS
from vidsift.datasets.storyboard.world import (
    STANDARD,
    UNITS,
    Scene,
    StoryVideo,
    WorldConfig,
    draw_seed,
    draw_sprites,
    draw_video,
)
from vidsift.training.pretraining.recipe import StageSection

FloatArray = NDArray[np.float32]

SHIFT: Final = 4
STILL_ATTRIBUTES: Final = ("kind", "colour", "size", "background")
_KINDS, _COLOURS, _BACKGROUNDS = list(KINDS), list(COLOURS), list(BACKGROUNDS)

# What the auxiliary heads tell apart, and how many classes each has.
ATTRIBUTE_HEADS: Final[dict[str, int]] = {
    "kind": len(KINDS),
    "colour": len(COLOURS),
    "background": len(BACKGROUNDS),
    "thing": len(KINDS) * len(COLOURS),
    "size": 2 * len(COLOURS),
}


@dataclass(frozen=True)
class Batch:
    """B items with captions. Caption r belongs to item r % B; `negatives` hold for none of their own items.

    pixels: uint8 [B, F, 3, 64, 64] (F = 1 for frames).  same: bool [R, B, B] per round of B captions, True
    where two items of the batch carry the same sentence.  labels: head -> [B, C] distributions (frames only).
    """

    pixels: Pixels
    captions: list[str]
    negatives: list[str]
    same: NDArray[np.bool_]
    labels: dict[str, FloatArray]


def make_batch(stage: StageSection, stage_number: int, step: int, seed: int) -> Batch:
    """The batch of one step of a stage; the same arguments give the same batch, in any order of asking."""
    rng = np.random.default_rng((seed, stage_number, step))
    world = replace(STANDARD, two_sprites=stage.two_sprites)
    if stage.data == "videos":
        videos = [draw_video(rng, world) for _ in range(stage.batch)]
        pixels = np.stack([render_frames(video) for video in videos])
        labels: dict[str, FloatArray] = {}
        config = None
    else:
        colouring = _colouring(stage, step)
        if colouring is not None:
            world = replace(world, two_sprites=0.0)
        videos = [_single_scene(world, rng) for _ in range(stage.batch)]
        pixels = np.stack([_frame(video.scenes[0], colouring, rng) for video in videos])[:, None]
        labels = _labels(videos)
        config = STILL_CAPTIONS
    pixels = np.roll(pixels, tuple(rng.integers(-SHIFT, SHIFT + 1, 2)), (3, 4))

    rounds: list[list[str]] = []
    negatives: list[str] = []
    for _ in range(stage.captions_per_item):
        said = [write_caption(video, rng, *([config] if config else [])) for video in videos]
        rounds.append([caption.text for caption in said])
        for caption, video in zip(said, videos, strict=True):
            negatives += _hard_negatives(caption, video, stage, rng)
    same = np.stack([np.equal.outer(np.asarray(texts), np.asarray(texts)) for texts in rounds])
    return Batch(pixels, [text for texts in rounds for text in texts], negatives, same, labels)


def _single_scene(world: WorldConfig, rng: np.random.Generator) -> StoryVideo:
    background = world.backgrounds[int(rng.integers(len(world.backgrounds)))]
    return StoryVideo((Scene(0, UNITS, background, draw_sprites(world, rng), draw_seed(rng)),))


def _colouring(stage: StageSection, step: int) -> tuple[float, float] | None:
    """The range from which each frame's share of its colours is drawn; None once fading is over."""
    if stage.fade is None:
        return None
    done = step / stage.steps
    ramp = np.clip((done - stage.fade.start) / max(stage.fade.end - stage.fade.start, 1e-9), 0, 1)
    return None if ramp >= 1 else (float(max(0.0, 2 * ramp - 1)), float(min(1.0, 2 * ramp)))


def _frame(scene: Scene, colouring: tuple[float, float] | None, rng: np.random.Generator) -> Pixels:
    t = float(rng.random())
    if any(thing.motion == "blink" for thing in scene.sprites):
        t = blink_time(t)
    colour = 1.0 if colouring is None else float(rng.uniform(*colouring))
    return render_scene(scene, t, colour=colour).transpose(2, 0, 1)


def _hard_negatives(
    caption: Caption, video: StoryVideo, stage: StageSection, rng: np.random.Generator
) -> list[str]:
    """Up to `hard_negatives` copies of the caption with one word each changed, so that they do not hold."""
    attributes = [*STILL_ATTRIBUTES, *(("motion", "order") if stage.data == "videos" else ())]
    found: list[str] = []
    for k in rng.permutation(len(attributes)):
        if len(found) == stage.hard_negatives:
            break
        attribute = attributes[k]
        changed = (
            change_order(caption, video)
            if attribute == "order"
            else change_word(caption, video, attribute, rng)
        )
        if changed is not None:
            found.append(changed.text)
    return found


def _labels(videos: list[StoryVideo]) -> dict[str, FloatArray]:
    """For every single-scene video the classes that it shows, as distributions."""
    labels: dict[str, FloatArray] = {
        name: np.zeros((len(videos), classes), np.float32) for name, classes in ATTRIBUTE_HEADS.items()
    }
    for row, video in enumerate(videos):
        scene = video.scenes[0]
        labels["background"][row, _BACKGROUNDS.index(scene.background)] = 1
        for thing in scene.sprites:
            kind, colour = _KINDS.index(thing.kind), _COLOURS.index(thing.colour)
            labels["kind"][row, kind] = 1
            labels["colour"][row, colour] = 1
            labels["thing"][row, colour * len(KINDS) + kind] = 1
            if thing.size != "medium" and thing.motion not in ("grow", "shrink"):
                labels["size"][row, 2 * colour + (thing.size == "large")] = 1
    return {name: target / np.maximum(target.sum(1, keepdims=True), 1) for name, target in labels.items()}
