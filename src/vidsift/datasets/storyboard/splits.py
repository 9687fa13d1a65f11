"""The standard splits of the storyboard world, their hard twins, and the symbolic ceiling of a gallery."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.storyboard.captions import (
    STANDARD_CAPTIONS,
    Caption,
    CaptionConfig,
    SceneClaim,
    holds,
    write_caption,
)
from vidsift.datasets.storyboard.captions import VALUES as CLAIM_VALUES
from vidsift.datasets.storyboard.world import (
    STANDARD,
    Scene,
    StoryVideo,
    WorldConfig,
    draw_rgb,
    draw_seed,
    draw_video,
)

CAPTIONS_PER_VIDEO: Final = 5
TWIN_ATTRIBUTES: Final = ("kind", "colour", "size", "motion", "background", "order")


@dataclass(frozen=True)
class StorySet:
    """Videos with their captions. `video_of[q]` is the video of caption q."""

    videos: tuple[StoryVideo, ...]
    captions: tuple[Caption, ...]
    video_of: NDArray[np.int64]


# name -> (seed, videos)
SPLITS: Final[dict[str, tuple[int, int]]] = {
    "train": (100, 4000),
    "val": (400, 500),
    "test": (200, 1000),
    "hard": (300, 1000),
}


def draw_set(
    seed: int,
    videos: int,
    captions_per_video: int = CAPTIONS_PER_VIDEO,
    world: WorldConfig = STANDARD,
    captions: CaptionConfig = STANDARD_CAPTIONS,
) -> StorySet:
    """Videos and captions drawn from one seed; a longer set begins with the shorter one's videos."""
    drawn: list[StoryVideo] = []
    said: list[Caption] = []
    for number in range(videos):
        rng = np.random.default_rng((seed, number))
        video = draw_video(rng, world)
        drawn.append(video)
        said.extend(write_caption(video, rng, captions) for _ in range(captions_per_video))
    return StorySet(tuple(drawn), tuple(said), np.repeat(np.arange(videos), captions_per_video))


def load_split(name: str, videos: int | None = None) -> StorySet:
    """A standard split by name: train, val, test, or hard (groups of a video and three twins)."""
    seed, count = SPLITS[name]
    if name == "hard":
        return draw_hard(seed, (videos or count) // 4)
    return draw_set(seed, videos or count)


def _twin(video: StoryVideo, caption: Caption, attribute: str, rng: np.random.Generator) -> StoryVideo | None:
    """The video with one fact that the caption states changed; None if the caption states no such fact."""
    scenes = list(video.scenes)
    if attribute == "order":
        if not caption.ordered:
            return None
        a, b = caption.scenes
        first, second = scenes[a], scenes[b]
        scenes[a] = replace(first, background=second.background, sprites=second.sprites)
        scenes[b] = replace(second, background=first.background, sprites=first.sprites)
    else:
        slots = [part.slot for part in caption.parts if part.slot is not None and part.slot[2] == attribute]
        if not slots:
            return None
        clause, said_sprite, _ = slots[int(rng.integers(len(slots)))]
        number = caption.scenes[clause]
        scene = scenes[number]
        if attribute == "background":
            value = _other(attribute, scene.background, rng)
            scenes[number] = replace(scene, background=value)
        else:
            claim = caption.claims[clause].sprites[said_sprite]
            k = next(
                k for k, s in enumerate(scene.sprites) if (s.kind, s.colour) == (claim.kind, claim.colour)
            )
            thing = scene.sprites[k]
            value = _other(attribute, getattr(thing, attribute), rng)
            changes: dict[str, str] = {attribute: value}
            changed = replace(thing, **changes)  # type: ignore[arg-type]
            if attribute == "colour":
                changed = replace(changed, rgb=draw_rgb(value, STANDARD.jitter, rng))
            sprites = (*scene.sprites[:k], changed, *scene.sprites[k + 1 :])
            scenes[number] = replace(scene, sprites=sprites)
    # Rendered anew: only the changed fact tells the twins apart, not the noise.
    return StoryVideo(tuple(replace(scene, seed=draw_seed(rng)) for scene in scenes))


def _other(attribute: str, value: str, rng: np.random.Generator) -> str:
    others = [other for other in CLAIM_VALUES[attribute] if other != value]
    return others[int(rng.integers(len(others)))]


def _well_formed(scene: Scene) -> bool:
    kinds = {thing.kind for thing in scene.sprites}
    colours = {thing.colour for thing in scene.sprites}
    return len(kinds) == len(colours) == len(scene.sprites)


def draw_hard(seed: int, groups: int) -> StorySet:
    """Groups of a base video and three twins that differ from it in one stated fact each.

    The three attributes to change are drawn uniformly over attribute types, and videos are drawn until a
    caption states all three, so that rarely stated facts (order, size) are asked as often as others. Every
    video has one caption, which holds for its own video and for no other of its group.
    """
    videos: list[StoryVideo] = []
    captions: list[Caption] = []
    for number in range(groups):
        rng = np.random.default_rng((seed, number))
        attributes = [TWIN_ATTRIBUTES[k] for k in rng.permutation(len(TWIN_ATTRIBUTES))[:3]]
        while (group := _draw_group(rng, attributes)) is None:
            pass
        videos += [video for video, _ in group]
        captions += [caption for _, caption in group]
    return StorySet(tuple(videos), tuple(captions), np.arange(len(videos)))


def _draw_group(
    rng: np.random.Generator, attributes: list[str], attempts: int = 40
) -> list[tuple[StoryVideo, Caption]] | None:
    base = draw_video(rng)
    said = write_caption(base, rng)
    twins: list[StoryVideo] = []
    for attribute in attributes:
        for _ in range(attempts):
            twin = _twin(base, said, attribute, rng)
            if twin is None:
                return None
            well_formed = all(_well_formed(scene) for scene in twin.scenes)
            if well_formed and not holds(said.claims, twin, said.ordered):
                twins.append(twin)
                break
        else:
            return None
    group = [(base, said)]
    for twin in twins:
        rivals = [base, *(other for other in twins if other is not twin)]
        for _ in range(attempts):
            own = write_caption(twin, rng)
            if not any(holds(own.claims, rival, own.ordered) for rival in rivals):
                group.append((twin, own))
                break
        else:
            return None
    return group


def _key(claim: SceneClaim) -> tuple[str, str]:
    return claim.sprites[0].colour, claim.sprites[0].kind


def matching_videos(story: StorySet) -> list[list[int]]:
    """For every caption, the gallery videos for which it holds (its own is always among them)."""
    having: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, video in enumerate(story.videos):
        for scene in video.scenes:
            for thing in scene.sprites:
                having[thing.colour, thing.kind].add(number)
    matches = []
    for caption in story.captions:
        candidates = set.intersection(*(having[_key(claim)] for claim in caption.claims))
        matches.append(
            sorted(n for n in candidates if holds(caption.claims, story.videos[n], caption.ordered))
        )
    return matches


def ceiling(story: StorySet, k: int = 1) -> float:
    """The best R@k (percent) that a ranking can expect: videos that fit a caption equally tie fairly."""
    return float(100 * np.mean([min(1.0, k / len(fits)) for fits in matching_videos(story)]))
