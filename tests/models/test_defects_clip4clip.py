"""What the official CLIP4Clip heads get wrong is there with `legacy` and gone without."""

import pytest
import torch

from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.models import RetrievalModel
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

D = 24
LOOSE = pytest.mark.parametrize("method", ["seqlstm", "seqtransf"])


def model(method: str, legacy: bool) -> RetrievalModel:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, text_width=D, text_layers=2, projection=D, max_words=8)
    return new_clip_model(build_word_tokenizer(["a"]), shape, method=method, legacy=legacy).eval()


def scores(built: RetrievalModel, frames: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    mask = torch.arange(frames.shape[1]) < torch.tensor(lengths).unsqueeze(1)
    sentence = torch.randn(len(lengths), D, generator=torch.Generator().manual_seed(1))
    words = torch.zeros(len(lengths), 1, D)
    text = built.text_features(sentence, words, words[..., 0] == 0)
    return built.similarity(text, built.clip_features(frames, mask))


def vectors(clips: int = 3) -> torch.Tensor:
    return torch.randn(clips, 5, D, generator=torch.Generator().manual_seed(2))


@LOOSE
def test_an_empty_clip_scores_nan_and_spoils_the_loss_of_the_batch(method: str) -> None:
    legacy = scores(model(method, legacy=True), vectors(), [5, 0, 2])
    assert legacy[:, 1].isnan().all()
    assert symmetric_info_nce(legacy).isnan()
    built = model(method, legacy=False)
    found = scores(built, vectors(), [5, 0, 2])
    assert (found[:, 1] == 0).all()
    assert torch.equal(found[:, [0, 2]], legacy[:, [0, 2]])
    symmetric_info_nce(found).backward()
    own = [p for k, p in built.named_parameters() if not k.startswith("backbone.")]
    assert own
    assert all(p.grad.isfinite().all() for p in own)


def test_a_masked_frame_that_is_zero_makes_its_clip_nan() -> None:
    # Only mean pooling of untouched frames meets exact zeros; tightTransf's coarse vector is one.
    frames = vectors()
    frames[1, 4] = 0
    sentence, words = torch.ones(1, D), torch.zeros(1, 1, D)
    for legacy in (True, False):
        built = model("tighttransf", legacy)
        mask = torch.tensor([[True] * 5, [True] * 4 + [False], [True] * 5])
        clips = built.clip_features(frames, mask)
        assert bool(clips.coarse[1].isnan().any()) is legacy
        text = built.text_features(sentence, words, words[..., 0] == 0)
        assert built.similarity(text, clips).isfinite().all()
