"""Speech and on-screen text: words that come with a clip, as token vectors of a text encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.datasets.pairs import Clips
from vidsift.errors import DataError
from vidsift.experts.base import Findings, spread
from vidsift.features.extract import text_tower_digest
from vidsift.models.backbone import Backbone
from vidsift.models.text import TextTokenizer
from vidsift.video import Geometry

TOKENS = 32
# What an OCR sees of a frame, and how many frames of a clip it reads.
OCR_SIDE, OCR_FRAMES = 640, 4


class Words:
    """Words of a clip through a text encoder.  read: a clip's words, "" for none."""

    tokens = TOKENS

    def __init__(
        self,
        name: str,
        encoder: tuple[Backbone, TextTokenizer],
        read: Callable[[Clips, int], str],
        how: Callable[[Clips], dict[str, Any]],
    ) -> None:
        self.name, self._read, self._how = name, read, how
        self.backbone, self.tokenizer = encoder
        self.dim = self.backbone.width

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"text encoder": text_tower_digest(self.backbone, self.tokenizer)} | self._how(clips)

    @torch.inference_mode()
    def extract(self, clips: Clips, number: int) -> Findings | None:
        text = self._read(clips, number)
        if not text.strip():
            return None
        device = self.backbone.pixel_scale.device
        ids, mask = self.tokenizer([text])
        vectors = self.backbone.encode_tokens(ids.to(device), mask.to(device)).words[0]
        found: Findings = vectors[mask[0]].float().cpu().numpy()
        return spread(found, TOKENS)


def speech(name: str, encoder: tuple[Backbone, TextTokenizer]) -> Words:
    """What is said: subtitles beside the file or in it."""
    return Words(
        name,
        encoder,
        lambda clips, number: clips.speech(number),
        lambda clips: {"subtitles": clips.speech_identity()},
    )


def ocr(name: str, encoder: tuple[Backbone, TextTokenizer]) -> Words:
    """What stands written in the pictures: what the data says of it, else what an OCR reads.

    Raises DataError, with the way out, when there is something to read and no OCR is installed.
    """
    reader = _Reader()
    return Words(name, encoder, reader, lambda clips: {"ocr": 1, "side": OCR_SIDE, "frames": OCR_FRAMES})


class _Reader:
    """Reads a few frames of a clip; the OCR is loaded when the first is asked for."""

    def __init__(self) -> None:
        self.engine: Any = None

    def __call__(self, clips: Clips, number: int) -> str:
        known = clips.written(number)
        if known is not None:
            return known
        if self.engine is None:
            self.engine = _load_ocr()
        pixels, mask = clips.view(OCR_FRAMES, Geometry(OCR_SIDE, "squash")).read(number)
        lines: dict[str, None] = {}
        for picture in pixels[mask]:
            for line in self._lines(np.ascontiguousarray(picture.transpose(1, 2, 0)[..., ::-1])):
                lines.setdefault(line)
        return " ".join(lines)

    def _lines(self, picture: NDArray[np.uint8]) -> list[str]:
        found = self.engine(picture)
        return [str(text) for text in (found.txts or ())]


def _load_ocr() -> Any:
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise DataError(
            "the expert 'ocr' reads frames with RapidOCR, which is not installed: pip install 'vidsift[ocr]'"
        ) from error
    return RapidOCR(params={"Global.log_level": "critical"})
