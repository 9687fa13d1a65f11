"""Channels into one answer: reciprocal rank fusion of what pictures and what words find."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

from vidsift.errors import QueryError
from vidsift.index.ranking import Answer, ShortList
from vidsift.index.types import Channel, Moment
from vidsift.index.words import Said
from vidsift.video.types import Cue

CHANNELS: tuple[Channel, ...] = ("pictures", "words")
Key = TypeVar("Key")

RANK_CONSTANT = 60
"""Of Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods", SIGIR 2009."""


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


def fuse(
    short: ShortList, ranked: Sequence[Answer], said: Sequence[Said], k: int, pictures: bool
) -> list[Answer]:
    """The k best of what pictures and words found, best first.

    ranked: all answers of the short list as pictures rank them.  said: what words found, all of it in the
    short list.  pictures: whether their ranks count.
    An answer that words found is the clip in which it is said, at that moment. Pictures are named as having
    found what is among their own first k: behind that they rank everything.
    """
    place_of = {int(row): place for place, row in enumerate(short.rows.tolist())}
    owners = _Owners(short, ranked)
    spoken: dict[int, tuple[int, Cue]] = {}
    for one in said:
        place = place_of[one.row]
        spoken.setdefault(owners.of(place, one.cue), (place, one.cue))
    seen = range(len(ranked)) if pictures else range(0)
    answers = []
    # Words first: of equal ranks theirs is the rarer find.
    for number in fuse_ranks([list(spoken), seen])[:k]:
        answer = ranked[number]
        if number in spoken:
            place, cue = spoken[number]
            by_both = pictures and number < k
            answer = _told(short, answer, place, cue, CHANNELS if by_both else ("words",))
        answers.append(answer)
    return answers


def _told(short: ShortList, answer: Answer, place: int, cue: Cue, channels: tuple[Channel, ...]) -> Answer:
    """An answer of pictures as words tell it: by the clip in which the cue is said."""
    alike = answer.alike
    if place in alike:
        alike = tuple(sorted({answer.at, *alike} - {place}))
    start, end = short.span(place)
    # A cue may reach over the clip's ends.
    first, last = (min(max(second, start), end) for second in (cue.start, cue.end))
    return Answer(place, Moment(first, max(first, last), first), alike, channels, cue)


class _Owners:
    """Which answer a clip of the short list belongs to: one has near-duplicates, other clips of its video, or
    clips that its moment goes on in."""

    def __init__(self, short: ShortList, ranked: Sequence[Answer]) -> None:
        self._short, self._ranked = short, ranked
        self._by_place: dict[int, int] = {}
        self._by_file: dict[int, list[int]] = {}
        for number, answer in enumerate(ranked):
            for place in (answer.at, *answer.alike):
                self._by_place[place] = number
                self._by_file.setdefault(short.file(place), []).append(number)

    def of(self, place: int, cue: Cue) -> int:
        """The number of the answer that a clip belongs to; of several of its video the nearest to the cue."""
        if place in self._by_place:
            return self._by_place[place]
        numbers = self._by_file[self._short.file(place)]

        def distance(number: int) -> float:
            moment = self._ranked[number].moment
            return max(moment.start - cue.end, cue.start - moment.end)

        return min(numbers, key=distance)
