"""Motion: how things move between frames, by optical flow over a grid, or by a video model."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.datasets.pairs import Clips
from vidsift.errors import ModelFormatError
from vidsift.experts.base import Findings, load_transformer, weights_digest
from vidsift.video import Geometry

SIDE, GRID, FRAMES = 64, 8, 25
# How much a cell's texture has to be before its flow is believed (Lucas & Kanade, 1981, as ridge).
_RIDGE = 0.3


class Motion:
    """Least-squares flow (Lucas-Kanade) and the mean change of grey in each of 8 x 8 cells of a frame, one
    vector per pair of frames that follow each other."""

    dim, tokens = 3 * GRID * GRID, FRAMES - 1

    def __init__(self, name: str = "motion") -> None:
        self.name = name

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"motion": 1, "side": SIDE, "grid": GRID, "frames": FRAMES}

    def extract(self, clips: Clips, number: int) -> Findings | None:
        pixels, mask = clips.view(FRAMES, Geometry(SIDE, "squash")).read(number)
        if mask.sum() < 2:
            return None
        grey = np.tensordot(pixels[mask].astype(np.float32), [0.299, 0.587, 0.114], (1, 0)) / 255
        return np.stack([flow(a, b) for a, b in pairwise(grey)])


def flow(first: NDArray[np.float32], second: NDArray[np.float32]) -> Findings:
    """[3 * GRID^2]: u, v in pixels and the mean change, by cell; of grey pictures [SIDE, SIDE] in 0..1."""
    mean = (first + second) / 2
    dy, dx = (np.asarray(g, np.float32) for g in np.gradient(mean))
    dt = second - first
    cells = [_cells(part).sum(-1) for part in (dx * dx, dx * dy, dy * dy, dx * dt, dy * dt)]
    xx, xy, yy, xt, yt = cells
    ridge = _RIDGE * (SIDE / GRID) ** 2 * 1e-4
    xx, yy = xx + ridge, yy + ridge
    determinant = xx * yy - xy * xy
    u, v = (xy * yt - yy * xt) / determinant, (xy * xt - xx * yt) / determinant
    change = _cells(np.abs(dt)).mean(-1)
    return np.concatenate([np.clip(u, -4, 4), np.clip(v, -4, 4), 10 * change]).astype(np.float32)


def _cells(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """[GRID^2, pixels of a cell]."""
    size = SIDE // GRID
    blocks = picture.reshape(GRID, size, GRID, size).transpose(0, 2, 1, 3)
    return blocks.reshape(GRID * GRID, size * size)


class VideoModel:
    """The hidden states of a transformers video model (VideoMAE, TimeSformer, ViViT, ...), averaged over a
    clip.  Raises ModelFormatError, naming the folder, for a model that cannot be used."""

    tokens = 0

    def __init__(self, name: str, model: str, device: str = "cpu") -> None:
        folder, self.model = load_transformer(model, device)
        config = self.model.config
        frames = getattr(config, "num_frames", None)
        if frames is None or getattr(config, "image_size", None) is None:
            raise ModelFormatError(f"{folder}: no video model: {config.model_type} states no num_frames")
        self.name, self.device, self.digest = name, device, weights_digest(self.model)
        self.frames, self.size, self.dim = int(frames), _side(config.image_size), int(config.hidden_size)
        self.mean, self.std = _statistics(folder)

    def identity(self, clips: Clips) -> dict[str, Any]:
        return {"video model": self.model.config.model_type, "weights": self.digest}

    @torch.inference_mode()
    def extract(self, clips: Clips, number: int) -> Findings | None:
        pixels, mask = clips.view(self.frames, Geometry(self.size, "crop")).read(number)
        if not mask.all():  # such a model wants all its frames
            return None
        picture = torch.from_numpy(pixels).float().div(255).sub(self.mean).div(self.std)
        states = self.model(pixel_values=picture[None].to(self.device)).last_hidden_state
        found: Findings = states.flatten(1, -2).mean(1)[0].float().cpu().numpy()
        return found


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _statistics(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model's pictures are normalised by; ImageNet's, where the folder does not say."""
    values: dict[str, Any] = {}
    path = folder / "preprocessor_config.json"
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
    mean = values.get("image_mean", [0.485, 0.456, 0.406])
    std = values.get("image_std", [0.229, 0.224, 0.225])
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(std).view(1, 3, 1, 1)
