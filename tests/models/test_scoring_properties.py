"""What every method's scores keep at any sizes and masks: order, padding, copies, blocks of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from vidsift.models import RetrievalModel, list_methods
from vidsift.models.backbone import TextVectors

PATCHES = 5
# Sides of learned matrices and tables, smaller than the largest clips and texts drawn here.
SMALL = {"frames": 3, "words": 3, "positions": 4}
# Where a method scores block by block when no gradient is needed, and how large its blocks are.
BLOCKS = {
    "eercf": ["methods.eercf._BLOCK"],
    "tighttransf": ["methods.clip4clip._PAIR_TOKENS"],
    "ts2net": ["methods.ts2net._BLOCK"],
    "vidsift": ["contrasts._BLOCK", "contrasts._TEXTS"],
    "xclip": ["contrasts._BLOCK", "contrasts._TEXTS"],
    "xpool": ["methods.xpool._BLOCK"],
}

EXAMPLES = settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@dataclass
class Raw:
    """What the towers would give.

    frames: [V, F, D], zero where masked.  patches: [V, F, P, D], likewise.  mask: [V, F].
    sentence: [T, D].  words: [T, W, D].  real: [T, W], the real words.
    """

    frames: Tensor
    patches: Tensor
    mask: Tensor
    sentence: Tensor
    words: Tensor
    real: Tensor

    def select(self, texts: list[int], clips: list[int]) -> Raw:
        chosen = {"frames": clips, "patches": clips, "mask": clips}
        return Raw(**{f.name: getattr(self, f.name)[chosen.get(f.name, texts)] for f in fields(self)})

    def padded(self, frames: int, words: int) -> Raw:
        """More masked frames, which towers do not see, and masked words, which they make something of."""
        more = 9.0 * torch.randn(len(self.words), words, self.words.shape[-1])
        return Raw(
            pad(self.frames, [0, 0, 0, frames]),
            pad(self.patches, [0, 0] * 2 + [0, frames]),
            pad(self.mask, [0, frames]),
            self.sentence,
            torch.cat([self.words, more], 1),
            pad(self.real, [0, words]),
        )


@st.composite
def raws(draw: Callable[..., Any]) -> Raw:
    """Any numbers of texts, clips, frames and words; any frames missing, texts padded on the right."""
    t, v, f, w = (draw(st.integers(1, 5)) for _ in range(4))
    missing = draw(st.lists(st.lists(st.booleans(), min_size=f, max_size=f), min_size=v, max_size=v))
    lengths = draw(st.lists(st.integers(1, w), min_size=t, max_size=t))
    return random_raw(t, v, f, w, ~torch.tensor(missing), lengths, seed=draw(st.integers(0, 99)))


def random_raw(t: int, v: int, f: int, w: int, mask: Tensor, lengths: list[int], seed: int = 0) -> Raw:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 3.0 * torch.randn(*shape, 32, generator=random)

    return Raw(
        normal(v, f).masked_fill(~mask.unsqueeze(-1), 0.0),
        normal(v, f, PATCHES).masked_fill(~mask[..., None, None], 0.0),
        mask,
        normal(t),
        normal(t, w),
        torch.arange(w) < torch.tensor(lengths).unsqueeze(-1),
    )


@pytest.fixture
def make_headed(make_model: Callable[..., RetrievalModel]) -> Callable[[str], RetrievalModel]:
    """method -> a model with small learned matrices and tables, none of its parameters as it starts."""

    def make(method: str) -> RetrievalModel:
        known = {f.name for f in fields(make_model(method).config)}
        model = make_model(method, **{k: n for k, n in SMALL.items() if k in known})
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if not name.startswith("backbone."):
                    parameter.add_(torch.randn_like(parameter), alpha=0.1)
        return model

    return make


@pytest.fixture(params=list_methods())
def model(request: pytest.FixtureRequest, make_headed: Callable[[str], RetrievalModel]) -> RetrievalModel:
    return make_headed(request.param)


def score(model: Any, raw: Raw) -> tuple[Tensor, Tensor]:
    """Similarity [T, V] and relevance [T, V, F] of what the towers would give."""
    model.encode_real_frames = lambda frames, mask, patches=False: (frames, raw.patches if patches else None)
    model.backbone.encode_tokens = lambda ids, mask: TextVectors(raw.sentence, raw.words)
    text = model.encode_text(torch.zeros_like(raw.real, dtype=torch.long), raw.real)
    clips = model.encode_video(raw.frames, raw.mask)
    return model.similarity(text, clips), model.frame_relevance(text, clips)


def assert_same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@given(data=st.data(), raw=raws())
@EXAMPLES
@torch.inference_mode()
def test_texts_are_rows_and_clips_are_columns_in_any_order(
    model: RetrievalModel, data: st.DataObject, raw: Raw
) -> None:
    texts = data.draw(st.permutations(range(len(raw.sentence))))
    clips = data.draw(st.permutations(range(len(raw.mask))))
    scores, relevance = score(model, raw)
    got = score(model, raw.select(texts, clips))
    assert_same(got, (scores[texts][:, clips], relevance[texts][:, clips]))


@given(raw=raws(), frames=st.integers(0, 6), words=st.integers(0, 6))
@EXAMPLES
@torch.inference_mode()
def test_padding_beyond_every_learned_size_changes_nothing(
    model: RetrievalModel, raw: Raw, frames: int, words: int
) -> None:
    scores, relevance = score(model, raw)
    assert_same(score(model, raw.padded(frames, words)), (scores, pad(relevance, [0, frames])))


@given(raw=raws())
@EXAMPLES
@torch.inference_mode()
def test_a_doubled_batch_has_every_score_four_times(model: RetrievalModel, raw: Raw) -> None:
    scores, relevance = score(model, raw)
    twice = raw.select([*range(len(raw.sentence))] * 2, [*range(len(raw.mask))] * 2)
    assert_same(score(model, twice), (scores.repeat(2, 2), relevance.repeat(2, 2, 1)))


@pytest.mark.parametrize("size", [1, 30, 200])
@pytest.mark.parametrize("method", BLOCKS)
def test_scores_without_gradient_do_not_depend_on_the_block_size(
    method: str, size: int, make_headed: Callable[[str], RetrievalModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_headed(method)
    mask = torch.rand(7, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    raw = random_raw(6, 7, 5, 4, mask, [4, 1, 2, 3, 4, 2])
    expected = score(model, raw)
    assert expected[0].requires_grad
    for name in BLOCKS[method]:
        monkeypatch.setattr(f"vidsift.models.{name}", size)
    with torch.inference_mode():
        assert_same(score(model, raw), (expected[0].detach(), expected[1].detach()))
