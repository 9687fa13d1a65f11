"""Teachers' similarity matrices, or the vectors that they are products of, as plain .npy files, in blocks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.errors import DataError
from vidsift.features.inputs import Inputs
from vidsift.files import write_text
from vidsift.models import ClipFeatures, RetrievalModel, TextFeatures
from vidsift.models.experts import ExpertMethod

Progress = Callable[[int, int], None]
SCORES, MEAN, ABOUT = "scores.npy", "mean.npy", "about.json"
_BLOCK = 256
# How far a product of vectors may be from the method's own score and still count as it.
_SAME = 2e-3


def export_scores(
    teachers: Sequence[tuple[RetrievalModel, Inputs]], folder: Path, progress: Progress | None = None
) -> list[Path]:
    """Write every teacher's cosines of all T captions with all V clips, and their mean: float16 [T, V].

    Files: FOLDER/<k>-<teacher>/scores.npy and, for several teachers, FOLDER/mean.npy; row i is caption i of
    the set, column j its clip j. A block of rows is all that is ever in memory.
    Raises DataError for scores that are not finite.
    """
    pairs = teachers[0][1].pairs
    shape = (len(pairs.captions), len(pairs.clips))
    clips = [inputs.encode_clips(model) for model, inputs in teachers]
    paths = [folder / named(k, model) / SCORES for k, (model, _) in enumerate(teachers)]
    if len(teachers) > 1:
        paths.append(folder / MEAN)
    with ExitStack() as stack:
        files = [stack.enter_context(npy_file(path, shape, np.float16)) for path in paths]
        for start in range(0, shape[0], _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, shape[0]))
            total = np.zeros((len(numbers), shape[1]), np.float32)
            for (model, inputs), gallery, stream in zip(teachers, clips, files, strict=False):
                block = cosines(model, inputs.encode_texts(model, numbers), gallery)
                total += block
                stream.write(block.astype(np.float16).tobytes())
            if len(teachers) > 1:
                files[-1].write((total / len(teachers)).astype(np.float16).tobytes())
            if progress is not None:
                progress(int(numbers[-1]) + 1, shape[0])
    for k, (model, inputs) in enumerate(teachers):
        _describe(folder / named(k, model), model, inputs, "scores")
    return paths


def export_factors(
    model: RetrievalModel, inputs: Inputs, folder: Path, progress: Progress | None = None, number: int = 0
) -> list[Path]:
    """Write vectors whose products are a teacher's cosines: float16 `texts.npy` [T, D], `clips.npy` [V, D].

    For models over experts the product has still to be divided by `mixture.npy` [T, E] times
    `available.npy` [V, E]: the weight of the experts that a clip has.
    They lie in FOLDER/<number>-<teacher>.
    Raises DataError for a method whose scores are no products of vectors.
    """
    folder = folder / named(number, model)
    clips = inputs.encode_clips(model)
    count = len(inputs.pairs.captions)
    experts = isinstance(model, ExpertMethod)
    _check_product(model, inputs, clips)
    if isinstance(model, ExpertMethod):
        vectors, available = clips.extra["embedding"], clips.extra["available"].bool()
        widths = torch.tensor(model.head.widths, device=available.device)
        vectors = vectors.masked_fill(~available.repeat_interleave(widths, -1), 0.0)
    else:
        vectors = clips.coarse
    width = vectors.shape[1]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "clips.npy", vectors.half().cpu().numpy())
    paths = [folder / "texts.npy", folder / "clips.npy"]
    with ExitStack() as stack:
        texts = stack.enter_context(npy_file(paths[0], (count, width), np.float16))
        mixture = None
        if isinstance(model, ExpertMethod):
            np.save(folder / "available.npy", available.cpu().numpy())
            shape = (count, available.shape[1])
            mixture = stack.enter_context(npy_file(folder / "mixture.npy", shape, np.float16))
            paths += [folder / "mixture.npy", folder / "available.npy"]
        for start in range(0, count, _BLOCK):
            numbers = np.arange(start, min(start + _BLOCK, count))
            text = inputs.encode_texts(model, numbers)
            texts.write(_text_vectors(model, text).half().cpu().numpy().tobytes())
            if mixture is not None:
                mixture.write(text.extra["mixture"].half().cpu().numpy().tobytes())
            if progress is not None:
                progress(int(numbers[-1]) + 1, count)
    _describe(folder, model, inputs, "factors with a mixture" if experts else "factors")
    return paths


@torch.inference_mode()
def cosines(model: RetrievalModel, text: TextFeatures, clips: ClipFeatures) -> NDArray[np.float32]:
    """A model's score without its logit scale, [T, V].  Raises DataError if it is not finite."""
    found = model.backbone.cosines(model.similarity(text, clips).float()).cpu().numpy()
    if not np.isfinite(found).all():
        raise DataError(f"{model.name}: this teacher's scores are not finite; it cannot teach")
    return np.asarray(found, np.float32)


def named(k: int, model: RetrievalModel) -> str:
    """The folder of the k-th teacher."""
    path = Path(model.name)
    # A trained run's model lies in RUN/model.
    called = path.parent.name if path.name == "model" and path.parent.name else path.name
    return f"{k}-{called}"


@torch.inference_mode()
def _text_vectors(model: RetrievalModel, text: TextFeatures) -> torch.Tensor:
    if isinstance(model, ExpertMethod):
        return model.head.weighted(text.extra["embedding"], text.extra["mixture"]).float()
    return model.query_vectors(text)


@torch.inference_mode()
def _check_product(model: RetrievalModel, inputs: Inputs, clips: ClipFeatures) -> None:
    if isinstance(model, ExpertMethod):
        return
    text = inputs.encode_texts(model, np.arange(min(16, len(inputs.pairs.captions))))
    some = clips.select(slice(0, 64))
    product = (_text_vectors(model, text) @ some.coarse.T).float().cpu().numpy()
    if np.abs(product - cosines(model, text, some)).max() > _SAME:
        raise DataError(
            f"{model.name}: the scores of {model.method} are no products of two vectors; export the scores"
        )


def _describe(folder: Path, model: RetrievalModel, inputs: Inputs, what: str) -> None:
    about = {
        "what": what,
        "model": model.name,
        "method": model.method,
        "fingerprint": model.fingerprint(),
        "data": inputs.pairs.identity(),
        "captions": len(inputs.pairs.captions),
        "clips": len(inputs.pairs.clips),
    }
    write_text(folder / ABOUT, json.dumps(about, indent=1) + "\n")


@contextmanager
def npy_file(path: Path, shape: tuple[int, ...], kind: Any) -> Iterator[BinaryIO]:
    """An .npy file to which the rows of an array are written one after the other; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    with partial.open("wb") as stream:
        header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        yield stream
    partial.replace(path)
