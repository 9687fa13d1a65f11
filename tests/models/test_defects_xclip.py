"""What X-CLIP gets wrong is there with `legacy` and gone without; its matrices fit any length."""

import pytest
import torch

from vidsift.models import contrasts
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.interaction import attend, sized
from vidsift.models.methods.xclip import XClip
from vidsift.models.pooling import unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

D = 24


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(**settings: object) -> XClip:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, text_width=D, text_layers=2, projection=D, max_words=8)
    sizes = {"words": 6, "frames": 5, "layers": 1, **settings}
    built = new_clip_model(build_word_tokenizer(["a", "b"], max_length=8), shape, method="xclip", **sizes)
    with torch.no_grad():
        for p in built.head.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return built.eval()


def pair(
    built: XClip, *, words: int = 6, frames: int = 5, word: float = 0.5, frame: float = 0.5
) -> tuple[TextFeatures, ClipFeatures]:
    """Two texts and two clips, the second of each padded: with `word` and `frame` in the padding."""
    text_mask, clip_mask = torch.ones(2, words, dtype=torch.bool), torch.ones(2, frames, dtype=torch.bool)
    text_mask[1, 3:], clip_mask[1, 2:] = False, False
    tokens = normal(2, words, D).masked_fill(~text_mask.unsqueeze(-1), word)
    vectors = normal(2, frames, D, seed=1).masked_fill(~clip_mask.unsqueeze(-1), frame)
    return (
        built.text_features(normal(2, D, seed=2), tokens, text_mask),
        built.clip_features(vectors, clip_mask),
    )


@torch.no_grad()
@pytest.mark.parametrize("changed", ["word", "frame"])
def test_padding_takes_part_in_scores_in_legacy_only(changed: str) -> None:
    for legacy in (True, False):
        built = model(legacy=legacy)
        one, other = (built.similarity(*pair(built, **{changed: x})) for x in (0.5, -2.0))
        padded = (1, slice(None)) if changed == "word" else (slice(None), 1)
        assert torch.equal(one[0, 0], other[0, 0])
        assert torch.equal(one[padded], other[padded]) is not legacy


@torch.no_grad()
def test_an_empty_clip_scores_zero_where_the_official_code_gives_nan() -> None:
    mask = torch.zeros(1, 5, dtype=torch.bool)
    for legacy in (True, False):
        built = model(legacy=legacy)
        text, _ = pair(built)
        scores = built.similarity(text, built.clip_features(torch.zeros(1, 5, D), mask))
        assert bool(scores.isnan().all()) is legacy
        assert bool((scores == 0).all()) is not legacy


@torch.no_grad()
def test_a_text_and_a_clip_of_other_lengths_than_the_matrices_are_scored() -> None:
    built = model()
    text, clips = pair(built)
    longer = TextFeatures(
        text.sentence,
        torch.nn.functional.pad(text.words, [0, 0, 0, 4]),
        torch.nn.functional.pad(text.mask, [0, 4]),
    )
    assert torch.equal(built.similarity(longer, clips), built.similarity(text, clips))
    assert torch.isfinite(built.similarity(*pair(built, words=9, frames=11))).all()
    assert torch.isfinite(built.similarity(*pair(built, words=3, frames=2))).all()


def test_a_matrix_beyond_its_size_is_the_identity() -> None:
    matrix = normal(3, 3).requires_grad_()
    assert torch.equal(sized(matrix, 2), matrix[:2, :2])
    longer = sized(matrix, 5)
    assert torch.equal(longer[:3, :3], matrix)
    assert torch.equal(longer[3:], torch.eye(5)[3:])
    assert torch.equal(longer[:3, 3:], torch.zeros(3, 2))
    longer.sum().backward()
    assert torch.equal(matrix.grad, torch.ones(3, 3))


@pytest.mark.parametrize("dim", [0, -2])
def test_attention_is_the_written_formula(dim: int) -> None:
    x, matrix = normal(4, 4, 3), normal(4, 4, seed=1)
    mask = torch.tensor([True, True, False, True])
    over = mask[:, None, None] if dim == 0 else mask[:, None]
    moved = (x if dim == 0 else x.transpose(0, 1))[mask]
    weights = moved.softmax(0)
    mixed = torch.einsum("kxy,kl->lxy", weights, matrix[mask][:, mask])
    assert torch.allclose(attend(x, matrix, over, dim), (mixed * moved).sum(0), atol=1e-6)
    assert torch.equal(attend(x, matrix, torch.zeros_like(over), dim), torch.zeros(4, 3))


@torch.no_grad()
def test_contrasts_are_the_written_formulas_for_real_words_and_frames() -> None:
    built = model()
    text, clips = pair(built)
    head, tau = built.head, built.config.temperature
    found = built.contrasts(text, clips)

    def att(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        n = len(x)
        return ((x / tau).softmax(0) @ matrix[:n, :n] * x).sum()

    for i in range(2):
        for j in range(2):
            w, f = unit(text.words[i][text.mask[i]]), clips.frames[j][clips.mask[j]]
            t, v = text.sentence[i], clips.coarse[j]
            c = w @ head.word_frame @ f.T
            by_frame = torch.stack([att(x, head.words_first) for x in c.T])
            by_word = torch.stack([att(x, head.frames_first) for x in c])
            expected = (
                t @ head.sentence_video @ v,
                att(w @ v, head.word_video),
                att(f @ t, head.sentence_frame),
                (att(by_frame, head.frames_last) + att(by_word, head.words_last)) / 2,
            )
            for part, number in zip(found, expected, strict=True):
                torch.testing.assert_close(part[i, j], number, rtol=1e-4, atol=1e-5)


def test_blocks_of_texts_and_clips_give_the_scores_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = model()
    text, clips = pair(built)
    whole = built.similarity(text, clips)
    monkeypatch.setattr(contrasts, "_BLOCK", 1)
    monkeypatch.setattr(contrasts, "_TEXTS", 1)
    with torch.no_grad():
        torch.testing.assert_close(built.similarity(text, clips), whole, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_legacy_fills_texts_with_id_0_and_clips_with_grey_up_to_the_matrices() -> None:
    built = model(legacy=True)
    text = built.encode_text(*built.tokenize(["a"]))
    assert text.words.shape[1] == 6
    pictures = torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8)
    clips = built.encode_video(pictures, torch.ones(1, 2, dtype=torch.bool))
    assert clips.frames.shape[1] == 5
    assert clips.mask.sum() == 2
    torch.testing.assert_close(clips.frames[0, 2], clips.frames[0, 4])
    assert model().encode_text(*built.tokenize(["a"])).words.shape[1] == 3


@torch.no_grad()
def test_queries_rank_coarse_vectors_as_the_video_sentence_contrast_does() -> None:
    built = model()
    _, clips = pair(built)
    query = torch.from_numpy(built.encode_queries(["a b"]))
    contrast = built.contrasts(built.encode_text(*built.tokenize(["a b"])), clips).video_sentence
    recalled = query @ clips.coarse.T
    torch.testing.assert_close(unit(recalled), unit(contrast))
