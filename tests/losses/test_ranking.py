"""The margin loss counts every rival pair in both directions, and nothing else."""

import pytest
import torch

from vidsift.losses.ranking import max_margin


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_is_the_mean_over_all_rivals_of_both_directions() -> None:
    scores, terms = normal(4, 4), []
    for i in range(4):
        for j in range(4):
            if i != j:
                terms += [max(0.0, 0.3 - scores[i, i] + scores[i, j])]
                terms += [max(0.0, 0.3 - scores[i, i] + scores[j, i])]
    assert max_margin(scores, 0.3).item() == pytest.approx(float(sum(terms)) / len(terms))


def test_a_margin_that_is_kept_costs_nothing() -> None:
    assert max_margin(torch.eye(5), margin=0.5) == 0


def test_another_caption_of_the_same_clip_is_no_rival() -> None:
    scores, ids = normal(4, 4), torch.tensor([7, 3, 7, 5])
    changed = scores.clone()
    changed[0, 2] = changed[2, 0] = 9.0
    assert max_margin(scores, ids=ids) == max_margin(changed, ids=ids)
    assert max_margin(scores) != max_margin(changed)


def test_a_batch_of_one_has_no_rival_and_a_finite_gradient() -> None:
    scores = normal(1, 1).requires_grad_()
    loss = max_margin(scores)
    loss.backward()
    assert loss == 0
    assert scores.grad == 0
