"""Appearance: what an image tower says of the frames, as their mean or as a set."""

from __future__ import annotations

from typing import Any

import torch

from vidsift.datasets.pairs import Clips
from vidsift.experts.base import Findings
from vidsift.models import RetrievalModel, load_model


class Appearance:
    """Frame vectors of a dual encoder, scaled to unit length.

    as_set: give them one by one (`frames`), not their mean (`appearance`).
    """

    def __init__(self, name: str, model: str, frames: int, as_set: bool, device: str = "cpu") -> None:
        self.name, self.as_set, self.frames = name, as_set, frames
        self.model: RetrievalModel = load_model(model, device).eval()
        self.digest = self.model.fingerprint()
        self.dim, self.tokens = self.model.backbone.width, frames if as_set else 0

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"model": self.digest, "frames": self.frames, "set": self.as_set}

    @torch.inference_mode()
    def extract(self, clips: Clips, number: int) -> Findings | None:
        pixels, mask = clips.view(self.frames, self.model.preprocess.geometry).read(number)
        if not mask.any():
            return None
        vectors = self.model.backbone.encode_frames(torch.from_numpy(pixels[mask])).frames
        vectors = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu()
        found: Findings = (vectors if self.as_set else vectors.mean(0)).numpy()
        return found
