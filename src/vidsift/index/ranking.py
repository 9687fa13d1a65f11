"""From scored clips to answers: the best first, moments of one video joined, near-duplicates told once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from vidsift.index.derived import Derived
from vidsift.index.moments import find_moment, level_of
from vidsift.index.types import Channel, Floats, Moment, Rows
from vidsift.video.types import Cue

GroupBy = Literal["video", "moment", "clip"]
ALIKE, FRAMES_ALIKE = 0.98, 0.9
"""Clips are near-duplicates when their coarse vectors, and all their frames in order, have cosines of at
least this: copies, other encodings or sizes of the same pictures (benchmarks/duplicates.py)."""

_FEW = 512
"""Clips that are all compared with each other at once, and whose frames are."""

TOUCHING = 0.5
"""Moments of one video with no more seconds between them go on into each other."""


@dataclass(frozen=True)
class Answer:
    """A clip that answers.  at: its place in the short list.  alike: places of its near-duplicates.
    channels: what found it.  cue: what is said in it, if words did."""

    at: int
    moment: Moment
    alike: tuple[int, ...] = ()
    channels: tuple[Channel, ...] = ("pictures",)
    cue: Cue | None = None


@dataclass(frozen=True)
class ShortList:
    """The K clips that were scored, in any order.

    rows: [K] of the arrays.  sentence: [D], the query's vector.
    coarse_scores, scores: [K].  relevance: [K, F] of each frame, -inf behind the real ones.
    """

    arrays: Derived
    rows: Rows
    sentence: Floats
    coarse_scores: Floats
    scores: Floats
    relevance: Floats

    def moment(self, i: int) -> Moment:
        """The moment of a clip by itself."""
        real = self.relevance[i, : self._count(i)]
        return find_moment(real, self.arrays.times_of(int(self.rows[i])), *self.span(i))

    def span(self, i: int) -> tuple[float, float]:
        """Start and end of a clip, seconds."""
        start, end = self.arrays.spans[int(self.rows[i])]
        return float(start), float(end)

    def file(self, i: int) -> int:
        """The number of a clip's file."""
        return int(self.arrays.file_of[int(self.rows[i])])

    def cosines(self, i: int) -> Floats:
        """Of a clip's real frames with the query: comparable between clips, as `relevance` need not be."""
        found: Floats = self._cosines[i, : self._count(i)]
        return found

    @cached_property
    def _cosines(self) -> Floats:
        return self.arrays.cosines(self.sentence, self.rows)

    def coarse(self) -> Floats:
        """Unit coarse vectors of all, [K, D]."""
        found: Floats = _unit(self.arrays.scan.vectors(self.rows))
        return found

    def frames(self, places: Rows) -> Floats:
        """Unit vectors of the frames of some clips, [K, F, D]."""
        return _unit(self.arrays.frames_of(self.rows[places]).astype(np.float32))

    def ordered(self) -> list[int]:
        """Places, best first; equal scores in the order of path and time."""
        order = np.argsort(-self.scores, kind="stable")
        falling = -self.scores[order]
        if (falling[1:] == falling[:-1]).any():
            files, of = np.unique(self.arrays.file_of[self.rows], return_inverse=True)
            by_path = sorted(range(len(files)), key=lambda n: self.arrays.paths[int(files[n])])
            place = np.empty(len(files), np.int64)
            place[by_path] = np.arange(len(files))
            order = np.lexsort((self.arrays.spans[self.rows, 0], place[of], -self.scores))
        places: list[int] = order.tolist()
        return places

    def _count(self, i: int) -> int:
        return int(self.arrays.counts[int(self.rows[i])])


def choose(found: ShortList, k: int, group_by: GroupBy, collapse: bool) -> list[Answer]:
    """The k best answers.

    group_by: "video" takes the best clip of each file, "moment" joins clips of a file over whose border a
    moment goes on, "clip" takes all.
    collapse: whether near-duplicates of a better answer are told with it, instead of being answers.
    """
    order = found.ordered()
    joined: dict[int, Moment | None] = {}
    if group_by == "video":
        files = found.arrays.file_of[found.rows[order]]
        order = [order[n] for n in np.sort(np.unique(files, return_index=True)[1]).tolist()]
    elif group_by == "moment":
        joined = _join(found, order)
        order = [i for i in order if i in joined]
    twins = _twins(found, order, k) if collapse else {}
    best = [i for i in order if i not in twins][:k]
    alike: dict[int, list[int]] = {}
    for i, original in twins.items():
        alike.setdefault(original, []).append(i)
    return [Answer(i, joined.get(i) or found.moment(i), tuple(alike.get(i, ()))) for i in best]


def _twins(found: ShortList, order: list[int], k: int) -> dict[int, int]:
    """Places that are near-duplicates of one of the k best answers, and of which."""
    places = np.array(order, np.int64)
    coarse = found.coarse()[places]
    twins: dict[int, int] = {}
    if len(order) <= _FEW and not np.triu(coarse @ coarse.T >= ALIKE, 1).any():
        return twins
    free = np.ones(len(order), bool)
    originals = 0
    for n, original in enumerate(order):
        if not free[n]:
            continue
        originals += 1
        near = n + 1 + np.flatnonzero((coarse[n + 1 :] @ coarse[n] >= ALIKE) & free[n + 1 :])
        for some in np.split(near, range(_FEW, len(near), _FEW)):
            alike = some[_alike(found, original, places[some])] if len(some) else some
            twins |= dict.fromkeys(places[alike].tolist(), original)
            free[alike] = False
        if originals == k:
            break
    return twins


def _alike(found: ShortList, original: int, others: Rows) -> npt.NDArray[np.bool_]:
    """Which clips have the same frames in the same order as one of them, [K]."""
    frames = found.frames(np.append(others, original))
    counts = found.arrays.counts[found.rows[others]]
    count = int(found.arrays.counts[found.rows[original]])
    cosines = np.einsum("kfd,fd->kf", frames[:-1, :count], frames[-1, :count])
    alike: npt.NDArray[np.bool_] = (counts == count) & (cosines >= FRAMES_ALIKE).all(1)
    return alike


def _join(found: ShortList, order: list[int]) -> dict[int, Moment | None]:
    """Temporal non-maximum suppression: the places that stay, and their moments (None: not looked at, being
    the only clip of their file).

    From the best clip on, a moment takes in the next clip of its file, before or behind, while that clip's
    own moment begins where it ends and its frames' best cosine is as high as the moment's own frames have
    to be; what was taken in is no answer of its own.
    """
    by_file: dict[int, list[int]] = {}
    for i in order:
        by_file.setdefault(found.file(i), []).append(i)
    moments: dict[int, Moment | None] = {}
    for places in by_file.values():
        if len(places) == 1:
            moments[places[0]] = None
            continue
        own = {i: found.moment(i) for i in places}
        in_time = sorted(places, key=found.span)
        taken: set[int] = set()
        for i in places:
            if i not in taken:
                taken.add(i)
                at = in_time.index(i)
                moment = _extended(found, own[i], i, in_time[at + 1 :], own, taken)
                moments[i] = _extended(found, moment, i, in_time[:at][::-1], own, taken)
    return moments


def _extended(
    found: ShortList, moment: Moment, i: int, others: list[int], own: dict[int, Moment], taken: set[int]
) -> Moment:
    """The moment of a clip with what goes on in the next ones (`others`, the nearest first)."""
    level = level_of(found.cosines(i))
    for other in others:
        gap = max(own[other].start - moment.end, moment.start - own[other].end)
        cosines = found.cosines(other)
        if other in taken or gap > TOUCHING or not len(cosines) or cosines.max() < level:
            break
        taken.add(other)
        start, end = min(moment.start, own[other].start), max(moment.end, own[other].end)
        moment = Moment(start, end, moment.best)
    return moment


def _unit(vectors: Floats) -> Floats:
    found: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return found
