"""The contrastive loss is the formula, and what it is told to ignore cannot move it."""

import torch

from vidsift.losses.attributes import soft_cross_entropy
from vidsift.losses.contrastive import symmetric_info_nce


def test_it_is_the_mean_of_both_cross_entropies() -> None:
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.stack([-scores[i, i] + scores[i].logsumexp(0) for i in range(5)]).mean()
    columns = torch.stack([-scores[i, i] + scores[:, i].logsumexp(0) for i in range(5)]).mean()
    assert torch.allclose(symmetric_info_nce(scores), (rows + columns) / 2)


def test_an_ignored_pair_cannot_change_the_loss_and_the_diagonal_is_never_ignored() -> None:
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    ignore = torch.eye(4, dtype=torch.bool)
    assert torch.equal(symmetric_info_nce(scores, ignore), symmetric_info_nce(scores))
    ignore[0, 2] = True
    changed = scores.clone()
    changed[0, 2] = 50.0
    assert torch.equal(symmetric_info_nce(scores, ignore), symmetric_info_nce(changed, ignore))
    assert not torch.equal(symmetric_info_nce(scores), symmetric_info_nce(changed))


def test_hard_negatives_raise_the_loss_of_the_clips_that_they_resemble() -> None:
    scores = 5 * torch.eye(3)
    easy, hard = torch.full((1, 3), -5.0), torch.tensor([[5.0, -5.0, -5.0]])
    plain = symmetric_info_nce(scores)
    assert symmetric_info_nce(scores, negatives=easy) - plain < 1e-3
    assert symmetric_info_nce(scores, negatives=hard) - plain > 0.05


def test_soft_cross_entropy_ignores_rows_without_a_class() -> None:
    logits = torch.randn(2, 3, generator=torch.Generator().manual_seed(2))
    target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])
    expected = -(logits[0].log_softmax(0)[:2].mean()) / 2
    assert torch.allclose(soft_cross_entropy(logits, target), expected)


def test_other_captions_of_the_same_clip_are_no_negatives_when_clips_are_named() -> None:
    scores = torch.randn(4, 4, generator=torch.Generator().manual_seed(3))
    ids = torch.tensor([7, 3, 7, 5])
    changed = scores.clone()
    changed[0, 2] = changed[2, 0] = 50.0
    assert torch.equal(symmetric_info_nce(scores, ids=ids), symmetric_info_nce(changed, ids=ids))
    assert not torch.equal(symmetric_info_nce(scores), symmetric_info_nce(changed))
    assert torch.equal(symmetric_info_nce(scores, ids=torch.arange(4)), symmetric_info_nce(scores))
    everything = symmetric_info_nce(scores, ids=torch.zeros(4, dtype=torch.int64))
    assert everything == 0  # without any negative the right clip is the only answer
