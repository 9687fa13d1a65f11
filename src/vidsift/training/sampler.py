"""Which pairs a step of training sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet


class Sampler:
    """An epoch shows every clip once, with one of its captions.

    A pure function of seed and step, so that a resumed run sees what an undisturbed one would have seen.
    """

    def __init__(self, pairs: PairSet, batch: int, seed: int) -> None:
        self.batch, self.seed = batch, seed
        order = np.argsort(pairs.clip_of, kind="stable")
        self.captions = order
        self.starts = np.searchsorted(pairs.clip_of[order], np.arange(len(pairs.clips)))
        self.counts = np.bincount(pairs.clip_of, minlength=len(pairs.clips))
        self.per_epoch = len(pairs.clips) // batch
        self._epoch, self._drawn = -1, np.zeros(0, np.int64)

    def captions_of(self, step: int) -> NDArray[np.int64]:
        """Numbers of the captions of a step's batch, [B], no two of the same clip."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            clips = rng.permutation(len(self.counts))
            chosen = (rng.random(len(clips)) * self.counts[clips]).astype(np.int64)
            self._epoch, self._drawn = epoch, self.captions[self.starts[clips] + chosen]
        return self._drawn[place * self.batch : (place + 1) * self.batch]

    def plan(self, steps: int) -> NDArray[np.int64]:
        """The captions of all steps of a run: [steps, B]."""
        return np.stack([self.captions_of(step) for step in range(steps)])
