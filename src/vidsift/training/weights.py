"""What training captions are worth: weights that a denoiser wrote, and noise that an experiment puts in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError
from vidsift.files import write_text

WORTHLESS = "clips without a caption worth anything"


def corrupt(pairs: PairSet, share: float, seed: int) -> tuple[PairSet, NDArray[np.bool_]]:
    """Give a share of the captions the texts of other clips, by moving them on among each other.

    Returns the noisy set and which captions [T] are wrong now. No caption stays with its own clip.
    """
    rng = np.random.default_rng((seed, 9017))
    count = round(share * len(pairs.captions))
    wrong = np.zeros(len(pairs.captions), bool)
    if count < 2:
        return pairs, wrong
    chosen = rng.permutation(len(pairs.captions))[:count]
    # Sorted by clip and moved on by more than the longest group, none can meet its own clip.
    chosen = chosen[np.argsort(pairs.clip_of[chosen], kind="stable")]
    most = int(np.bincount(pairs.clip_of[chosen]).max())
    if 2 * most > count:
        raise DataError(f"{pairs.name}: too few clips to swap {share:.0%} of their captions")
    step = int(rng.integers(most, count - most + 1))
    texts = list(pairs.captions)
    for place, number in enumerate(chosen.tolist()):
        texts[number] = pairs.captions[chosen[(place + step) % count]]
    wrong[chosen] = True
    name = f"{pairs.name}-noise{share:g}-s{seed}"
    return replace(pairs, name=name, clips_name=pairs.shelf, captions=tuple(texts)), wrong


def folds(pairs: PairSet, count: int, seed: int) -> NDArray[np.int64]:
    """[V] to which of `count` parts each clip belongs; clips of one file stay together.

    Raises DataError for fewer files than parts.
    """
    names = [pairs.clips.name(n) for n in range(len(pairs.clips))]
    files = sorted(set(names))
    if len(files) < count:
        raise DataError(f"{pairs.name}: {len(files)} videos cannot be parted into {count} folds")
    order = np.random.default_rng((seed, 4871)).permutation(len(files))
    part = {files[n]: place % count for place, n in enumerate(order.tolist())}
    return np.asarray([part[name] for name in names], np.int64)


def write_weights(path: Path, pairs: PairSet, weights: NDArray[np.floating]) -> None:
    """Keep one number per caption of a set, with what tells the set apart."""
    document = {"data": pairs.identity(), "weights": [round(float(w), 4) for w in weights]}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document) + "\n")


def read_weights(path: Path, pairs: PairSet) -> NDArray[np.float32]:
    """The weights [T] that a file gives the captions of a set.

    Raises DataError for a file that cannot be read, or that was written for another set.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        weights = np.asarray(document["weights"], np.float32)
        data = document["data"]
    except OSError as error:
        raise DataError(f"{path}: cannot read the weights: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the weights that `vidsift denoise` writes: {error}") from error
    if data != pairs.identity():
        raise DataError(f"{path}: these weights are of other captions or clips; run `vidsift denoise` again")
    if weights.shape != (len(pairs.captions),) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise DataError(f"{path}: {len(pairs.captions)} weights of at least 0 are wanted, one per caption")
    return weights
