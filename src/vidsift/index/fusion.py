"""Channels into one answer: reciprocal rank fusion of what pictures and what words find."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vidsift.errors import QueryError
from vidsift.index.types import Channel
from vidsift.video.types import Cue

CHANNELS: tuple[Channel, ...] = ("pictures", "words")
Key = TypeVar("Key")

RANK_CONSTANT = 60
"""Of Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods", SIGIR 2009."""


@dataclass(frozen=True)
class Found:
    """An answer: its place among the candidates, the channels that found it, and what is said in it."""

    place: int
    channels: tuple[Channel, ...] = ("pictures",)
    cue: Cue | None = None


def named_channels(name: str) -> tuple[Channel, ...]:
    """The channels that a user names: "pictures", "words" or "both"."""
    return tuple(channel for channel in CHANNELS if name in (channel, "both"))


def check_channels(channels: Collection[str], has_words: bool) -> tuple[Channel, ...]:
    """The channels that were asked for, in their order.  has_words: the query is made of words.

    Raises QueryError for none, an unknown one, or words alone for a query that has none.
    """
    strange = sorted(set(channels) - set(CHANNELS))
    if strange or not channels or isinstance(channels, str):
        given = channels if isinstance(channels, str) else ", ".join(sorted(channels)) or "none"
        raise QueryError(f"channels are {' and '.join(CHANNELS)}, one or both; got {given}")
    chosen = tuple(channel for channel in CHANNELS if channel in channels)
    if not has_words:
        if chosen == ("words",):
            raise QueryError("what is said is found by a sentence, not by a picture, a clip or a vector")
        return ("pictures",)
    return chosen


def fuse_ranks(rankings: Sequence[Sequence[Key]]) -> list[Key]:
    """All keys of some rankings (best first, none twice) by the sum of 1 / (60 + rank) over them, best first;
    of equal ones that first which comes first in the first ranking that has one of them."""
    scores: dict[Key, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, 1):
            scores[key] = scores.get(key, 0.0) + 1 / (RANK_CONSTANT + rank)
    return sorted(scores, key=lambda key: -scores[key])


def fuse(pictures: Sequence[tuple[Key, int]], words: Sequence[tuple[Key, int, Cue]], k: int) -> list[Found]:
    """The k best of two rankings of keys (clips, or videos) with their places, best first.

    Of a key that words found the place and the cue are those of the words. Pictures are named as having
    found what is among their own first k: behind that they rank everything.
    """
    said = {key: (place, cue) for key, place, cue in words}
    seen = dict(pictures)
    shown = {key for key, _ in pictures[:k]}
    answers = []
    # Words first: of equal ranks that is the rarer find.
    for key in fuse_ranks([list(said), list(seen)])[:k]:
        if key in said:
            place, cue = said[key]
            both: tuple[Channel, ...] = ("pictures", "words") if key in shown else ("words",)
            answers.append(Found(place, both, cue))
        else:
            answers.append(Found(seen[key]))
    return answers
