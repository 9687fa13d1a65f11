"""Background sentences: common things of a model's world, which tell what chance gives in a library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import vidsift

if TYPE_CHECKING:
    from vidsift.models.base import RetrievalModel

FILE = "background.txt"
COUNT = 128


def background_of(model: RetrievalModel) -> tuple[str, ...]:
    """The model's own background sentences, or those of everyday videos that come with vidsift."""
    return model.background or _lines(Path(vidsift.__file__).with_name("bundled") / FILE)


def draw_background(captions: Sequence[str], seed: int = 0) -> tuple[str, ...]:
    """COUNT different captions (fewer where there are fewer), drawn at random: those of a training set ask
    for what is common in the model's world, and for nothing in a user's library."""
    different = sorted({caption.strip() for caption in captions if caption.strip() and "\n" not in caption})
    order = np.random.default_rng(seed).permutation(len(different))[:COUNT]
    return tuple(different[i] for i in order.tolist())


def read_background(folder: Path) -> tuple[str, ...]:
    """A model folder's own sentences; () where it has none."""
    path = folder / FILE
    return _lines(path) if path.is_file() else ()


def write_background(folder: Path, sentences: Sequence[str]) -> None:
    """Keep a model's own sentences in its folder."""
    if sentences:
        (folder / FILE).write_text("".join(f"{line}\n" for line in sentences), encoding="utf-8")


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(line for line in path.read_text(encoding="utf-8").split("\n") if line.strip())
