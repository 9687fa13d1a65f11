"""The storyboard's measurements rank as an index does, by the method's own score where that was tuned."""

import numpy as np
import pytest
import torch

from vidsift.datasets.storyboard.splits import draw_set
from vidsift.evaluation.storyboard import encode_texts, encode_videos, retrieval, search_scores
from vidsift.models import load_model

STORY = draw_set(21, 12, captions_per_video=2)


@pytest.mark.parametrize("name", ["clip-tiny", "vidsift-tiny"])
def test_scores_are_those_of_the_index(name: str) -> None:
    model = load_model(name)
    assert model.search.own_score == (name == "vidsift-tiny")
    clips = encode_videos(model, STORY.videos)
    text = encode_texts(model, [caption.text for caption in STORY.captions])
    found = search_scores(model, text, clips, batch=7)
    assert found.shape == (24, 12)
    if model.search.own_score:
        with torch.inference_mode():
            torch.testing.assert_close(found, model.similarity(text, clips), rtol=1e-4, atol=1e-4)
    report = retrieval(model, STORY, clips, candidates=4)
    assert report["exhaustive"]["r1"] >= report["coarse"]["r1"] - 10
    assert report["two_stage"]["queries"] == 24
    everything = retrieval(model, STORY, clips, candidates=12)
    assert everything["two_stage"] == everything["exhaustive"]
    assert np.isfinite(report["two_stage"]["mnr"])
