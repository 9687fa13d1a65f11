"""BertAdam's oddities are what the reference does, and its state survives a restart."""

import copy

import pytest
import torch

from vidsift.training.bertadam import BertAdam, warmup_cosine


def test_the_first_step_moves_nothing_and_the_schedule_drops_where_the_warm_up_ends() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = BertAdam([p], 0.1, 10)
    assert optimizer.current_lr() == []
    p.grad = torch.ones(3)
    assert optimizer.current_lr() == [0.0]
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))
    assert warmup_cosine(0.0999999, 0.1) == pytest.approx(1.0, abs=1e-5)
    assert warmup_cosine(0.1, 0.1) == pytest.approx(0.97553, abs=1e-5)
    assert warmup_cosine(1.0, 0.1) == pytest.approx(0.0)


def test_a_frozen_tensor_is_neither_moved_nor_decayed() -> None:
    moved, frozen = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = BertAdam([moved, frozen], 0.1, 10)
    for _ in range(3):
        moved.grad = torch.ones(2)
        optimizer.step()
    assert torch.equal(frozen.detach(), torch.ones(2))
    assert (moved < 1).all()


def test_a_restart_from_saved_state_gives_the_same_weights() -> None:
    p = torch.nn.Parameter(torch.ones(4))
    optimizer = BertAdam([p], 0.1, 10)
    gradients = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    for step, gradient in enumerate(gradients):
        if step == 3:
            saved, weights = copy.deepcopy(optimizer.state_dict()), p.detach().clone()
        p.grad = gradient
        optimizer.step()
    q = torch.nn.Parameter(weights)
    again = BertAdam([q], 0.1, 10)
    again.load_state_dict(saved)
    for gradient in gradients[3:]:
        q.grad = gradient
        again.step()
    assert torch.equal(p, q)


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="total_steps 0"):
        BertAdam([torch.nn.Parameter(torch.ones(1))], 0.1, 0)
