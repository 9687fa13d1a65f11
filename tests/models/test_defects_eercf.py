"""What EERCF gets wrong is there with `legacy` and gone without; its constraint and its second stage."""

import pytest
import torch

from vidsift.losses.correlation import correlation_constraint
from vidsift.losses.teaching import pearson
from vidsift.models.features import ClipFeatures, TextFeatures
from vidsift.models.methods import eercf
from vidsift.models.methods.eercf import EERCF, SCORES, gated_scores, gated_vectors, weak_scores
from vidsift.models.pooling import text_gated_pool, unit
from vidsift.models.scratch import ClipShape, new_clip_model
from vidsift.models.tokenizer import build_word_tokenizer

D, P = 24, 4


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(**settings: object) -> EERCF:
    torch.manual_seed(0)
    shape = ClipShape(16, 8, 16, 1, text_width=D, text_layers=2, projection=D, max_words=8)
    sizes = {"frames": 5, "layers": 1, "patches": True, **settings}
    built = new_clip_model(build_word_tokenizer(["a", "b"], max_length=8), shape, method="eercf", **sizes)
    with torch.no_grad():
        for p in (built.sentence_video, built.frame_mixing):
            p.add_(torch.randn_like(p), alpha=0.3)
    return built.eval()


def pair(built: EERCF, *, clips: int = 3, padding: float = 0.5) -> tuple[TextFeatures, ClipFeatures]:
    """Three texts and some clips, the second clip padded with a number."""
    mask = torch.ones(clips, 5, dtype=torch.bool)
    mask[1, 2:] = False
    frames = normal(clips, 5, D, seed=1).masked_fill(~mask.unsqueeze(-1), padding)
    patches = normal(clips, 5, P, D, seed=3).masked_fill(~mask[..., None, None], padding)
    sentence = normal(3, D, seed=2)
    text = built.text_features(sentence, sentence.unsqueeze(1), torch.ones(3, 1, dtype=torch.bool))
    return text, built.clip_features(frames, mask, patches)


@torch.no_grad()
@pytest.mark.parametrize("name", SCORES)
def test_padding_takes_part_in_scores_in_legacy_only(name: str) -> None:
    for legacy in (True, False):
        built = model(legacy=legacy)
        one, other = (built.scores(*pair(built, padding=x))[name] for x in (0.5, -2.0))
        assert torch.equal(one[:, 0], other[:, 0])
        # The coarse score is masked in the official code too.
        assert torch.allclose(one[:, 1], other[:, 1], atol=1e-6) is not (legacy and name != "video")


@torch.no_grad()
def test_training_gates_as_evaluation_does_but_for_legacy() -> None:
    for legacy in (True, False):
        built = model(legacy=legacy)
        trained, ranked = built.training_scores(*pair(built)), built.scores(*pair(built))
        for name in ("frame_strong", "patch_strong"):
            off = ~torch.eye(3, dtype=torch.bool)
            torch.testing.assert_close(trained[name].diagonal(), ranked[name].diagonal())
            assert torch.allclose(trained[name][off], ranked[name][off], atol=1e-4) is not legacy


def test_the_gate_learns_but_for_legacy() -> None:
    for legacy in (True, False):
        built = model(legacy=legacy)
        keys = unit(normal(3, 5, D, seed=4)).requires_grad_()
        values, mask = unit(normal(3, 5, D, seed=5)), torch.ones(3, 5, dtype=torch.bool)
        clips = ClipFeatures(
            unit(normal(3, D)), keys, mask, extra={"contextual": values, "gram": values @ values.mT}
        )
        text, _ = pair(built)
        scores = built.training_scores(text, clips)["frame_strong"].sum()
        assert scores.requires_grad is not legacy
        if not legacy:
            assert torch.autograd.grad(scores, keys)[0].abs().max() > 0


@torch.no_grad()
def test_an_empty_clip_scores_zero_where_the_official_code_gives_nan() -> None:
    mask = torch.zeros(1, 5, dtype=torch.bool)
    for legacy in (True, False):
        built = model(legacy=legacy)
        empty = built.clip_features(torch.zeros(1, 5, D), mask, torch.zeros(1, 5, P, D))
        scores = built.similarity(pair(built)[0], empty)
        assert bool(scores.isnan().all()) is legacy
        assert bool((scores == 0).all()) is not legacy


@torch.no_grad()
def test_scores_are_the_written_formulas_for_real_frames() -> None:
    built = model()
    text, clips = pair(built)
    frames, values, mask = clips.frames, clips.extra["contextual"], clips.mask
    weak = weak_scores(text.sentence, frames, built.frame_mixing, mask)
    strong = gated_scores(text.sentence, frames, values, clips.extra["gram"], mask)
    own = gated_vectors(text.sentence, frames, values, mask, 0.1)
    for j in range(3):
        n = int(mask[j].sum())
        c = text.sentence @ frames[j, :n].T
        expected = ((c / 0.01).softmax(-1) @ built.frame_mixing[:n, :n] * c).sum(-1)
        torch.testing.assert_close(weak[:, j], expected, rtol=1e-4, atol=1e-5)
        pooled = unit((c / 0.1).softmax(-1) @ values[j, :n])
        torch.testing.assert_close(strong[:, j], (pooled * text.sentence).sum(-1), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(own[j], pooled[j], rtol=1e-4, atol=1e-5)
    same = text_gated_pool(frames, text.sentence, mask)
    gram = frames @ frames.mT
    found = gated_scores(text.sentence, frames, frames, gram, mask)
    torch.testing.assert_close(found, torch.einsum("td,tvd->tv", text.sentence, same))


@torch.no_grad()
def test_blocks_of_clips_give_the_scores_of_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built = model()
    text, clips = pair(built)
    whole = built.scores(text, clips)
    monkeypatch.setattr(eercf, "_BLOCK", 1)
    for name, score in built.scores(text, clips).items():
        torch.testing.assert_close(score, whole[name], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_second_stage_scores_only_candidates_and_puts_them_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for legacy in (True, False):
        built = model(legacy=legacy)
        text, clips = pair(built, clips=9)
        coarse = built.backbone.logits(built.coarse_scores(text, clips))
        whole, scored = built.similarity(text, clips), []
        similarity = built.similarity
        monkeypatch.setattr(
            built, "similarity", lambda t, c, f=similarity, s=scored: s.append(len(c)) or f(t, c)
        )
        found = built.two_stage(text, clips, candidates=4)
        assert scored == [4, 4, 4]
        for i in range(3):
            first, last = found[i].argsort(descending=True).split([4, 5])
            assert set(first.tolist()) == set(coarse[i].topk(4).indices.tolist())
            assert first.tolist() == sorted(first.tolist(), key=lambda j, i=i: -whole[i, j])
            assert torch.equal(found[i, last], coarse[i, last])
        lifted = found.gather(1, coarse.topk(4).indices) - whole.gather(1, coarse.topk(4).indices)
        assert torch.allclose(lifted, torch.full_like(lifted, 100.0), atol=1e-3) is legacy


def test_patches_are_kept_only_when_asked_for() -> None:
    with_patches, without = model(), model(patches=False)
    assert with_patches.index_parts - without.index_parts == {"patches"}
    assert EERCF.index_parts == without.index_parts
    pictures, mask = torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8), torch.ones(1, 2, dtype=torch.bool)
    clips = without.encode_video(pictures, mask)
    assert clips.patches is None
    assert set(without.scores(pair(without)[0], clips)) == set(SCORES[:3])
    kept = with_patches.encode_video_np(pictures.numpy(), mask.numpy())
    assert kept["patches"].shape == (1, 2, P, D)


# -- the constraint ----------------------------------------------------------------------------------------


def test_the_constraint_is_the_correlation_of_every_dimension() -> None:
    x, y = normal(7, 5), normal(7, 5, seed=1)
    own = pearson(x.T, y.T)
    torch.testing.assert_close(correlation_constraint(x, y), 0.14 * (own - 1).square().sum())
    full = correlation_constraint(x, y, off_diagonal=0.3)
    matrix = torch.corrcoef(torch.cat([x.T, y.T]))[:5, 5:]
    rest = 0.3 * (matrix.square().sum() - own.square().sum())
    torch.testing.assert_close(full, 0.14 * (own - 1).square().sum() + rest)


def test_a_perfect_correlation_costs_nothing_but_for_legacy() -> None:
    x = normal(7, 5)
    torch.testing.assert_close(correlation_constraint(x, 3 * x + 1), torch.tensor(0.0), atol=1e-6, rtol=0)
    floor = torch.tensor(0.14 * 5 / 7**2)
    torch.testing.assert_close(correlation_constraint(x, 3 * x + 1, legacy=True), floor)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_constant_dimension_is_nan_in_legacy_only(rows: int) -> None:
    x = normal(rows, 5).index_fill(1, torch.tensor([2]), 0.7).requires_grad_()
    y = normal(rows, 5, seed=1)
    assert correlation_constraint(x, y, legacy=True).isnan()
    loss = correlation_constraint(x, y)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert x.grad[:, 2].abs().max() == 0
