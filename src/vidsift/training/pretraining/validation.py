"""What a training run looks at between steps: the validation split only, never the test split."""

from __future__ import annotations

from typing import Any

from vidsift.datasets.storyboard.splits import load_split
from vidsift.evaluation.storyboard import (
    encode_videos,
    retrieval,
    two_alternative_frames,
    two_alternative_videos,
)
from vidsift.models.base import RetrievalModel


def validate(model: RetrievalModel, videos: int) -> dict[str, Any]:
    """Retrieval and two-alternative accuracies on the first validation videos; leaves train mode on."""
    model.eval()
    story = load_split("val", videos)
    clips = encode_videos(model, story.videos)
    report = {
        "frames": {name: row["accuracy"] for name, row in two_alternative_frames(model, 500).items()},
        "videos": {
            name: row["accuracy"] for name, row in two_alternative_videos(model, story, clips).items()
        },
        "retrieval": retrieval(model, story, clips),
    }
    model.train()
    return report
