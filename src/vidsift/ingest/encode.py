"""Clips through the model: pixels in, records for the store out."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import torch

from vidsift.index.reranking import pack_parts
from vidsift.index.types import ClipRecord, quantise
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Clip, Event
from vidsift.ingest.results import Encoded, Results
from vidsift.models import ClipFeatures, RetrievalModel
from vidsift.video import SegmentConfig
from vidsift.video.subtitles import Subtitles


def encode_here(
    events: Generator[tuple[Work, Event], None, None], model: RetrievalModel, segmentation: SegmentConfig
) -> Results:
    """Encode the clips among the events of files in this process, one at a time; closes `events` at its
    end."""
    with closing(events):
        for work, event in events:
            if isinstance(event, Clip):
                yield work, encode_timed(model, event, work.fingerprint, segmentation)
            elif not isinstance(event, Subtitles):
                yield work, event


def encode_timed(model: RetrievalModel, clip: Clip, fingerprint: str, segmentation: SegmentConfig) -> Encoded:
    """One clip of the file with this fingerprint, with the time that it took."""
    began = time.perf_counter()
    clip_id = name_clip(fingerprint, clip.start, clip.end, segmentation)
    record = encode_clip(model, clip, clip_id)
    return Encoded(record, time.perf_counter() - began)


@torch.inference_mode()
def encode_clip(model: RetrievalModel, clip: Clip, clip_id: str) -> ClipRecord:
    """Encode one clip by itself; its file's metadata is known later.

    A clip's dozen frames fill the matrix units of a CPU (larger batches were measured slower), and a batch
    that never holds anything else makes the vectors independent of what was decoded when: an interrupted
    run ends with the same bits as an undisturbed one.
    """
    clip = real_first(clip)
    features = model.encode_video(torch.from_numpy(clip.pixels)[None], torch.from_numpy(clip.mask)[None])
    return record_of(model, clip, clip_id, features)


def real_first(clip: Clip) -> Clip:
    """The clip with its real frames first, as the store keeps them, so that every part of its features has
    that order."""
    if clip.mask.all():
        return clip
    order = np.argsort(~clip.mask, kind="stable")
    return replace(clip, pixels=clip.pixels[order], mask=clip.mask[order], times=clip.times[order])


def record_of(model: RetrievalModel, clip: Clip, clip_id: str, features: ClipFeatures) -> ClipRecord:
    """What the store takes of a clip whose real frames come first.  features: of this clip alone."""
    coarse = features.coarse[0].float().cpu().numpy()
    frames = features.frames[0].float().cpu().numpy()
    vectors = quantise(coarse, frames, clip.mask, clip.times)
    parts = pack_parts(features, model.index_parts)
    return ClipRecord(clip_id, clip.start, clip.end, vectors, clip.thumbnail, {}, parts, clip.cues)


def name_clip(fingerprint: str, start: float, end: float, segmentation: SegmentConfig) -> str:
    """The clip's id: the same content cut the same way has the same id, wherever the file lies."""
    key = json.dumps([fingerprint, round(start, 6), round(end, 6), asdict(segmentation)], sort_keys=True)
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
