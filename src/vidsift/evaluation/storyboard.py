"""What a model has learnt of the storyboard world: retrieval, and telling a caption from a changed one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsift.datasets.storyboard.captions import (
    VALUES,
    Caption,
    CaptionConfig,
    change_order,
    change_word,
    write_caption,
)
from vidsift.datasets.storyboard.render import blink_time, render_frames, render_scene
from vidsift.datasets.storyboard.splits import StorySet
from vidsift.datasets.storyboard.world import UNITS, Scene, StoryVideo, WorldConfig, draw_seed, draw_sprites
from vidsift.evaluation.metrics import ranks, retrieval_metrics
from vidsift.models.base import RetrievalModel
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.pooling import text_gated_score

# Every probe caption states as much as it can, so that each attribute has enough questions.
_PROBE_CAPTIONS = CaptionConfig(
    kinds=(1.0, 0.0, 0.0), size=0.8, motion=0.0, second_motion=0.0, background=0.8
)


@torch.inference_mode()
def encode_videos(model: RetrievalModel, videos: Sequence[StoryVideo], batch: int = 32) -> ClipFeatures:
    """Clip features of rendered videos, as a model sees them without any file or codec between."""
    parts = []
    for start in range(0, len(videos), batch):
        pixels = np.stack([render_frames(v, model.frames_per_clip) for v in videos[start : start + batch]])
        parts.append(
            model.encode_video(torch.from_numpy(pixels), torch.ones(pixels.shape[:2], dtype=torch.bool))
        )
    return ClipFeatures.cat(parts)


@torch.inference_mode()
def encode_texts(model: RetrievalModel, texts: Sequence[str], batch: int = 256) -> TextFeatures:
    """Features of texts, on the model's device."""
    parts = [
        model.encode_text(*model.tokenize(list(texts[start : start + batch])))
        for start in range(0, len(texts), batch)
    ]
    return TextFeatures.cat(parts)


@torch.inference_mode()
def search_scores(model: RetrievalModel, text: TextFeatures, clips: ClipFeatures, batch: int = 250) -> Tensor:
    """The score by which the index ranks its short list, for all pairs: [T, V]."""
    weights, rows = model.search, []
    for start in range(0, len(text), batch):
        part = text.select(slice(start, start + batch))
        if weights.own_score:
            rows.append(model.similarity(part, clips))
            continue
        query = model.query_vectors(part)
        fine = text_gated_score(clips.frames, query, clips.mask, weights.temperature)
        rows.append(weights.coarse_weight * (query @ clips.coarse.T) + weights.fine_weight * fine)
    return torch.cat(rows)


@torch.inference_mode()
def retrieval(
    model: RetrievalModel, story: StorySet, clips: ClipFeatures | None = None, candidates: int = 100
) -> dict[str, Any]:
    """Text-to-video metrics of the coarse score alone, of both scores exhaustively, and in two stages.

    Two stages: the `candidates` best by the coarse score are ranked by the search score, the others follow.
    """
    clips = encode_videos(model, story.videos) if clips is None else clips
    text = encode_texts(model, [caption.text for caption in story.captions])
    coarse = (model.query_vectors(text) @ clips.coarse.T).numpy()
    fine = search_scores(model, text, clips).numpy()
    short = np.argsort(-coarse, axis=1, kind="stable")[:, :candidates]
    # Below everything on the short list, in the order of the coarse scores.
    staged = coarse - coarse.max() + fine.min() - 1.0
    np.put_along_axis(staged, short, np.take_along_axis(fine, short, 1), 1)
    kinds = np.asarray([caption.kind for caption in story.captions])
    report: dict[str, Any] = {}
    for name, scores in (("coarse", coarse), ("exhaustive", fine), ("two_stage", staged)):
        found = ranks(scores, story.video_of)
        report[name] = asdict(retrieval_metrics(found))
        report[name]["r1_by_kind"] = {
            str(kind): float(100 * np.mean(found[kinds == kind] <= 1)) for kind in np.unique(kinds)
        }
    return report


Changer = Callable[[Caption, StoryVideo, np.random.Generator], Caption | None]


def _changers() -> dict[str, Changer]:
    def of(attribute: str) -> Changer:
        return lambda caption, video, rng: change_word(caption, video, attribute, rng)

    return {name: of(name) for name in VALUES} | {
        "order": lambda caption, video, rng: change_order(caption, video)
    }


def two_alternative_videos(
    model: RetrievalModel, story: StorySet, clips: ClipFeatures | None = None, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Share of captions (percent) that score above a copy with one word changed, per attribute, on videos.

    The score is the index's search score; a tie counts half. `n` is the number of questions.
    """
    clips = encode_videos(model, story.videos) if clips is None else clips
    return {
        name: _accuracy(model, clips, *_questions(story, changer, np.random.default_rng(seed)))
        for name, changer in _changers().items()
    }


def two_alternative_frames(
    model: RetrievalModel, frames: int = 1000, seed: int = 9
) -> dict[str, dict[str, float]]:
    """The same on single frames with one or two sprites: kind, colour, size, background."""
    rng = np.random.default_rng(seed)
    world = WorldConfig()
    scenes = [
        Scene(0, UNITS, world.backgrounds[int(rng.integers(10))], draw_sprites(world, rng), draw_seed(rng))
        for _ in range(frames)
    ]
    # What a blinking sprite looks like can only be asked while it is shown.
    pixels = np.stack(
        [render_scene(scene, blink_time(float(rng.random()))).transpose(2, 0, 1) for scene in scenes]
    )
    with torch.inference_mode():
        clips = model.encode_video(torch.from_numpy(pixels[:, None]), torch.ones(frames, 1, dtype=torch.bool))
    videos = tuple(StoryVideo((scene,)) for scene in scenes)
    captions = tuple(write_caption(video, rng, _PROBE_CAPTIONS) for video in videos)
    story = StorySet(videos, captions, np.arange(frames))
    return {
        name: _accuracy(model, clips, *_questions(story, changer, rng))
        for name, changer in _changers().items()
        if name not in ("motion", "order")
    }


def _questions(
    story: StorySet, changer: Changer, rng: np.random.Generator
) -> tuple[list[str], list[str], NDArray[np.int64]]:
    right, wrong, owners = [], [], []
    for caption, owner in zip(story.captions, story.video_of.tolist(), strict=True):
        changed = changer(caption, story.videos[owner], rng)
        if changed is not None:
            right.append(caption.text)
            wrong.append(changed.text)
            owners.append(owner)
    return right, wrong, np.asarray(owners, np.int64)


@torch.inference_mode()
def _accuracy(
    model: RetrievalModel, clips: ClipFeatures, right: list[str], wrong: list[str], owners: NDArray[np.int64]
) -> dict[str, float]:
    if not right:
        return {"accuracy": float("nan"), "n": 0}
    margins = []
    for start in range(0, len(right), 100):
        rows = slice(start, start + 100)
        own = clips.select(torch.from_numpy(owners[rows]))
        a, b = (
            search_scores(model, encode_texts(model, texts[rows]), own).diagonal() for texts in (right, wrong)
        )
        margins.append(a - b)
    margin = torch.cat(margins)
    wins = (margin > 0).float() + 0.5 * (margin == 0).float()
    return {"accuracy": float(100 * wins.mean()), "n": len(right)}
