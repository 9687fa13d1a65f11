"""How sure a hit is: its score against what sentences that say nothing about the library score in it.

A score of one model cannot be compared with another's, nor a score among ten clips with one among a million:
the best of many is higher by chance. So a bank of background sentences, which ask for common things of the
model's world, is searched in the library itself; how far a hit's two scores, that by which it was ranked and
the coarse one, are above those of their best hits is turned into a probability by a curve that was fitted on
validation data (`vidsift.evaluation.confidence`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Level = Literal["strong", "likely", "weak", "none"]
LEVELS: tuple[Level, ...] = ("strong", "likely", "weak", "none")
"""Of falling confidence."""

STRONG, LIKELY = 0.9, 0.5
"""Levels of a hit by its confidence; below the model's own limit it is "none"."""

_PARTS = np.arange(0.05, 0.61, 0.05)
_NORMAL = np.array([NormalDist().inv_cdf(part) for part in _PARTS])

GREW = 1.1
"""The bank is searched again when the library has grown or shrunk by more than this factor."""


class Curve(Protocol):
    """A model's numbers: sigmoid(slope * distance + coarse_slope * distance of the coarse score + offset) is
    the confidence; a hit counts from `least` on."""

    @property
    def slope(self) -> float: ...
    @property
    def coarse_slope(self) -> float: ...
    @property
    def offset(self) -> float: ...
    @property
    def least(self) -> float: ...


@dataclass(frozen=True)
class Background:
    """The scores and coarse scores of background sentences' best hits in a library of so many clips: median
    and standard deviation, as the lower part of them tells (above lie those that the library may answer)."""

    median: float
    spread: float
    coarse_median: float
    coarse_spread: float
    sentences: int
    clips: int

    @classmethod
    def of(cls, best: npt.NDArray[np.floating], clips: int) -> Background | None:
        """best: [sentences, 2] score and coarse score of each one's best hit.  None where they tell nothing:
        too few, or all the same."""
        if len(best) < 2:
            return None
        # A straight line through the lower part of the normal plot.
        normal = _NORMAL - _NORMAL.mean()
        quantiles = np.quantile(best, _PARTS, axis=0)
        spread = normal @ quantiles / (normal @ normal)
        middle = quantiles.mean(0) - spread * _NORMAL.mean()
        if not (spread > 0).all():
            return None
        own, coarse = zip(middle.tolist(), spread.tolist(), strict=True)
        return cls(*own, *coarse, len(best), clips)

    def distances(self, scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Scores [..., 2] as distances from the background, in spreads."""
        middle = np.array([self.median, self.coarse_median])
        found: npt.NDArray[np.float64] = (scores - middle) / np.array([self.spread, self.coarse_spread])
        return found

    def serves(self, clips: int) -> bool:
        """Whether these scores still tell about a library of so many clips."""
        return clips <= GREW * self.clips and self.clips <= GREW * clips

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def confidence(score: float, coarse: float, background: Background, curve: Curve) -> float:
    """The probability that a clip of these scores is what was asked for."""
    own, first = background.distances(np.array([score, coarse])).tolist()
    exponent = -(curve.slope * own + curve.coarse_slope * first + curve.offset)
    return 1 / (1 + math.exp(min(exponent, 700)))


def level(probability: float, curve: Curve) -> Level:
    """The name of a confidence."""
    if probability < curve.least:
        return "none"
    return "strong" if probability >= STRONG else "likely" if probability >= LIKELY else "weak"
