"""A model with compiled towers against torch: `vidsift export` makes one and says what it changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidsift.datasets.pairs import Clips, StoryClips
from vidsift.datasets.storyboard import load_split
from vidsift.errors import ModelFormatError
from vidsift.evaluation.metrics import ranks, retrieval_metrics
from vidsift.evaluation.scoring import search_scores
from vidsift.models import ClipFeatures, RetrievalModel, load_model
from vidsift.models.compiled import PRECISIONS, Precision, check_compilable, note_parity, write_compiled

_CALIBRATION = 25
_REPEATS = 7


@dataclass(frozen=True)
class Parity:
    """What the compiled towers change, and what they save.

    pictures, texts: cosine of the towers' vectors with torch's, least and mean.  r1: R@1 by torch and
    compiled, captions of the storyboard's test videos against these videos (rendered; in per cent).
    agree: captions with the same best clip, in per cent.  clip_ms, query_ms: one clip through the picture
    tower, one text through the text tower: medians by torch and compiled, with so many threads.
    """

    precision: Precision
    pictures: tuple[float, float]
    texts: tuple[float, float]
    r1: tuple[float, float]
    agree: float
    clip_ms: tuple[float, float]
    query_ms: tuple[float, float]
    videos: int
    captions: int
    threads: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {name: list(x) if isinstance(x, tuple) else x for name, x in self.__dict__.items()}


def export_model(
    model: RetrievalModel,
    to: str | os.PathLike[str],
    precision: Precision = "fp32",
    videos: int = 100,
    calibration: Clips | None = None,
    progress: Callable[[str], None] | None = None,
) -> Parity:
    """Save `model` with its towers compiled for OpenVINO in the new folder `to`, and compare both.

    videos: storyboard videos on which they are compared.  calibration: clips whose pictures set the scales of
    int8; None takes storyboard videos that are not among those compared.
    Raises ModelFormatError where the towers cannot be compiled, or `to` is not empty.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    folder = Path(to)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelFormatError(f"{folder}: is there already; choose a new folder for the exported model")
    model.backbone.compiled = None
    check_compilable(model)
    say = progress or (lambda text: None)
    pictures: list[npt.NDArray[np.uint8]] = []
    if precision == "int8":
        say("reading pictures to calibrate with")
        clips = calibration or _story(model, "val", _CALIBRATION)
        for number in range(min(len(clips), _CALIBRATION)):
            pixels, mask = clips.read(number)
            pictures += list(pixels[mask])
    say("compiling")
    model.save_pretrained(folder)
    write_compiled(model, folder, precision, pictures)
    say("comparing")
    parity = measure_parity(model, load_model(str(folder)), videos)
    note_parity(folder, parity.to_dict())
    return parity


def _story(model: RetrievalModel, split: str, videos: int) -> StoryClips:
    drawn = load_split(split, videos=videos).videos
    return StoryClips(drawn, model.frames_per_clip, model.backbone.image_size, scaled=True)


@torch.inference_mode()
def measure_parity(reference: RetrievalModel, compiled: RetrievalModel, videos: int = 100) -> Parity:
    """Compare a model by torch with the same one over compiled towers, on storyboard videos."""
    towers = compiled.backbone.compiled
    if towers is None:
        raise ModelFormatError(f"{compiled.name}: has no compiled towers")
    story = load_split("test", videos=videos)
    texts = [caption.text for caption in story.captions]
    clips = _story(reference, "test", videos)
    seen: dict[str, list[ClipFeatures]] = {"torch": [], "compiled": []}
    cosines: list[npt.NDArray[np.float64]] = []
    for number in range(len(clips)):
        pixels = torch.from_numpy(clips.read(number)[0])
        raw = [m.backbone.encode_frames(pixels).frames for m in (reference, compiled)]
        cosines.append(_cosine(raw[0], raw[1]))
        mask = torch.ones(1, len(pixels), dtype=torch.bool)
        seen["torch"].append(reference.encode_video(pixels[None], mask))
        seen["compiled"].append(compiled.encode_video(pixels[None], mask))
    sentences = [m.encode_text(*m.tokenize(texts)) for m in (reference, compiled)]
    said = _cosine(sentences[0].sentence, sentences[1].sentence)
    scores = [
        search_scores(m, text, ClipFeatures.cat(seen[name])).float().numpy()
        for m, text, name in zip((reference, compiled), sentences, seen, strict=True)
    ]
    found = [retrieval_metrics(ranks(matrix, story.video_of)).r1 for matrix in scores]
    one, line = torch.from_numpy(clips.read(0)[0]), [reference.tokenize([text]) for text in texts[:20]]
    clip_ms = [_time([lambda b=m.backbone: b.encode_frames(one)] * _REPEATS) for m in (reference, compiled)]  # type: ignore[misc]
    query_ms = [
        _time([lambda b=m.backbone, t=t: b.encode_tokens(*t) for t in line])  # type: ignore[misc]
        for m in (reference, compiled)
    ]
    frames = np.concatenate(cosines)
    return Parity(
        precision=towers.settings.precision,
        pictures=(round(float(frames.min()), 6), round(float(frames.mean()), 6)),
        texts=(round(float(said.min()), 6), round(float(said.mean()), 6)),
        r1=(round(found[0], 2), round(found[1], 2)),
        agree=round(float(100 * np.mean(scores[0].argmax(1) == scores[1].argmax(1))), 2),
        clip_ms=(round(clip_ms[0], 3), round(clip_ms[1], 3)),
        query_ms=(round(query_ms[0], 3), round(query_ms[1], 3)),
        videos=len(clips),
        captions=len(texts),
        threads=torch.get_num_threads(),
    )


def _cosine(a: torch.Tensor, b: torch.Tensor) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = torch.cosine_similarity(a.double(), b.double(), dim=-1).numpy()
    return found


def _time(calls: Sequence[Callable[[], object]]) -> float:
    spent: list[float] = []
    for _ in range(2):  # the first round makes what is made once for every length of text
        spent = []
        for call in calls:
            began = time.perf_counter()
            call()
            spent.append(1e3 * (time.perf_counter() - began))
    return median(spent)
