"""Which pairs a step of training sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet


class Sampler:
    """An epoch shows every clip once, with one of its captions, drawn by their weights if they have some.

    A pure function of seed and step, so that a resumed run sees what an undisturbed one would have seen.
    """

    def __init__(self, pairs: PairSet, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        order = np.argsort(pairs.clip_of, kind="stable")
        self.captions = order
        self.starts = np.searchsorted(pairs.clip_of[order], np.arange(len(pairs.clips)))
        self.counts = np.bincount(pairs.clip_of, minlength=len(pairs.clips))
        # What captions in this order are worth, summed up from the first to each.
        self.worth = None if pairs.weights is None else np.cumsum(pairs.weights[order], dtype=np.float64)
        self.per_epoch = len(pairs.clips) // batch
        self._epoch, self._drawn = -1, np.zeros(0, np.int64)

    def captions_of(self, step: int) -> NDArray[np.int64]:
        """Numbers of the captions of a step's batch, [B], no two of the same clip."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            clips = rng.permutation(len(self.counts))
            lot = rng.random(len(clips))
            chosen = self.starts[clips] + (lot * self.counts[clips]).astype(np.int64)
            if self.worth is not None:
                chosen = self._by_worth(clips, lot)
            self._epoch, self._drawn = epoch, self.captions[chosen]
        return self._drawn[place * self.batch : (place + 1) * self.batch]

    def _by_worth(self, clips: NDArray[np.int64], lot: NDArray[np.float64]) -> NDArray[np.int64]:
        """For every clip the place of one of its captions, drawn in proportion to their weights."""
        assert self.worth is not None
        first, last = self.starts[clips], self.starts[clips] + self.counts[clips] - 1
        before = np.where(first > 0, self.worth[first - 1], 0.0)
        wanted = before + lot * (self.worth[last] - before)
        # The first caption whose sum is above the lot has a weight above 0; rounding may overshoot the clip.
        found: NDArray[np.int64] = np.clip(np.searchsorted(self.worth, wanted, side="right"), first, last)
        return found

    def plan(self, steps: int) -> NDArray[np.int64]:
        """The captions of all steps of a run: [steps, B]."""
        return np.stack([self.captions_of(step) for step in range(steps)])
