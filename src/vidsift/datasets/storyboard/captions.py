"""Sentences about storyboard videos, what they claim, and whether a claim holds for a video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations
from typing import Final, Literal

import numpy as np

from vidsift.datasets.storyboard.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    MOTIONS,
    OPENINGS_FINITE,
    OPENINGS_PARTICIPLE,
    SIZES,
)
from vidsift.datasets.storyboard.world import StoryVideo

CaptionKind = Literal["scene", "pair", "whole"]
Attribute = Literal["kind", "colour", "size", "motion", "background", "order"]
CAPTION_KINDS: Final[tuple[CaptionKind, ...]] = ("scene", "pair", "whole")
VALUES: Final[dict[str, tuple[str, ...]]] = {
    "kind": tuple(KINDS),
    "colour": tuple(COLOURS),
    "size": ("small", "large"),
    "motion": tuple(MOTIONS),
    "background": tuple(BACKGROUNDS),
}
_SIZE_WEIGHT = {"small": 0, "medium": 1, "large": 2}


@dataclass(frozen=True)
class SpriteClaim:
    """What a clause says of one sprite; None = not said."""

    kind: str
    colour: str
    size: str | None = None
    motion: str | None = None


@dataclass(frozen=True)
class SceneClaim:
    """What a clause says of one scene."""

    sprites: tuple[SpriteClaim, ...]
    background: str | None = None


@dataclass(frozen=True)
class Part:
    """A piece of a sentence; `slot` = (clause, sprite or -1, attribute) when it states a fact."""

    text: str
    slot: tuple[int, int, str] | None = None
    participle: bool = False


@dataclass(frozen=True)
class Caption:
    """A sentence with the claims it makes and the scenes of its own video that it speaks of."""

    kind: CaptionKind
    parts: tuple[Part, ...]
    claims: tuple[SceneClaim, ...]
    scenes: tuple[int, ...]

    @property
    def ordered(self) -> bool:
        """Whether the sentence says which scene comes first."""
        return self.kind == "pair"

    @property
    def text(self) -> str:
        words = " ".join(part.text for part in self.parts).split()
        for k, word in enumerate(words[:-1]):
            if word == "a" and words[k + 1][0] in "aeiou":
                words[k] = "an"
        return " ".join(words)

    def span(self, video: StoryVideo) -> tuple[float, float]:
        """Seconds from the first to the last scene that the caption speaks of."""
        scenes = [video.scenes[k] for k in self.scenes]
        return min(s.start_seconds for s in scenes), max(s.end_seconds for s in scenes)


@dataclass(frozen=True)
class CaptionConfig:
    """How often each optional part is said; the defaults are the standard captions."""

    kinds: tuple[float, float, float] = (0.55, 0.25, 0.20)
    size: float = 0.4
    motion: float = 0.85
    second: float = 0.9
    second_motion: float = 0.65
    background: float = 0.4
    fronted: float = 0.25
    synonym: float = 0.35
    opening: float = 0.4
    pair_factor: float = 0.75


STANDARD_CAPTIONS: Final = CaptionConfig()
STILL_CAPTIONS: Final = CaptionConfig(kinds=(1.0, 0.0, 0.0), motion=0.0, second_motion=0.0)


def _phrase(choices: tuple[str, ...], synonym: float, rng: np.random.Generator) -> str:
    if len(choices) > 1 and rng.random() < synonym:
        return choices[1 + int(rng.integers(len(choices) - 1))]
    return choices[0]


def phrase_for(
    attribute: str, value: str, participle: bool, rng: np.random.Generator, synonym: float = 0.35
) -> str:
    """One way of saying a value."""
    if attribute == "motion":
        forms = tuple(pair[1 if participle else 0] for pair in MOTIONS[value])
        return _phrase(forms, synonym, rng)
    tables = {"kind": KINDS, "colour": COLOURS, "size": SIZES, "background": BACKGROUNDS}
    return _phrase(tables[attribute][value], synonym, rng)


class _Writer:
    """Builds one caption clause by clause; `factor` thins the optional parts of longer captions."""

    def __init__(
        self, video: StoryVideo, config: CaptionConfig, rng: np.random.Generator, factor: float
    ) -> None:
        self.video, self.config, self.rng, self.factor = video, config, rng, factor

    def says(self, probability: float) -> bool:
        return bool(self.rng.random() < probability * self.factor)

    def fact(self, clause: int, sprite: int, attribute: str, value: str, participle: bool = False) -> Part:
        text = phrase_for(attribute, value, participle, self.rng, self.config.synonym)
        return Part(text, (clause, sprite, attribute), participle)

    def noun(self, clause: int, k: int, claim: SpriteClaim) -> list[Part]:
        parts = [Part("a")]
        if claim.size is not None:
            parts.append(self.fact(clause, k, "size", claim.size))
        return [
            *parts,
            self.fact(clause, k, "colour", claim.colour),
            self.fact(clause, k, "kind", claim.kind),
        ]

    def claim(self, scene: int, order: list[int], motions: tuple[float, ...]) -> tuple[SpriteClaim, ...]:
        claims = []
        for k, motion in zip(order, motions, strict=False):
            thing = self.video.scenes[scene].sprites[k]
            # A thing that changes its size has none that a word could name.
            sizable = thing.size != "medium" and thing.motion not in ("grow", "shrink")
            claims.append(
                SpriteClaim(
                    thing.kind,
                    thing.colour,
                    thing.size if sizable and self.says(self.config.size) else None,
                    thing.motion if self.says(motion) else None,
                )
            )
        return tuple(claims)

    def clause(self, number: int, scene: int, participle: bool, front: bool) -> tuple[list[Part], SceneClaim]:
        """NP [motion] [connective NP2 [motion]] [background]; the background may come first."""
        config, rng = self.config, self.rng
        count = len(self.video.scenes[scene].sprites)
        order = rng.permutation(count).tolist()
        if count == 2 and not self.says(config.second):
            order = order[:1]
        sprites = self.claim(scene, order, (config.motion, config.second_motion))
        background = self.video.scenes[scene].background if self.says(config.background) else None
        parts: list[Part] = []
        for k, claim in enumerate(sprites):
            if k == 1:
                both_move = sprites[0].motion is not None and claim.motion is not None
                connectives = (
                    ("and", "next to", "while") if both_move and not participle else ("and", "next to")
                )
                parts.append(Part(connectives[int(rng.integers(len(connectives)))]))
            parts += self.noun(number, k, claim)
            if claim.motion is not None:
                parts.append(
                    self.fact(number, k, "motion", claim.motion, participle or _after_next_to(parts))
                )
        if background is not None:
            said = self.fact(number, -1, "background", background)
            fronted = front and rng.random() < config.fronted
            parts = [said, *parts] if fronted else [*parts, said]
        return parts, SceneClaim(sprites, background)


def _after_next_to(parts: list[Part]) -> bool:
    """Whether the noun being described hangs on "next to", after which only a participle is grammatical."""
    return any(part.text == "next to" for part in parts)


def _salience(video: StoryVideo) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    weights = [
        video.scenes[k].units * (1 + sum(_SIZE_WEIGHT[thing.size] for thing in video.scenes[k].sprites))
        for k in video.content
    ]
    return np.asarray(weights, np.float64) / sum(weights)


def write_caption(
    video: StoryVideo, rng: np.random.Generator, config: CaptionConfig = STANDARD_CAPTIONS
) -> Caption:
    """Say one sentence about a video: of one scene (the salient more often), of two in order, or of all."""
    content = video.content
    kind: CaptionKind = CAPTION_KINDS[int(rng.choice(3, p=config.kinds))]
    if len(content) == 1:
        kind = "scene"
    if kind == "scene":
        writer = _Writer(video, config, rng, 1.0)
        scene = content[int(rng.choice(len(content), p=_salience(video)))]
        draw, opening = rng.random(), ""
        participle = False
        if draw < config.opening:
            participle = bool(rng.random() < 0.5)
            openings = OPENINGS_PARTICIPLE if participle else OPENINGS_FINITE
            opening = openings[int(rng.integers(len(openings)))]
        parts, claim = writer.clause(0, scene, participle, front=not participle)
        return Caption("scene", (*([Part(opening)] if opening else []), *parts), (claim,), (scene,))
    if kind == "pair":
        writer = _Writer(video, config, rng, config.pair_factor)
        first, second = sorted(rng.choice(len(content), 2, replace=False).tolist())
        a, claim_a = writer.clause(0, content[first], False, front=False)
        b, claim_b = writer.clause(1, content[second], False, front=False)
        forms: tuple[list[Part], ...] = (
            [Part("first"), *a, Part("then"), *b],
            [*a, Part("and then"), *b],
            [*a, Part("followed by"), *b],
            [*a, Part("before"), *b],
            [*b, Part("after"), *a],
            [Part("after"), *a, Part("comes"), *b],
        )
        chosen = forms[int(rng.integers(len(forms)))]
        return Caption("pair", tuple(chosen), (claim_a, claim_b), (content[first], content[second]))
    writer = _Writer(video, config, rng, 1.0)
    parts = [Part(("a video with", "a clip of", "this shows")[int(rng.integers(3))])]
    claims = []
    for number, scene in enumerate(content):
        chosen_sprite = int(rng.integers(len(video.scenes[scene].sprites)))
        sprites = writer.claim(scene, [chosen_sprite], (0.0,))
        if number:
            parts.append(Part("and" if number == len(content) - 1 else ","))
        parts += writer.noun(number, 0, sprites[0])
        claims.append(SceneClaim(sprites))
    return Caption("whole", tuple(parts), tuple(claims), content)


def _sprite_matches(claim: SpriteClaim, video: StoryVideo, scene: int, k: int) -> bool:
    thing = video.scenes[scene].sprites[k]
    if (claim.kind, claim.colour) != (thing.kind, thing.colour):
        return False
    if claim.motion is not None and claim.motion != thing.motion:
        return False
    return claim.size is None or (claim.size == thing.size and thing.motion not in ("grow", "shrink"))


def _scene_matches(claim: SceneClaim, video: StoryVideo, scene: int) -> bool:
    if claim.background is not None and claim.background != video.scenes[scene].background:
        return False
    count = len(video.scenes[scene].sprites)
    orders = (
        [(k,) for k in range(count)] if len(claim.sprites) == 1 else [(0, 1), (1, 0)] if count == 2 else []
    )
    return any(
        all(_sprite_matches(said, video, scene, k) for said, k in zip(claim.sprites, order, strict=True))
        for order in orders
    )


def holds(claims: tuple[SceneClaim, ...], video: StoryVideo, ordered: bool = True) -> bool:
    """Whether every claim is true of a scene of its own; when ordered, later claims of later scenes."""
    if not ordered and len(claims) > 1:
        return any(holds(order, video) for order in permutations(claims))
    position = 0
    for claim in claims:
        while position < len(video.scenes) and not _scene_matches(claim, video, position):
            position += 1
        if position == len(video.scenes):
            return False
        position += 1
    return True


def change_claim(
    claims: tuple[SceneClaim, ...], slot: tuple[int, int, str], value: str
) -> tuple[SceneClaim, ...]:
    """The same claims with the fact at `slot` replaced."""
    clause, k, attribute = slot
    scene = claims[clause]
    if attribute == "background":
        scene = replace(scene, background=value)
    else:
        changes: dict[str, str] = {attribute: value}
        sprites = list(scene.sprites)
        sprites[k] = replace(sprites[k], **changes)
        scene = replace(scene, sprites=tuple(sprites))
    return (*claims[:clause], scene, *claims[clause + 1 :])


def change_word(
    caption: Caption, video: StoryVideo, attribute: str, rng: np.random.Generator, attempts: int = 12
) -> Caption | None:
    """The caption with one word (phrase) about `attribute` changed so that it no longer holds for the video.

    None if the caption says nothing about the attribute, or no attempt made it false.
    """
    places = [k for k, part in enumerate(caption.parts) if part.slot and part.slot[2] == attribute]
    if not places:
        return None
    for _ in range(attempts):
        place = places[int(rng.integers(len(places)))]
        part = caption.parts[place]
        assert part.slot is not None
        clause, k, _ = part.slot
        claim = caption.claims[clause]
        now = claim.background if attribute == "background" else getattr(claim.sprites[k], attribute)
        others = [value for value in VALUES[attribute] if value != now]
        value = others[int(rng.integers(len(others)))]
        claims = change_claim(caption.claims, part.slot, value)
        if not holds(claims, video, caption.ordered):
            said = replace(part, text=phrase_for(attribute, value, part.participle, rng))
            parts = (*caption.parts[:place], said, *caption.parts[place + 1 :])
            return replace(caption, parts=parts, claims=claims)
    return None


def change_order(caption: Caption, video: StoryVideo) -> Caption | None:
    """A pair caption with its two clauses exchanged, if that makes it false."""
    if caption.kind != "pair":
        return None
    claims = (caption.claims[1], caption.claims[0])
    if holds(claims, video):
        return None
    places: list[list[int]] = [[], []]
    for k, part in enumerate(caption.parts):
        if part.slot is not None:
            places[part.slot[0]].append(k)
    spans = sorted((min(p), max(p)) for p in places)
    # A clause begins with the article of its first noun phrase.
    (a0, a1), (b0, b1) = ((first - 1, last) for first, last in spans)
    parts = caption.parts
    swapped = (*parts[:a0], *parts[b0 : b1 + 1], *parts[a1 + 1 : b0], *parts[a0 : a1 + 1], *parts[b1 + 1 :])
    return replace(caption, parts=swapped, claims=claims)
