"""What frozen towers say, in a store: raw frame (and patch) vectors of clips, sentence and word vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsift.datasets.pairs import PairSet
from vidsift.errors import DataError
from vidsift.features.rowstore import Array, Rows, RowStore
from vidsift.models import RetrievalModel
from vidsift.models.backbone import Backbone
from vidsift.models.text import TextTokenizer
from vidsift.video import VideoError

Progress = Callable[[int, int], None]
_CLIP_BLOCK, _TEXT_BLOCK = 16, 256


def tower_fingerprint(model: RetrievalModel, tower: str) -> str:
    """16 hex digits that name what the vision or text tower computes: its weights and settings.

    tower: `vision` or `text`.
    """
    if tower == "text":
        return text_tower_digest(model.backbone, model.tokenizer)
    settings: dict[str, Any] = {"preprocess": model.preprocess.to_dict(), **model.tower_settings}
    return _digest(model.backbone, settings, ("vision_", "visual_"))


def text_tower_digest(backbone: Backbone, tokenizer: TextTokenizer) -> str:
    """The same of a text encoder."""
    settings = {"max_words": tokenizer.max_length, "cleaning": tokenizer.cleaning}
    return _digest(backbone, settings, ("text_",))


def _digest(backbone: Backbone, settings: dict[str, Any], prefixes: tuple[str, ...]) -> str:
    settings = {**settings, "model_type": backbone.model_type}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(backbone.model.state_dict().items()):
        if name.startswith(prefixes):
            digest.update(name.encode())
            digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def store_name(folder: Path, pairs: PairSet, source: str, model: RetrievalModel, tower: str) -> Path:
    """Where the features of a set lie: named by where the model came from, not by what is inside.

    So a store of a model that has been trained on, or of files that have changed, is found and refused.
    source: the name or folder that the model (or its backbone) was loaded by.  tower: `vision` or `text`.
    """
    path = Path(source)
    # A trained run's model lies in RUN/model.
    called = path.parent.name if path.name == "model" and path.parent.name else path.name
    parts = [pairs.shelf if tower == "vision" else pairs.name, called, tower]
    if tower == "vision":
        special = [model.method] if model.tower_settings else []
        parts += [f"{model.frames_per_clip}f", *(["patches"] if model.uses_patches else []), *special]
    return folder / "_".join(parts)


def extract_clips(
    model: RetrievalModel, pairs: PairSet, folder: Path, on_bad: str, progress: Progress | None = None
) -> RowStore:
    """Run the vision tower once over every clip, in eval mode; an interrupted extraction goes on.

    Rows: `frames` float16 [F, D] raw, `mask` bool [F], `patches` float16 [F, P, D] where the method uses
    them. A clip that cannot be decoded raises DataError, or has an empty mask when on_bad is `skip`.
    """
    count, width = model.frames_per_clip, model.backbone.width
    arrays = {"frames": Array((count, width), "f2"), "mask": Array((count,), "?")}
    if model.uses_patches:
        side = model.backbone.image_size // int(model.backbone.config.vision_config.patch_size)
        arrays["patches"] = Array((count, side * side, width), "f2")
    identity = {
        "model": tower_fingerprint(model, "vision"),
        "data": pairs.clips.identity(),
        "frames per clip": count,
    }
    store = RowStore(folder, len(pairs.clips), arrays, identity)

    def make(numbers: NDArray[np.int64]) -> Rows:
        pixels, mask = read_clips(pairs, numbers, count, model.preprocess.size, on_bad)
        with torch.inference_mode():
            frames, patches = model.encode_real_frames(pixels, mask, model.uses_patches)
        rows = {"frames": frames.half().cpu().numpy(), "mask": mask.numpy()}
        if patches is not None:
            rows["patches"] = patches.half().cpu().numpy()
        return rows

    with evaluating(model):
        store.fill(make, _CLIP_BLOCK, progress)
    return store


def extract_texts(
    model: RetrievalModel, pairs: PairSet, folder: Path, progress: Progress | None = None
) -> RowStore:
    """Run the text tower once over every caption: `sentence` [D], `words` [W, D], float16, and `mask` [W]."""
    ids, mask = tokens(model, pairs.captions)
    width = model.backbone.width
    arrays = {
        "sentence": Array((width,), "f2"),
        "words": Array((mask.shape[1], width), "f2"),
        "mask": Array((mask.shape[1],), "?"),
    }
    identity = {"model": tower_fingerprint(model, "text"), "data": pairs.identity()}
    store = RowStore(folder, len(pairs.captions), arrays, identity)

    def make(numbers: NDArray[np.int64]) -> Rows:
        rows = torch.from_numpy(numbers)
        with torch.inference_mode():
            out = model.backbone.encode_tokens(ids[rows].to(model.device), mask[rows].to(model.device))
        return {
            "sentence": out.sentence.half().cpu().numpy(),
            "words": out.words.half().cpu().numpy(),
            "mask": mask[rows].numpy(),
        }

    with evaluating(model):
        store.fill(make, _TEXT_BLOCK, progress)
    return store


def tokens(model: RetrievalModel, captions: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Token ids [T, W] and their mask of all captions, on the CPU, W the longest."""
    ids, mask = model.tokenizer(list(captions))
    return ids.cpu(), mask.cpu()


def read_clips(
    pairs: PairSet, numbers: NDArray[np.int64], frames: int, size: int, on_bad: str
) -> tuple[Tensor, Tensor]:
    """Frames uint8 [V, F, 3, S, S] and masks [V, F] of some clips.

    A clip without a readable frame raises DataError, or is all masked when on_bad is `skip`.
    """
    pixels = np.zeros((len(numbers), frames, 3, size, size), np.uint8)
    mask = np.zeros((len(numbers), frames), bool)
    for row, number in enumerate(numbers.tolist()):
        try:
            pixels[row], mask[row] = pairs.clips.read(number)
            problem = None if mask[row].any() else f"{pairs.clips.name(number)}: no frame can be read"
        except VideoError as error:
            problem = str(error)
        if problem is not None and on_bad == "stop":
            raise DataError(f"{problem}; mend it, or set data.on_bad=skip to leave it out")
    return torch.from_numpy(pixels), torch.from_numpy(mask)


@contextmanager
def evaluating(model: RetrievalModel) -> Iterator[None]:
    """The model in eval mode, and in its former mode afterwards."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
