"""Teaching follows the formula, survives constant rows and empty clips, and never looks at padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidsift.losses.similarity import similarity_matching
from vidsift.losses.teaching import coarse_teaching, fine_teaching, pearson

KINDS = ("pearson", "cross_entropy", "smooth_l1")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_value_and_only_reach_the_student(kind: str) -> None:
    student, teacher = normal(4, 4).requires_grad_(), normal(4, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: coarse_teaching(s, teacher, kind), (student,))
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)
    target = normal(4, 4, seed=2).softmax(-1)
    assert torch.autograd.gradcheck(lambda s: fine_teaching(s.softmax(-1), target, mask, kind), (student,))
    coarse_teaching(student, teacher, kind).backward()
    assert teacher.grad is None


def test_pearson_is_numpy_s_correlation_coefficient() -> None:
    x, y = normal(6), normal(6, seed=1)
    assert torch.allclose(pearson(x, y), torch.corrcoef(torch.stack([x, y]))[0, 1])


@pytest.mark.parametrize("value", [0.0, 3.7, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_row_gives_no_nan(value: float, dtype: torch.dtype) -> None:
    student = torch.full((5, 5), value, dtype=dtype, requires_grad=True)
    loss = coarse_teaching(student, normal(5, 5).to(dtype))
    loss.backward()
    assert loss.item() == pytest.approx(2.0)  # nothing correlates with a constant, either way
    assert torch.equal(student.grad, torch.zeros_like(student))
    assert torch.isfinite(coarse_teaching(normal(5, 5).to(dtype), student.detach()))


def test_official_pearson_is_nan_for_a_constant_row() -> None:
    p = torch.full((5,), 0.25).softmax(0)
    centred = p - p.mean()
    assert torch.isnan((centred * centred).sum() / (centred.norm() * centred.norm()))
    assert pearson(p, p) == 0


def test_the_teacher_itself_is_the_best_student() -> None:
    teacher = normal(6, 6)
    assert coarse_teaching(teacher, teacher) == pytest.approx(0.0, abs=1e-12)
    assert coarse_teaching(-teacher, teacher) > 2
    for kind in KINDS:
        worse = coarse_teaching(teacher + normal(6, 6, seed=3), teacher, kind)
        assert coarse_teaching(teacher, teacher, kind) < worse


@given(st.sampled_from(KINDS), st.integers(0, 4), st.integers(0, 1000))
def test_padding_never_changes_the_fine_loss(kind: str, padding: int, seed: int) -> None:
    student, teacher = normal(3, 5, seed=seed), normal(3, 5, seed=seed + 1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    clean = fine_teaching(student.softmax(-1), teacher.softmax(-1), mask, kind)
    noise = normal(3, padding, seed=seed + 2)
    noisy, dirty = torch.cat([student, noise], 1), torch.cat([teacher, noise.flip(0)], 1)
    dirty = torch.where(torch.nn.functional.pad(mask, [0, padding]), dirty, dirty + 2)
    longer = torch.nn.functional.pad(mask, [0, padding])
    assert torch.allclose(fine_teaching(noisy.softmax(-1), dirty.softmax(-1), longer, kind), clean)


@pytest.mark.parametrize("kind", KINDS)
def test_an_all_masked_clip_gives_a_finite_loss_and_gradient_and_counts_for_nothing(kind: str) -> None:
    logits, teacher = normal(3, 4).requires_grad_(), normal(3, 4, seed=1).softmax(-1)
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
    weights = logits.softmax(-1).masked_fill(~mask, 0.0)  # what our methods give for an empty clip: zeros
    loss = fine_teaching(weights, teacher, mask, kind)
    loss.backward()
    others = fine_teaching(logits.detach().softmax(-1)[[0, 2]], teacher[[0, 2]], mask[[0, 2]], kind)
    assert torch.allclose(loss.detach(), others)
    assert torch.isfinite(logits.grad).all()
    assert torch.equal(logits.grad[1], torch.zeros(4, dtype=torch.float64))
    assert fine_teaching(weights, teacher, torch.zeros_like(mask), kind) == 0


def test_a_student_weight_of_zero_is_a_finite_loss() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    weights = logits.softmax(-1)
    loss = fine_teaching(weights, torch.tensor([[0.5, 0.5]]))
    loss.backward()
    assert torch.isinf(-(0.5 * weights.log()).mean())  # as the official code takes the logarithm
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_without_a_mask_padding_counts_as_published() -> None:
    weights = torch.full((1, 4), 0.25)
    assert fine_teaching(weights, weights) == pytest.approx(torch.tensor(4.0).log().item() / 4)


def test_similarity_matching_is_smooth_l1_to_the_mean_of_the_teachers() -> None:
    student, teachers = normal(3, 3).requires_grad_(), normal(2, 3, 3, seed=1) * 3
    distance = (student - teachers.mean(0)).abs()
    expected = torch.where(distance < 1, distance**2 / 2, distance - 0.5).mean()
    assert torch.allclose(similarity_matching(student, teachers), expected)
    assert torch.equal(similarity_matching(student, teachers[0]), similarity_matching(student, teachers[:1]))
    with pytest.raises(ValueError, match="sizes differ"):
        similarity_matching(student, normal(4, 4))
