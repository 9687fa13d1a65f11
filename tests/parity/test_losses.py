"""Our losses give the numbers and gradients of TeachCLIP's, CE's and TeachText's training code."""

import pytest
import torch
from golden import Golden, assert_close, assert_gradient

from vidsift.losses.contrastive import symmetric_info_nce
from vidsift.losses.ranking import max_margin
from vidsift.losses.similarity import similarity_matching
from vidsift.losses.teaching import coarse_teaching, fine_teaching

GOLDEN = Golden("losses")
META = GOLDEN.meta
TEACHERS = ("xclip", "ts2net", "xpool")
KINDS = {"pear": "pearson", "ce": "cross_entropy", "l1": "smooth_l1"}
VARIANTS = ["pear_ce_1t", "pear_ce_2t", "pear_ce_3t", "ce_ce_2t", "l1_ce_2t", "pear_pear_2t", "pear_l1_2t"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_teachclip_losses_and_their_official_sum(variant: str) -> None:
    coarse, fine, count = variant.split("_")
    teachers = TEACHERS[: int(count[0])]
    scores, weights = GOLDEN["teachclip/out/train_sim"], GOLDEN["teachclip/out/train_frame_weights"]
    sims = [GOLDEN[f"teachclip/out/teacher_{t}_sim"] for t in teachers]
    relevance = [GOLDEN[f"teachclip/out/teacher_{t}_relevance"] for t in teachers]
    truth = symmetric_info_nce(scores)
    distill = torch.stack([coarse_teaching(scores, z, KINDS[coarse]) for z in sims]).mean()
    frames = torch.stack([fine_teaching(weights, y, kind=KINDS[fine]) for y in relevance]).mean()
    shares = (1.0, 10.0, 1.0) if coarse == "ce" else (0.2, 1.0, 2.0)
    name = f"teachclip/out/loss_{variant}"
    assert_close(truth, GOLDEN[f"{name}_gt"])
    assert_close(distill, GOLDEN[f"{name}_distill"])
    assert_close(frames, GOLDEN[f"{name}_fine"])
    assert_close(shares[0] * truth + shares[1] * distill + shares[2] * frames, GOLDEN[f"{name}_total"])


@pytest.mark.parametrize("fix_norm", [True, False])
def test_max_margin_and_its_gradient(fix_norm: bool) -> None:
    scores = GOLDEN["ce/in/ranking_sim"].requires_grad_()
    loss = max_margin(scores, META["margin"], with_diagonal=not fix_norm)
    loss.backward()
    assert_close(loss, GOLDEN[f"ce/out/ranking_loss_fixnorm_{fix_norm}"])
    assert_gradient(scores.grad, GOLDEN[f"ce/grad/ranking_sim_fixnorm_{fix_norm}"])


def test_teachtext_objective_and_its_gradient() -> None:
    scores = GOLDEN["ce/out/teachtext_student_sim"].requires_grad_()
    teachers = torch.stack([GOLDEN[f"ce/out/teachtext_teacher{t}_sim"] for t in range(META["n_teachers"])])
    ranking, distil = max_margin(scores, META["margin"]), similarity_matching(scores, teachers)
    total = ranking + distil
    total.backward()
    assert_close(ranking, GOLDEN["ce/out/teachtext_loss_ranking"])
    assert_close(distil, GOLDEN["ce/out/teachtext_loss_distil"])
    assert_close(teachers.mean(0), GOLDEN["ce/out/teachtext_teacher_sim_mean"])
    assert_close(total, GOLDEN["ce/out/teachtext_loss_total"])
    assert_gradient(scores.grad, GOLDEN["ce/grad/teachtext_sim"])
