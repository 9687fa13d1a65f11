"""Clips through a model on a GPU: many at once, whichever files they are of, while the next are collected."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from vidsift.ingest.encode import name_clip, real_first, record_of
from vidsift.ingest.plan import Work
from vidsift.ingest.reading import Clip, Done, Event, Failed, Opened
from vidsift.ingest.results import Encoded, Results
from vidsift.models import ClipFeatures, RetrievalModel
from vidsift.video import SegmentConfig
from vidsift.video.subtitles import Subtitles

log = logging.getLogger(__name__)

# These three were chosen without a GPU at hand.
# Clips that are encoded at once: some hundred pictures, some 50 MB while they wait at 224 pixels. Halved
# where the GPU's memory does not suffice.
BATCH = 32
# Seconds after which clips are encoded although they do not fill a batch.
PATIENCE = 2.0
# After so many clips the tower is compiled, which has to be made up for.
COMPILE_AFTER = 2_000

_Waiting = list[tuple[Work, Clip | Opened | Done | Failed]]


@dataclass(frozen=True)
class _Launched:
    """A batch that may still be computed.  began: when it was launched."""

    waiting: _Waiting
    features: ClipFeatures
    began: float


def encode_batched(
    events: Generator[tuple[Work, Event], None, None],
    model: RetrievalModel,
    segmentation: SegmentConfig,
    size: int = BATCH,
) -> Results:
    """As `encode_here`, `size` clips at once; while one batch is computed, the next is collected.

    A batch that is not full is filled with copies, so that what a clip's vectors are does not depend on how
    many clips were at hand. Events leave in their order.
    """
    batches = _Batches(model, size)
    launched: _Launched | None = None
    with closing(events):
        for waiting in _grouped(events, size):
            following = batches.launch(waiting)
            if launched is not None:
                yield from _finished(launched, model, segmentation)
            launched = following
        if launched is not None:
            yield from _finished(launched, model, segmentation)


def _grouped(events: Iterator[tuple[Work, Event]], size: int) -> Iterator[_Waiting]:
    """Events in runs that end with the `size`-th clip, or when the first has waited long enough."""
    waiting: _Waiting = []
    clips, since = 0, time.monotonic()
    for work, event in events:
        if isinstance(event, Subtitles):
            continue
        if not waiting:
            since = time.monotonic()
        waiting.append((work, real_first(event) if isinstance(event, Clip) else event))
        clips += isinstance(event, Clip)
        if clips == size or time.monotonic() - since > PATIENCE:
            yield waiting
            waiting, clips = [], 0
    if waiting:
        yield waiting


def _finished(launched: _Launched, model: RetrievalModel, segmentation: SegmentConfig) -> Results:
    features = launched.features.map(lambda part: part.cpu())  # waits until it is computed
    clips = sum(isinstance(event, Clip) for _, event in launched.waiting)
    seconds = (time.perf_counter() - launched.began) / max(clips, 1)
    number = 0
    for work, event in launched.waiting:
        if isinstance(event, Clip):
            clip_id = name_clip(work.fingerprint, event.start, event.end, segmentation)
            record = record_of(model, event, clip_id, features.select(slice(number, number + 1)))
            yield work, Encoded(record, seconds)
            number += 1
        else:
            yield work, event


class _Batches:
    """Launches batches of clips on the model's device: two pinned buffers take turns, sums are in bf16."""

    def __init__(self, model: RetrievalModel, size: int) -> None:
        self._model, self._size = model, size
        self._at_once = size
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._turn = self._encoded = 0
        self._compiled = False

    def launch(self, waiting: _Waiting) -> _Launched:
        """Begin to encode the clips among some events."""
        began = time.perf_counter()
        clips = [event for _, event in waiting if isinstance(event, Clip)]
        if not clips:
            nothing = torch.zeros(0, 1)
            return _Launched(waiting, ClipFeatures(nothing, nothing[:, None], nothing.bool()), began)
        if not self._compiled and self._encoded >= COMPILE_AFTER:
            self._compiled = True
            _compile_tower(self._model)
        pixels, mask = self._copied(clips)
        with torch.inference_mode(), _in_bf16(self._model.device):
            features = self._encode(pixels, mask)
        self._encoded += len(clips)
        return _Launched(waiting, features, began)

    def _copied(self, clips: Sequence[Clip]) -> tuple[Tensor, Tensor]:
        """Pixels and mask of a full batch, on their way to the device."""
        pinned = self._model.device.type == "cuda"
        if len(self._buffers) < 2:
            pixels = torch.empty((self._size, *clips[0].pixels.shape), dtype=torch.uint8, pin_memory=pinned)
            mask = torch.empty((self._size, len(clips[0].mask)), dtype=torch.bool, pin_memory=pinned)
            self._buffers.append((pixels, mask))
        # The other buffer's batch may still be copied; the one before was waited for.
        pixels, mask = self._buffers[self._turn]
        self._turn = 1 - self._turn
        for number in range(self._size):
            clip = clips[min(number, len(clips) - 1)]
            pixels[number] = torch.from_numpy(clip.pixels)
            mask[number] = torch.from_numpy(clip.mask)
        device = self._model.device
        return pixels.to(device, non_blocking=True), mask

    def _encode(self, pixels: Tensor, mask: Tensor) -> ClipFeatures:
        parts, start = [], 0
        while start < len(pixels):
            some = slice(start, start + self._at_once)
            try:
                parts.append(self._model.encode_video(pixels[some], mask[some]))
            except torch.cuda.OutOfMemoryError:
                if self._at_once == 1:
                    raise
                torch.cuda.empty_cache()
                self._at_once //= 2
                log.warning("the GPU's memory is short: %d clips at once from now on", self._at_once)
                continue
            start += self._at_once
        return ClipFeatures.cat(parts)


def _in_bf16(device: torch.device) -> AbstractContextManager[object]:
    """Matrix products in bf16 where the GPU has units for them (Ampere and later), else as they are."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def _compile_tower(model: RetrievalModel) -> None:
    """Compile the vision tower's blocks, one after the other: alike blocks share what was compiled."""
    began = time.perf_counter()
    try:  # a compiler, and for a GPU Triton, may be missing; a small function tells
        torch.compile(lambda x: x + 1)(torch.zeros(8, device=model.device))
    except Exception as error:  # noqa: BLE001 - of many kinds; encoding goes on without
        log.warning("the tower is not compiled: %s", str(error).partition("\n")[0])
        return
    for layer in model.backbone.vision_layers:
        layer.compile()
    log.info("torch.compile works here (%.1f s): the tower is compiled", time.perf_counter() - began)
