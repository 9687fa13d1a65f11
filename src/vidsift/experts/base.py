"""What every expert does: a clip becomes one vector or a set of them, or is not available."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from vidsift.datasets.pairs import Clips
from vidsift.errors import ModelFormatError
from vidsift.models.loading import locate

Findings = NDArray[np.float32]


class ExpertSource(Protocol):
    """One source of features.

    name: as it was asked for, unique within a model.  dim: of a vector.  tokens: the most vectors of a clip;
    0 for an expert that gives exactly one.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def tokens(self) -> int: ...

    def identity(self, clips: Clips) -> dict[str, Any]:
        """Everything besides the clips themselves that the features depend on, as plain values."""

    def extract(self, clips: Clips, number: int) -> Findings | None:
        """Features of one clip: [dim], or [n, dim] with n <= tokens; None if there is nothing to go by.

        Raises VideoError for a file that cannot be read.
        """


def load_transformer(name: str, device: str) -> tuple[Path, Any]:
    """A transformers model by its folder, preset or hub id, and its folder.

    Raises ModelFormatError, naming the folder, for one that cannot be used.
    """
    from transformers import AutoModel

    folder = locate(name)
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelFormatError(f"{folder}: {error}") from error
    return folder, model.eval().to(device)


def weights_digest(model: torch.nn.Module) -> str:
    """16 hex digits that name the weights of a model."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def spread(rows: Findings, most: int) -> Findings:
    """At most `most` rows, evenly over all of them."""
    if len(rows) <= most:
        return rows
    found: Findings = rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
    return found
